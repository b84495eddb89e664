//! `postroad up` with the real Postgres and Redis, and stand-ins for the services: start, ready,
//! a crash, stop, start again.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const SERVICES: [&str; 7] =
    ["mda", "auth-checker", "smtp-ingress", "outbound-relay", "imap-gateway", "pop3-gateway", "console"];

/// Binds what it is told to, says that it is ready, and ends on SIGTERM.
const STAND_IN: &str = r#"#!/usr/bin/python3
import http.server, os, signal, socket
bound = []
for key, value in os.environ.items():
    if key.startswith("POSTROAD_") and key.endswith("_LISTEN") and "RUNTIME" not in key:
        host, port = value.rsplit(":", 1)
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind((host, int(port)))
        s.listen()
        bound.append(s)
    if key.startswith("POSTROAD"):
        print(key, value, flush=True)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
def drain(*_):
    print("drained", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, drain)
host, port = os.environ["POSTROAD_RUNTIME__HTTP_LISTEN"].rsplit(":", 1)
http.server.HTTPServer((host, int(port)), Ready).serve_forever()
"#;

struct Bench {
    /// Closed to others, as `mktemp -d` makes it.
    root: PathBuf,
    offset: u16,
}

impl Bench {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("postroad-up-{}", uuid::Uuid::new_v4()));
        fs::DirBuilder::new().mode(0o700).create(&root).unwrap();
        let binaries = root.join("bin");
        fs::create_dir(&binaries).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_postroad"), binaries.join("postroad")).unwrap();
        for service in SERVICES {
            fs::write(binaries.join(service), STAND_IN).unwrap();
            fs::set_permissions(binaries.join(service), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { root, offset: free_offset() }
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn up(&self, arguments: &[&str]) -> Child {
        Command::new(self.root.join("bin/postroad"))
            .arg("up")
            .arg("--data")
            .arg(self.data())
            .args(["--port-offset", &self.offset.to_string()])
            .args(arguments)
            // No key of any service: must not reach them.
            .env("POSTROAD_DATA", "elsewhere")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn ready(&self, arguments: &[&str]) -> Up {
        let mut child = self.up(arguments);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let mut words = String::new();
            child.stderr.as_mut().unwrap().read_to_string(&mut words).unwrap();
            panic!("not ready: {words}");
        }
        Up(child)
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.up(arguments).wait_with_output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }

    fn pid(&self, process: &str) -> Option<Pid> {
        Pid::from_raw(fs::read_to_string(self.data().join(format!("run/{process}.pid"))).ok()?.trim().parse().ok()?)
    }

    fn log(&self, process: &str) -> String {
        fs::read_to_string(self.data().join(format!("log/{process}.log"))).unwrap()
    }

    fn pids(&self) -> Vec<Pid> {
        let names = SERVICES.iter().chain(&["postgres", "redis"]).map(|s| format!("{s}-1"));
        names.map(|name| self.pid(&name).unwrap_or_else(|| panic!("no pid file of {name}"))).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Stopped in order also when a test fails.
struct Up(Child);

impl Up {
    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_raw(self.0.id().try_into().unwrap()).unwrap(), signal);
    }

    fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let _ = self.0.wait();
    }
}

/// An offset at which no port is in use; all of them below the ephemeral range.
fn free_offset() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let start = (std::process::id() % 40) as u16;
    let is_free = |offset: &u16| {
        [25, 587, 465, 143, 993, 110, 995, 4190, 8080]
            .iter()
            .all(|port| TcpListener::bind(("127.0.0.1", port + offset)).is_ok())
    };
    (0..400)
        .map(|_| 3_000 + (start + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % 400 * 40)
        .find(is_free)
        .unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(120), "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_alive(pid: Pid) -> bool {
    // A zombie that nobody has waited for yet has ended, too.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

fn socket_lives(data: &Path) -> bool {
    data.join("postgres-socket/.s.PGSQL.5432").exists() || data.join("redis-socket/redis.sock").exists()
}

#[test]
fn starts_stops_and_starts_again() {
    let bench = Bench::new();
    let up = bench.ready(&["--hostname", "mx.example", "--proxy-from", "10.0.0.0/8", "--replicas", "imap-gateway=2"]);
    let first = bench.pids();
    assert!(first.iter().all(|pid| is_alive(*pid)) && bench.pid("imap-gateway-2").is_some());
    let told = bench.log("smtp-ingress-1");
    for line in [
        "POSTROAD_HOSTNAME mx.example".to_owned(),
        format!("POSTROAD_MX_LISTEN 127.0.0.1:{}", 25 + bench.offset),
        r#"POSTROAD_LISTENER__PROXY_FROM ["10.0.0.0/8"]"#.to_owned(),
    ] {
        assert!(told.lines().any(|l| l == line), "{line} is not in:\n{told}");
    }
    assert!(!told.contains("POSTROAD_DATA "), "only our own settings:\n{told}");
    let address = fs::read_to_string(bench.data().join("run/mda-1.addr")).unwrap();
    assert!(bench.log("mda-1").contains(&format!("POSTROAD_LISTEN {}", address.trim())));
    let ca = fs::read(bench.data().join("tls/ca.pem")).unwrap();

    assert!(bench.refused(&[]).contains("another postroad up runs"));

    // A process that dies is started again after a second.
    let dead = bench.pid("mda-1").unwrap();
    kill_process(dead, Signal::KILL).unwrap();
    until("mda again", || bench.pid("mda-1").is_some_and(|pid| pid != dead && is_alive(pid)));
    // The database and the queue, too.
    for store in ["postgres-1", "redis-1"] {
        let dead = bench.pid(store).unwrap();
        kill_process(dead, Signal::KILL).unwrap();
        until(store, || bench.pid(store).is_some_and(|pid| pid != dead && is_alive(pid)));
    }

    let second = bench.pids();
    up.stop();
    assert!(!first.iter().chain(&second).any(|pid| is_alive(*pid)), "something is left");
    assert!(fs::read_dir(bench.data().join("run")).unwrap().next().is_none() && !socket_lives(&bench.data()));
    assert!(bench.log("pop3-gateway-1").ends_with("drained\n"));

    let up = bench.ready(&[]);
    assert_eq!(fs::read(bench.data().join("tls/ca.pem")).unwrap(), ca, "the CA stays");
    up.stop();
}

#[test]
fn goes_on_after_a_kill() {
    let bench = Bench::new();
    let mut up = bench.ready(&[]);
    let orphans = bench.pids();
    up.signal(Signal::KILL);
    up.0.wait().unwrap();
    // At once: ends what is left of the first, and does not trip over it.
    let up = bench.ready(&[]);
    assert!(!orphans.iter().any(|pid| is_alive(*pid)));
    assert!(bench.pids().iter().all(|pid| is_alive(*pid)));
    up.stop();
}

#[test]
fn a_service_that_cannot_start_is_named_with_its_words() {
    let bench = Bench::new();
    let broken = "#!/bin/sh\necho 'imap-gateway: configuration key \"x\" is unknown' >&2\nexit 1\n";
    fs::write(bench.root.join("bin/imap-gateway"), broken).unwrap();
    let words = bench.refused(&[]);
    assert!(words.contains("imap-gateway-1") && words.contains("configuration key \"x\" is unknown"), "{words}");
    assert!(!socket_lives(&bench.data()), "the others are stopped");
    fs::remove_file(bench.root.join("bin/imap-gateway")).unwrap();
    assert!(bench.refused(&[]).contains("imap-gateway is not in"));
}

#[test]
fn a_taken_port_is_an_error() {
    let bench = Bench::new();
    let _taken = TcpListener::bind(("127.0.0.1", 143 + bench.offset)).unwrap();
    assert!(bench.refused(&[]).contains(&format!("127.0.0.1:{}", 143 + bench.offset)));
}

#[test]
fn missing_programs_are_named_with_their_package() {
    let bench = Bench::new();
    let output = Command::new(bench.root.join("bin/postroad"))
        .args(["up", "--data"])
        .arg(bench.data())
        .args(["--port-offset", &bench.offset.to_string()])
        .env("PATH", bench.root.join("bin"))
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("install the package redis-server"), "{words}");
}
