//! Faults in the middle of traffic: what was answered 250 is in the mailbox exactly once
//! (invariants 1, 2, 3 and 7).

#![allow(clippy::unwrap_used)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tests::{
    client::python,
    dns::NameServer,
    process::program,
    site::{Options, Site, free_port_offset},
};

/// Sends until `total` messages were answered 250, each number at most once, through whatever
/// happens; then waits until all of them are in INBOX and looks whether any is there twice.
const TRAFFIC: &str = r#"
import itertools, threading
numbers, lock, accepted, failed = itertools.count(), threading.Lock(), set(), 0

def session(source):
    global failed
    smtp = None
    while len(accepted) < TOTAL:
        number = next(numbers)
        try:
            if smtp is None:
                smtp = smtplib.SMTP(HOST, PORT[25], timeout=30, source_address=(source, 0)); smtp.ehlo("load.com")
            ok = smtp.mail("load@load.com")[0] == 250 and smtp.rcpt("bob@example.com")[0] == 250
            code = smtp.data(b"From: load@load.com\r\nSubject: %d\r\n\r\n%s\r\n" % (number, b"x" * 500))[0] if ok else 0
            if code == 250:
                with lock: accepted.add(number)
                continue
            smtp.close()
        except (OSError, smtplib.SMTPException):
            pass
        failed += 1
        smtp = None
        time.sleep(0.1)

threads = [threading.Thread(target=session, args=("127.0.0.1",)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]

def delivered():
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
    imap.login("bob@example.com", "secret"); imap.select("INBOX")
    kind, data = imap.fetch("1:*", "(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    if kind != "OK": raise imaplib.IMAP4.error(data)
    rows = [d for d in data if isinstance(d, tuple)]
    uids = [int(re.search(rb"UID (\d+)", r[0]).group(1)) for r in rows]
    assert uids == sorted(set(uids)), "UIDs do not ascend"
    return [int(r[1].split(b":")[1]) for r in rows]

# Faults may go on: what is asked in the middle of one is asked again.
def complete():
    deadline = time.time() + 180
    while True:
        try:
            found = delivered()
            if accepted <= set(found): return found
        except (OSError, imaplib.IMAP4.error) as e:
            found = [f"{e}"]
        assert time.time() < deadline, f"{len(accepted - set(found))} of {len(accepted)} never came: {sorted(accepted - set(found))[:5]}"
        time.sleep(1)
complete(); time.sleep(3); found = complete()
assert len(found) == len(set(found)), "delivered twice"
print(f"accepted {len(accepted)}, delivered {len(found)}, interrupted {failed}")
"#;

async fn site() -> (Site, NameServer) {
    let dns = NameServer::start(&["com."]).await;
    let server = dns.address.to_string();
    let options = Options::new("127.0.0.5", free_port_offset(&["127.0.0.5"]), "example.com");
    let site = Site::up(options.more(&["--dns", &server]));
    site.account("bob@example.com");
    (site, dns)
}

/// What happens to the site, and its name.
type Fault = (&'static str, Box<dyn Fn(&Site)>);

/// Runs the traffic, and the faults beside it one after another until it has ended; every fault
/// happens at least once.
async fn traffic_with(total: usize, faults: Vec<Fault>) {
    let (site, _dns) = site().await;
    let site = Arc::new(site);
    let traffic = {
        let site = site.clone();
        tokio::task::spawn_blocking(move || python(&site, &format!("TOTAL = {total}\n{TRAFFIC}")))
    };
    let mut injected = 0;
    let pause = Duration::from_millis(1_500);
    while !traffic.is_finished() && injected < 3 * faults.len() {
        tokio::time::sleep(pause).await;
        let (name, fault) = &faults[injected % faults.len()];
        eprintln!("fault {injected}: {name}");
        fault(&site);
        injected += 1;
    }
    eprintln!("{} faults; {}", injected, traffic.await.unwrap().trim());
    assert!(injected >= faults.len(), "traffic ended after {injected} faults");
}

fn kill(service: &'static str) -> Fault {
    (service, Box::new(move |site| site.signal(service, "KILL")))
}

fn redis(site: &Site, command: &str) -> String {
    let socket = std::fs::read_dir(site.data().join("redis-socket")).unwrap().flatten().next().unwrap().path();
    let output =
        std::process::Command::new(program("redis-cli", "redis-tools")).arg("-s").arg(socket).arg(command).output();
    String::from_utf8_lossy(&output.unwrap().stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_services_lose_and_double_nothing() {
    let services = ["smtp-ingress", "auth-checker", "mda", "outbound-relay", "imap-gateway", "pop3-gateway"];
    traffic_with(2_000, services.into_iter().map(kill).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_stores_lose_and_double_nothing() {
    let flush: Box<dyn Fn(&Site)> = Box::new(|site| assert_eq!(redis(site, "FLUSHALL"), "OK"));
    traffic_with(2_000, vec![("FLUSHALL", flush), kill("redis"), kill("postgres")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_is_stopped_every_protocol_says_try_later() {
    let (site, _dns) = site().await;
    // Frozen, not killed: `postroad up` would start it again at once.
    let before = r#"
smtp = smtplib.SMTP(HOST, PORT[25]); smtp.ehlo("x.com")
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS)
smtp.mail("a@x.com")
print("connected", flush=True)
"#;
    let program = format!(
        r#"{before}
import contextlib, os, signal, subprocess
def tree(sig):
    for parent in {pids:?}:
        os.kill(parent, sig)
        children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()
        for pid in map(int, children):
            # One may have ended since.
            with contextlib.suppress(ProcessLookupError): os.kill(pid, sig)
tree(signal.SIGSTOP)
code, text = smtp.rcpt("bob@example.com")
assert (code, text[:5]) == (451, b"4.3.0"), (code, text)
kind, data = imap.select("INBOX")
assert kind == "NO" and b"[UNAVAILABLE]" in data[0], (kind, data)
other = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
try: other.login("bob@example.com", "secret"); raise SystemExit("logged in without database")
except imaplib.IMAP4.error as e: assert "[UNAVAILABLE]" in str(e), e
pop.user("bob@example.com")
try: pop.pass_("secret"); raise SystemExit("logged in without database")
except poplib.error_proto as e: assert b"[SYS/TEMP]" in e.args[0], e
tree(signal.SIGCONT)
# The same sessions go on; nothing of ours was started again.
for _ in range(450):
    if smtp.rcpt("bob@example.com")[0] == 250: break
    time.sleep(0.2)
assert smtp.data(b"From: a@x.com\r\n\r\nback\r\n")[0] == 250
for _ in range(450):
    kind, data = imap.select("INBOX")
    if kind == "OK" and int(data[0]) == 1: break
    time.sleep(0.2)
assert kind == "OK" and int(data[0]) == 1, (kind, data)
pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS)
pop.user("bob@example.com"); pop.pass_("secret"); assert pop.stat()[0] == 1
"#,
        pids = site.pids("postgres")
    );
    let ours = ["mda", "smtp-ingress", "imap-gateway", "pop3-gateway"].map(|s| site.pids(s));
    let start = Instant::now();
    python(&site, &program);
    assert_eq!(ours, ["mda", "smtp-ingress", "imap-gateway", "pop3-gateway"].map(|s| site.pids(s)));
    eprintln!("unavailable and back within {:?}", start.elapsed());
}
