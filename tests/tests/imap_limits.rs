//! What a client may cost, and how soon it hears of others' changes.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use tests::{
    client::python,
    imap::Imap,
    site::{Options, Site, free_port_offset},
};

fn site(more: &[&str], config: &str) -> Site {
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com").more(more);
    options.config = Some(format!("imap-gateway:\n  allow_cleartext_login: true\n{config}"));
    let site = Site::up(options);
    site.account("bob@example.com");
    site
}

/// kB, of all processes of a service: what they hold (`VmRSS`), or the most they ever held (`VmHWM`).
fn memory(site: &Site, service: &str, line: &str) -> u64 {
    let of = |pid: u32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let value = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
        value.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse().unwrap()
    };
    site.pids(service).into_iter().map(of).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_50_mb_message_is_streamed() {
    let site = site(&[], "");
    let append = r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')
import base64, hashlib, os
body = base64.encodebytes(os.urandom(36 << 20)).replace(b"\n", b"\r\n")
message = b"Subject: big\r\nContent-Transfer-Encoding: base64\r\n\r\n" + body
assert imap.append("INBOX", None, None, message)[0] == "OK"
print(hashlib.sha256(message).hexdigest(), len(message))
"#;
    let appended = python(&site, append);
    let (hash, size) = appended.trim().split_once(' ').unwrap();
    assert!(size.parse::<u64>().unwrap() > 48 << 20);
    let before = memory(&site, "imap-gateway", "VmHWM");
    let fetch = r#"
import hashlib
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')
imap.select("INBOX")
whole = imap.fetch("1", "(BODY.PEEK[])")[1][0][1]
print(hashlib.sha256(whole).hexdigest(), len(whole))
part = imap.fetch("1", "(BODY.PEEK[]<40000000.1000>)")[1][0][1]
assert part == whole[40000000:40001000]
assert imap.fetch("1", "(BODY.PEEK[1]<0.100>)")[1][0][1] == whole.split(b"\r\n\r\n", 1)[1][:100]
"#;
    assert_eq!(python(&site, fetch).trim(), format!("{hash} {size}"), "byte for byte");
    let grown = memory(&site, "imap-gateway", "VmHWM") - before;
    eprintln!("FETCH of {size} octets: the gateway grew by {grown} kB");
    assert!(grown < 24 << 10, "{grown} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_changes_reach_an_idle_session_on_another_gateway() {
    // Nobody polls within this test: whoever is told was woken.
    let site = site(&["--replicas", "imap-gateway=3"], "  poll_seconds: 86400\n");
    let mut idle = Imap::login(site.host(), site.port(143), "bob@example.com").await;
    idle.select("INBOX").await;
    idle.send("i IDLE\r\n").await;
    assert!(idle.line().await.starts_with('+'));
    let mut delays = Vec::new();
    for n in 1..=15 {
        // Each from a connection of its own, so from any of the gateways.
        let mut other = Imap::login(site.host(), site.port(143), "bob@example.com").await;
        other.select("INBOX").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        other.ok("APPEND INBOX {6+}\r\nA: b\r\n").await;
        let start = Instant::now();
        let wanted = format!("* {n} EXISTS");
        while idle.line().await != wanted {}
        delays.push(start.elapsed());
    }
    delays.sort();
    eprintln!("told after {delays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_absurd_is_refused_cheaply() {
    let site = site(&[], "");
    let mut imap = Imap::login(site.host(), site.port(143), "bob@example.com").await;
    imap.ok("APPEND INBOX {6+}\r\nA: b\r\n").await;
    imap.select("INBOX").await;
    let before = memory(&site, "imap-gateway", "VmHWM");
    let start = Instant::now();
    // A billion messages, and a set of many ranges.
    imap.ok("UID FETCH 1:1000000000 (UID)").await;
    assert!(imap.run("FETCH 1:1000000000 (UID)").await.starts_with("BAD"));
    let ranges = (1..7_000).map(|n| format!("{}:4294967295", n * 3)).collect::<Vec<_>>().join(",");
    imap.ok(&format!("UID SEARCH UID {ranges}")).await;
    // Nested a million times: over the bound of a command.
    let deep = "(".repeat(1_000_000);
    assert!(imap.run(&format!("SEARCH {deep}")).await.contains("TOOBIG"));
    assert!(imap.run(&format!("SEARCH {}", "NOT ".repeat(10_000))).await.starts_with("BAD"));
    // Two gigabytes, announced politely and rudely.
    assert!(imap.run("APPEND INBOX {2147483648}").await.starts_with("NO [TOOBIG]"));
    assert!(imap.run("LOGIN {2147483648}").await.contains("TOOBIG"));
    imap.ok("NOOP").await;
    let rude = python(
        &site,
        "s = socket.create_connection((HOST, PORT[143])); s.settimeout(20)\n\
         s.recv(4096); s.sendall(b'a LOGIN bob@example.com secret\\r\\n'); s.recv(4096)\n\
         s.sendall(b'x APPEND INBOX {2147483648+}\\r\\n')\n\
         said = b''\n\
         while True:\n    \
             more = s.recv(4096)\n    \
             if not more: break\n    \
             said += more\n\
         print(said.decode())\n",
    );
    assert!(rude.contains("* BYE [TOOBIG]"), "the rude one was told: {rude}");
    eprintln!("all of it took {:?}", start.elapsed());
    let grown = memory(&site, "imap-gateway", "VmHWM") - before;
    assert!(grown < 16 << 10, "{grown} kB");
}
