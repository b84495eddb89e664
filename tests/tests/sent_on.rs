//! Mail that rules and aliases send on: to mailboxes that are full, and with a report of success that was
//! asked for.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use address::QueueId;
use proto::{
    admin::CreateAccountRequest,
    journey::TraceRequest,
    mailboxes::StatusRequest,
    rules::{Forward, Owner, SetForwardRequest, owner::By},
    spool::{AcceptRequest, Envelope, Recipient, Target, target::To},
};
use tests::{
    client::python,
    eventually,
    site::{Options, Site, free_port_offset},
    storage::Mda,
};

const SOON: Duration = Duration::from_secs(30);

async fn limited(mda: &Mda, address: &str, quota_bytes: u64) -> u64 {
    let request =
        CreateAccountRequest { address: address.into(), password: "secret".into(), quota_bytes, ..Default::default() };
    mda.admin().create_account(request).await.unwrap().into_inner().account_id
}

async fn send(mda: &Mda, account: u64, reverse_path: &str, notify: &str, body: usize) -> String {
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let recipient = Recipient {
        forward_path: "bob@example.com".into(),
        targets: vec![Target { to: Some(To::AccountId(account)) }],
        notify: notify.into(),
        ..Default::default()
    };
    let envelope = Envelope {
        queue_id: queue_id.clone(),
        reverse_path: reverse_path.into(),
        recipients: vec![recipient],
        ..Default::default()
    };
    let content = format!("From: a@else.org\r\nSubject: hi\r\n\r\n{}\r\n", "x".repeat(body));
    let request = AcceptRequest { envelope: Some(envelope), content: content.into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    queue_id
}

async fn count(mda: &Mda, account_id: u64, name: &str) -> u32 {
    let request = StatusRequest { account_id, names: vec![name.into()], ..Default::default() };
    let states = mda.mailboxes().status(request).await.unwrap().into_inner().states;
    states.into_iter().next().and_then(|s| s.state).map_or(0, |s| s.messages)
}

/// Name and text of each event, once nothing is left to deliver.
async fn journey(mda: &Mda, queue_id: &str) -> Vec<(String, String)> {
    eventually("nothing is left to do", SOON, || async {
        let mut sql = mda.sql().await;
        let open: i64 = sqlx::query_scalar("select count(*) from deliveries").fetch_one(&mut sql).await.ok()?;
        (open == 0).then_some(())
    })
    .await;
    let request = TraceRequest { queue_id: queue_id.into(), follow: false };
    let mut stream = mda.journey().trace(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        all.extend(answer.events.into_iter().map(|e| (e.name, e.text)));
    }
    all
}

fn says(journey: &[(String, String)], words: &str) -> bool {
    journey.iter().any(|(_, text)| text.contains(words))
}

#[tokio::test]
async fn what_rules_send_to_a_full_mailbox_stays_and_nobody_is_told_of_it() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let alice = mda.account("alice@example.com").await;
    // One has room for nothing more, one for less than this message.
    let full = limited(&mda, "full@example.com", 100).await;
    send(&mda, full, "a@else.org", "", 20).await;
    let tight = limited(&mda, "tight@example.com", 1_000).await;
    eventually("it is nearly full", SOON, || async { (count(&mda, full, "INBOX").await == 1).then_some(()) }).await;
    let mut sql = mda.sql().await;
    let limit = "update quotas set limit_bytes = bytes where account_id = $1";
    sqlx::query(limit).bind(i64::try_from(full).unwrap()).execute(&mut sql).await.unwrap();

    for (n, (way, words)) in [
        ("redirect \"full@example.com\";", "not redirected to full@example.com: its mailbox is full"),
        ("redirect \"tight@example.com\";", "not sent on: a mailbox that it goes to is full"),
        ("forward full@example.com", "not redirected to full@example.com: its mailbox is full"),
        ("forward tight@example.com", "not sent on: a mailbox that it goes to is full"),
    ]
    .into_iter()
    .enumerate()
    {
        let owner = Some(Owner { by: Some(By::AccountId(bob)) });
        match way.strip_prefix("forward ") {
            Some(to) => {
                mda.script(bob, "stop;").await;
                let forward = Some(Forward { to: vec![to.into()], keep: false });
                mda.rules().set_forward(SetForwardRequest { owner, forward }).await.unwrap();
            }
            None => mda.script(bob, way).await,
        }
        let id = send(&mda, bob, "alice@example.com", "", 2_000).await;
        let events = journey(&mda, &id).await;
        assert!(says(&events, words) && says(&events, "into INBOX"), "{way}: {events:?}");
        assert_eq!(count(&mda, bob, "INBOX").await as usize, n + 1, "{way}: it stays");
    }
    assert_eq!((count(&mda, full, "INBOX").await, count(&mda, tight, "INBOX").await), (1, 0));
    assert_eq!(count(&mda, alice, "INBOX").await, 0, "no report: the message was delivered");
    // What fits goes.
    let id = send(&mda, bob, "alice@example.com", "", 100).await;
    assert!(says(&journey(&mda, &id).await, "to tight@example.com as "));
    assert_eq!((count(&mda, tight, "INBOX").await, count(&mda, bob, "INBOX").await), (1, 4));
    // Of several that take it, whoever is full is told of to the sender: the others have it.
    mda.script(bob, "redirect \"tight@example.com\"; redirect \"alice@example.com\";").await;
    let owner = Some(Owner { by: Some(By::AccountId(bob)) });
    mda.rules().set_forward(SetForwardRequest { owner, forward: None }).await.unwrap();
    send(&mda, bob, "alice@example.com", "", 2_000).await;
    eventually("alice has it, and a report", SOON, || async { (count(&mda, alice, "INBOX").await == 2).then_some(()) })
        .await;
    mda.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_to_a_full_mailbox_is_refused_or_reported() {
    let site = Site::up(Options::new("127.0.0.34", free_port_offset(&["127.0.0.34"]), "example.com"));
    for name in ["alice", "bob"] {
        site.account(&format!("{name}@example.com"));
    }
    site.admin(&["account", "add", "full@example.com", "--password-stdin", "--quota", "3000"], "secret\n");
    site.admin(&["alias", "add", "one@example.com", "full@example.com"], "");
    site.admin(&["alias", "add", "both@example.com", "full@example.com", "bob@example.com"], "");
    let program = r#"
def submit(to, body):
    smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("alice@example.com", "secret")
    smtp.mail("alice@example.com"); code, text = smtp.rcpt(to)
    if code == 250: code, text = smtp.data(f"From: alice@example.com\r\nSubject: to {to}\r\n\r\n{body}\r\n".encode())
    smtp.close(); return code, text
def inbox(user, count):
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login(user, "secret")
    for _ in range(1800):
        if int(imap.select("INBOX")[1][0]) >= count: return [imap.fetch(str(n + 1), "(BODY.PEEK[])")[1][0][1] for n in range(count)]
        time.sleep(0.1)
    raise SystemExit(f"{user} has not {count}")
large = ("x" * 70 + "\r\n") * 60
code, text = submit("one@example.com", large); assert code in (452, 552), (code, text)
assert submit("both@example.com", large)[0] == 250
inbox("bob@example.com", 1)
report = inbox("alice@example.com", 1)[0]
assert b"Action: failed" in report and b"5.2.2" in report and b"both@example.com" in report, report
code, text = submit("one@example.com", "small"); assert code == 250, (code, text)
inbox("full@example.com", 1)
"#;
    python(&site, program);
}

#[tokio::test]
async fn success_is_reported_also_by_accounts_with_a_script() {
    let mda = Mda::start().await;
    let (bob, alice) = (mda.account("bob@example.com").await, mda.account("alice@example.com").await);
    let ann = mda.account("ann@example.com").await;
    let success = "SUCCESS,FAILURE";
    mda.script(bob, "require [\"fileinto\", \"copy\"]; fileinto :copy \"Archive\"; keep;").await;
    let id = send(&mda, bob, "alice@example.com", success, 10).await;
    // Two mailboxes, one report.
    eventually("a report", SOON, || async { (count(&mda, alice, "INBOX").await == 1).then_some(()) }).await;
    let events = journey(&mda, &id).await;
    assert!(says(&events, "delivery reported as "), "{events:?}");

    // Nobody asked; discarded; sent on: there the report is the next one's (RFC 3461 §5.2.7.1), and ours says no word.
    send(&mda, bob, "alice@example.com", "FAILURE", 10).await;
    send(&mda, bob, "alice@example.com", "NEVER", 10).await;
    mda.script(bob, "discard;").await;
    let id = send(&mda, bob, "alice@example.com", success, 10).await;
    assert!(says(&journey(&mda, &id).await, "by a rule of the recipient"));
    mda.script(bob, "redirect \"ann@example.com\";").await;
    send(&mda, bob, "alice@example.com", success, 10).await;
    eventually("ann has it", SOON, || async { (count(&mda, ann, "INBOX").await == 1).then_some(()) }).await;
    // The last one is reported after the others would have been.
    mda.script(bob, "keep;").await;
    send(&mda, bob, "alice@example.com", success, 10).await;
    eventually("a report", SOON, || async { (count(&mda, alice, "INBOX").await >= 2).then_some(()) }).await;
    let mut sql = mda.sql().await;
    let reports: i64 =
        sqlx::query_scalar("select count(*) from journey where name = 'reported'").fetch_one(&mut sql).await.unwrap();
    assert_eq!((reports, count(&mda, alice, "INBOX").await), (2, 2));
    mda.stop().await;
}
