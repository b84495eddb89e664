//! Relaying: the same mail to aliases that point elsewhere, through Postroad and through Postfix,
//! to one `smtp-sink` (Postfix's own test server).

use std::{
    io::Read as _,
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    ACCOUNTS, DOMAIN, Run, SENDER_DOMAIN, Size,
    cpu::{self, Usage},
    local_part,
    peer::{Daemon, SERVICES, command},
    recipient,
    sender::{self, Batch},
};
use crate::{
    dns::NameServer,
    eventually,
    ports::free_address,
    process::{Process, program},
    site::{Options, Site, free_port_offset},
};

const SIZES: [Size; 2] = [Size { bytes: 1_000, count: 3_000 }, Size { bytes: 10_000, count: 2_000 }];
/// In turn, of the whole run.
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(180);
const AWAY: &str = "sink.com";

/// `smtp-sink -c` writes what it has counted.
struct SmtpSink {
    messages: Arc<AtomicUsize>,
    _process: Process,
}

impl SmtpSink {
    async fn start(address: SocketAddr) -> Self {
        // As `nobody`, with room for every connection of both.
        let mut command = Command::new(program("smtp-sink", "postfix"));
        command.args(["-u", "nobody", "-c"]).arg(address.to_string()).arg("1000").stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let (mut output, messages) = (process.stdout(), Arc::new(AtomicUsize::new(0)));
        let counted = messages.clone();
        std::thread::spawn(move || {
            let (mut text, mut buffer) = (String::new(), [0; 4_096]);
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                text.push_str(&String::from_utf8_lossy(&buffer[..n]));
                // `sess=1 quit=0 mesg=7` and a carriage return, over and over.
                let last =
                    text.rsplit("mesg=").find_map(|t| t.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
                counted.fetch_max(last.unwrap_or(0), Ordering::SeqCst);
                text = text.split_off(text.rfind("sess=").unwrap_or(0));
            }
        });
        eventually("smtp-sink answers", Duration::from_secs(10), || async { TcpStream::connect(address).ok() }).await;
        Self { messages, _process: process }
    }

    async fn wait(&self, count: usize) {
        let start = Instant::now();
        while self.messages.load(Ordering::SeqCst) < count {
            assert!(start.elapsed() < PATIENCE, "{} of {count} relayed", self.messages.load(Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Of each size: messages a second, CPU milliseconds a message.
type Figures = Vec<(f64, f64)>;

async fn measure(run: &Run, server: SocketAddr, processes: &[u32], sink: &SmtpSink, size: Size) -> (f64, f64) {
    let batch = |count, name: &str| Batch {
        server,
        run: format!("{name}-{}", size.bytes),
        count,
        size: size.bytes,
        sessions: run.sessions,
        text: run.text.clone(),
    };
    let warm_up = 10 * run.sessions;
    let before = sink.messages.load(Ordering::SeqCst);
    sender::send(batch(warm_up, "warm-up")).await;
    sink.wait(before + warm_up).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let usage = Usage::of_trees(processes);
    let start = Instant::now();
    sender::send(batch(size.count, "run")).await;
    sink.wait(before + warm_up + size.count).await;
    let seconds = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let cpu = Usage::of_trees(processes).since(&usage);
    let shares: Vec<String> = cpu
        .by_name()
        .into_iter()
        .filter(|(_, ms)| *ms > 0.0)
        .map(|(name, ms)| format!("{name} {:.2}", ms / size.count as f64))
        .collect();
    eprintln!("  {} B: {:.0}/s ({})", size.bytes, size.count as f64 / seconds, shares.join(", "));
    (size.count as f64 / seconds, cpu.total_ms() / size.count as f64)
}

async fn postfix(run: &Run, part: usize) -> Figures {
    let folder = tempfile::Builder::new().prefix("postroad-bench").tempdir_in("/tmp").unwrap();
    command("chmod", &["755"], &[folder.path()]);
    let (server, next) = (free_address(), free_address());
    let sink = SmtpSink::start(next).await;
    let path = |name: &str| folder.path().join(name);
    for name in ["postfix", "postfix-data", "postfix-queue", "log"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    command("chown", &["postfix"], &[&path("postfix-data")]);
    let aliases: String = (0..ACCOUNTS).map(|n| format!("{} {}@{AWAY}\n", recipient(n), local_part(n))).collect();
    std::fs::write(path("postfix/aliases"), aliases).unwrap();
    let main = format!(
        "compatibility_level = 3.6
queue_directory = {folder}/postfix-queue
data_directory = {folder}/postfix-data
maillog_file_prefixes = {folder}
maillog_file = {folder}/log/postfix
myhostname = mail.{DOMAIN}
inet_interfaces = {ip}
inet_protocols = ipv4
mydestination =
mynetworks =
alias_maps =
alias_database =
virtual_alias_domains = {DOMAIN}
virtual_alias_maps = texthash:{folder}/postfix/aliases
relayhost = [{next_ip}]:{next_port}
smtpd_relay_restrictions = reject_unauth_destination
",
        folder = folder.path().display(),
        ip = server.ip(),
        next_ip = next.ip(),
        next_port = next.port(),
    );
    std::fs::write(path("postfix/main.cf"), main).unwrap();
    std::fs::write(path("postfix/master.cf"), format!("{server} inet n - n - - smtpd\n{SERVICES}")).unwrap();
    let config = path("postfix").display().to_string();
    let daemon = Daemon::start(&format!("postfix -c {config} start-fg"), &format!("postfix -c {config} stop"));
    eventually("Postfix answers", Duration::from_secs(30), || async { TcpStream::connect(server).ok() }).await;
    let mut all = Vec::new();
    for size in SIZES {
        let size = Size { count: size.count / part, ..size };
        all.push(measure(run, server, &[daemon.0.id()], &sink, size).await);
    }
    drop(daemon);
    all
}

/// Without ARC seals it does what Postfix does, and more (verdicts, SRS, the journey).
async fn postroad(run: &Run, part: usize, seal: bool) -> Figures {
    let dns = NameServer::start(&["com."]).await;
    let offset = free_port_offset(&["127.0.0.9", "127.0.0.12"]);
    let next: SocketAddr = format!("127.0.0.12:{}", 25 + offset).parse().unwrap();
    for record in [
        format!("{SENDER_DOMAIN} A 127.0.0.1"),
        format!("{SENDER_DOMAIN} TXT v=spf1 a mx -all"),
        format!("_dmarc.{SENDER_DOMAIN} TXT v=DMARC1; p=none"),
        format!("{AWAY} MX 10 mx.{AWAY}"),
        format!("mx.{AWAY} A {}", next.ip()),
    ] {
        dns.add(&record).await;
    }
    let sink = SmtpSink::start(next).await;
    let mut options = Options::new("127.0.0.9", offset, DOMAIN).more(&[
        "--dns",
        &dns.address.to_string(),
        "--relay-port",
        &next.port().to_string(),
    ]);
    options.config = Some(format!("smtp-ingress: {{ seal_forwards: {seal} }}\n"));
    let site = Site::up(options);
    for n in 0..ACCOUNTS {
        site.admin(&["alias", "add", &recipient(n), &format!("{}@{AWAY}", local_part(n))], "");
    }
    let up = cpu::parent(site.pids("mda")[0]);
    let server = SocketAddr::new("127.0.0.9".parse().unwrap(), site.port(25));
    let mut all = Vec::new();
    for size in SIZES {
        let size = Size { count: size.count / part, ..size };
        all.push(measure(run, server, &[up], &sink, size).await);
    }
    all
}

/// Of each size the median of the rates and that of the CPU: a machine that others share is fast one moment and slow
/// the next, and a run takes two seconds.
fn medians(rounds: &[Figures]) -> Figures {
    let median = |size: usize, figure: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(|sizes| figure(&sizes[size])).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    (0..SIZES.len()).map(|size| (median(size, |f| f.0), median(size, |f| f.1))).collect()
}

/// A table; ratios above 1 are ours.
pub async fn compare(run: &Run, part: usize) -> String {
    let (mut theirs, mut ours, mut sealing) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=if part == 1 { ROUNDS } else { 1 } {
        eprintln!("relaying, round {round}, Postfix:");
        theirs.push(postfix(run, part).await);
        eprintln!("relaying, round {round}, Postroad without ARC seals:");
        ours.push(postroad(run, part, false).await);
        eprintln!("relaying, round {round}, Postroad as it comes:");
        sealing.push(postroad(run, part, true).await);
    }
    let (theirs, ours, sealing) = (medians(&theirs), medians(&ours), medians(&sealing));
    let mut text = format!(
        "Relaying to smtp-sink, {} sessions; ratios above 1 are ours\n\n  {:<18} {:>11} {:>12} {:>7} {:>15} {:>16} {:>7}\n",
        run.sessions, "", "Postfix/s", "Postroad/s", "ratio", "Postfix CPU ms", "Postroad CPU ms", "ratio"
    );
    for (what, ours) in [("", &ours), ("with ARC seals", &sealing)] {
        for (size, ((peer_rate, peer_cpu), (rate, cpu))) in SIZES.iter().zip(theirs.iter().zip(ours)) {
            text.push_str(&format!(
                "  {:<18} {:>11.0} {:>12.0} {:>6.2}x {:>15.2} {:>16.2} {:>6.2}x\n",
                format!("{:>3} kB {what}", size.bytes / 1_000),
                peer_rate,
                rate,
                rate / peer_rate,
                peer_cpu,
                cpu,
                peer_cpu / cpu
            ));
        }
    }
    text
}
