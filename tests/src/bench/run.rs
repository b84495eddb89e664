//! One measured run: from the first connect to the last message in its mailbox.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ACCOUNTS, Subject,
    cpu::Usage,
    mail::Text,
    sender::{self, Batch},
};

/// After the last 250, until every mailbox has its messages.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);
/// What a message leaves behind (queue files, acknowledgements) is paid for too.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Of one message.
    pub bytes: usize,
    pub count: usize,
}

pub struct Run {
    pub text: Arc<Text>,
    pub sessions: usize,
}

/// What one size cost one server.
#[derive(Debug, Clone)]
pub struct Measure {
    pub size: Size,
    /// First connect to last 250.
    pub accepted: Duration,
    /// First connect to the last message in its mailbox.
    pub delivered: Duration,
    /// Of the server's processes alone.
    pub cpu: Usage,
}

impl Measure {
    /// Delivered messages a second.
    pub fn rate(&self) -> f64 {
        self.size.count as f64 / self.delivered.as_secs_f64()
    }

    /// CPU milliseconds a message.
    pub fn cpu(&self) -> f64 {
        self.per_message(self.cpu.total_ms())
    }

    pub fn per_message(&self, ms: f64) -> f64 {
        ms / self.size.count as f64
    }
}

/// Warms up, sends, waits, and makes sure that nothing is lost or there twice.
pub async fn measure(run: &Run, subject: &mut impl Subject, size: Size) -> Measure {
    let mut mailboxes = Mailboxes::count(subject).await;
    let warm_up = Size { bytes: size.bytes, count: 4 * run.sessions };
    mailboxes.expect(warm_up.count);
    sender::send(batch(run, subject, warm_up, "warm-up")).await;
    mailboxes.wait(subject).await;
    // Nobody pays for what was written before.
    let _ = std::process::Command::new("sync").status();
    tokio::time::sleep(SETTLE).await;

    mailboxes.expect(size.count);
    let before = Usage::of_trees(&subject.processes());
    let start = Instant::now();
    sender::send(batch(run, subject, size, "run")).await;
    let accepted = start.elapsed();
    mailboxes.wait(subject).await;
    let delivered = start.elapsed();
    tokio::time::sleep(SETTLE).await;
    let cpu = Usage::of_trees(&subject.processes()).since(&before);
    mailboxes.check(subject).await;
    Measure { size, accepted, delivered, cpu }
}

fn batch(run: &Run, subject: &impl Subject, size: Size, name: &str) -> Batch {
    Batch {
        server: subject.server(),
        run: format!("{name}-{}", size.bytes),
        count: size.count,
        size: size.bytes,
        sessions: run.sessions,
        text: run.text.clone(),
    }
}

/// Messages that each account has, or is to have.
struct Mailboxes([usize; ACCOUNTS]);

impl Mailboxes {
    async fn count(subject: &mut impl Subject) -> Self {
        let mut counts = [0; ACCOUNTS];
        for (account, count) in counts.iter_mut().enumerate() {
            *count = subject.messages(account).await;
        }
        Self(counts)
    }

    fn expect(&mut self, sent: usize) {
        for number in 0..sent {
            self.0[number % ACCOUNTS] += 1;
        }
    }

    /// Asks about one mailbox after the other, so that waiting costs the server little.
    async fn wait(&self, subject: &mut impl Subject) {
        let start = Instant::now();
        for (account, expected) in self.0.iter().enumerate() {
            loop {
                let found = subject.messages(account).await;
                if found >= *expected {
                    break;
                }
                let name = subject.name();
                assert!(start.elapsed() < PATIENCE, "{name}: account {account} has {found} of {expected} messages");
                tokio::time::sleep(POLL).await;
            }
        }
    }

    async fn check(&self, subject: &mut impl Subject) {
        let found = Self::count(subject).await;
        assert_eq!(found.0, self.0, "{}: messages are lost or delivered twice", subject.name());
    }
}
