//! A destination that hangs with 10,000 queued messages costs the others nothing.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tests::{
    dns::NameServer,
    sink::{Manner, Queue, Sink},
    site::{Options, Site, free_port_offset},
};

const HUNG: usize = 10_000;
const MESSAGES: usize = 600;
const DESTINATIONS: usize = 30;
/// The peers set the pace, not this machine: one connection each, and an answer takes a while.
const ANSWER: Duration = Duration::from_millis(200);
const CONFIG: &str = "outbound-relay: { per_destination: 1, slow_start: 1 }\n";

/// Messages a second to the destinations that work.
async fn rate(queue: &Queue, sink: &Sink, first: usize) -> f64 {
    let before = sink.count();
    let start = Instant::now();
    queue.fill(first..first + MESSAGES, |n| format!("u{n}@d{}.com", n % DESTINATIONS)).await;
    while sink.count() < before + MESSAGES {
        assert!(start.elapsed() < Duration::from_secs(120), "{} of {MESSAGES}", sink.count() - before);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    MESSAGES as f64 / start.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_destination_costs_the_others_nothing() {
    let dns = NameServer::start(&["com."]).await;
    let offset = free_port_offset(&["127.0.0.7"]);
    let sink = Sink::default();
    let address = |last: usize| format!("127.0.51.{last}:{}", 25 + offset).parse().unwrap();
    for n in 0..DESTINATIONS {
        dns.add(&format!("d{n}.com MX 10 mx.d{n}.com")).await;
        dns.add(&format!("mx.d{n}.com A 127.0.51.{}", n + 1)).await;
        sink.listen(address(n + 1), Manner::Takes(ANSWER)).await;
    }
    dns.add("hung.com MX 10 mx.hung.com").await;
    dns.add("mx.hung.com A 127.0.51.200").await;
    sink.listen(address(200), Manner::Hangs).await;
    let (server, port) = (dns.address.to_string(), (25 + offset).to_string());
    let mut options = Options::new("127.0.0.7", offset, "example.com").more(&["--dns", &server, "--relay-port", &port]);
    options.config = Some(CONFIG.to_owned());
    let site = Site::up(options);
    let queue = Queue::of(&site);

    // Connections, caches and windows as in the middle of a day.
    rate(&queue, &sink, 0).await;
    let mut without: Vec<f64> = Vec::new();
    for round in 1..=3 {
        without.push(rate(&queue, &sink, round * MESSAGES).await);
    }
    queue.fill(1_000_000..1_000_000 + HUNG, |n| format!("u{n}@hung.com")).await;
    assert_eq!(queue.open("hung.com").await, HUNG);
    let mut with: Vec<f64> = Vec::new();
    for round in 4..=6 {
        with.push(rate(&queue, &sink, round * MESSAGES).await);
    }
    assert_eq!(queue.open("hung.com").await, HUNG, "all of it still waits");
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let ratio = best(&with) / best(&without);
    eprintln!(
        "without {without:.0?}/s, with {HUNG} messages for a hung destination {with:.0?}/s: {ratio:.3} of the rate"
    );
    // The figure depends on the machine and is printed; `rate` has seen every message arrive.
    assert_eq!(sink.count(), 7 * MESSAGES, "nothing is lost or there twice");
}
