//! Postfix from Debian as a next hop and as a sender, with STARTTLS, and a bounce each way.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tests::{
    client::python,
    dns::NameServer,
    eventually,
    postfix::{Postfix, Setting},
    site::{Options, Site, free_port_offset},
};

const SOON: Duration = Duration::from_secs(30);

async fn both() -> (Site, Postfix, NameServer, u16) {
    let dns = NameServer::start(&["com."]).await;
    for (domain, host) in [("sender.com", "127.0.0.10"), ("postfix.com", "127.0.0.11")] {
        dns.add(&format!("{domain} MX 10 mail.{domain}")).await;
        dns.add(&format!("mail.{domain} A {host}")).await;
        dns.add(&format!("{domain} TXT v=spf1 ip4:{host} -all")).await;
    }
    let offset = free_port_offset(&["127.0.0.10", "127.0.0.11"]);
    let (server, port) = (dns.address.to_string(), 25 + offset);
    let options = Options::new("127.0.0.10", offset, "sender.com");
    let site = Site::up(options.more(&["--dns", &server, "--relay-port", &port.to_string()]));
    site.account("alice@sender.com");
    let tls = site.data().join("tls");
    let postfix = Postfix::start(Setting {
        address: format!("127.0.0.11:{port}").parse().unwrap(),
        domain: "postfix.com",
        tls: (&tls.join("cert.pem"), &tls.join("key.pem")),
        next_hop: ("sender.com", "127.0.0.10", port),
        users: &["bob"],
    })
    .await;
    (site, postfix, dns, port)
}

const HELP: &str = r#"
def submit(recipient, subject):
    smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("alice@sender.com", "secret")
    smtp.sendmail("alice@sender.com", [recipient], f"From: alice@sender.com\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\n.dot\r\nhello\r\n")
def inbox():
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("alice@sender.com", "secret")
    for _ in range(1200):
        if int(imap.select("INBOX")[1][0]): return imap.fetch("1", "(BODY.PEEK[])")[1][0][1].decode()
        time.sleep(0.1)
    raise SystemExit("nothing came")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn postroad_sends_to_postfix() {
    let (site, postfix, _dns, _) = both().await;
    python(&site, &format!("{HELP}submit('bob@postfix.com', 'to postfix')"));
    let mail = eventually("the message is at Postfix", SOON, || async { postfix.mailbox("bob").pop() }).await;
    assert!(mail.contains("Subject: to postfix") && mail.contains("\n.dot\nhello\n"), "{mail}");
    assert!(mail.contains("using TLSv1.3"), "{mail}");
    assert!(mail.contains("Return-Path: <alice@sender.com>"), "{mail}");
    // And what Postfix does not take comes back as a DSN.
    let bounce = python(&site, &format!("{HELP}submit('nobody@postfix.com', 'to nobody'); print(inbox())"));
    for part in [
        "Content-Type: multipart/report; report-type=delivery-status",
        "Final-Recipient: rfc822; nobody@postfix.com",
        "Action: failed",
        "Status: 5.1.1",
        "Remote-MTA: dns; mail.postfix.com",
        "Subject: to nobody",
    ] {
        assert!(bounce.contains(part), "{part} in {bounce}\n{}", postfix.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_sends_to_postroad() {
    let (site, postfix, _dns, port) = both().await;
    let send = |to: &str| {
        format!(
            "smtp = smtplib.SMTP('127.0.0.11', {port}, source_address=('127.0.0.1', 0))\n\
             smtp.sendmail('bob@postfix.com', ['{to}'], 'From: bob@postfix.com\\r\\nSubject: from postfix\\r\\n\\r\\nhello\\r\\n')\n"
        )
    };
    let mail = python(&site, &format!("{HELP}{}print(inbox())", send("alice@sender.com")));
    assert!(mail.contains("Subject: from postfix") && mail.contains("spf=pass"), "{mail}");
    assert!(mail.contains("with ESMTPS"), "{mail}");
    python(&site, &send("nobody@sender.com"));
    let bounce = eventually("Postfix bounces", SOON, || async { postfix.mailbox("bob").pop() }).await;
    for part in ["Undelivered Mail Returned to Sender", "nobody@sender.com", "Status: 5.1.1"] {
        assert!(bounce.contains(part), "{part} in {bounce}");
    }
}
