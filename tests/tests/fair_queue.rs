//! One tenant's flood does not keep another's mail waiting; what nobody can work on goes aside.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use address::QueueId;
use proto::{
    admin::{
        ChangeQueueRequest, CreateDomainRequest, CreateTenantRequest, ListQueueRequest, QueueEntry,
        change_queue_request::Action,
    },
    spool::{AcceptRequest, ClaimRequest, DeliveryId, Envelope, Recipient, Target, target::To},
};
use queue::{Consumer, Stream};
use sqlx::PgConnection;
use tests::{eventually, storage::Mda};

const SOON: Duration = Duration::from_secs(90);

/// Many deliveries of one message, due now, as if their stream had been full.
async fn flood(sql: &mut PgConnection, tenant: &str, account: Option<u64>, count: i32) {
    let id = uuid::Uuid::now_v7();
    let stored = mda::content::prepare(b"Subject: flood\r\n\r\nx\r\n"[..].into()).await.unwrap();
    sqlx::query("insert into contents (id, size, header, body, structure) values ($1, $2, $3, $4, $5)")
        .bind(id)
        .bind(stored.size)
        .bind(stored.header)
        .bind(stored.body)
        .bind(stored.structure)
        .execute(&mut *sql)
        .await
        .unwrap();
    sqlx::query(
        "insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size, eight_bit,
                            smtputf8, junk)
         values ($1, '', 0, '', '', '', '', $2, false, false, false)",
    )
    .bind(id)
    .bind(stored.size)
    .execute(&mut *sql)
    .await
    .unwrap();
    sqlx::query(
        "insert into deliveries (queue_id, number, recipient, account_id, remote, notify, orcpt, due_at, tenant_id)
         select $1, n, 'f@x.com', $2, case when $2 is null then 'f' || n || '@else.org' end, '', '',
                now() - interval '1 hour', (select id from tenants where name = $3)
         from generate_series(0, $4 - 1) n",
    )
    .bind(id)
    .bind(account.map(|a| a as i64))
    .bind(tenant)
    .bind(count)
    .execute(&mut *sql)
    .await
    .unwrap();
}

async fn tenant(mda: &Mda, name: &str, domain: &str) {
    mda.admin().create_tenant(CreateTenantRequest { name: name.into() }).await.unwrap();
    let request = CreateDomainRequest { name: domain.into(), tenant: name.into() };
    mda.admin().create_domain(request).await.unwrap();
}

async fn accept(mda: &Mda, account_id: u64, target: To) -> String {
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let recipient =
        Recipient { forward_path: "b@x.com".into(), targets: vec![Target { to: Some(target) }], ..Default::default() };
    let envelope =
        Envelope { queue_id: queue_id.clone(), account_id, recipients: vec![recipient], ..Default::default() };
    let request = AcceptRequest { envelope: Some(envelope), content: "Subject: ten\r\n\r\n".into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    queue_id
}

/// Order is what is looked at, and no clock: when the last of the ten is there, nearly all of the
/// flood still waits.
#[tokio::test]
async fn ten_messages_overtake_a_flood_of_another_tenant_into_mailboxes() {
    let mda = Mda::start_with(|config| config.stream_bound = 500).await;
    for (name, domain) in [("loud", "loud.com"), ("quiet", "quiet.com")] {
        tenant(&mda, name, domain).await;
    }
    let (loud, quiet) = (mda.account("a@loud.com").await, mda.account("b@quiet.com").await);
    let mut sql = mda.sql().await;
    flood(&mut sql, "loud", Some(loud), 40_000).await;
    for _ in 0..10 {
        accept(&mda, 0, To::AccountId(quiet)).await;
    }
    let start = std::time::Instant::now();
    loop {
        let (there, waiting): (i64, i64) = sqlx::query_as(
            "select (select count(*) from messages where account_id = $1),
                    (select count(*) from deliveries where account_id = $2)",
        )
        .bind(quiet as i64)
        .bind(loud as i64)
        .fetch_one(&mut sql)
        .await
        .unwrap();
        if there == 10 {
            eprintln!("{waiting} of the flood still wait");
            assert!(waiting > 20_000, "only {waiting} of 40,000 wait when the ten are there");
            break;
        }
        assert!(start.elapsed() < SOON, "{there} of ten, {waiting} of the flood wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn ten_messages_overtake_a_flood_of_another_tenant_to_other_hosts() {
    let mda = Mda::start_with(|config| config.stream_bound = 200).await;
    for (name, domain) in [("loud", "loud.com"), ("quiet", "quiet.com")] {
        tenant(&mda, name, domain).await;
    }
    let quiet = mda.account("b@quiet.com").await;
    let mut sql = mda.sql().await;
    flood(&mut sql, "loud", None, 20_000).await;
    // The stream is full of it before the ten come.
    eventually("the stream is full", SOON, || async {
        mda.redis.command(&["XLEN", "postroad:{remote}"]).ok().filter(|n| n.parse::<usize>().unwrap_or(0) >= 200)
    })
    .await;
    let mut ten = Vec::new();
    for n in 0..10 {
        ten.push(accept(&mda, quiet, To::Remote(format!("q{n}@else.org"))).await);
    }
    let url = mda.redis.url().try_into().unwrap();
    let mut consumer = Consumer::new(&url, Stream::Remote, "test".into(), 50);
    let acknowledger = consumer.acknowledger();
    let (mut before, mut found) = (0, 0);
    while found < 10 {
        let entries = consumer.next().await;
        found += entries.iter().filter(|e| ten.contains(&e.delivery.queue_id)).count();
        before += entries.len();
        acknowledger.acknowledge(&entries).await;
        assert!(before < 10_000, "{found} of ten after {before} entries");
    }
    eprintln!("the ten came within {before} entries");
    assert!(before < 2_000, "the ten came within {before} entries");
}

async fn set_aside(mda: &Mda) -> Vec<QueueEntry> {
    let request = ListQueueRequest { set_aside: true, ..Default::default() };
    mda.admin().list_queue(request).await.unwrap().into_inner().entries
}

#[tokio::test]
async fn what_the_database_refuses_goes_aside_and_comes_back_by_hand() {
    let mda = Mda::start().await;
    let (ann, bob) = (mda.account("ann@example.com").await, mda.account("bob@example.com").await);
    let mut sql = mda.sql().await;
    let poison = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'poison'; end $$;
         create trigger refuse before insert on messages for each row when (new.account_id = {bob}) execute function refuse()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(poison)).execute(&mut sql).await.unwrap();
    let id = accept(&mda, 0, To::AccountId(bob)).await;
    for _ in 0..20 {
        accept(&mda, 0, To::AccountId(ann)).await;
    }
    let entry = eventually("it is set aside", SOON, || async { set_aside(&mda).await.pop() }).await;
    assert!(entry.queue_id == id && entry.held && entry.last_text.contains("poison"), "{entry:?}");
    let (open, told): (i64, i64) = sqlx::query_as(
        "select (select count(*) from deliveries), (select count(*) from journey where name = 'set aside')",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    assert_eq!((open, told), (1, 1), "everybody else's mail went on");

    sqlx::query("drop trigger refuse on messages").execute(&mut sql).await.unwrap();
    let filter = Some(ListQueueRequest { set_aside: true, ..Default::default() });
    let retry = ChangeQueueRequest { action: Action::Retry.into(), filter, ..Default::default() };
    assert_eq!(mda.admin().change_queue(retry).await.unwrap().into_inner().changed, 1);
    let start = std::time::Instant::now();
    while sqlx::query_scalar::<_, i64>("select count(*) from deliveries").fetch_one(&mut sql).await.unwrap() > 0 {
        assert!(start.elapsed() < SOON, "it is not delivered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let there: i64 = sqlx::query_scalar("select count(*) from messages where account_id = $1")
        .bind(bob as i64)
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(there, 1);
}

#[tokio::test]
async fn a_delivery_whose_leases_end_without_a_word_goes_aside() {
    let mda = Mda::start().await;
    let id = accept(&mda, 0, To::Remote("x@else.org".into())).await;
    let mut sql = mda.sql().await;
    let request = || ClaimRequest {
        deliveries: vec![DeliveryId { queue_id: id.clone(), number: 0 }],
        lease_ms: 1_000,
        ..Default::default()
    };
    assert_eq!(mda.spool().claim(request()).await.unwrap().into_inner().claimed.len(), 1);
    // Nineteen more have ended like this one will.
    sqlx::query("update deliveries set lost = 19").execute(&mut sql).await.unwrap();
    let entry = eventually("it is set aside", SOON, || async {
        assert!(mda.spool().claim(request()).await.unwrap().into_inner().claimed.is_empty());
        set_aside(&mda).await.pop()
    })
    .await;
    assert!(entry.queue_id == id && entry.last_text.contains("without a word"), "{entry:?}");
}
