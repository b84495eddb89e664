//! Sessions that send numbered messages through whatever happens.
//!
//! A number is tried once: when its answer is lost, nobody knows whether it was accepted, and it
//! may be in the mailbox or not, but never twice.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
};

use crate::{bench::mail::Text, site::Site};

pub const ACCOUNTS: [&str; 4] = ["a@example.com", "b@example.com", "c@example.com", "d@example.com"];
/// Longer than any deadline of ours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const SIZES: [usize; 4] = [700, 3_000, 20_000, 150_000];

pub struct Traffic {
    shared: Arc<Shared>,
    sessions: JoinSet<()>,
}

struct Shared {
    server: SocketAddr,
    text: Text,
    next: AtomicUsize,
    accepted: Mutex<BTreeSet<usize>>,
    is_over: AtomicBool,
}

/// What was sent.
pub struct Sent {
    pub accepted: BTreeSet<usize>,
    /// Numbers below this were tried.
    pub tried: usize,
    text: Text,
}

impl Sent {
    pub fn message(&self, number: usize) -> Vec<u8> {
        message(&self.text, number)
    }
}

pub fn recipient(number: usize) -> &'static str {
    ACCOUNTS[number % ACCOUNTS.len()]
}

fn message(text: &Text, number: usize) -> Vec<u8> {
    text.message("chaos", number, recipient(number), SIZES[number / 7 % SIZES.len()])
}

impl Traffic {
    pub fn start(site: &Site, sessions: usize, text: Text) -> Self {
        let server = SocketAddr::new(site.host().parse().unwrap(), site.port(25));
        let shared = Arc::new(Shared {
            server,
            text,
            next: AtomicUsize::new(0),
            accepted: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let mut set = JoinSet::new();
        for _ in 0..sessions {
            set.spawn(session(shared.clone()));
        }
        Self { shared, sessions: set }
    }

    pub fn accepted(&self) -> usize {
        self.shared.accepted.lock().unwrap().len()
    }

    /// Until that many more are accepted.
    pub async fn flows(&self, more: usize, limit: Duration) -> Option<()> {
        let (start, goal) = (Instant::now(), self.accepted() + more);
        while self.accepted() < goal {
            if start.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(())
    }

    pub async fn stop(mut self) -> Sent {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while self.sessions.join_next().await.is_some() {}
        let shared = Arc::into_inner(self.shared).expect("all sessions ended");
        Sent { accepted: shared.accepted.into_inner().unwrap(), tried: shared.next.into_inner(), text: shared.text }
    }
}

async fn session(shared: Arc<Shared>) {
    while !shared.is_over.load(Ordering::Relaxed) {
        // Trouble ends the connection, never the session.
        if connection(&shared).await.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn connection(shared: &Shared) -> Option<()> {
    let stream = tokio::time::timeout(ANSWER_TIMEOUT, TcpStream::connect(shared.server)).await.ok()?.ok()?;
    let mut stream = BufReader::new(stream);
    expect(&mut stream, "220").await?;
    command(&mut stream, b"EHLO chaos.com\r\n", "250").await?;
    while !shared.is_over.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        command(&mut stream, b"MAIL FROM:<load@chaos.com>\r\n", "250").await?;
        command(&mut stream, format!("RCPT TO:<{}>\r\n", recipient(number)).as_bytes(), "250").await?;
        command(&mut stream, b"DATA\r\n", "354").await?;
        let content = [message(&shared.text, number), b".\r\n".to_vec()].concat();
        command(&mut stream, &content, "250").await?;
        shared.accepted.lock().unwrap().insert(number);
    }
    command(&mut stream, b"QUIT\r\n", "221").await
}

async fn command(stream: &mut BufReader<TcpStream>, bytes: &[u8], code: &str) -> Option<()> {
    tokio::time::timeout(ANSWER_TIMEOUT, stream.get_mut().write_all(bytes)).await.ok()?.ok()?;
    expect(stream, code).await
}

async fn expect(stream: &mut BufReader<TcpStream>, code: &str) -> Option<()> {
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(ANSWER_TIMEOUT, stream.read_line(&mut line)).await.ok()?.ok()?;
        if read == 0 || !line.starts_with(code) {
            return None;
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Some(());
        }
    }
}
