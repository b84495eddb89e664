//! The main job: a message from alice@sender.com to bob@example.com through every service of two
//! sites, and what must not get through.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};

use tests::{
    client::python,
    collector::Collector,
    eventually,
    site::{Options, Site, free_port_offset},
    sites::Sites,
};

async fn sites() -> Sites {
    Sites::up(free_port_offset(&Sites::HOSTS), |options| options).await
}

/// Submits as alice and prints the queue id.
const SUBMIT: &str = r#"
def submit(sender, recipient, message, port=587):
    if port == 465:
        smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS)
    else:
        smtp = smtplib.SMTP(HOST, PORT[port]); smtp.starttls(context=TLS)
    smtp.login("alice@sender.com", "secret")
    smtp.mail(sender); code, text = smtp.rcpt(recipient)
    assert code == 250, (code, text)
    code, text = smtp.data(message)
    assert code == 250, (code, text)
    smtp.quit()
    return text.split()[-1].decode()
"#;

/// Bob's INBOX as soon as it has a message.
const READ: &str = r#"
def inbox(user="bob@example.com", box="INBOX"):
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
    imap.login(user, "secret")
    for _ in range(1200):
        kind, data = imap.select(box)
        assert kind == "OK", data
        if int(data[0]):
            return imap.fetch("1:*", "(BODY.PEEK[])")[1][0][1]
        time.sleep(0.1)
    raise SystemExit("no message came")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_crosses_two_sites_authenticated() {
    let sites = sites().await;
    let submit = r#"print(submit("alice@sender.com", "bob@example.com",
        b"From: alice@sender.com\r\nTo: bob@example.com\r\nSubject: hi\r\n\r\nhello\r\n"))"#;
    let queue_id = python(&sites.sender, &format!("{SUBMIT}{submit}"));
    let message = python(&sites.example, &format!("{READ}print(inbox().decode())"));
    for pass in ["spf=pass", "dkim=pass", "dmarc=pass"] {
        assert!(message.contains(pass), "{message}");
    }
    // Bob may have it before our side knows that.
    let journey = eventually("it is relayed", Duration::from_secs(60), || async {
        Some(sites.sender.cli("trace", &[queue_id.trim()], "")).filter(|t| t.contains("relayed"))
    })
    .await;
    for step in ["received", "queued", "relayed", "C: MAIL FROM:<alice@sender.com>"] {
        assert!(journey.contains(step), "{step} in {journey}");
    }
    assert!(!journey.contains("secret"), "a credential in {journey}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dmarc_policies_are_acted_on() {
    let sites = sites().await;
    sites.dns.add("_dmarc.quarantine.com TXT v=DMARC1; p=quarantine").await;
    sites.dns.add("quarantine.com TXT v=spf1 -all").await;
    sites.dns.add("_dmarc.none.com TXT v=DMARC1; p=none").await;
    let send = r#"
def send(sender):
    smtp = smtplib.SMTP(HOST, PORT[25], source_address=("127.0.0.66", 0))
    smtp.ehlo("stranger.com"); smtp.mail(sender); smtp.rcpt("bob@example.com")
    return smtp.data(f"From: {sender}\r\nSubject: x\r\n\r\n{sender}\r\n".encode())
assert send("ceo@sender.com")[0] == 550, send("ceo@sender.com")
assert send("ceo@sender.com")[1].startswith(b"5.7.1")
assert send("a@quarantine.com")[0] == 250
assert send("a@none.com")[0] == 250
assert b"a@quarantine.com" in inbox(box="Junk")
assert b"a@none.com" in inbox()
"#;
    python(&sites.example, &format!("{READ}{send}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_recipients_relaying_and_foreign_senders_are_refused() {
    let sites = sites().await;
    let program = r#"
smtp = smtplib.SMTP(HOST, PORT[25]); smtp.ehlo("x.com")
smtp.mail("a@none.com")
assert smtp.rcpt("nobody@sender.com")[0:1] == (550,), "unknown"
assert smtp.rcpt("nobody@sender.com")[1].startswith(b"5.1.1")
code, text = smtp.rcpt("bob@example.com")
assert (code, text[:5]) == (550, b"5.7.1"), (code, text)
smtp.close()
smtp = smtplib.SMTP(HOST, PORT[587]); smtp.ehlo("x.com")
assert smtp.docmd("MAIL FROM:<alice@sender.com>")[0] == 530
assert smtp.docmd("AUTH PLAIN AGFsaWNlQHNlbmRlci5jb20Ac2VjcmV0")[0] in (530, 538, 503, 502, 504, 523), "AUTH in the clear"
smtp.close()
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS)
try:
    smtp.login("alice@sender.com", "wrong"); raise SystemExit("logged in")
except smtplib.SMTPAuthenticationError as e:
    assert e.smtp_code == 535, e
smtp.close()
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS)
smtp.login("alice@sender.com", "secret")
code, text = smtp.mail("bob@example.com")
assert code in (550, 553), (code, text)
smtp.mail("alice@sender.com"); smtp.rcpt("bob@example.com")
code, text = smtp.data(b"From: ceo@sender.com\r\nSubject: x\r\n\r\nx\r\n")
assert (code, text[:5]) == (550, b"5.7.1"), (code, text)
"#;
    python(&sites.sender, program);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_recipient_comes_back_as_a_dsn() {
    let sites = sites().await;
    let submit = r#"print(submit("alice@sender.com", "nobody@example.com",
        b"From: alice@sender.com\r\nSubject: lost\r\n\r\nhello\r\n", port=465))"#;
    let queue_id = python(&sites.sender, &format!("{SUBMIT}{submit}"));
    let check = r#"
dsn = email.message_from_bytes(inbox("alice@sender.com"))
assert dsn.get_content_type() == "multipart/report", dsn
assert dsn["Auto-Submitted"] == "auto-replied"
text, status, returned = dsn.get_payload()
fields = status.get_payload()[1]
assert fields["Action"] == "failed" and fields["Status"] == "5.1.1", fields
assert "nobody@example.com" in fields["Final-Recipient"]
assert "550" in fields["Diagnostic-Code"]
assert "Subject: lost" in returned.as_string()
"#;
    python(&sites.sender, &format!("{READ}{check}"));
    let journey = || sites.sender.cli("trace", &[queue_id.trim()], "");
    eventually("it has bounced", Duration::from_secs(60), || async { journey().contains("bounced").then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_away_gets_its_mail_later() {
    let mut sites = Sites::up(free_port_offset(&Sites::HOSTS), |mut options: Options| {
        options.config =
            Some("outbound-relay: { retry_first: 1, retry_max: 2, back_off_first: 1, back_off_max: 2 }\n".into());
        options
    })
    .await;
    sites.example.stop();
    let submit = r#"print(submit("alice@sender.com", "bob@example.com", b"From: alice@sender.com\r\n\r\nlater\r\n"))"#;
    let queue_id = python(&sites.sender, &format!("{SUBMIT}{submit}"));
    let trace = || sites.sender.cli("trace", &[queue_id.trim()], "");
    eventually("it is deferred", Duration::from_secs(30), || async { trace().contains("deferred").then_some(()) })
        .await;
    assert!(sites.sender.cli("queue", &["list"], "").contains(queue_id.trim()));
    sites.example.start();
    eventually("it is relayed", Duration::from_secs(60), || async { trace().contains("relayed").then_some(()) }).await;
    python(&sites.example, &format!("{READ}assert b'later' in inbox()"));
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_sacred_byte_for_byte() {
    let site = Site::up(Options::new("127.0.0.4", free_port_offset(&["127.0.0.4"]), "example.com"));
    site.account("bob@example.com");
    let program = r#"
import base64, os
attachment = base64.encodebytes(os.urandom(3_900_000)).replace(b"\n", b"\r\n")
messages = [
    b"From: bob@example.com\r\nSubject: eight bit\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\n\r\nGr\xfc\xdfe \x80\xff\r\n",
    b"From: bob@example.com\r\nSubject: dots\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <2@x>\r\n\r\n.\r\n..\r\n.x\r\n\r\n.\r\n",
    b"From: bob@example.com\r\nSubject: big\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <3@x>\r\n\r\n" + attachment,
    b"From: bob@example.com\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <4@x>\r\n\r\n",
]
assert len(messages[2]) > 5_000_000
for message in messages:
    smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS)
    smtp.login("bob@example.com", "secret")
    smtp.mail("bob@example.com"); smtp.rcpt("bob@example.com")
    # smtplib would mend line ends; these are right already and must stay.
    smtp.docmd("DATA"); smtp.send(re.sub(rb"(?m)^\.", b"..", message) + b".\r\n")
    code, text = smtp.getreply(); assert code == 250, (code, text)
    smtp.quit()
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
imap.login("bob@example.com", "secret")
for _ in range(1200):
    if int(imap.select("INBOX")[1][0]) == len(messages): break
    time.sleep(0.1)
by_imap = [imap.fetch(str(n + 1), "(BODY.PEEK[])")[1][0][1] for n in range(len(messages))]
poplib._MAXLINE = 1 << 20
pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS); pop.user("bob@example.com"); pop.pass_("secret")
by_pop = [b"\r\n".join(pop.retr(n + 1)[1]) + b"\r\n" for n in range(len(messages))]
pop.quit()
for sent, imap_bytes, pop_bytes in zip(messages, by_imap, by_pop):
    assert imap_bytes.endswith(sent), (sent[:200], imap_bytes[:3000])
    assert pop_bytes == imap_bytes
    trace = imap_bytes[:-len(sent)]
    assert all(l.lower().startswith((b"received:", b"dkim-signature:", b" ", b"\t")) for l in trace.splitlines()), trace
"#;
    python(&site, program);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_spans_every_service_and_links_the_other_site() {
    let (collector, endpoint) = Collector::start().await;
    let sites = Sites::up(free_port_offset(&Sites::HOSTS), |mut options| {
        options.environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT".into(), endpoint.clone()));
        options.environment.push(("OTEL_BSP_SCHEDULE_DELAY".into(), "200".into()));
        options
    })
    .await;
    let submit = r#"print(submit("alice@sender.com", "bob@example.com", b"From: alice@sender.com\r\n\r\nx\r\n"))"#;
    let queue_id = python(&sites.sender, &format!("{SUBMIT}{submit}"));
    python(&sites.example, &format!("{READ}inbox()"));
    let json = sites.sender.cli("trace", &["--json", queue_id.trim()], "");
    let head: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let trace_id = head["trace_id"].as_str().unwrap().to_owned();
    let services = |wanted: &dyn Fn(&tests::collector::Span) -> bool| -> BTreeSet<String> {
        collector.spans().into_iter().filter(|s| wanted(s)).map(|s| s.service).collect()
    };
    let outbound: BTreeSet<String> =
        ["auth-checker", "mda", "outbound-relay", "smtp-ingress"].map(str::to_owned).into();
    eventually("the whole way out is one trace", Duration::from_secs(20), || async {
        services(&|s| s.trace_id == trace_id).is_superset(&outbound).then_some(())
    })
    .await;
    let inbound = eventually("the other site's ingress is linked to it", Duration::from_secs(20), || async {
        let spans = collector.spans();
        spans.into_iter().find(|s| s.service == "smtp-ingress" && s.links.contains(&trace_id))
    })
    .await;
    eventually("local delivery there is in the linked trace", Duration::from_secs(20), || async {
        let spans = collector.spans();
        spans.iter().any(|s| s.trace_id == inbound.trace_id && s.service == "mda" && s.name == "deliver").then_some(())
    })
    .await;
    eventually("and so is the verdict", Duration::from_secs(20), || async {
        services(&|s| s.trace_id == inbound.trace_id).contains("auth-checker").then_some(())
    })
    .await;
}
