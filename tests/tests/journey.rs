//! The journey: what is told, how it is found, how long it is kept.

#![allow(clippy::unwrap_used)]

use std::{borrow::Cow, time::Duration};

use address::QueueId;
use mda::journey::days::{self, Retention};
use proto::{
    journey::{FindRequest, JourneyEvent, Message, TraceRequest},
    mailboxes::{ContentRequest, FetchRequest, SelectRequest, UidRange},
    spool::{
        AcceptRequest, ClaimRequest, Deferred, DeliveryId, Envelope, Event, Lease, Outcome, Recipient, RefuseRequest,
        Refused, SettleRequest, Target, outcome, target::To,
    },
};
use sqlx::{Connection as _, PgConnection, PgPool, Row as _};
use tests::{
    client::python,
    eventually,
    site::{Options, Site, free_port_offset},
    storage::{Mda, database},
};

const SOON: Duration = Duration::from_secs(20);

fn queue_id() -> String {
    QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string()
}

fn uuid_of(queue_id: &str) -> uuid::Uuid {
    uuid::Uuid::from_bytes(queue_id.parse::<QueueId>().unwrap().to_bytes())
}

/// From `sender`, submitted by `account_id` (0: from outside), to a path with its target.
fn envelope(sender: &str, account_id: u64, path: &str, to: To) -> Envelope {
    let targets = vec![Target { to: Some(to) }];
    Envelope {
        queue_id: queue_id(),
        reverse_path: sender.into(),
        account_id,
        recipients: vec![Recipient { forward_path: path.into(), targets, ..Default::default() }],
        ..Default::default()
    }
}

async fn accept(mda: &Mda, envelope: Envelope, message_id: &str) -> String {
    let id = envelope.queue_id.clone();
    let content = format!("Message-ID: <{message_id}>\r\nSubject: x\r\n\r\nbody\r\n");
    let request = AcceptRequest { envelope: Some(envelope), content: content.into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    id
}

async fn find(mda: &Mda, request: FindRequest) -> Vec<Message> {
    mda.journey().find(request).await.unwrap().into_inner().messages
}

async fn found(mda: &Mda, request: FindRequest) -> Vec<String> {
    find(mda, request).await.into_iter().map(|m| m.queue_id).collect()
}

async fn events(mda: &Mda, queue_id: &str) -> Vec<JourneyEvent> {
    let request = TraceRequest { queue_id: queue_id.into(), follow: false };
    let mut stream = mda.journey().trace(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        all.extend(answer.events);
    }
    all
}

async fn names(mda: &Mda, queue_id: &str) -> Vec<String> {
    events(mda, queue_id).await.into_iter().map(|e| e.name).collect()
}

/// A tenant, with a domain's accounts moved to it.
async fn tenant(mda: &Mda, name: &str, domain: &str) {
    let mut sql = mda.sql().await;
    sqlx::query("with t as (insert into tenants (name) values ($1) returning id), d as (update domains set tenant_id = (select id from t) where name = $2) update accounts set tenant_id = (select id from t) where domain = $2")
        .bind(name)
        .bind(domain)
        .execute(&mut sql)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_message_is_found_by_everything_that_is_known_of_it() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let carol = mda.account("carol@other.org").await;
    tenant(&mda, "acme", "example.com").await;
    tenant(&mda, "rival", "other.org").await;
    let before = chrono_ms();
    let inbound = accept(&mda, envelope("A@else.net", 0, "Sales@Example.com", To::AccountId(bob)), "1@else.net").await;
    let outbound =
        accept(&mda, envelope("bob@example.com", bob, "x@far.net", To::Remote("x@far.net".into())), "2@example.com")
            .await;
    let foreign = accept(&mda, envelope("a@else.net", 0, "carol@other.org", To::AccountId(carol)), "3@else.net").await;
    let request = FindRequest::default;
    for (what, request, expected) in [
        ("queue id", FindRequest { id: inbound.clone(), ..request() }, vec![&inbound]),
        ("Message-ID", FindRequest { id: "<1@else.net>".into(), ..request() }, vec![&inbound]),
        ("sender", FindRequest { sender: "a@ELSE.net".into(), ..request() }, vec![&foreign, &inbound]),
        ("recipient as written", FindRequest { recipient: "sales@example.com".into(), ..request() }, vec![&inbound]),
        ("account behind it", FindRequest { recipient: "bob@example.com".into(), ..request() }, vec![&inbound]),
        ("remote recipient", FindRequest { recipient: "X@far.net".into(), ..request() }, vec![&outbound]),
        (
            "sender and recipient",
            FindRequest { sender: "a@else.net".into(), recipient: "carol@other.org".into(), ..request() },
            vec![&foreign],
        ),
        ("tenant", FindRequest { tenant: "acme".into(), ..request() }, vec![&outbound, &inbound]),
        (
            "sender within a tenant",
            FindRequest { sender: "a@else.net".into(), tenant: "acme".into(), ..request() },
            vec![&inbound],
        ),
        (
            "somebody else's recipient",
            FindRequest { recipient: "carol@other.org".into(), tenant: "acme".into(), ..request() },
            vec![],
        ),
        ("somebody else's id", FindRequest { id: foreign.clone(), tenant: "acme".into(), ..request() }, vec![]),
        ("no such tenant", FindRequest { tenant: "nobody".into(), ..request() }, vec![]),
        ("time", FindRequest { since_ms: before, ..request() }, vec![&foreign, &outbound, &inbound]),
        ("a time before", FindRequest { until_ms: before, ..request() }, vec![]),
        ("limit", FindRequest { since_ms: before, limit: 1, ..request() }, vec![&foreign]),
    ] {
        assert_eq!(found(&mda, request).await.iter().collect::<Vec<_>>(), expected, "{what}");
    }
    let head = find(&mda, FindRequest { id: outbound, ..request() }).await.remove(0);
    assert_eq!((head.tenants, head.refused, head.open), (vec!["acme".to_owned()], false, 1));
    assert!(mda.journey().find(request()).await.is_err(), "everything at once");
    mda.stop().await;
}

fn chrono_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

#[tokio::test]
async fn what_was_refused_is_found_with_its_dialogue() {
    let mda = Mda::start().await;
    mda.account("bob@example.com").await;
    let id = queue_id();
    let event = Event {
        name: "refused".into(),
        service: "smtp-ingress".into(),
        recipient: "nobody@example.com".into(),
        text: "550 5.1.1 no".into(),
        dialogue: vec!["C: RCPT TO:<nobody@example.com>".into(), "S: 550 5.1.1 no\nforged".into()],
        ..Default::default()
    };
    let refused = Refused {
        queue_id: id.clone(),
        reverse_path: "spam@else.net".into(),
        recipients: vec!["nobody@example.com".into()],
        events: vec![event],
        ..Default::default()
    };
    let request = RefuseRequest { refused: vec![refused] };
    for _again in 0..2 {
        mda.spool().refuse(request.clone()).await.unwrap();
    }
    let by_recipient =
        FindRequest { recipient: "nobody@example.com".into(), tenant: "default".into(), ..Default::default() };
    let head = find(&mda, by_recipient).await.remove(0);
    assert_eq!((head.queue_id, head.refused, head.open), (id.clone(), true, 0));
    let [event] = events(&mda, &id).await.try_into().unwrap();
    let detail: serde_json::Value = serde_json::from_str(&event.detail).unwrap();
    assert_eq!(detail["dialogue"], serde_json::json!(["C: RCPT TO:<nobody@example.com>", "S: 550 5.1.1 no forged"]));
    mda.stop().await;
}

#[tokio::test]
async fn an_attempts_words_dialogue_and_trace_are_its_own() {
    let mda = Mda::start().await;
    let mut envelope = envelope("a@else.net", 0, "x@far.net", To::Remote("x@far.net".into()));
    envelope.traceparent = format!("00-{}-{}-01", "a".repeat(32), "b".repeat(16));
    let id = accept(&mda, envelope, "1@else.net").await;
    let deliveries = vec![DeliveryId { queue_id: id.clone(), number: 0 }];
    let claimed = mda
        .spool()
        .claim(ClaimRequest { deliveries, lease_ms: 5_000, ..Default::default() })
        .await
        .unwrap()
        .into_inner()
        .claimed
        .remove(0);
    let event = Event {
        service: "outbound-relay".into(),
        text: "451 later".into(),
        detail: r#"{"attempt":1}"#.into(),
        dialogue: vec!["S: 451 later".into()],
        traceparent: format!("00-{}-{}-01", "c".repeat(32), "d".repeat(16)),
        ..Default::default()
    };
    let result = outcome::Result::Deferred(Deferred { next_attempt_ms: chrono_ms() + 60_000, ..Default::default() });
    let lease = Lease { id: claimed.id, token: claimed.token };
    let outcome = Outcome { lease: Some(lease), result: Some(result), event: Some(event) };
    mda.spool().settle(SettleRequest { outcomes: vec![outcome] }).await.unwrap();
    let all = events(&mda, &id).await;
    assert_eq!(all.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["queued", "deferred"]);
    assert_eq!(
        (all[0].trace_id.as_str(), all[1].trace_id.as_str()),
        ("a".repeat(32).as_str(), "c".repeat(32).as_str())
    );
    assert_eq!(all[1].detail, r#"{"attempt":1,"dialogue":["S: 451 later"]}"#);
    mda.stop().await;
}

/// Makes a message and all that is known of it older by days.
async fn age(pool: &PgPool, id: &str, days: i32) {
    for table in ["journey", "journey_dialogues", "journey_recipients"] {
        sqlx::query("select journey_day($1, (now() at time zone 'utc')::date - $2)")
            .bind(table)
            .bind(days)
            .execute(pool)
            .await
            .unwrap();
        let update = format!("update {table} set at = at - make_interval(days => $2) where queue_id = $1");
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(uuid_of(id)).bind(days).execute(pool).await.unwrap();
    }
    sqlx::query("update spool set accepted_at = accepted_at - make_interval(days => $2) where queue_id = $1")
        .bind(uuid_of(id))
        .bind(days)
        .execute(pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn days_are_forgotten_dialogues_first_and_open_messages_never() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let pool = PgPool::connect(&mda.database_url).await.unwrap();
    let with_dialogue = |to| {
        let mut envelope = envelope("a@else.net", 0, "to@example.com", to);
        envelope.events = vec![Event { name: "received".into(), dialogue: vec!["C: X".into()], ..Default::default() }];
        envelope
    };
    let young = accept(&mda, with_dialogue(To::AccountId(bob)), "1@x").await;
    let old = accept(&mda, with_dialogue(To::AccountId(bob)), "2@x").await;
    let ancient = accept(&mda, with_dialogue(To::AccountId(bob)), "3@x").await;
    let open = accept(&mda, with_dialogue(To::Remote("x@far.net".into())), "4@x").await;
    for id in [&young, &old, &ancient] {
        eventually("it is delivered", SOON, || async {
            names(&mda, id).await.contains(&"delivered".to_owned()).then_some(())
        })
        .await;
    }
    age(&pool, &old, 10).await;
    age(&pool, &ancient, 40).await;
    age(&pool, &open, 40).await;
    days::keep(&pool, Retention { days: 30, dialogue_days: 7 }).await.unwrap();

    let has_dialogue = async |id: &str| events(&mda, id).await.iter().any(|e| e.detail.contains("C: X"));
    assert!(has_dialogue(&young).await);
    assert_eq!(names(&mda, &old).await, ["received", "queued", "delivered"]);
    assert!(!has_dialogue(&old).await);
    let recipient = FindRequest { recipient: "to@example.com".into(), ..Default::default() };
    assert_eq!(found(&mda, recipient).await, [young, old]);
    assert!(found(&mda, FindRequest { id: ancient.clone(), ..Default::default() }).await.is_empty());
    assert_eq!(found(&mda, FindRequest { id: open.clone(), ..Default::default() }).await, [open]);
    let left: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'journey'::regclass and c.relname < 'journey_p' || to_char(now() - interval '31 days', 'YYYYMMDD')
           and c.relname ~ '_p'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(left.is_empty(), "{left:?}");
    mda.stop().await;
}

#[tokio::test]
async fn events_of_a_day_without_partition_are_not_lost() {
    let mda = Mda::start().await;
    let pool = PgPool::connect(&mda.database_url).await.unwrap();
    let in_default = "insert into journey (queue_id, at, name, service, recipient, text, detail)
                      values ($1, now() + interval '9 days', 'late', 'test', '', '', '')";
    let id = uuid::Uuid::now_v7();
    sqlx::query(in_default).bind(id).execute(&pool).await.unwrap();
    let place = async || -> String {
        sqlx::query("select tableoid::regclass::text from journey where queue_id = $1")
            .bind(id)
            .fetch_one(&pool)
            .await
            .unwrap()
            .get(0)
    };
    assert_eq!(place().await, "journey_default");
    for _again in 0..2 {
        sqlx::query("select journey_day('journey', ((now() + interval '9 days') at time zone 'utc')::date)")
            .execute(&pool)
            .await
            .unwrap();
    }
    assert!(place().await.starts_with("journey_p"), "{}", place().await);
    mda.stop().await;
}

#[tokio::test]
async fn journeys_from_before_are_found_after_an_upgrade() {
    let url = database().await;
    let mut sql = PgConnection::connect(&url).await.unwrap();
    let mut before = sqlx::migrate::Migrator::new(std::path::Path::new("../migrations")).await.unwrap();
    before.migrations = Cow::Owned(before.migrations.iter().filter(|m| m.version < 20).cloned().collect());
    before.run(&mut sql).await.unwrap();
    let id = queue_id();
    sqlx::query(
        "insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size, eight_bit, smtputf8, junk)
         values ($1, 'A@else.net', 0, 'm@x', '', '', '', 5, false, false, false)",
    )
    .bind(uuid_of(&id))
    .execute(&mut sql)
    .await
    .unwrap();
    for (at, name) in [("now() - interval '2 days'", "queued"), ("now()", "delivered")] {
        let insert = format!(
            "insert into journey (queue_id, at, name, service, recipient, text, detail)
             values ($1, {at}, '{name}', 'mda', 'Bob@example.com', '', '')"
        );
        sqlx::query(sqlx::AssertSqlSafe(insert)).bind(uuid_of(&id)).execute(&mut sql).await.unwrap();
    }
    let mda = Mda::start_with(|config| config.database_url = url.clone()).await;
    let bob = mda.account("bob@example.com").await;
    let recipient = FindRequest { recipient: "bob@example.com".into(), ..Default::default() };
    assert_eq!(found(&mda, recipient.clone()).await, std::slice::from_ref(&id));
    assert_eq!(names(&mda, &id).await.last().unwrap(), "delivered");
    let fresh = accept(&mda, envelope("a@else.net", 0, "bob@example.com", To::AccountId(bob)), "n@x").await;
    assert_eq!(found(&mda, recipient).await, [fresh, id]);
    mda.stop().await;
}

#[tokio::test]
async fn the_first_fetch_is_told_once() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let by_imap = accept(&mda, envelope("a@else.net", 0, "bob@example.com", To::AccountId(bob)), "1@x").await;
    let by_pop3 = accept(&mda, envelope("a@else.net", 0, "bob@example.com", To::AccountId(bob)), "2@x").await;
    let select = || async {
        let request = SelectRequest { account_id: bob, name: "INBOX".into(), ..Default::default() };
        let mut stream = mda.mailboxes().select(request).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap()
    };
    let first =
        eventually("both are there", SOON, || async { Some(select().await).filter(|s| s.uids.len() == 2) }).await;
    let mailbox_id = first.state.unwrap().mailbox_id;
    let fetch = async |reader: &str, body: bool| {
        let request = FetchRequest {
            account_id: bob,
            mailbox_id,
            uids: vec![UidRange { first: 1, last: 1 }],
            header: true,
            body,
            reader: reader.into(),
            ..Default::default()
        };
        let mut stream = mda.mailboxes().fetch(request).await.unwrap().into_inner();
        while stream.message().await.unwrap().is_some() {}
    };
    // Neither a search nor a list of subjects is reading.
    fetch("", true).await;
    fetch("imap", false).await;
    assert_eq!(names(&mda, &by_imap).await, ["queued", "delivered"]);
    fetch("imap", true).await;
    fetch("imap", true).await;
    let told = events(&mda, &by_imap).await;
    let told: Vec<_> = told.iter().map(|e| (e.name.as_str(), e.service.as_str(), e.recipient.as_str())).collect();
    assert_eq!(told[2..], [("fetched", "imap-gateway", "bob@example.com")]);
    for _again in 0..2 {
        let request =
            ContentRequest { account_id: bob, mailbox_id, uid: 2, start: 0, end: u64::MAX, reader: "pop3".into() };
        let mut stream = mda.mailboxes().content(request).await.unwrap().into_inner();
        while stream.message().await.unwrap().is_some() {}
    }
    assert_eq!(names(&mda, &by_pop3).await, ["queued", "delivered", "fetched"]);
    mda.stop().await;
}

/// Through every service: what a support desk asks.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_answers_where_a_message_is() {
    let site = Site::up(Options::new("127.0.0.21", free_port_offset(&["127.0.0.21"]), "example.com"));
    site.account("bob@example.com");
    let program = r#"
smtp = smtplib.SMTP(HOST, PORT[25]); smtp.ehlo("client.else.net")
smtp.mail("lost@else.net"); assert smtp.rcpt("nobody@example.com")[0] == 550; smtp.quit()
smtp = smtplib.SMTP(HOST, PORT[25]); smtp.ehlo("client.else.net")
smtp.mail("early@else.net"); assert smtp.rcpt("nobody@example.com")[0] == 550
assert smtp.rcpt("bob@example.com")[0] == 250
code, text = smtp.data(b" folded\r\nSubject: secret words\r\nMessage-ID: <bad@else.net>\r\n\r\nx\r\n"); assert code == 554, (code, text)
smtp.mail("half@else.net"); smtp.rcpt("nobody@example.com"); assert smtp.rcpt("bob@example.com")[0] == 250
code, text = smtp.data(b"From: half@else.net\r\nSubject: secret words\r\nMessage-ID: <half@else.net>\r\n\r\nx\r\n"); assert code == 250, (code, text)
smtp.quit()
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
for _ in range(1200):
    if int(imap.select("INBOX")[1][0]): break
    time.sleep(0.1)
assert b"half@else.net" in imap.fetch("1", "(BODY.PEEK[])")[1][0][1]
imap.logout()
"#;
    python(&site, program);
    let trace = |options: &[&str]| {
        let output = site.try_cli("trace", options, "");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let lost = eventually("the refusal is told", SOON, || async {
        Some(trace(&["--sender", "LOST@else.net"])).filter(|t| t.contains("refused"))
    })
    .await;
    for part in ["550 5.1.1", "nobody@example.com", "C: rcpt TO:<nobody@example.com>", "S: 550 5.1.1"] {
        assert!(lost.contains(part), "{part} in {lost}");
    }
    let early = eventually("so is that of the content", SOON, || async {
        Some(trace(&["--sender", "early@else.net"])).filter(|t| t.contains("554 5.6.0"))
    })
    .await;
    assert!(early.contains("550 5.1.1") && !early.contains("secret words"), "{early}");
    let half = eventually("the other message is read", SOON, || async {
        Some(trace(&["<half@else.net>"])).filter(|t| t.contains("fetched"))
    })
    .await;
    for part in
        ["received", "refused", "verdict", "queued", "into INBOX", "first time by IMAP", "S: 250 2.0.0 Ok: queued"]
    {
        assert!(half.contains(part), "{part} in {half}");
    }
    let listed = trace(&["--recipient", "bob@example.com", "--since", "1h"]);
    assert_eq!(listed.lines().filter(|l| l.contains("from <")).count(), 2, "{listed}");
    assert!(trace(&["--recipient", "bob@example.com", "--until", "1h"]).is_empty());
    assert!(!site.try_cli("trace", &["--sender", "x@y", "--since", "soon"], "").status.success());
}
