//! Loads and attacks on one site's front door, from many loopback addresses.

#![allow(clippy::print_stdout, reason = "programs of the command line report here")]

mod client;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use client::Client;

use crate::{
    client::python,
    dns::NameServer,
    site::{Options, Site, free_port_offset},
};

/// With a name server that knows the senders' domain, so that no verdict waits for the world.
async fn site(config: &str) -> (Site, NameServer) {
    let dns = NameServer::start(&["example."]).await;
    dns.add("sender.example TXT v=spf1 ip4:127.0.0.0/8 -all").await;
    let options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com");
    let mut options = options.more(&["--dns", &dns.address.to_string()]);
    options.config = Some(config.to_owned());
    let site = Site::up(options);
    site.account("bob@example.com");
    // From where bob is known no guesser can lock him out.
    assert_eq!(delivered(&site), 0);
    (site, dns)
}

/// kB of the ingress: now, and at its peak.
fn memory(site: &Site) -> (usize, usize) {
    memory_of(site, "smtp-ingress")
}

fn memory_of(site: &Site, service: &str) -> (usize, usize) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.pids(service)[0])).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Messages in bob's INBOX.
fn delivered(site: &Site) -> usize {
    let program = "imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')\n\
                   print(int(imap.select('INBOX')[1][0]))";
    python(site, program).trim().parse().unwrap()
}

async fn all_arrive(site: &Site, expected: usize) {
    let started = Instant::now();
    while delivered(site) != expected {
        assert!(started.elapsed() < Duration::from_secs(120), "{} of {expected} arrived", delivered(site));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Idle sessions on one pod, in the clear on the MX port or over TLS on 465, then 200 busy ones beside them.
pub async fn idle(sessions: usize, tls: bool) {
    let (site, _dns) = site("smtp-ingress: {}").await;
    let port = site.port(25);
    Client::deliver(port, 0, 1_000).await.expect("a message");
    let (empty, _) = memory(&site);
    let connector = tls.then(|| client::connector(&site));
    let mut idle = Vec::new();
    for n in 0..sessions {
        let client = match &connector {
            Some(connector) => Client::connect_tls(site.port(465), n, connector).await,
            None => Client::connect(port, n).await,
        };
        let mut client = client.expect("a session");
        client.greet().await.expect("greeted");
        idle.push(client);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (full, _) = memory(&site);
    println!(
        "{sessions} idle sessions{}: {full} kB, {:.1} kB each (without them: {empty} kB)",
        if tls { " over TLS" } else { "" },
        (full - empty) as f64 / sessions as f64
    );
    let sent = Arc::new(AtomicUsize::new(1));
    let end = Instant::now() + Duration::from_secs(15);
    let busy = (0..200).map(|n| {
        let sent = sent.clone();
        tokio::spawn(async move {
            let mut client = Client::connect(port, 10_000 + n).await.expect("a session");
            client.greet().await.expect("greeted");
            while Instant::now() < end {
                if client.message(10_000).await.expect("an answer").starts_with("250") {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    for task in busy.collect::<Vec<_>>() {
        task.await.expect("no failure");
    }
    let (_, peak) = memory(&site);
    let sent = sent.load(Ordering::Relaxed);
    println!("200 busy sessions beside them for 15 s: {sent} messages of 10 kB, peak {peak} kB");
    for client in &mut idle {
        assert!(client.command("NOOP").await.expect("still there").starts_with("250"));
    }
    all_arrive(&site, sent).await;
    println!("every idle session still answers, every accepted message arrived");
}

/// IMAP sessions over TLS on one pod, INBOX selected and in IDLE; then news that reaches all of them.
pub async fn imap_idle(sessions: usize) {
    let (site, _dns) = site("imap-gateway: { listener: { max_connections: 20000 } }").await;
    let (port, connector) = (site.port(993), client::connector(&site));
    let session = |n: usize| {
        let connector = connector.clone();
        async move {
            let mut client = Client::connect_tls(port, n, &connector).await?;
            client.line().await?;
            client.imap("a LOGIN bob@example.com secret\r\n", "a OK").await?;
            client.imap("a SELECT INBOX\r\n", "a OK").await?;
            client.imap("a IDLE\r\n", "+ ").await?;
            std::io::Result::Ok(client)
        }
    };
    let first = session(0).await.expect("a session");
    let (empty, _) = memory_of(&site, "imap-gateway");
    let mut idle = vec![first];
    while idle.len() <= sessions {
        let some = (idle.len()..(idle.len() + 50).min(sessions + 1)).map(session);
        idle.extend(futures::future::try_join_all(some).await.expect("sessions"));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (full, peak) = memory_of(&site, "imap-gateway");
    let each = (full - empty) as f64 / sessions as f64;
    println!("{sessions} sessions in IDLE over TLS: {full} kB, {each:.1} kB each (one: {empty} kB; peak {peak} kB)");
    let before = delivered(&site);
    Client::deliver(site.port(25), 0, 1_000).await.expect("a message");
    let started = Instant::now();
    let told = idle.into_iter().map(|mut client| async move {
        loop {
            if client.line().await.expect("still there").ends_with("EXISTS\r\n") {
                return client;
            }
        }
    });
    let idle = futures::future::join_all(told).await;
    println!("every one of them heard of a message, the last after {:.1} s", started.elapsed().as_secs_f64());
    assert_eq!(delivered(&site), before + 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (after, _) = memory_of(&site, "imap-gateway");
    println!("after it: {after} kB, {:.1} kB each", (after - empty) as f64 / sessions as f64);
    assert!(each < 32.0, "a session in IDLE over TLS costs at most 32 kB");
    drop(idle);
}

/// Messages of 25 MB at once against a budget of 512 MB.
pub async fn flood(sessions: usize) {
    let (site, _dns) = site("smtp-ingress: { max_bytes_in_flight: 536870912 }").await;
    let port = site.port(25);
    let started = Instant::now();
    let tasks: Vec<_> =
        (0..sessions).map(|n| tokio::spawn(async move { Client::deliver(port, n, 25_000_000).await })).collect();
    let (mut accepted, mut deferred, mut other) = (0, 0, Vec::new());
    for task in tasks {
        match task.await.expect("no panic") {
            Ok(reply) if reply.starts_with("250 2.0.0") => accepted += 1,
            Ok(reply) if reply.starts_with("452 4.3.1") || reply.starts_with("451 4.3.0") => deferred += 1,
            outcome => other.push(format!("{outcome:?}")),
        }
    }
    let (_, peak) = memory(&site);
    println!(
        "{sessions} sessions × 25 MB in {:.0} s: {accepted} accepted, {deferred} deferred, peak {peak} kB of the ingress",
        started.elapsed().as_secs_f64()
    );
    assert!(other.is_empty(), "{other:?}");
    assert!(accepted > 0 && peak < 1_100_000, "within the budget and a copy of what is being committed");
    all_arrive(&site, accepted).await;
    println!("every accepted message arrived");
}

/// Milliseconds at a share of them.
fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * share) as usize).copied().unwrap_or_default()
}

/// Honest clients for a time: how many messages, and how long each took.
async fn honest(port: u16, until: Arc<AtomicBool>) -> Vec<f64> {
    let clients = (0..10).map(|n| {
        let until = until.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let started = Instant::now();
                let reply = Client::deliver(port, 20_000 + n, 5_000).await.expect("served");
                assert!(reply.starts_with("250"), "{reply}");
                times.push(started.elapsed().as_secs_f64() * 1000.0);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            times
        })
    });
    let mut all = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        all.extend(client.await.expect("honest clients are served"));
    }
    all
}

/// Garbage, slowloris, smuggling and password guessing at once; honest clients go on.
pub async fn attack(connections: usize) {
    let (site, _dns) =
        site("smtp-ingress: { min_rate_seconds: 5, min_bytes_per_second: 1000, command_seconds: 20 }").await;
    let (port, submissions) = (site.port(25), site.port(587));
    let done = Arc::new(AtomicBool::new(false));
    let calm = tokio::spawn(honest(port, done.clone()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    done.store(true, Ordering::Relaxed);
    let mut before = calm.await.expect("calm");
    let done = Arc::new(AtomicBool::new(false));
    let under_attack = tokio::spawn(honest(port, done.clone()));
    let started = Instant::now();
    let slow: Vec<_> = (0..500).map(|n| tokio::spawn(client::slowloris(port, 30_000 + n, done.clone()))).collect();
    let guessers: Vec<_> =
        (0..10).map(|n| tokio::spawn(client::guess(submissions, 40_000 + n, done.clone()))).collect();
    let smugglers: Vec<_> = (0..5).map(|n| tokio::spawn(client::smuggle(port, 50_000 + n, done.clone()))).collect();
    let garbage = (0..50).map(|n| tokio::spawn(client::garbage(port, 60_000 + n * 97, connections / 50)));
    for task in garbage.collect::<Vec<_>>() {
        task.await.expect("garbage was thrown");
    }
    let elapsed = started.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let mut during = under_attack.await.expect("under attack");
    let (mut cut, mut guesses, mut smuggled) = (0, [0; 2], 0);
    for task in slow {
        cut += task.await.unwrap_or_default();
    }
    for task in guessers {
        let (refused, later) = task.await.unwrap_or_default();
        guesses[0] += refused;
        guesses[1] += later;
    }
    for task in smugglers {
        smuggled += task.await.expect("no smuggled message was taken");
    }
    let (now, peak) = memory(&site);
    println!(
        "calm: {} honest messages in 10 s, median {:.0} ms, 99th {:.0} ms",
        before.len(),
        percentile(&mut before, 0.5),
        percentile(&mut before, 0.99)
    );
    println!(
        "attack for {elapsed:.0} s: {connections} garbage connections, 500 slowloris clients (cut {cut} times), {} wrong passwords answered 535 and {} told to wait, {smuggled} smuggling tries refused",
        guesses[0], guesses[1]
    );
    println!(
        "meanwhile: {} honest messages, median {:.0} ms, 99th {:.0} ms, none refused",
        during.len(),
        percentile(&mut during, 0.5),
        percentile(&mut during, 0.99)
    );
    println!("memory: {now} kB after it, {peak} kB at the peak");
    all_arrive(&site, before.len() + during.len()).await;
    println!("every accepted message arrived, and no other");
}
