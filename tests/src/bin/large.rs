//! `large [MESSAGES]`: how a mailbox of a million messages compares with an empty one, and what one
//! message to 1,000 mailboxes costs. Prints figures and asserts only counts.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for developers; the figures are the result")]

use std::time::{Duration, Instant};

use address::QueueId;
use proto::{
    mailboxes::{SelectRequest, StatusRequest},
    spool::{AcceptRequest, Envelope, Recipient, Target, target::To},
};
use sqlx::PgConnection;
use tests::storage::Mda;

const SENT: usize = 2_000;
const AT_ONCE: usize = 20;
const ROUNDS: usize = 200;

async fn accept(mda: &Mda, accounts: &[u64]) {
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let recipient = |id: &u64| Recipient {
        forward_path: format!("{id}@example.com"),
        targets: vec![Target { to: Some(To::AccountId(*id)) }],
        ..Default::default()
    };
    let recipients = accounts.iter().map(recipient).collect();
    let envelope = Envelope { queue_id, recipients, ..Default::default() };
    let content = format!("Subject: one of many\r\n\r\n{}", "0123456789abcdef\r\n".repeat(100));
    let request = AcceptRequest { envelope: Some(envelope), content: content.into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
}

/// Rows as deliveries leave them, made by the database itself.
async fn fill(sql: &mut PgConnection, account: u64, messages: i64) {
    let statements = [
        "insert into contents (id, size, header, body, structure)
         select md5($1::text || n)::uuid, 100, '', '', '' from generate_series(1, $2) n",
        "insert into messages (account_id, mailbox_id, uid, modseq, content_id, internal_date, size)
         select b.account_id, b.id, n, n + 1, md5($1::text || n)::uuid, now(), 100
         from mailboxes b, generate_series(1, $2) n where b.account_id = $1 and b.name = 'INBOX'",
        "update mailboxes set uid_next = $2 + 1, highest_modseq = $2 + 1, messages = $2, unseen = $2, size = 100 * $2
         where account_id = $1 and name = 'INBOX'",
    ];
    for statement in statements {
        sqlx::query(statement).bind(account as i64).bind(messages).execute(&mut *sql).await.unwrap();
    }
    // Each by itself: two in one string are a transaction, where neither may run.
    for vacuum in ["vacuum analyze messages", "vacuum analyze contents"] {
        sqlx::raw_sql(vacuum).execute(&mut *sql).await.unwrap();
    }
}

async fn settled(sql: &mut PgConnection) {
    while sqlx::query_scalar::<_, i64>("select count(*) from deliveries").fetch_one(&mut *sql).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn deliver(mda: &Mda, sql: &mut PgConnection, account: u64) -> Duration {
    let start = Instant::now();
    let sessions = (0..AT_ONCE).map(|_| async {
        for _ in 0..SENT / AT_ONCE {
            accept(mda, &[account]).await;
        }
    });
    futures::future::join_all(sessions).await;
    settled(sql).await;
    start.elapsed() / u32::try_from(SENT).unwrap()
}

async fn status(mda: &Mda, account_id: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        let request = StatusRequest { account_id, names: vec!["INBOX".into()], ..Default::default() };
        mda.mailboxes().status(request).await.unwrap();
    }
    start.elapsed() / u32::try_from(ROUNDS).unwrap()
}

async fn select(mda: &Mda, account_id: u64) -> (Duration, Duration, usize) {
    let start = Instant::now();
    let request = SelectRequest { account_id, name: "INBOX".into(), claim_recent: false };
    let mut stream = mda.mailboxes().select(request).await.unwrap().into_inner();
    let (mut first, mut uids) = (None, 0);
    while let Some(answer) = stream.message().await.unwrap() {
        first.get_or_insert_with(|| start.elapsed());
        uids += answer.uids.len();
    }
    (first.unwrap(), start.elapsed(), uids)
}

#[tokio::main]
async fn main() {
    let messages: i64 = std::env::args().nth(1).map_or(1_000_000, |n| n.parse().expect("a number of messages"));
    let mda = Mda::start().await;
    let mut sql = mda.sql().await;
    let (empty, large) = (mda.account("empty@example.com").await, mda.account("large@example.com").await);
    fill(&mut sql, large, messages).await;
    println!("{messages} messages, {SENT} more by {AT_ONCE} sessions; debug builds and a loaded machine tell little");
    for round in 1..=3 {
        let (e, l) = (deliver(&mda, &mut sql, empty).await, deliver(&mda, &mut sql, large).await);
        println!(
            "delivery, ms a message, round {round}: empty {:.3}, large {:.3}, ratio {:.2}",
            ms(e),
            ms(l),
            ms(l) / ms(e)
        );
    }
    let (e, l) = (status(&mda, empty).await, status(&mda, large).await);
    println!("STATUS, ms: empty {:.3}, large {:.3}, ratio {:.2}", ms(e), ms(l), ms(l) / ms(e));
    let (first, all, uids) = select(&mda, large).await;
    println!(
        "SELECT of {uids} UIDs, ms: first answer {:.1}, all {:.1} ({:.0} ns a UID)",
        ms(first),
        ms(all),
        ms(all) * 1e6 / uids as f64
    );

    let mut accounts = Vec::new();
    for n in 0..1_000 {
        // A password is dear to hash a thousand times.
        let id: i64 = sqlx::query_scalar(
            "with a as (insert into accounts (tenant_id, domain, address, password)
                        select tenant_id, name, $1, '' from domains where name = 'example.com' returning id)
             insert into mailboxes (account_id, name) select id, 'INBOX' from a returning account_id",
        )
        .bind(format!("r{n}@example.com"))
        .fetch_one(&mut sql)
        .await
        .unwrap();
        accounts.push(id.unsigned_abs());
    }
    let contents = "select count(*) from contents";
    let before: i64 = sqlx::query_scalar(contents).fetch_one(&mut sql).await.unwrap();
    let start = Instant::now();
    accept(&mda, &accounts).await;
    let accepted = start.elapsed();
    settled(&mut sql).await;
    let after: i64 = sqlx::query_scalar(contents).fetch_one(&mut sql).await.unwrap();
    assert_eq!(after - before, 1, "the content is stored once");
    println!(
        "one message to 1,000 mailboxes, ms: accepted {:.1}, in all of them {:.1}",
        ms(accepted),
        ms(start.elapsed())
    );
    mda.stop().await;
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
