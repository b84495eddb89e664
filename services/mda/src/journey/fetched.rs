//! The last hop: a mail program has the message, for the first time in that account.

use std::time::Duration;

use sqlx::PgPool;

/// BODY[] also sets \Seen: while that holds a row it is left alone, and looked at again soon.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Marking and telling are one statement, so that it is told once. What was stored by APPEND has
/// no journey; a copy in another mailbox is not a first time.
///
/// No join of the table with itself: before a new mailbox's statistics are there, the planner may read
/// all of it for each message.
const TELL: &str = "
with free as materialized (
    select uid from messages
    where account_id = $1 and mailbox_id = $2 and uid = any ($3) and not fetched
    order by uid for update skip locked
), first as (
    update messages m set fetched = true
    where m.account_id = $1 and m.mailbox_id = $2 and m.uid = any (array(select uid from free)) and not m.fetched
    returning m.content_id
), told as (
    insert into journey (queue_id, name, service, recipient, text, detail)
    select s.queue_id, 'fetched', $4 || '-gateway', a.address, 'first time by ' || upper($4), ''
    from (select distinct content_id from first) f
    join spool s on s.queue_id = f.content_id
    join accounts a on a.id = $1
    where not exists (select from journey j
                      where j.queue_id = s.queue_id and j.name = 'fetched' and j.recipient = a.address
                        and j.at >= s.accepted_at)
)
select count(*) from first";

/// Nobody's mail waits or fails for it.
pub async fn tell(pool: &PgPool, reader: &str, account_id: i64, mailbox_id: i64, uids: &[i64]) {
    if !matches!(reader, "imap" | "pop3") || uids.is_empty() {
        return;
    }
    let mut marked = 0;
    for pause in (0..TRIES).map(|n| PAUSE * n) {
        tokio::time::sleep(pause).await;
        let told = sqlx::query_scalar::<_, i64>(TELL).bind(account_id).bind(mailbox_id).bind(uids).bind(reader);
        match told.fetch_one(pool).await {
            Ok(now) => marked += usize::try_from(now).unwrap_or_default(),
            Err(e) => return tracing::warn!(error = %e, messages = uids.len(), "first fetch not told"),
        }
        // Less: a row that somebody holds, or that another session has just told of.
        if marked >= uids.len() {
            return;
        }
    }
}
