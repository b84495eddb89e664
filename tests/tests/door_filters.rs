//! Milters at the front door, with filters made by libmilter (Debian's python3-milter).

#![allow(clippy::unwrap_used)]

use std::{
    net::TcpStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tests::{
    client::python,
    metrics,
    ports::free_address,
    process::Process,
    site::{Options, Site, free_port_offset},
};

const FILTER: &str = r#"
import Milter, sys
class Filter(Milter.Base):
    def connect(self, name, family, address):
        self.peer = address[0]; self.size = 0; self.subject = ""; self.recipients = []
        return Milter.CONTINUE
    def hello(self, name): self.helo = name; return Milter.CONTINUE
    def envfrom(self, sender, *parameters):
        self.sender, self.parameters = sender, parameters
        if sender.startswith("<evil@"): self.setreply("550", "5.7.1", "We know you"); return Milter.REJECT
        if sender.startswith("<friend@"): return Milter.ACCEPT
        return Milter.CONTINUE
    def envrcpt(self, recipient, *parameters):
        if recipient.startswith("<carol@"): return Milter.TEMPFAIL
        self.recipients.append(recipient)
        return Milter.CONTINUE
    def header(self, name, value):
        if name == "Subject": self.subject = value
        return Milter.CONTINUE
    def body(self, chunk): self.size += len(chunk); return Milter.CONTINUE
    def eom(self):
        if self.subject == "spam": self.setreply("554", "5.6.0", "Too good to be true"); return Milter.REJECT
        if self.subject == "gone": return Milter.DISCARD
        if self.subject == "slow": self.progress()
        if self.subject == "junk": self.quarantine("smells")
        self.addheader("X-Filter", " ".join([self.peer, self.helo, self.getsymval("i"), str(self.size), self.sender,
                                             *self.parameters, *self.recipients]))
        if "rewrite" in sys.argv:
            try: self.chgheader("Subject", 1, "changed"); self.replacebody("changed"); done = "done"
            except Exception: done = "not offered"
            self.addheader("X-Rewrite", done)
        self.addheader("X-Folded", "one\n two\nthree")
        return Milter.CONTINUE
Milter.factory = Filter
Milter.set_flags(Milter.ADDHDRS | Milter.QUARANTINE | (Milter.CHGHDRS if "rewrite" in sys.argv else 0))
Milter.runmilter("test", sys.argv[1], 60)
"#;

/// A filter that listens on loopback.
fn filter(arguments: &[&str]) -> (Process, u16) {
    let port = free_address().port();
    // Debian's own Python has Debian's modules.
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", FILTER, &format!("inet:{port}@127.0.0.1")]).args(arguments).stdin(Stdio::null());
    let process = Process::start(&mut command);
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "no filter: apt-get install python3-milter");
        std::thread::sleep(Duration::from_millis(100));
    }
    (process, port)
}

fn site(milters: &str) -> Site {
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com");
    options.config = Some(format!("smtp-ingress:\n  milters: [{milters}]\n"));
    let site = Site::up(options);
    for address in ["bob@example.com", "carol@example.com"] {
        site.account(address);
    }
    site
}

const MAIL: &str = r#"
def send(sender, subject, body=b"x\r\n", to=("bob@example.com",)):
    smtp = smtplib.SMTP(HOST, PORT[25], local_hostname="client.example")
    smtp.ehlo()
    for code, said in [smtp.mail(sender, ["SIZE=7"])] + [smtp.rcpt(r) for r in to]:
        if code != 250 and len(to) == 1: return code, said.decode()
    smtp.docmd("DATA"); smtp.send(b"From: a@x.example\r\nSubject: " + subject + b"\r\n\r\n" + body + b".\r\n")
    code, said = smtp.getreply(); return code, said.decode()
def fetch(mailbox, subject, user="bob@example.com"):
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login(user, "secret")
    for _ in range(900):
        imap.select(mailbox)
        found = imap.search(None, "SUBJECT", subject)[1][0].split()
        if found: return imap.fetch(found[0], "(BODY.PEEK[])")[1][0][1]
        time.sleep(0.1)
    sys.exit(f"no {subject} in {mailbox}")
"#;

fn play(site: &Site, program: &str) {
    python(site, &format!("{MAIL}{program}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_refuses_adds_and_quarantines() {
    let (mut process, port) = filter(&[]);
    // One that is not there and need not be, and one that must.
    let site = site(&format!(
        "{{ address: \"unix:/nowhere/filter\", fail_open: true }}, {{ address: \"inet:127.0.0.1:{port}\", timeout_seconds: 30 }}"
    ));
    play(
        &site,
        r#"
assert send("evil@x.example", b"a") == (550, "5.7.1 We know you")
assert send("a@x.example", b"spam") == (554, "5.6.0 Too good to be true")
# Nothing is thrown away silently.
assert send("a@x.example", b"gone") == (550, "5.7.1 Refused by a filter")
assert send("a@x.example", b"a", to=["carol@example.com"])[0] == 451
body = b"line\r\n" * 50_000
code, said = send("a@x.example", b"fine", body, to=["bob@example.com", "carol@example.com"])
assert code == 250, said
message = fetch("INBOX", "fine")
head, rest = message.split(b"\r\nFrom: a@x.example\r\n")
assert rest == b"Subject: fine\r\n\r\n" + body, "below the trace fields every octet as it came"
queue_id = said.split()[-1]
expected = f"X-Filter: 127.0.0.1 client.example {queue_id} {len(body)} <a@x.example> SIZE=7 <bob@example.com>"
fields = email.message_from_bytes(message)
assert expected in head.decode(), head
assert fields["X-Folded"] == "one\r\n two\r\n\tthree", repr(fields["X-Folded"])
assert send("a@x.example", b"junk")[0] == 250 and fetch("Junk", "junk")
assert send("a@x.example", b"slow")[0] == 250 and fetch("INBOX", "slow")
# Accepted at MAIL: nothing more is asked, nothing added.
assert send("friend@x.example", b"spam")[0] == 250 and b"X-Filter" not in fetch("INBOX", "spam")
# Who comes a second time on the same connection is heard anew.
smtp = smtplib.SMTP(HOST, PORT[25]); smtp.ehlo()
assert smtp.mail("evil@x.example")[0] == 550 and smtp.mail("a@x.example")[0] == 250
smtp.rset(); assert smtp.mail("evil@x.example")[0] == 550
"#,
    );
    let queue_id = {
        let list = python(&site, &format!("{MAIL}print(send('a@x.example', b'traced')[1].split()[-1])"));
        list.trim().to_owned()
    };
    let trace = site.cli("trace", &[&queue_id], "");
    assert!(trace.contains("passed 1 filter"), "{trace}");
    assert!(metrics::sum(&site, "smtp-ingress", "smtp_refused_total", "reason=\"filtered\"") >= 5.0);
    assert!(metrics::sum(&site, "smtp-ingress", "smtp_unguarded_total", "guard=\"milter\"") >= 5.0);

    // Closed as configured; our users' mail is none of its business.
    process.stop(Duration::from_secs(60));
    play(
        &site,
        r#"
assert send("a@x.example", b"later") == (451, "4.7.1 Message cannot be taken now, try again later")
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("bob@example.com", "secret")
smtp.sendmail("bob@example.com", ["bob@example.com"], "From: bob@example.com\r\nSubject: mine\r\n\r\nx\r\n")
fetch("INBOX", "mine")
"#,
    );
}

/// What a client sent is stored as it came, whatever a filter would like.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_rewrites_nothing() {
    let (_process, port) = filter(&["rewrite"]);
    let site = site(&format!("{{ address: \"inet:127.0.0.1:{port}\", submissions: true }}"));
    play(
        &site,
        r#"
assert send("a@x.example", b"original")[0] == 250
message = fetch("INBOX", "original")
assert message.endswith(b"From: a@x.example\r\nSubject: original\r\n\r\nx\r\n"), message
assert b"X-Filter: 127.0.0.1" in message and b"X-Rewrite: not offered" in message, message
# Submissions too, when it is asked about them; below our signature's field and above the message.
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS, local_hostname="laptop"); smtp.login("bob@example.com", "secret")
smtp.sendmail("bob@example.com", ["bob@example.com"], "From: bob@example.com\r\nSubject: submitted\r\n\r\nx\r\n")
message = fetch("INBOX", "submitted")
assert b"X-Filter: 127.0.0.1 laptop" in message and b"DKIM-Signature" in message.split(b"X-Filter")[0], message
"#,
    );
}
