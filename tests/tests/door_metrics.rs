//! Every reason for which the door says no is counted at `/metrics`, and none is made up.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
};

use tests::{
    client::python,
    dns::NameServer,
    metrics,
    site::{Options, Site, free_port_offset},
};

/// `filtered` needs a filter and is in `door_filters.rs`. `rejected_inside` is for answers of our own
/// services that no client can cause.
const ELSEWHERE: [&str; 2] = ["filtered", "rejected_inside"];

/// The reasons that stand in the sources.
fn reasons() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services");
    let mut files = vec![root.join("lib/smtp/src/server/session.rs")];
    for folder in ["lib/smtp/src/server/session", "smtp-ingress/src", "smtp-ingress/src/session"] {
        files.extend(std::fs::read_dir(root.join(folder)).unwrap().map(|f| f.unwrap().path()).filter(|p| p.is_file()));
    }
    let text: String = files.into_iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    // However the call is laid out.
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
    let before = ["refusal(\"", "refuse(\"", "end_because(\"", "Some((\"", "=> (\""];
    let found = before.iter().flat_map(|before| text.split(before).skip(1));
    let words = found.filter_map(|rest| rest.split('"').next());
    let is_word = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    words.filter(is_word).map(str::to_owned).collect()
}

fn counted(site: &Site) -> BTreeSet<String> {
    let text = metrics::text(site, "smtp-ingress");
    let lines = text.lines().filter_map(|line| line.strip_prefix("smtp_refused_total{reason=\""));
    lines
        .filter_map(|rest| rest.split_once("\"} "))
        .filter(|(_, n)| *n != "0")
        .map(|(word, _)| word.to_owned())
        .collect()
}

/// SMTP from any address, by the PROXY protocol.
const RAW: &str = r#"
import base64
class Raw:
    def __init__(self, port=25, peer="198.51.100.1", hello=True, login=False):
        self.sock = socket.create_connection((HOST, PORT[port])); self.sock.settimeout(60)
        self.sock.sendall(f"PROXY TCP4 {peer} 127.0.0.1 4321 25\r\n".encode())
        if port == 465: self.sock = TLS.wrap_socket(self.sock, server_hostname="example.com")
        self.file = self.sock.makefile("rb"); self.greeting = self.reply()
        if hello: self("EHLO client.example")
        if login: self.want("AUTH PLAIN " + base64.b64encode(b"\0bob@example.com\0secret").decode(), "235")
    def reply(self):
        while True:
            line = self.file.readline().decode()
            if line[3:4] != "-": return line.strip()
    def send(self, data): self.sock.sendall(data if isinstance(data, bytes) else data.encode())
    def __call__(self, line): self.send(line + "\r\n"); return self.reply()
    def want(self, line, start):
        got = self(line); assert got.startswith(start), (line, got); return self
    def open(self, sender="a@sender.example", to="bob@example.com", more=""):
        return self.want(f"MAIL FROM:<{sender}>{more}", "250").want(f"RCPT TO:<{to}>", "250").want("DATA", "354")
    def message(self, start, text="Subject: x\r\n\r\nx\r\n", **how):
        self.open(**how); self.send(text); return self.want(".", start)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_counted_by_its_reason() {
    let dns = NameServer::start(&["example."]).await;
    for record in [
        "sender.example TXT v=spf1 ip4:198.51.100.0/24 -all",
        "strict.example TXT v=spf1 -all",
        "_dmarc.strict.example TXT v=DMARC1; p=reject",
        "9.113.0.203.bl.example A 127.0.0.2",
    ] {
        dns.add(record).await;
    }
    let options = |config: &str| {
        let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com")
            .more(&["--proxy-from", "127.0.0.1/32"]);
        options.config = Some(config.to_owned());
        options
    };
    let site = Site::up(
        options(
            "mda:\n  login_backoff: { account_failures: 3, network_failures: 100, first_seconds: 600 }\n\
             smtp-ingress:\n  max_message_size: 3000000\n  max_bytes_in_flight: 8000000\n  max_recipients: 3\n  \
             max_messages_per_session: 2\n  max_hold_seconds: 100\n  max_hops: 5\n  refuse_early_talkers: true\n  \
             min_bytes_per_second: 1000\n  min_rate_seconds: 8\n  command_seconds: 20\n  tarpit_ms: 0\n  \
             directory_seconds: 10\n  resolve_cache_seconds: 0\n  dnsbl: [bl.example]\n  \
             limits: { connections_per_address: 100/1h, messages_per_address: 60/1h, recipients_per_account: 12/1d }\n",
        )
        .more(&["--dns", &dns.address.to_string()]),
    );
    site.account("bob@example.com");
    site.account("off@example.com");
    site.admin(&["account", "disable", "off@example.com"], "");
    site.admin(&["account", "add", "full@example.com", "--password-stdin", "--quota", "10"], "secret\n");
    python(
        &site,
        &format!(
            "{RAW}{}",
            r#"
smtp = Raw()
smtp.want("NONSENSE", "500").want("DATA", "503").want("ETRN x", "502").want("AUTH PLAIN x", "502").want("x" * 3000, "500")
smtp.want("MAIL FROM:<a@x.example> SIZE=4000000", "552").want("MAIL FROM:<\u00e4@x.example>", "550").want("MAIL FROM:<a@x.example> REQUIRETLS", "530")
smtp.want("MAIL FROM:<>", "250").want("DATA", "554").want("RCPT TO:<nobody@example.com>", "550 5.1.1").want("RCPT TO:<a@else.example>", "550 5.7.1")
smtp.want("RCPT TO:<off@example.com>", "550 5.2.1").want("RCPT TO:<bob@example.com>", "250").want("RCPT TO:<bob@example.com>", "452 4.5.3 Null")
Raw().open(to="bob@example.com")
many = Raw().want("MAIL FROM:<a@sender.example>", "250")
for n in range(3): many.want("RCPT TO:<bob@example.com>", "250")
many.want("RCPT TO:<bob@example.com>", "452 4.5.3 Too many")
for text in ("a\nb\r\n", "a\0b\r\n", "x" * 2000 + "\r\n"): Raw().message("554 5.6.0", text)
two = Raw(); two.message("250"); two.message("250"); two.want("MAIL FROM:<a@sender.example>", "421 4.7.0 Too many messages")
Raw().want("BDAT 99999999999", "421 4.3.4")
errors = Raw()
for n in range(19): errors.want("NONSENSE", "500")
errors.send("NONSENSE\r\n"); assert errors.reply().startswith("500") and errors.reply().startswith("421 4.7.0")
idle = Raw(); idle.send("NOOP\r\n" * 1000); said = [idle.reply() for _ in range(1000)]; assert said[-1].startswith("421"), said[-1]
early = Raw(hello=False); early.send("EHLO x\r\nNOOP\r\n"); assert early.reply().startswith("554 5.5.0")
Raw().message("554 5.4.6", "Received: x\r\n" * 6 + "\r\n")
Raw().message("552 5.3.4", "X: y\r\n" * 250_000 + "\r\nx\r\n")
Raw().message("550 5.7.1", "From: a@strict.example\r\n\r\nx\r\n", sender="a@strict.example")
Raw(peer="203.0.113.9").want("MAIL FROM:<a@sender.example>", "250").want("RCPT TO:<bob@example.com>", "550 5.7.1 Your address")
Raw().message("452 4.2.2", to="full@example.com")
Raw().want("MAIL FROM:<a@sender.example> SIZE=11", "250").want("RCPT TO:<full@example.com>", "452 4.2.2")

# Submission.
out = Raw(465); out.want("MAIL FROM:<bob@example.com>", "530").want("AUTH GSSAPI", "504").want("AUTH LOGIN", "334").want("*", "501")
out = Raw(465, login=True); out.want("MAIL FROM:<bob@example.com> HOLDFOR=101", "501").want("MAIL FROM:<ceo@example.com>", "550")
out = Raw(465, login=True); out.message("550 5.7.1 From", "From: ceo@example.com\r\n\r\nx\r\n", sender="bob@example.com")
out.message("554 5.6.0", "Subject: x\r\n\r\nx\r\n", sender="bob@example.com")
out = Raw(465, login=True); out.want("MAIL FROM:<bob@example.com> BODY=BINARYMIME", "250").want("RCPT TO:<a@else.example>", "250")
out.send(b"BDAT 27 LAST\r\nFrom: bob@example.com\r\n\r\n\0x"); got = out.reply(); assert got.startswith("554 5.6.3"), got
said = []
while len(said) < 90 and (not said or said[-1].startswith("250")):
    out = Raw(465, login=True); out.want("MAIL FROM:<bob@example.com>", "250"); said += [out(f"RCPT TO:<{n}@else.example>") for n in range(3)]
assert said[-1].startswith("450 4.7.1 Too many recipients"), said

# Slow ones, and those for whom there is no room.
slow, silent = Raw(), Raw(); slow.open(); slow.send("x\r\n")
line = b"x" * 998 + b"\r\n"
# Two of 2.4 MB leave no room for a third of 2.9 MB, and enough for their own growth below.
holders = [Raw(peer=f"192.0.2.{n}").open() for n in range(2)]
for holder in holders: holder.send(line * 2_400)
# Their bytes have arrived when the server has read them; each goes on fast enough meanwhile.
for n in range(100):
    last = Raw(peer=f"192.0.2.{100 + n}")("MAIL FROM:<a@sender.example> SIZE=2900000")
    if last.startswith("452 4.3.1"): break
    for holder in holders: holder.send(line * 4)
    time.sleep(0.3)
else: raise AssertionError(last)
for holder in holders: holder.sock.close()
try:
    for n in range(40): slow.send("x"); time.sleep(0.7)
except OSError: pass
assert slow.reply().startswith("421 4.4.2 Too slow") and silent.reply().startswith("421 4.4.2 Timeout")

# Limits of an address, and of who guesses.
for _ in range(200):
    last = Raw(peer="192.0.2.77")("MAIL FROM:<a@sender.example>")
    if not last.startswith("250"): break
assert last.startswith("450 4.7.1 Too many messages"), last
for _ in range(300):
    last = Raw(peer="192.0.2.78", hello=False).greeting
    if not last.startswith("220"): break
assert last.startswith("421 4.7.0 Too many connections"), last
for _ in range(30):
    last = Raw(465)("AUTH PLAIN " + base64.b64encode(b"\0who@example.com\0guess").decode())
    if not last.startswith("535"): break
assert last.startswith("454 4.7.0 Too many failed logins"), last
"#
        ),
    );
    let mut seen = counted(&site);
    site.signal("mda", "STOP");
    let unavailable = format!(
        "{RAW}{}",
        "smtp = Raw(peer='192.0.2.5').want('MAIL FROM:<a@sender.example>', '250').want('RCPT TO:<bob@example.com>', '451 4.3.0')\n"
    );
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| python(&site, &unavailable)));
    site.signal("mda", "CONT");
    stopped.unwrap();
    seen.extend(counted(&site));
    drop(site);

    // Strangers are greylisted, a scanner says no, and names cannot be looked up.
    let scanner = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = scanner.local_addr().unwrap().port();
    std::thread::spawn(move || scanner.incoming().flatten().for_each(refuse_spam));
    let site = Site::up(
        options(&format!(
            "smtp-ingress:\n  greylist: {{ delay_seconds: 1 }}\n  \
             scan: {{ rspamd_url: \"http://127.0.0.1:{port}\", timeout_seconds: 30 }}\n"
        ))
        .more(&["--dns", "127.0.0.1:9"]),
    );
    site.account("bob@example.com");
    python(
        &site,
        &format!(
            "{RAW}{}",
            r#"
Raw().want("MAIL FROM:<>", "250").want("RCPT TO:<bob@example.com>", "451 4.7.1 Greylisted")
time.sleep(1.5)
for text, start in (("spam", "550 5.7.1"), ("later", "451 4.7.1")): Raw().message(start, text + "\r\n\r\nx\r\n", sender="")
Raw().want("MAIL FROM:<a@sender.example>", "250").want("RCPT TO:<bob@example.com>", "451 4.7.1 Greylisted")
time.sleep(1.5); Raw().message("451", "From: a@sender.example\r\n\r\nx\r\n")
"#
        ),
    );
    seen.extend(counted(&site));
    let all = reasons();
    assert!(all.len() > 40, "{all:?}");
    let missing: Vec<_> = all.iter().filter(|r| !seen.contains(*r) && !ELSEWHERE.contains(&r.as_str())).collect();
    assert!(missing.is_empty(), "not counted: {missing:?}");
    let unknown: Vec<_> = seen.difference(&all).collect();
    assert!(unknown.is_empty(), "in no source: {unknown:?}");
}

/// As much of Rspamd as refuses: what has "spam" in it is spam, anything else is for later.
fn refuse_spam(mut client: std::net::TcpStream) {
    let mut said = Vec::new();
    let mut room = [0; 4096];
    // The end of the header, and a body that has ended with it or in the next read.
    while !said.windows(9).any(|w| w == b"\r\n\r\nx\r\n\r\n" || w.ends_with(b"\r\n\r\nx\r\n")) {
        match client.read(&mut room) {
            Ok(n) if n > 0 => said.extend_from_slice(&room[..n]),
            _ => return,
        }
    }
    let action = if said.windows(4).any(|w| w == b"spam") { "reject" } else { "soft reject" };
    let body = format!("{{\"action\":\"{action}\",\"score\":1.0,\"required_score\":1.0}}");
    let _ = write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}
