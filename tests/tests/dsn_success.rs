//! NOTIFY=SUCCESS (RFC 3461) for a mailbox of ours, and the signature under what we report.

#![allow(clippy::unwrap_used)]

use tests::{
    client::python,
    dns::NameServer,
    site::{Options, Site, free_port_offset},
    storage::Mda,
};

/// Submits, and reads what came back.
const SCRIPT: &str = r#"
import email
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("alice@example.com", "secret")
def send(to, *options, sender="alice@example.com"):
    text = f"From: alice@example.com\r\nTo: {to}\r\nSubject: to {to}\r\n\r\nbody\r\n"
    smtp.sendmail(sender, [to], text, mail_options=["RET=HDRS", "ENVID=QQ7"], rcpt_options=list(options))

imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("alice@example.com", "secret")
def inbox(count):
    deadline = time.time() + 180
    while True:
        imap.select("INBOX")
        found = imap.search(None, "ALL")[1][0].split()
        if len(found) >= count:
            return [email.message_from_bytes(imap.fetch(n, "(BODY.PEEK[])")[1][0][1]) for n in found]
        assert time.time() < deadline, f"{len(found)} of {count}"
        time.sleep(0.2)

send("bob@example.com", "NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;Robert+40example.com")
report = inbox(1)[0]
status = report.get_payload(1).as_string()
for line in ["Original-Envelope-Id: QQ7", "Original-Recipient: rfc822; Robert@example.com", "Final-Recipient: rfc822; bob@example.com",
             "Action: delivered", "Status: 2.0.0"]:
    assert line in status, status
assert "Subject: to bob@example.com" in report.as_string() and report["Auto-Submitted"] == "auto-replied"

# Nobody asked, and to an alias of a list of two: one report each.
send("bob@example.com")
send("bob@example.com", "NOTIFY=FAILURE")
send("bob@example.com", "NOTIFY=NEVER")
send("both@example.com", "NOTIFY=SUCCESS")
assert len(inbox(3)) == 3

# Refused elsewhere: the relay's report is signed with the key of the domain above its name.
# A report whose signing takes seconds goes without: on a busy machine the next one has it.
for count in range(4, 7):
    send("nobody@nomail.com", "NOTIFY=FAILURE")
    bounce = inbox(count)[-1]
    assert "Action: failed" in bounce.get_payload(1).as_string(), bounce.as_string()
    signed = [s for s in bounce.get_all("DKIM-Signature", []) if "d=example.com" in s]
    if len(signed) == 2: break
assert len(signed) == 2, bounce.as_string()
time.sleep(2)
assert len(inbox(count)) == count, "a report for whom nobody asked"
print("ok")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn success_is_reported_where_it_was_asked_for() {
    let dns = NameServer::start(&["com."]).await;
    dns.add("nomail.com MX 0 .").await;
    let offset = free_port_offset(&["127.0.0.7"]);
    let server = dns.address.to_string();
    let site = Site::up(Options::new("127.0.0.7", offset, "example.com").more(&["--dns", &server]));
    for name in ["alice", "bob", "carol"] {
        site.account(&format!("{name}@example.com"));
    }
    site.admin(&["alias", "add", "both@example.com", "bob@example.com", "carol@example.com"], "");
    assert_eq!(python(&site, SCRIPT).trim(), "ok");
}

/// The process dies after the delivery, before the report: another one finds the promise.
#[tokio::test]
async fn a_promised_report_survives_a_crash_and_is_not_doubled() {
    let mda = Mda::start().await;
    let (bob, ann) = (mda.account("bob@example.com").await, mda.account("ann@example.com").await);
    let mut sql = mda.sql().await;
    // As the delivery statement leaves it.
    let id = uuid::Uuid::now_v7();
    let spool = "insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size,
                 eight_bit, smtputf8, junk) values ($1, 'ann@example.com', $2, '', '', '', '', 0, false, false, false)";
    sqlx::query(spool).bind(id).bind(i64::try_from(bob).unwrap()).execute(&mut sql).await.unwrap();
    let promise = "insert into success_reports values ($1, 0, 'bob@example.com', '', 'INBOX')";
    for _ in 0..2 {
        sqlx::query(promise).bind(id).execute(&mut sql).await.unwrap();
        tests::eventually("the report is made", std::time::Duration::from_secs(40), || async {
            let mut sql = mda.sql().await;
            let left: i64 =
                sqlx::query_scalar("select count(*) from success_reports").fetch_one(&mut sql).await.unwrap();
            (left == 0).then_some(())
        })
        .await;
    }
    let deliveries = "select (select count(*) from deliveries where account_id = $1)
                           + (select count(*) from messages where account_id = $1)";
    let reports: i64 =
        sqlx::query_scalar(deliveries).bind(i64::try_from(ann).unwrap()).fetch_one(&mut sql).await.unwrap();
    assert_eq!(reports, 1, "the same promise is the same report");
    let told: Vec<String> =
        sqlx::query_scalar("select name from journey where queue_id = $1").bind(id).fetch_all(&mut sql).await.unwrap();
    assert_eq!(told, ["reported", "reported"]);
}
