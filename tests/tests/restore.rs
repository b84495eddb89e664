//! Backup and upgrade: a dump that was taken while mail came in, and a schema that changes under load.

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use address::QueueId;
use proto::{
    admin::ListQueueRequest,
    spool::{AcceptRequest, ClaimRequest, DeliveryId, Envelope, Recipient, Target, target::To},
};
use sqlx::{Connection as _, PgConnection, PgPool, types::Uuid};
use tests::{
    process::program,
    storage::{Mda, database},
};

const SOON: Duration = Duration::from_secs(90);

async fn accept(mda: &Mda, target: To) -> String {
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let recipient =
        Recipient { forward_path: "b@x.com".into(), targets: vec![Target { to: Some(target) }], ..Default::default() };
    let envelope = Envelope { queue_id: queue_id.clone(), recipients: vec![recipient], ..Default::default() };
    let content = format!("Subject: {queue_id}\r\n\r\nbody\r\n");
    let request = AcceptRequest { envelope: Some(envelope), content: content.into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    queue_id
}

async fn count(sql: &mut PgConnection, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(sql).await.unwrap()
}

/// Runs until the statement counts nothing.
async fn until_none(sql: &mut PgConnection, statement: &'static str) {
    let start = std::time::Instant::now();
    while count(sql, statement).await > 0 {
        assert!(start.elapsed() < SOON, "{statement}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const COUNTERS_WRONG: &str = "
select count(*) from mailboxes b left join lateral (
    select count(*) n, count(*) filter (where flags & 1 = 0) unseen, coalesce(sum(size), 0) size, coalesce(max(uid), 0) uid
    from messages m where m.account_id = b.account_id and m.mailbox_id = b.id) c on true
where (b.messages, b.unseen, b.size) <> (c.n, c.unseen, c.size) or b.uid_next <= c.uid";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_taken_while_mail_comes_in_is_restored_without_loss() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let (mut before, is_over) = (Vec::new(), AtomicBool::new(false));
    for n in 0..200 {
        // What goes elsewhere waits: nobody relays here.
        let target = if n % 4 == 0 { To::Remote(format!("x{n}@else.org")) } else { To::AccountId(bob) };
        before.push((accept(&mda, target).await, n % 4 == 0));
    }
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("mail.dump");
    let writing = async {
        let mut written = 0;
        while !is_over.load(Ordering::Relaxed) {
            accept(&mda, To::AccountId(bob)).await;
            written += 1;
        }
        written
    };
    let dumping = async {
        let (url, dump, is_over) = (mda.database_url.clone(), dump.clone(), &is_over);
        let task = tokio::task::spawn_blocking(move || {
            run(Command::new(program("pg_dump", "postgresql-client-15")).args(["-Fc", "-d", &url, "-f"]).arg(dump));
        });
        task.await.unwrap();
        is_over.store(true, Ordering::Relaxed);
    };
    let (during, ()) = futures::join!(writing, dumping);
    eprintln!("{during} messages came in during the dump");

    // The site is lost; the dump and an empty Redis are what there is.
    let restored = database().await;
    run(Command::new(program("pg_restore", "postgresql-client-15")).args(["-d", &restored]).arg(&dump));
    mda.stop().await;
    let again = Mda::start_with(|config| config.database_url = restored.clone()).await;
    let mut sql = PgConnection::connect(&restored).await.unwrap();
    until_none(&mut sql, "select count(*) from deliveries where account_id is not null").await;
    for (queue_id, is_remote) in &before {
        let id: QueueId = queue_id.parse().unwrap();
        let times: i64 = sqlx::query_scalar("select count(*) from messages where content_id = $1")
            .bind(Uuid::from_bytes(id.to_bytes()))
            .fetch_one(&mut sql)
            .await
            .unwrap();
        assert_eq!(times, i64::from(!is_remote), "{queue_id}");
    }
    assert_eq!(count(&mut sql, COUNTERS_WRONG).await, 0);
    let remote: Vec<DeliveryId> = before
        .iter()
        .filter(|(_, is_remote)| *is_remote)
        .map(|(id, _)| DeliveryId { queue_id: id.clone(), number: 0 })
        .collect();
    let request = ClaimRequest { deliveries: remote.clone(), lease_ms: 60_000, ..Default::default() };
    let claimed = again.spool().claim(request).await.unwrap().into_inner().claimed;
    assert_eq!(claimed.len(), remote.len(), "what was to go out still is");
    let waiting = again.admin().list_queue(ListQueueRequest { limit: 1_000, ..Default::default() }).await.unwrap();
    assert_eq!(waiting.into_inner().entries.len(), remote.len());
    again.stop().await;
}

/// The schema of the version before, and data in it.
async fn previous(url: &str) -> PgPool {
    let pool = PgPool::connect(url).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    for file in std::fs::read_dir(migrations).unwrap().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sql") && name.as_str() < "0008" {
            std::fs::copy(file.path(), folder.path().join(name)).unwrap();
        }
    }
    sqlx::migrate::Migrator::new(folder.path()).await.unwrap().run(&pool).await.unwrap();
    sqlx::raw_sql(
        "insert into domains select 'example.com', id from tenants where name = 'default';
         insert into accounts (tenant_id, domain, address, password, quota_bytes)
         select t.id, 'example.com', n || '@example.com', '', case when n % 2 = 0 then 1000000 else 0 end
         from tenants t, generate_series(1, 20) n;
         insert into mailboxes (account_id, name) select id, 'INBOX' from accounts;
         insert into aliases values ('all@example.com', 'example.com', '{1@example.com}')",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool
}

/// What the version before does for one message: its acceptance, and its delivery.
const ACCEPT: &str = "
with s as (
    insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size, eight_bit,
                       smtputf8, junk)
    values ($1, '', 0, '', '', '', '', 100, false, false, false) returning queue_id
), c as (
    insert into contents (id, size, header, body, structure) select queue_id, 100, '', '', '' from s
)
insert into deliveries (queue_id, number, recipient, account_id, notify, orcpt, due_at)
select queue_id, 0, 'x', $2, '', '', now() + interval '1 hour' from s";
const DELIVER: &str = "
with mine as (
    select d.queue_id, d.account_id, b.id as mailbox_id from deliveries d
    join mailboxes b on b.account_id = d.account_id and b.name = 'INBOX' where d.queue_id = $1
), grown as (
    update mailboxes m set uid_next = m.uid_next + 1, highest_modseq = m.highest_modseq + 1,
        messages = m.messages + 1, unseen = m.unseen + 1, size = m.size + 100
    from mine where m.account_id = mine.account_id and m.id = mine.mailbox_id
    returning m.account_id, m.id, m.uid_next - 1 as uid, m.highest_modseq
), inserted as (
    insert into messages (account_id, mailbox_id, uid, modseq, content_id, internal_date, size)
    select g.account_id, g.id, g.uid, g.highest_modseq, mine.queue_id, now(), 100 from grown g, mine
)
delete from deliveries d using mine where d.queue_id = mine.queue_id";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_changes_while_the_version_before_goes_on_writing() {
    let url = database().await;
    let pool = previous(&url).await;
    let (is_over, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let accounts: Vec<i64> = sqlx::query_scalar("select id from accounts order by id").fetch_all(&pool).await.unwrap();
    let writer = |seed: usize| {
        let (pool, accounts, is_over, written) = (&pool, &accounts, &is_over, &written);
        async move {
            let mut n = seed;
            while !is_over.load(Ordering::Relaxed) {
                n += 1;
                let id = uuid::Uuid::now_v7();
                // No statement of it may fail: it only may have to wait.
                sqlx::query(ACCEPT).bind(id).bind(accounts[n % accounts.len()]).execute(pool).await.unwrap();
                sqlx::query(DELIVER).bind(id).execute(pool).await.unwrap();
                written.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let upgrade = async {
        while written.load(Ordering::Relaxed) < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mda = Mda::start_with(|config| config.database_url = url.clone()).await;
        // The version before goes on for a while: pods are replaced one by one.
        let goal = written.load(Ordering::Relaxed) + 200;
        while written.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        is_over.store(true, Ordering::Relaxed);
        mda
    };
    let (mda, ..) = futures::join!(upgrade, writer(0), writer(7), writer(13));
    let mut sql = PgConnection::connect(&url).await.unwrap();
    let all = written.load(Ordering::Relaxed) as i64;
    assert_eq!(count(&mut sql, "select count(*) from messages").await, all);
    assert_eq!(count(&mut sql, COUNTERS_WRONG).await, 0);
    let wrong = "select count(*) from accounts a left join quotas q on q.account_id = a.id
         cross join lateral (select coalesce(sum(size), 0) bytes, count(*) n from messages m where m.account_id = a.id) c
         where (a.quota_bytes > 0) <> (q.account_id is not null)
            or (q.account_id is not null and (q.bytes, q.messages) <> (c.bytes, c.n))";
    assert_eq!(count(&mut sql, wrong).await, 0, "accounts with a limit are counted, to the byte");
    until_none(&mut sql, "select count(*) from deliveries").await;
    mda.stop().await;
}
