//! 5,000 messages to 50 destinations while relays are killed at random and Redis is flushed: none
//! is lost, and a duplicate exists only where a kill fell between the peer's 250 and the commit.

#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tests::{
    dns::NameServer,
    process::program,
    sink::{Manner, Queue, Sink},
    site::{Options, Site, free_port_offset},
};

const MESSAGES: usize = 5_000;
const DESTINATIONS: usize = 50;
const RELAYS: usize = 3;
const ANSWER: Duration = Duration::from_millis(100);

fn flush(site: &Site) {
    let socket = std::fs::read_dir(site.data().join("redis-socket")).unwrap().flatten().next().unwrap().path();
    let mut command = std::process::Command::new(program("redis-cli", "redis-tools"));
    let _ = command.arg("-s").arg(socket).arg("FLUSHALL").output();
}

fn kill(pid: u32) {
    let _ = std::process::Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_relays_lose_nothing_and_duplicate_only_what_was_in_flight() {
    let dns = NameServer::start(&["com."]).await;
    let offset = free_port_offset(&["127.0.0.6"]);
    let sink = Sink::default();
    for n in 0..DESTINATIONS {
        dns.add(&format!("d{n}.com MX 10 mx.d{n}.com")).await;
        dns.add(&format!("mx.d{n}.com A 127.0.50.{}", n + 1)).await;
        let address = format!("127.0.50.{}:{}", n + 1, 25 + offset).parse().unwrap();
        sink.listen(address, Manner::Takes(ANSWER)).await;
    }
    let (server, port) = (dns.address.to_string(), (25 + offset).to_string());
    let mut options = Options::new("127.0.0.6", offset, "example.com").more(&[
        "--dns",
        &server,
        "--relay-port",
        &port,
        "--replicas",
        &format!("outbound-relay={RELAYS}"),
    ]);
    options.config = Some("outbound-relay: { lease_seconds: 10 }\nmda: { redispatch_seconds: 12 }\n".into());
    let site = Arc::new(Site::up(options));
    let queue = Queue::of(&site);

    let (is_over, kills) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let chaos = {
        let (site, is_over, kills) = (site.clone(), is_over.clone(), kills.clone());
        tokio::task::spawn_blocking(move || {
            let mut random = 0x9E37_79B9_u64;
            while !is_over.load(Ordering::SeqCst) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                std::thread::sleep(Duration::from_millis(2_400 + (random >> 33) % 1_600));
                let pids = site.pids("outbound-relay");
                let Some(pid) = pids.get((random >> 40) as usize % pids.len().max(1)) else { continue };
                kills.lock().unwrap().push(Instant::now());
                kill(*pid);
                if (random >> 50).is_multiple_of(3) {
                    flush(&site);
                }
            }
        })
    };
    let start = Instant::now();
    // In portions, so that mail is under way at every kill.
    for first in (0..MESSAGES).step_by(MESSAGES / 10) {
        queue.fill(first..first + MESSAGES / 10, |n| format!("u{n}@d{}.com", n % DESTINATIONS)).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let first_half = start.elapsed();
    let mut all_at = None;
    while start.elapsed() < first_half + Duration::from_secs(420) {
        let numbers: std::collections::HashSet<usize> = sink.taken().iter().map(|t| t.number).collect();
        // Chaos goes on for a while, and ends so that what is left can be brought out.
        if numbers.len() == MESSAGES || start.elapsed() > Duration::from_secs(40) {
            is_over.store(true, Ordering::SeqCst);
        }
        if numbers.len() == MESSAGES && queue.open("").await == 0 {
            all_at = Some(start.elapsed());
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    is_over.store(true, Ordering::SeqCst);
    chaos.await.unwrap();

    let mut by_number: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut last: HashMap<usize, usize> = HashMap::new();
    for taken in sink.taken() {
        by_number.entry(taken.number).or_default().push(taken.connection);
        last.insert(taken.connection, taken.number);
    }
    let lost: Vec<usize> = (0..MESSAGES).filter(|n| !by_number.contains_key(n)).collect();
    assert!(
        lost.is_empty(),
        "{} lost: {:?}; still open {}",
        lost.len(),
        &lost[..lost.len().min(10)],
        queue.open("").await
    );
    let all_at = all_at.expect("everything is settled");
    let kills = kills.lock().unwrap().clone();
    assert!(kills.len() >= 5, "only {} kills", kills.len());
    // A relay goes on with a connection when the message before is settled. So a kill between the
    // peer's 250 and the commit shows: that message is the last one of a connection that was cut.
    let (mut duplicates, mut unexplained) = (0, 0);
    for (number, connections) in by_number.iter().filter(|(_, connections)| connections.len() > 1) {
        for early in &connections[..connections.len() - 1] {
            duplicates += 1;
            unexplained += usize::from(!(sink.is_cut(*early) && last.get(early) == Some(number)));
        }
    }
    assert_eq!(unexplained, 0, "of {duplicates} duplicates, so many came without a kill (Invariant 4)");
    // What one relay has in flight when it is killed bounds what a kill can double.
    assert!(duplicates <= kills.len() * 100, "{duplicates} duplicates of {} kills", kills.len());
    eprintln!(
        "{MESSAGES} messages to {DESTINATIONS} destinations: {} kills, all accepted in {first_half:?}, all out in {all_at:?}, \
         0 lost, {duplicates} duplicates, each the last message of a connection that a kill cut",
        kills.len()
    );
}
