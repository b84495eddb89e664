//! Search in a large journey: a month of generated events, asked through gRPC.

use std::time::{Duration, Instant};

use address::QueueId;
use proto::journey::{FindRequest, TraceRequest};
use sqlx::{Connection as _, PgConnection};

use crate::storage::Mda;

const DAYS: i64 = 30;
/// Questions of each kind, each about something else.
const QUESTIONS: usize = 60;
/// A message has as many events, and two addresses: as written, and the account's.
const EVENTS: u64 = 4;
/// Messages written by one statement.
const BATCH: u64 = 100_000;

/// Some send and get a lot (0 gets one of 50), the others little.
const MESSAGES: &str = "
create temp table m as
select n, at, (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 5, 15))::uuid as id,
       's' || (case when n % 50 = 0 then 0 else n * 7919 % 40000 end) || '@else' || (n % 97) || '.net' as sender,
       'r' || (case when n % 50 = 1 then 0 else n * 104729 % 100000 end) || '@example.com' as recipient,
       n % 500 + 1000 as tenant
from (select n, md5(n::text) as h, now() - (n::float8 / $3) * make_interval(days => $4) - interval '1 minute' as at
      from generate_series($1::bigint, $2::bigint) n) x";

const WRITES: [&str; 4] = [
    "insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size, eight_bit,
                        smtputf8, junk, accepted_at, tenants)
     select id, sender, 0, n || '@else.net', '', '', '00-' || replace(id::text, '-', '') || '-0000000000000001-01', 5000,
            false, false, false, at, array[tenant] from m",
    "insert into journey_recipients (at, queue_id, recipient, sender, tenant_id)
     select at, id, recipient, sender, tenant from m union all select at, id, 'alias-' || recipient, sender, tenant from m",
    "insert into journey (queue_id, at, name, service, recipient, text, detail)
     select id, at + e * interval '20 milliseconds', (array['received', 'verdict', 'queued', 'delivered'])[e],
            (array['smtp-ingress', 'auth-checker', 'mda', 'mda'])[e], case when e = 4 then recipient else '' end,
            'accept: spf=pass dkim=pass dmarc=pass', '{\"peer\":\"192.0.2.1\",\"helo\":\"mail.else.net\",\"port\":\"mx\"}'
     from m, generate_series(1, 4) e",
    "insert into journey_dialogues (queue_id, at, event, lines)
     select id, at, n, repeat('S: 250 2.0.0 a line of a dialogue' || chr(10), 12) from m where n % 10 = 0",
];

/// Generates so many events and returns a table of how long answers took.
pub async fn measure(events: u64) -> String {
    let mda = Mda::start().await;
    let mut sql = mda.sql().await;
    let messages = events / EVENTS;
    eprintln!("journey: writing {messages} messages with {events} events");
    let started = Instant::now();
    generate(&mut sql, messages).await;
    eprintln!("journey: written in {:.0} s", started.elapsed().as_secs_f64());
    let day = 86_400_000;
    let now =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let n = |i: usize| (i as u64 * 48_271 + 11) % messages;
    let sender = |n: u64| format!("s{}@else{}.net", if n.is_multiple_of(50) { 0 } else { n * 7_919 % 40_000 }, n % 97);
    let recipient = |n: u64| format!("r{}@example.com", if n % 50 == 1 { 0 } else { n * 104_729 % 100_000 });
    let since = |i: usize| now - (i as i64 % DAYS + 1) * day;
    let f = FindRequest::default;
    let kinds: Vec<(&str, Vec<FindRequest>)> = vec![
        ("Message-ID", (0..QUESTIONS).map(|i| FindRequest { id: format!("<{}@else.net>", n(i)), ..f() }).collect()),
        ("sender", (0..QUESTIONS).map(|i| FindRequest { sender: sender(n(i)), ..f() }).collect()),
        ("recipient", (0..QUESTIONS).map(|i| FindRequest { recipient: recipient(n(i)), ..f() }).collect()),
        ("sender of very much", vec![FindRequest { sender: "s0@else0.net".into(), ..f() }; QUESTIONS]),
        ("recipient of very much", vec![FindRequest { recipient: "r0@example.com".into(), ..f() }; QUESTIONS]),
        (
            "recipient, one day",
            (0..QUESTIONS)
                .map(|i| FindRequest {
                    recipient: recipient(n(i)),
                    since_ms: since(i),
                    until_ms: since(i) + day,
                    ..f()
                })
                .collect(),
        ),
        (
            "sender and recipient",
            (0..QUESTIONS).map(|i| FindRequest { sender: sender(n(i)), recipient: recipient(n(i)), ..f() }).collect(),
        ),
        ("tenant", (0..QUESTIONS).map(|i| FindRequest { tenant: format!("t{}", n(i) % 500), ..f() }).collect()),
        (
            "sender within a tenant",
            (0..QUESTIONS)
                .map(|i| FindRequest { sender: sender(n(i)), tenant: format!("t{}", n(i) % 500), ..f() })
                .collect(),
        ),
        (
            "one day, newest first",
            (0..QUESTIONS).map(|i| FindRequest { since_ms: since(i), until_ms: since(i) + day, ..f() }).collect(),
        ),
        ("nobody", (0..QUESTIONS).map(|i| FindRequest { recipient: format!("no{i}@example.com"), ..f() }).collect()),
    ];
    let mut text = format!(
        "Search among {events} events of {messages} messages, {DAYS} days, {QUESTIONS} questions of each kind, ms\n\n{:<26} {:>7} {:>7} {:>7}  found\n",
        "", "median", "95th", "worst"
    );
    for (kind, requests) in kinds {
        let (mut times, mut found) = (Vec::new(), 0);
        for request in requests {
            let started = Instant::now();
            found += mda.journey().find(request).await.unwrap().into_inner().messages.len();
            times.push(started.elapsed());
        }
        text.push_str(&line(kind, times, found));
    }
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("select queue_id from spool tablesample system (1) limit $1")
        .bind(QUESTIONS as i64)
        .fetch_all(&mut sql)
        .await
        .unwrap();
    let (mut times, mut found) = (Vec::new(), 0);
    for id in ids {
        let queue_id = QueueId::from_bytes(id.into_bytes()).to_string();
        let started = Instant::now();
        let mut stream = mda.journey().trace(TraceRequest { queue_id, follow: false }).await.unwrap().into_inner();
        while let Some(answer) = stream.message().await.unwrap() {
            found += answer.events.len();
        }
        times.push(started.elapsed());
    }
    text.push_str(&line("queue id, all its events", times, found));
    mda.stop().await;
    text
}

fn line(kind: &str, mut times: Vec<Duration>, found: usize) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("{kind:<26} {:>7.1} {:>7.1} {:>7.1} {found:>6}\n", at(0.5), at(0.95), at(1.0))
}

async fn generate(sql: &mut PgConnection, messages: u64) {
    sqlx::query("insert into tenants (name, id) overriding system value select 't' || n, n + 1000 from generate_series(0, 499) n")
        .execute(&mut *sql)
        .await
        .unwrap();
    for table in ["journey", "journey_dialogues", "journey_recipients"] {
        sqlx::query("select journey_day($1, (now() at time zone 'utc')::date - n) from generate_series(0, $2) n")
            .bind(table)
            .bind(i32::try_from(DAYS).unwrap() + 1)
            .execute(&mut *sql)
            .await
            .unwrap();
    }
    for first in (0..messages).step_by(BATCH as usize) {
        let mut tx = sql.begin().await.unwrap();
        sqlx::query(MESSAGES)
            .bind(first as i64)
            .bind((first + BATCH).min(messages) as i64 - 1)
            .bind(messages as f64)
            .bind(i32::try_from(DAYS).unwrap())
            .execute(&mut *tx)
            .await
            .unwrap();
        for write in WRITES {
            sqlx::query(write).execute(&mut *tx).await.unwrap();
        }
        sqlx::query("drop table m").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    sqlx::query("vacuum analyze").execute(sql).await.unwrap();
}
