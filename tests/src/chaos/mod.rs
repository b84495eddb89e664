//! Chaos: numbered messages while, in turn and at random, everything that can fail does.
//!
//! At the end every message that was answered 250 is in its mailbox exactly once, byte for byte,
//! nothing else is there, and every count agrees with a recount.

mod faults;
mod traffic;
mod verify;

use std::time::{Duration, Instant};

pub use faults::{FAULTS, Fault, sql};
use traffic::Traffic;

use crate::{
    bench::mail::Text,
    dns::NameServer,
    site::{Options, Site, free_port_offset},
};

/// Mail that must flow again after a fault before it counts as over.
const ALIVE_AGAIN: usize = 30;
/// More than the minute that DESIGN allows, so that a breach is measured and not only reported.
const PATIENCE: Duration = Duration::from_secs(180);

pub struct Plan {
    /// Faults go on until this is over and each was injected once.
    pub time: Duration,
    pub sessions: usize,
    pub seed: u64,
}

/// What one kind of fault did.
pub struct Row {
    pub name: &'static str,
    pub injected: usize,
    /// 250s while it lasted and until mail flowed again.
    pub messages: usize,
    pub worst_recovery: Duration,
}

pub struct Report {
    pub rows: Vec<Row>,
    pub messages: usize,
    pub lost: usize,
    pub doubled: usize,
    /// What else does not agree, in words.
    pub wrong: Vec<String>,
}

impl Report {
    pub fn held(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.wrong.is_empty()
    }

    pub fn injected(&self) -> usize {
        self.rows.iter().map(|r| r.injected).sum()
    }

    pub fn worst_recovery(&self) -> Duration {
        self.rows.iter().map(|r| r.worst_recovery).max().unwrap_or_default()
    }
}

pub async fn run(plan: &Plan) -> Report {
    let dns = NameServer::start(&["com."]).await;
    let host = "127.0.0.6";
    let options = Options::new(host, free_port_offset(&[host]), "example.com");
    let disk = faults::Disk::mount();
    let site = Site::up_in(disk.folder(), options.more(&["--dns", &dns.address.to_string()]));
    for account in traffic::ACCOUNTS {
        site.account(account);
    }
    // Two of them, and all together, have a limit that is far away: its counters must be right.
    for account in traffic::ACCOUNTS.iter().take(2) {
        site.admin(&["account", "quota", account, "--bytes", "1000000000000"], "");
    }
    site.admin(&["tenant", "quota", "default", "--bytes", "1000000000000", "--messages", "1000000000"], "");
    let traffic = Traffic::start(&site, plan.sessions, Text::generate());
    traffic.flows(ALIVE_AGAIN, PATIENCE).await.expect("mail flows before the first fault");

    let mut rows: Vec<Row> =
        FAULTS.iter().map(|f| Row { name: f.name, injected: 0, messages: 0, worst_recovery: Duration::ZERO }).collect();
    let start = Instant::now();
    let mut random = plan.seed | 1;
    let mut next = 0;
    while next < FAULTS.len() || start.elapsed() < plan.time {
        // Each once in turn, then at random.
        let index = if next < FAULTS.len() { next } else { faults::below(&mut random, FAULTS.len()) };
        next += 1;
        let before = traffic.accepted();
        let began = Instant::now();
        (FAULTS[index].inject)(&site, &disk).await;
        let flows = traffic.flows(ALIVE_AGAIN, PATIENCE).await;
        let row = &mut rows[index];
        row.injected += 1;
        row.messages += traffic.accepted() - before;
        row.worst_recovery = row.worst_recovery.max(began.elapsed());
        eprintln!("{:>3}. {:<28} {:>6.1} s", next, row.name, began.elapsed().as_secs_f32());
        if flows.is_none() {
            eprintln!("mail does not flow again after {}", row.name);
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let sent = traffic.stop().await;
    verify::verify(&site, sent, rows).await
}
