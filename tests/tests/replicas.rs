//! Two processes of every service, ended and started again one after the other under load: nothing
//! is lost, nothing comes twice, and nobody outside sees more than a closed connection.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tests::{
    client::python,
    dns::NameServer,
    process::ours,
    site::{Options, Site, free_port_offset},
};

const SERVICES: [&str; 6] = ["mda", "auth-checker", "smtp-ingress", "outbound-relay", "imap-gateway", "pop3-gateway"];

/// Sends until the file STOP is there, each message once, again when the answer did not come; an
/// IMAP session looks at the box all the time. Then counts.
const TRAFFIC: &str = r#"
import itertools, os, threading
numbers, lock, accepted, unknown, refusals, closed, reconnects = itertools.count(), threading.Lock(), set(), set(), [], 0, 0
running = lambda: not os.path.exists(STOP)

def session():
    global closed
    smtp = None
    while running():
        number = next(numbers)
        at = "connect"
        try:
            if smtp is None:
                smtp = smtplib.SMTP(HOST, PORT[25], timeout=30); smtp.ehlo("load.com")
            for at, step in [("MAIL", lambda: smtp.mail("load@load.com")), ("RCPT", lambda: smtp.rcpt("bob@example.com")),
                             ("DATA", lambda: smtp.data(b"From: load@load.com\r\nSubject: %d\r\n\r\n%s\r\n" % (number, b"x" * 500)))]:
                try:
                    code, text = step()
                except smtplib.SMTPDataError as e:
                    code, text = e.smtp_code, e.smtp_error
                if code == 421 and at == "MAIL":
                    raise smtplib.SMTPServerDisconnected("421 before MAIL")
                if code != 250:
                    with lock: refusals.append((at, code, text))
                    raise smtplib.SMTPServerDisconnected("refused")
            with lock: accepted.add(number)
            continue
        except (OSError, smtplib.SMTPException):
            # No answer to the final dot: either is right.
            if at == "DATA": unknown.add(number)
            with lock: closed += 1
        smtp = None
        time.sleep(0.05)

def reader():
    global reconnects
    imap = None
    while running():
        try:
            if imap is None:
                imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
                reconnects += 1
            kind, data = imap.select("INBOX")
            if kind != "OK": refusals.append(("SELECT", kind, data))
            time.sleep(0.1)
        except (imaplib.IMAP4.abort, OSError):
            imap = None
        except imaplib.IMAP4.error as e:
            refusals.append(("LOGIN", 0, str(e))); imap = None

threads = [threading.Thread(target=session) for n in range(6)] + [threading.Thread(target=reader) for n in range(2)]
[t.start() for t in threads]; [t.join() for t in threads]

def delivered():
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
    imap.login("bob@example.com", "secret"); imap.select("INBOX")
    kind, data = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    return [int(r[1].split(b":")[1]) for r in data if isinstance(r, tuple)]

deadline = time.time() + 60
while not accepted <= set(found := delivered()):
    assert time.time() < deadline, f"{len(accepted - set(found))} of {len(accepted)} never came"
    time.sleep(0.5)
time.sleep(2)
found = delivered()
assert len(found) == len(set(found)), "delivered twice"
assert set(found) <= accepted | unknown, "delivered what was refused"
assert not refusals, refusals[:10]
assert len(accepted) > 100, len(accepted)
print(f"accepted {len(accepted)}, delivered {len(found)}, without answer {len(unknown)}, connections closed {closed}, "
      f"refusals {len(refusals)}, IMAP sessions {reconnects}")
"#;

/// A folder of programs that can be exchanged while they run, as an image's tag is.
struct Release {
    folder: tempfile::TempDir,
}

impl Release {
    fn new(programs: &Path) -> Self {
        let release = Self { folder: tempfile::tempdir().unwrap() };
        // It finds the services beside itself, so it must be here itself.
        std::fs::copy(programs.join("postroad"), release.folder.path().join("postroad")).unwrap();
        for service in SERVICES.into_iter().chain(["console"]) {
            release.set(service, programs);
        }
        release
    }

    fn set(&self, service: &str, programs: &Path) {
        let (new, name) = (self.folder.path().join("new"), self.folder.path().join(service));
        std::os::unix::fs::symlink(programs.join(service), &new).unwrap();
        std::fs::rename(new, name).unwrap();
    }
}

/// Ends one process and waits until it runs again, as a rolling update does.
async fn restart(site: &Site, service: &str, number: usize) {
    let file = site.data().join(format!("run/{service}-{number}.pid"));
    let pid = || std::fs::read_to_string(&file).ok().and_then(|p| p.trim().parse::<u32>().ok());
    let old = pid().unwrap();
    let ended = std::process::Command::new("kill").arg(old.to_string()).status().unwrap();
    assert!(ended.success());
    let new =
        tests::eventually("it runs again", Duration::from_secs(60), || async { pid().filter(|p| *p != old) }).await;
    tests::eventually("it is ready", Duration::from_secs(60), || async { tests::metrics::is_ready(new).then_some(()) })
        .await;
    // minReadySeconds of the chart, in small.
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn roll(site: &Site, release: &Release, programs: &Path) {
    for service in SERVICES {
        release.set(service, programs);
        for number in [1, 2] {
            restart(site, service, number).await;
        }
    }
}

/// From the release before to this one: its programs are in the folder `POSTROAD_PREVIOUS`, and
/// then it also goes back. Without it, from this one to this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_under_load_loses_doubles_and_refuses_nothing() {
    let ours = ours("mda").parent().unwrap().to_owned();
    let previous = std::env::var_os("POSTROAD_PREVIOUS").map(PathBuf::from);
    let release = Release::new(previous.as_deref().unwrap_or(&ours));
    let dns = NameServer::start(&["com."]).await;
    let server = dns.address.to_string();
    let mut options =
        Options::new("127.0.0.6", free_port_offset(&["127.0.0.6"]), "example.com").more(&["--dns", &server]);
    for service in SERVICES {
        options = options.more(&["--replicas", &format!("{service}=2")]);
    }
    options.binaries = Some(release.folder.path().to_owned());
    let site = Arc::new(Site::up(options));
    site.account("bob@example.com");
    for service in SERVICES {
        assert_eq!(site.pids(service).len(), 2, "{service}");
    }
    let stop = site.data().join("stop-traffic");
    let traffic = {
        let (site, stop) = (site.clone(), stop.clone());
        tokio::task::spawn_blocking(move || {
            python(&site, &format!("STOP = {:?}\n{TRAFFIC}", stop.display().to_string()))
        })
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    roll(&site, &release, &ours).await;
    if let Some(previous) = &previous {
        roll(&site, &release, previous).await;
    }
    std::fs::write(&stop, "").unwrap();
    eprintln!("12 restarts{}; {}", if previous.is_some() { " and back" } else { "" }, traffic.await.unwrap().trim());
}
