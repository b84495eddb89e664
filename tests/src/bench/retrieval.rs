//! Reading mail: Postroad's IMAP and POP3 beside Dovecot's, the same mailboxes and the same questions
//! over plain TCP, one server after the other.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    DOMAIN, Run,
    cpu::{self, Usage},
    dovecot::Dovecot,
    line::Line,
    mail::Text,
    memory,
};
use crate::site::{Options, Site, free_port_offset};

/// The mailbox that IMAP asks about.
const MESSAGES: usize = 10_000;
const MESSAGE: usize = 4_000;
/// The maildrop that POP3 lists.
const MANY: usize = 100_000;
const LARGE: usize = 5_000_000;
const LARGE_MESSAGES: usize = 20;
const APPENDERS: usize = 4;
const LOGINS: usize = 2_000;
const LOGIN_CLIENTS: usize = 20;
const IDLERS: usize = 200;
/// Each question is asked so often, and the best counts: both have had time to remember.
const ROUNDS: usize = 3;
const ACCOUNTS: [&str; 3] = ["reader", "many", "large"];

struct Server {
    imap: SocketAddr,
    pop3: SocketAddr,
    process: u32,
}

/// One question's cost.
#[derive(Debug, Clone)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    value: f64,
    /// Server CPU milliseconds for all of it; `None` where that is not the point.
    cpu: Option<f64>,
}

impl Figure {
    fn more_is_better(&self) -> bool {
        self.unit.ends_with("/s")
    }
}

/// Both, as a table and as lines for `bench.jsonl`; ratios above 1 are ours.
pub async fn compare(run: &Run, part: usize, peer: bool) -> (String, Vec<serde_json::Value>) {
    let mut theirs = Vec::new();
    if peer {
        eprintln!("reading, Dovecot:");
        let dovecot = Dovecot::start().await;
        let server = Server { imap: dovecot.imap, pop3: dovecot.pop3, process: dovecot.process() };
        theirs = measure(&server, &run.text, part).await;
    }
    eprintln!("reading, Postroad:");
    let mut options = Options::new("127.0.0.13", free_port_offset(&["127.0.0.13"]), DOMAIN);
    options.config =
        Some("imap-gateway: { allow_cleartext_login: true }\npop3-gateway: { allow_cleartext_login: true }\n".into());
    let site = Site::up(options);
    for account in ACCOUNTS {
        site.account(&format!("{account}@{DOMAIN}"));
    }
    let at = |port| SocketAddr::new(site.host().parse().unwrap(), site.port(port));
    let server = Server { imap: at(143), pop3: at(110), process: cpu::parent(site.pids("mda")[0]) };
    let ours = measure(&server, &run.text, part).await;
    report(&theirs, &ours, part)
}

fn report(theirs: &[Figure], ours: &[Figure], part: usize) -> (String, Vec<serde_json::Value>) {
    let mut text = format!(
        "Reading, {} messages of {MESSAGE} B, a maildrop of {}; ratios above 1 are ours\n\n\
         {:<34} {:>12} {:>12} {:>8} {:>14} {:>14}\n",
        MESSAGES / part,
        MANY / part,
        "",
        "Dovecot",
        "Postroad",
        "ratio",
        "Dovecot CPU ms",
        "Postroad CPU ms"
    );
    let mut lines = Vec::new();
    for (number, figure) in ours.iter().enumerate() {
        let peer = theirs.get(number);
        let ratio = |peer: f64| if figure.more_is_better() { figure.value / peer } else { peer / figure.value };
        let shown = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
        let digits = if figure.value < 100.0 { 2 } else { 0 };
        let _ = writeln!(
            text,
            "{:<34} {:>12} {:>12} {:>7}x {:>14} {:>14}",
            format!("{} ({})", figure.name, figure.unit),
            shown(peer.map(|p| p.value), digits),
            shown(Some(figure.value), digits),
            shown(peer.map(|p| ratio(p.value)), 2),
            shown(peer.and_then(|p| p.cpu), 0),
            shown(figure.cpu, 0),
        );
        if let Some(peer) = peer {
            lines.push(serde_json::json!({
                "name": figure.name, "peer": peer.value, "ours": figure.value, "unit": figure.unit,
                "ratio": ratio(peer.value), "peer_cpu_ms": peer.cpu, "ours_cpu_ms": figure.cpu,
            }));
        }
    }
    (text, lines)
}

async fn measure(server: &Server, text: &Text, part: usize) -> Vec<Figure> {
    let (messages, many) = (MESSAGES / part, MANY / part);
    let mut figures = vec![append(server, text, messages).await];
    imap(server, messages, &mut figures).await;
    figures.push(logins(server, LOGINS / part).await);
    figures.push(idle(server, IDLERS).await);
    figures.push(retrieve(server, "reader", messages, "POP3 RETR", messages as f64, "messages/s").await);
    fill(server, text, many).await;
    figures.push(poll(server, many).await);
    let large = text.message("large", 0, "large", 1_000_000);
    let (header, body) = large.split_at(large.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4);
    let large = [header, &body.repeat(LARGE / body.len())].concat();
    let mut imap = login(server, "large").await;
    for _ in 0..LARGE_MESSAGES {
        imap.append(&format!("APPEND INBOX {{{}+}}", large.len()), &large).await;
    }
    let megabytes = (large.len() * LARGE_MESSAGES) as f64 / 1e6;
    figures.push(retrieve(server, "large", LARGE_MESSAGES, "POP3 RETR of 5 MB", megabytes, "MB/s").await);
    for figure in &figures {
        eprintln!("  {}: {:.2} {} (CPU {:.0} ms)", figure.name, figure.value, figure.unit, figure.cpu.unwrap_or(0.0));
    }
    figures
}

async fn login(server: &Server, account: &str) -> Line {
    let mut line = Line::connect(server.imap).await;
    line.imap(&format!("LOGIN {account}@{DOMAIN} secret")).await;
    line
}

/// What some work costs the server, and how long it takes.
async fn cost<T>(server: &Server, work: impl Future<Output = T>) -> (T, Duration, f64) {
    let before = Usage::of_trees(&[server.process]);
    let start = Instant::now();
    let done = work.await;
    let elapsed = start.elapsed();
    // Ticks of the last processes are booked when they pause.
    tokio::time::sleep(Duration::from_millis(50)).await;
    (done, elapsed, Usage::of_trees(&[server.process]).since(&before).total_ms())
}

/// Different messages, by some sessions at once.
async fn append(server: &Server, text: &Text, messages: usize) -> Figure {
    let mut sessions = Vec::new();
    for _ in 0..APPENDERS {
        sessions.push(login(server, "reader").await);
    }
    let work = sessions.into_iter().enumerate().map(|(first, mut line)| async move {
        for number in (first..messages).step_by(APPENDERS) {
            let message = text.message("reading", number, "reader", MESSAGE);
            line.append(&format!("APPEND INBOX {{{}+}}", message.len()), &message).await;
        }
    });
    let (_, elapsed, cpu) = cost(server, futures::future::join_all(work)).await;
    Figure { name: "IMAP APPEND", unit: "messages/s", value: messages as f64 / elapsed.as_secs_f64(), cpu: Some(cpu) }
}

async fn imap(server: &Server, messages: usize, figures: &mut Vec<Figure>) {
    let mut line = login(server, "reader").await;
    line.imap("SELECT INBOX").await;
    for (name, command, least) in [
        ("IMAP FETCH FLAGS", "FETCH 1:* (FLAGS)", 20),
        ("IMAP FETCH ENVELOPE", "FETCH 1:* (ENVELOPE)", 150),
        ("IMAP FETCH header", "FETCH 1:* (BODY.PEEK[HEADER])", 200),
        ("IMAP FETCH body", "FETCH 1:* (BODY.PEEK[])", MESSAGE - 100),
        ("IMAP SEARCH SUBJECT", "SEARCH SUBJECT \"Number 77 of\"", 0),
        ("IMAP SEARCH TEXT", "SEARCH TEXT \"nowhere to be found\"", 0),
    ] {
        let mut best: Option<(Duration, f64)> = None;
        for _ in 0..ROUNDS {
            let (octets, elapsed, cpu) = cost(server, line.imap(command)).await;
            assert!(octets > least * messages, "{command}: {octets} octets of {messages} messages");
            best = best.filter(|b| b.0 <= elapsed).or(Some((elapsed, cpu)));
        }
        let (elapsed, cpu) = best.unwrap();
        let value = messages as f64 / elapsed.as_secs_f64();
        figures.push(Figure { name, unit: "messages/s", value, cpu: Some(cpu) });
    }
}

async fn logins(server: &Server, logins: usize) -> Figure {
    // Whoever keeps something of a login has it now.
    login(server, "reader").await.imap("LOGOUT").await;
    let work = (0..LOGIN_CLIENTS).map(|_| async {
        for _ in 0..logins / LOGIN_CLIENTS {
            login(server, "reader").await.imap("LOGOUT").await;
        }
    });
    let (_, elapsed, cpu) = cost(server, futures::future::join_all(work)).await;
    Figure { name: "IMAP logins", unit: "logins/s", value: logins as f64 / elapsed.as_secs_f64(), cpu: Some(cpu) }
}

/// Sessions in IDLE on the mailbox; memory shared between processes counts once.
async fn idle(server: &Server, sessions: usize) -> Figure {
    let before = memory::of_tree(server.process);
    let mut lines = Vec::new();
    for _ in 0..sessions {
        let mut line = login(server, "reader").await;
        line.imap("SELECT INBOX").await;
        line.idle().await;
        lines.push(line);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let value = memory::of_tree(server.process).saturating_sub(before) as f64 / sessions as f64;
    Figure { name: "memory of an IMAP session in IDLE", unit: "kB", value: value.max(0.1), cpu: None }
}

/// Copies of a thousand messages: what a maildrop's list costs does not depend on their text.
async fn fill(server: &Server, text: &Text, messages: usize) {
    let mut line = login(server, "many").await;
    let mut there = messages.min(1_000);
    for number in 0..there {
        let message = text.message("many", number, "many", 1_000);
        line.append(&format!("APPEND INBOX {{{}+}}", message.len()), &message).await;
    }
    line.imap("SELECT INBOX").await;
    while there < messages {
        let more = there.min(messages - there).min(10_000);
        line.imap(&format!("COPY 1:{more} INBOX")).await;
        line.imap("NOOP").await;
        there += more;
    }
}

/// What a client does that finds nothing new: login, STAT, UIDL.
async fn poll(server: &Server, messages: usize) -> Figure {
    let once = || async {
        let mut line = Line::connect(server.pop3).await;
        line.pop3(&format!("USER many@{DOMAIN}")).await;
        line.pop3("PASS secret").await;
        let stat = line.pop3("STAT").await;
        assert!(stat.starts_with(&format!("+OK {messages} ")), "{stat}");
        assert!(line.pop3_text("UIDL").await > 4 * messages);
        line
    };
    let mut rounds = Vec::new();
    for _ in 0..=ROUNDS {
        let (mut line, elapsed, cpu) = cost(server, once()).await;
        line.pop3("QUIT").await;
        rounds.push((elapsed, cpu));
    }
    // The first one pays for what both remember.
    let (elapsed, cpu) = rounds.into_iter().skip(1).min_by_key(|(elapsed, _)| *elapsed).unwrap();
    Figure { name: "POP3 login, STAT, UIDL of 100,000", unit: "ms", value: elapsed.as_secs_f64() * 1e3, cpu: Some(cpu) }
}

/// One RETR after the other; `amount` of `unit` in all.
async fn retrieve(
    server: &Server,
    account: &str,
    messages: usize,
    name: &'static str,
    amount: f64,
    unit: &'static str,
) -> Figure {
    let mut line = Line::connect(server.pop3).await;
    line.pop3(&format!("USER {account}@{DOMAIN}")).await;
    line.pop3("PASS secret").await;
    let mut best: Option<(Duration, f64)> = None;
    for _ in 0..ROUNDS {
        let all = async {
            for number in 1..=messages {
                assert!(line.pop3_text(&format!("RETR {number}")).await > 1_000);
            }
        };
        let ((), elapsed, cpu) = cost(server, all).await;
        best = best.filter(|b| b.0 <= elapsed).or(Some((elapsed, cpu)));
    }
    line.pop3("QUIT").await;
    let (elapsed, cpu) = best.unwrap();
    Figure { name, unit, value: amount / elapsed.as_secs_f64(), cpu: Some(cpu) }
}
