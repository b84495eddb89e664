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
/// A 250 is committed within this; so a kill that explains a duplicate comes no later after it.
/// Kills are further apart, or any time would be near one.
const UNCOMMITTED: Duration = Duration::from_millis(1_200);

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
    options.config = Some("outbound-relay: { lease_seconds: 4 }\nmda: { redispatch_seconds: 5 }\n".into());
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
    while start.elapsed() < Duration::from_secs(180) {
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

    let mut by_number: HashMap<usize, Vec<Instant>> = HashMap::new();
    for taken in sink.taken() {
        by_number.entry(taken.number).or_default().push(taken.at);
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
    let (mut duplicates, mut far) = (0, 0);
    for times in by_number.values().filter(|times| times.len() > 1) {
        for early in &times[..times.len() - 1] {
            duplicates += 1;
            // The peer may have the final dot when the relay dies, and answer a dead connection.
            let is_near =
                |kill: &Instant| *kill + 3 * ANSWER >= *early && kill.saturating_duration_since(*early) < UNCOMMITTED;
            far += usize::from(!kills.iter().any(is_near));
        }
    }
    assert_eq!(far, 0, "of {duplicates} duplicates, so many came without a kill near (Invariant 4)");
    // What one relay has in flight when it is killed bounds what a kill can double.
    assert!(duplicates <= kills.len() * 100, "{duplicates} duplicates of {} kills", kills.len());
    eprintln!(
        "{MESSAGES} messages to {DESTINATIONS} destinations: {} kills, all accepted in {first_half:?}, all out in {all_at:?}, \
         0 lost, {duplicates} duplicates, {far} of them not within {UNCOMMITTED:?} of a kill",
        kills.len()
    );
}
