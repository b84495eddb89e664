//! The front door of a whole site: extensions to the end of the way, limits that pods share,
//! blocklists, greylisting, scanning, the TLS it speaks.

#![allow(clippy::unwrap_used)]

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use tests::{
    client::python,
    dns::NameServer,
    ports::free_address,
    process::{Process, program},
    site::{Options, Site, free_port_offset},
};

/// Clients come through a load balancer on loopback, so that they may have any address.
fn options() -> Options {
    Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com").more(&["--proxy-from", "127.0.0.1/32"])
}

fn site(config: &str) -> Site {
    let mut options = options();
    options.config = Some(config.to_owned());
    let site = Site::up(options);
    site.account("bob@example.com");
    site
}

/// Raw SMTP from any address, by the PROXY protocol.
const RAW: &str = r#"
import base64
class Raw:
    def __init__(self, port, peer="198.51.100.1", hello=True):
        self.sock = socket.create_connection((HOST, PORT[port]))
        self.sock.settimeout(120)
        self.sock.sendall(f"PROXY TCP4 {peer} 127.0.0.1 4321 25\r\n".encode())
        if port in (465, 993): self.tls()
        else: self.file = self.sock.makefile("rb")
        if port == 993: self.file.readline(); return
        self.greeting = self.reply()
        if hello: self("EHLO client.example")
    def tls(self):
        self.sock = TLS.wrap_socket(self.sock, server_hostname="example.com"); self.file = self.sock.makefile("rb")
    def reply(self):
        lines = []
        while True:
            line = self.file.readline().decode()
            if not line: return ("".join(lines) + " closed").strip()
            lines.append(line)
            if line[3:4] == " ": return "".join(lines).strip()
    def send(self, data): self.sock.sendall(data if isinstance(data, bytes) else data.encode())
    def __call__(self, line):
        self.send(line + "\r\n"); return self.reply()
    def want(self, line, start):
        got = self(line); assert got.startswith(start), (line, got); return got
    def login(self, user="bob@example.com", password="secret"):
        return self("AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode())
    def message(self, sender="a@sender.example", to="bob@example.com", text="Subject: x\r\n\r\nx\r\n"):
        for line, start in ((f"MAIL FROM:<{sender}>", "250"), (f"RCPT TO:<{to}>", "250"), ("DATA", "354")):
            got = self(line)
            if not got.startswith(start): self("RSET"); return got
        return self(text + ".")
def mailbox(user="bob@example.com"):
    raw = Raw(993); n = [0]
    def ask(command):
        n[0] += 1; tag = f"a{n[0]}"; raw.send(f"{tag} {command}\r\n"); out = b""
        while True:
            line = raw.file.readline(); assert line, out
            if line.startswith(tag.encode()): return out
            out += line
            if line.rstrip().endswith(b"}"): out += raw.file.read(int(line.rsplit(b"{")[-1].strip(b"~}\r\n")))
    ask(f"LOGIN {user} secret"); ask("SELECT INBOX"); return ask
def until(what, ask, seconds=90):
    end = time.time() + seconds
    while time.time() < end:
        found = ask()
        if found: return found
        time.sleep(0.2)
    sys.exit("not in time: " + what)
"#;

fn play(site: &Site, program: &str) -> String {
    python(site, &format!("{RAW}{program}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn held_binary_and_tls_only_messages_reach_their_end() {
    let site = site("smtp-ingress: {}");
    let queue_ids = play(
        &site,
        r#"
smtp = Raw(465); assert smtp.login().startswith("235")
# FUTURERELEASE: not before, and then indeed.
began = time.time()
smtp.want("MAIL FROM:<bob@example.com> HOLDFOR=10 MT-PRIORITY=3", "250")
smtp.want("RCPT TO:<bob@example.com> NOTIFY=NEVER", "250"); smtp.want("DATA", "354")
held = smtp.want("From: bob@example.com\r\nSubject: held\r\n\r\nx\r\n.", "250").split()[-1]
# BINARYMIME in two chunks; the signature and the trace fields stand above.
binary = bytes(range(256)) + b"\n.\n\r\r\n"
head = b"From: bob@example.com\r\nSubject: binary\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
smtp.want("MAIL FROM:<bob@example.com> BODY=BINARYMIME", "250"); smtp.want("RCPT TO:<bob@example.com>", "250")
smtp.send(b"BDAT %d\r\n" % len(head) + head + b"BDAT %d LAST\r\n" % len(binary) + binary)
assert smtp.reply().startswith("250 2.0.0 ") and "queued" in smtp.reply()
# It cannot leave us, and that is said here.
smtp.want("MAIL FROM:<bob@example.com> BODY=BINARYMIME", "250"); smtp.want("RCPT TO:<eve@else.example>", "250")
smtp.send(b"BDAT %d LAST\r\n" % (len(head) + len(binary)) + head + binary)
got = smtp.reply(); assert got.startswith("554 5.6.3"), got
# REQUIRETLS stays with the message.
smtp.want("MAIL FROM:<bob@example.com> REQUIRETLS HOLDFOR=3600", "250"); smtp.want("RCPT TO:<eve@else.example>", "250")
smtp.want("DATA", "354")
strict = smtp.want("From: bob@example.com\r\n\r\nx\r\n.", "250").split()[-1]
imap = mailbox()
body = until("the binary message", lambda: imap("UID SEARCH SUBJECT binary").strip()[9:])
raw = imap(f"UID FETCH {body.decode()} (BINARY.PEEK[1])")
assert binary in raw, raw
early = imap("UID SEARCH SUBJECT held").strip()[9:]
assert not early or time.time() - began > 9, "too early"
until("the held message", lambda: imap("NOOP") is None or imap("UID SEARCH SUBJECT held").strip()[9:])
assert time.time() - began > 9, time.time() - began
print(held, strict)
"#,
    );
    let (held, strict) = queue_ids.trim().split_once(' ').unwrap();
    assert!(site.cli("trace", &[held], "").contains("held until"), "{}", site.cli("trace", &[held], ""));
    assert!(site.cli("trace", &[strict], "").contains("held until"));
    assert!(site.cli("queue", &["list"], "").contains("eve@else.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn password_guessing_is_slowed_on_all_pods_and_the_owner_is_not_locked_out() {
    let mut options = options().more(&["--replicas", "mda=2", "--replicas", "smtp-ingress=2"]);
    options.config = Some(
        "mda:\n  login_backoff: { account_failures: 5, network_failures: 20, first_seconds: 600 }\n\
         smtp-ingress:\n  tarpit_ms: 0\n"
            .into(),
    );
    let site = Site::up(options);
    site.account("bob@example.com");
    play(
        &site,
        r#"
# The owner was here before.
assert Raw(465, "198.51.100.7").login().startswith("235")
def guess(user, n, peer):
    answers = []
    for i in range(n):
        smtp = Raw(465, peer); answers.append(smtp.login(user, f"guess{i}")); smtp.sock.close()
    return answers
# An account that exists and one that does not cannot be told apart, by text or by limit.
real = guess("bob@example.com", 8, "203.0.113.5"); nobody = guess("nobody@example.com", 8, "203.0.114.5")
assert real == nobody, (real, nobody)
assert all(a.startswith("535 5.7.8") for a in real[:6]) and all(a.startswith("454 4.7.0 Too many") for a in real[6:]), real
# Another stranger has to wait as well, even with the password; the owner, from where he is known, has not.
assert Raw(465, "192.0.2.9").login().startswith("454")
assert Raw(465, "198.51.100.8").login().startswith("235")
# One network, many names.
spread = [a for i in range(24) for a in guess(f"user{i}@example.com", 1, f"203.0.115.{i}")]
assert spread[19].startswith("535") and spread[23].startswith("454"), spread
assert Raw(465, "198.51.100.7").login().startswith("235")
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let site = site("mda:\n  login_backoff: { account_failures: 1000, network_failures: 1000 }\n");
    play(
        &site,
        r#"
# In turn, and the shortest of each: what else the machine does only adds.
def guess(user, i):
    smtp = Raw(465); start = time.time(); answer = smtp.login(user, f"wrong{i}"); took = time.time() - start
    assert answer.startswith("535 5.7.8 Authentication credentials invalid"), answer
    smtp.sock.close(); return took
pairs = [(guess("bob@example.com", i), guess("nobody@example.com", i)) for i in range(15)]
known, unknown = map(min, zip(*pairs))
assert 0.5 < known / unknown < 2, pairs
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_shared_and_open_without_redis() {
    let mut options = options().more(&["--replicas", "smtp-ingress=2"]);
    options.config = Some(
        "smtp-ingress:\n  limits: { messages_per_address: 5/1h, connections_per_address: 30/1h, \
         recipients_per_account: 3/1d }\n"
            .into(),
    );
    let site = Site::up(options);
    site.account("bob@example.com");
    play(
        &site,
        r#"
# New connections, so that both pods are asked. While Redis is late limits are open: once is enough.
tries = []
for n in (5, 25, 45):
    tries.append([Raw(25, f"203.0.113.{n}").message()[:9] for _ in range(8)])
    if tries[-1] == ["250 2.0.0"] * 5 + ["450 4.7.1"] * 3: break
else: raise AssertionError(tries)
assert Raw(25, "203.0.113.6").message().startswith("250"), "somebody else"
# The account's recipients of a day.
smtp = Raw(465); smtp.login(); smtp.want("MAIL FROM:<bob@example.com>", "250")
for n in range(3): smtp.want(f"RCPT TO:<u{n}@else.example>", "250")
smtp.want("RCPT TO:<u4@else.example>", "450 4.7.1 Too many recipients")
other = Raw(465); other.login(); other.want("MAIL FROM:<bob@example.com>", "250"); other.want("RCPT TO:<bob@example.com>", "450")
# Connections.
said = []
while len(said) < 200 and (not said or said[-1].startswith("220")): said.append(Raw(25, "203.0.113.77", hello=False).greeting)
assert len(said) > 30 and said[-1].startswith("421 4.7.0 Too many connections"), said[-1]
"#,
    );
    // A Redis that hangs is worse than one that is gone.
    site.signal("redis", "STOP");
    let open = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        play(&site, "got = Raw(25, '203.0.113.5').message(); assert got.startswith('250'), got\n")
    }));
    site.signal("redis", "CONT");
    open.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_looked_up_and_greylisted() {
    let dns = NameServer::start(&["example."]).await;
    dns.add("9.113.0.203.bl.example A 127.0.0.2").await;
    dns.add("10.113.0.203.bl.example A 127.255.255.254").await;
    let mut options = options();
    options = options.more(&["--dns", &dns.address.to_string()]);
    options.config = Some("smtp-ingress:\n  dnsbl: [bl.example]\n  greylist: { delay_seconds: 10 }\n".into());
    let site = Site::up(options);
    site.account("bob@example.com");
    site.account("postmaster@example.com");
    play(
        &site,
        r#"
got = Raw(25, "203.0.113.9").message(); assert got.startswith("550 5.7.1 Your address is listed by bl.example"), got
got = Raw(25, "203.0.113.9").message(to="postmaster@example.com"); assert got.startswith("250"), got
# Not listed; the list's error code is no listing either.
began = time.time()
for peer in ("203.0.113.10", "203.0.113.200"):
    got = Raw(25, peer).message(sender=f"{peer}@else.example"); assert got.startswith("451 4.7.1 Greylisted, come back"), got
got = Raw(25, "203.0.113.10").message(sender="203.0.113.10@else.example"); assert got.startswith("451") or time.time() - began > 9, got
time.sleep(10.5)
got = Raw(25, "203.0.113.11").message(sender="203.0.113.10@else.example"); assert got.startswith("250"), got
got = Raw(25, "203.0.113.10").message(sender="new@else.example"); assert got.startswith("451"), got
# Unknown is unknown, not grey.
got = Raw(25, "203.0.113.10").message(to="nobody@example.com"); assert got.startswith("550 5.1.1"), got
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn early_talkers_slow_ones_and_those_who_err_a_lot() {
    let site = site(
        "smtp-ingress: { greeting_delay_ms: 500, refuse_early_talkers: true, min_bytes_per_second: 1000, \
         min_rate_seconds: 2, command_seconds: 8, tarpit_errors: 2, tarpit_ms: 200, max_errors: 5 }",
    );
    play(
        &site,
        r#"
early = socket.create_connection((HOST, PORT[25])); early.sendall(b"PROXY TCP4 203.0.113.5 127.0.0.1 1 25\r\nEHLO x\r\n")
assert early.makefile("rb").readline().startswith(b"554 5.5.0 You talked before the greeting")
start = time.time(); patient = Raw(25); assert patient.greeting.startswith("220") and time.time() - start > 0.45
# A command a few octets at a time has one timeout, not one for each.
slow = Raw(25, hello=False)
try:
    for c in "EHLO client.example and so on " * 4: slow.send(c); time.sleep(0.5)
    sys.exit("each octet has a time of its own")
except OSError: pass
assert slow.reply().startswith("421 4.4.2 Timeout")
# Content at a trickle.
slow = Raw(25); slow.want("MAIL FROM:<a@x.example>", "250"); slow.want("RCPT TO:<bob@example.com>", "250"); slow.want("DATA", "354")
try:
    for n in range(20): slow.send("x"); time.sleep(0.3)
except OSError: pass
assert slow.reply().startswith("421 4.4.2 Too slow")
# The tarpit, then the end.
tries = []
for _ in range(5):
    bad = Raw(25); waits = []
    for n in range(5):
        start = time.time(); got = bad("NONSENSE"); waits.append(time.time() - start)
    assert "421 4.7.0" in got or bad.reply().startswith("421 4.7.0"), got
    tries.append(waits)
# What else the machine does only adds.
waits = [min(w) for w in zip(*tries)]
assert max(waits[:2]) < 0.15 and waits[2] > 0.19 and waits[3] > 0.39 and waits[4] > 0.59, tries
got = Raw(25).message(); assert got.startswith("250"), got
"#,
    );
}

/// Many large messages at once: what does not fit hears 452, what was accepted arrives, and the
/// process stays within its bound.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_messages_stays_within_the_budget() {
    let site = site("smtp-ingress: { max_message_size: 10000000, max_bytes_in_flight: 40000000 }");
    let said = play(
        &site,
        r#"
import threading
line = b"x" * 76 + b"\r\n"; body = b"Subject: flood\r\n\r\n" + line * (5_000_000 // len(line))
results = []; gate = threading.Barrier(40)
def one(n):
    smtp = Raw(25, f"198.51.{n}.1"); smtp.sock.settimeout(300)
    try:
        smtp.want(f"MAIL FROM:<a{n}@sender.example>", "250"); smtp.want("RCPT TO:<bob@example.com>", "250"); smtp.want("DATA", "354")
        gate.wait()
        smtp.send(body); results.append(smtp("."))
    except Exception as e: gate.abort(); results.append(repr(e))
threads = [threading.Thread(target=one, args=(n,)) for n in range(40)]
[t.start() for t in threads]; [t.join() for t in threads]
taken = [r for r in results if r.startswith("250 2.0.0")]; later = [r for r in results if r.startswith("452 4.3.1")]
assert len(taken) + len(later) == 40 and taken and later, results
# With SIZE the refusal comes before a single octet of it.
imap = mailbox()
until("all accepted", lambda: imap("NOOP") is None or len(imap("SEARCH SUBJECT flood").split()) - 2 == len(taken), 180)
print(len(taken), len(later))
"#,
    );
    let pid = site.pids("smtp-ingress")[0];
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak: u64 =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim_end_matches("kB").trim().parse().unwrap();
    // The budget, one more copy of what is being committed, 40 read buffers, and the program itself.
    assert!(peak < 160_000, "{peak} kB at the peak; accepted and refused: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_strong_on_every_port() {
    let site = Site::up(Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com"));
    program("sslscan", "sslscan");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tls_scan.sh");
    let ports = [465, 587, 25].map(|p| site.port(p).to_string());
    let output = Command::new(script).arg(site.host()).args(ports).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.matches("TLSv1.3   enabled").count() == 3, "{said}");
}

/// Rspamd of Debian, with a configuration of its own.
struct Rspamd {
    process: Process,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Rspamd {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("postroad-rspamd").tempdir_in("/tmp").unwrap();
        let port = free_address().port();
        let (path, config) = (folder.path().display(), folder.path().join("rspamd.conf"));
        let text = format!(
            "options {{ pidfile = \"{path}/pid\"; dns {{ nameserver = [\"127.0.0.1:1\"]; timeout = 1s; retransmits = 1; }} \
             filters = \"\"; tempdir = \"{path}\"; enable_test_patterns = true; }}\n\
             logging {{ type = \"file\"; filename = \"{path}/log\"; level = \"warning\"; }}\n\
             actions {{ reject = 15; add_header = 6; greylist = null; }}\n\
             worker \"normal\" {{ bind_socket = \"127.0.0.1:{port}\"; count = 1; }}\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program("rspamd", "rspamd"));
        command.args(["--no-fork", "--insecure", "--config"]).arg(&config);
        let process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let start = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "rspamd does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Self { process, _folder: folder, port }
    }
}

/// SIGTERM takes its workers along.
impl Drop for Rspamd {
    fn drop(&mut self) {
        self.process.stop(Duration::from_secs(60));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rspamd_refuses_spam_in_the_session() {
    let rspamd = Rspamd::start();
    let url = format!("http://127.0.0.1:{}", rspamd.port);
    let site =
        site(&format!("smtp-ingress:\n  scan: {{ rspamd_url: \"{url}\", fail_open: false, timeout_seconds: 20 }}\n"));
    play(
        &site,
        r#"
# Patterns that every Rspamd knows for tests.
reject = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
junk = "YJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
text = lambda word: f"Subject: {word[:3]}\r\nFrom: a@x.example\r\n\r\n{word}\r\n"
got = Raw(25).message(text=text(reject)); assert got.startswith("550 5.7.1 Message content is refused as spam"), got
got = Raw(25).message(text=text("good")); assert got.startswith("250"), got
got = Raw(25).message(text=text(junk)); assert got.startswith("250"), got
imap = mailbox()
until("the good one", lambda: imap("NOOP") is None or imap("UID SEARCH SUBJECT goo").strip()[9:])
imap("SELECT Junk")
until("the other in Junk", lambda: imap("NOOP") is None or imap("UID SEARCH SUBJECT YJS").strip()[9:])
"#,
    );
    drop(rspamd);
    // Closed as configured: no verdict, no message.
    play(&site, "got = Raw(25).message(); assert got.startswith('451 4.7.1'), got\n");
}
