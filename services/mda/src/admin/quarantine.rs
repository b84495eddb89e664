//! Quarantine: what a verdict, a filter or a scanner sent to Junk, and its way from there into INBOX.
//!
//! It is the account's own Junk, so whoever reads there may move it, too; what was moved is no more
//! in quarantine. What an account's owner put into Junk never was.

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use proto::{
    admin::{ListQuarantineRequest, ListQuarantineResponse, QuarantinedMessage, ReleaseQuarantinedRequest},
    mailboxes::{CopyRequest, UidRange},
};
use sqlx::{FromRow, PgPool, types::Uuid};
use tonic::Status;

use super::{address, domain, scope::Scope};
use crate::{
    content::{decompress, plain},
    database::status,
    ids,
    mailboxes::copy_in,
};

const LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
/// Characters that are shown of a field.
const SHOWN: usize = 200;
const MAX_NAME: usize = 100;

#[derive(FromRow)]
struct Row {
    queue_id: Uuid,
    address: String,
    sender: String,
    accepted_at: DateTime<Utc>,
    size: i32,
    seen: bool,
    reason: String,
    header: Vec<u8>,
}

/// `$1`: whose, by the words after it; `$2` tenant, `$3` before, `$4` limit. Each has its own
/// statement, so that each is planned by its own index.
macro_rules! list {
    ($whose:literal) => {
        concat!(
            r"select s.queue_id, a.address, s.reverse_path as sender, s.accepted_at, m.size, m.flags & 1 <> 0 as seen,
                     c.header,
                     coalesce((select string_agg(j.text, '; ' order by j.id) from journey j
                               where j.queue_id = s.queue_id and j.name in ('verdict', 'scanned')
                                 and j.at between s.accepted_at - interval '1 day' and s.accepted_at + interval '1 day'),
                              '') as reason
              from spool s
              join messages m on m.content_id = s.queue_id
              join mailboxes box on box.account_id = m.account_id and box.id = m.mailbox_id and box.special_use = '\Junk'
              join accounts a on a.id = m.account_id
              join contents c on c.id = s.queue_id
              where s.junk and ",
            $whose,
            "   and ($2::text is null or a.tenant_id = (select id from tenants where name = $2))
                and ($3::timestamptz is null or s.accepted_at < $3)
              order by s.accepted_at desc, s.queue_id, a.address limit $4"
        )
    };
}

pub async fn list(
    pool: &PgPool,
    request: ListQuarantineRequest,
    scope: &Scope,
) -> Result<ListQuarantineResponse, Status> {
    let (statement, whose) = match (request.address.as_str(), request.domain.as_str()) {
        ("", "") => (list!("$1 = ''"), String::new()),
        ("", name) => {
            let domain = domain(name)?;
            scope.sees(pool, &domain).await?;
            (list!("a.domain = $1"), domain.as_str().to_owned())
        }
        (text, _) => {
            let address = address(text)?;
            scope.sees(pool, address.domain()).await?;
            (list!("a.address = $1"), address.key())
        }
    };
    let before = match request.before_ms {
        0 => None,
        ms => Some(
            DateTime::from_timestamp_millis(ms)
                .filter(|at| (1970..=9999).contains(&chrono::Datelike::year(at)))
                .ok_or_else(|| Status::invalid_argument("before_ms: expected milliseconds since 1970"))?,
        ),
    };
    let limit = if request.limit == 0 { LIMIT } else { request.limit.min(MAX_LIMIT) };
    let mut rows = sqlx::query_as::<_, Row>(statement)
        .bind(whose)
        .bind(scope.tenant())
        .bind(before)
        .bind(i64::from(limit))
        .fetch(pool);
    let mut messages = Vec::new();
    // One header at a time: they may be large.
    while let Some(row) = rows.try_next().await.map_err(status)? {
        messages.push(shown(row)?);
    }
    Ok(ListQuarantineResponse { messages })
}

fn shown(row: Row) -> Result<QuarantinedMessage, Status> {
    let header = decompress(&row.header, usize::try_from(row.size).unwrap_or_default())?;
    Ok(QuarantinedMessage {
        queue_id: ids::show(row.queue_id),
        address: row.address,
        sender: row.sender,
        from: field(&header, "From"),
        subject: field(&header, "Subject"),
        accepted_at_ms: row.accepted_at.timestamp_millis(),
        size: u64::from(row.size.unsigned_abs()),
        seen: row.seen,
        reason: row.reason,
    })
}

/// For people: decoded, in one line, not long.
fn field(header: &[u8], name: &str) -> String {
    let value = message::field(header, name).unwrap_or_default();
    // Encoded, a character takes at most some twenty octets.
    let value = &value[..value.len().min(20 * SHOWN)];
    let text = message::decode_words(value);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect::<String>().trim().to_owned()
}

#[derive(FromRow)]
struct Held {
    account_id: i64,
    mailbox_id: i64,
    uid: i64,
    address: String,
    mailbox: String,
}

const HELD: &str = r"
select m.account_id, m.mailbox_id, m.uid, a.address, box.name as mailbox
from spool s
join messages m on m.content_id = s.queue_id
join mailboxes box on box.account_id = m.account_id and box.id = m.mailbox_id and box.special_use = '\Junk'
join accounts a on a.id = m.account_id
where s.queue_id = $1 and s.junk and ($2 = '{}'::text[] or a.address = any ($2))
  and ($3::text is null or a.tenant_id = (select id from tenants where name = $3))
order by m.account_id, m.mailbox_id, m.uid";

const TELL: &str = "
insert into journey (queue_id, name, service, recipient, text, detail)
values ($1, 'released', 'mda', $2, $3, $4)";

/// What was moved, and whether all was.
pub struct Released {
    /// Id and address.
    pub accounts: Vec<(i64, String)>,
    pub result: Result<(), Status>,
}

/// A transaction an account: locks are taken in the order that all keep, mailboxes before quotas.
pub async fn release(pool: &PgPool, request: ReleaseQuarantinedRequest, scope: &Scope) -> Released {
    let mut accounts = Vec::new();
    let result = release_each(pool, request, scope, &mut accounts).await;
    accounts.dedup();
    Released { accounts, result }
}

async fn release_each(
    pool: &PgPool,
    request: ReleaseQuarantinedRequest,
    scope: &Scope,
    released: &mut Vec<(i64, String)>,
) -> Result<(), Status> {
    let queue_id = ids::parse(&request.queue_id)?;
    let only = request.addresses.iter().map(|a| address(a).map(|a| a.key())).collect::<Result<Vec<_>, _>>()?;
    let by: String = plain(&request.by).chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_NAME).collect();
    let held: Vec<Held> =
        sqlx::query_as(HELD).bind(queue_id).bind(&only).bind(scope.tenant()).fetch_all(pool).await.map_err(status)?;
    for message in held {
        if move_one(pool, queue_id, &message, &by).await? {
            released.push((message.account_id, message.address));
        }
    }
    if released.is_empty() {
        return Err(Status::not_found("no such message is in quarantine"));
    }
    Ok(())
}

/// False when somebody else moved or removed it meanwhile.
async fn move_one(pool: &PgPool, queue_id: Uuid, held: &Held, by: &str) -> Result<bool, Status> {
    let uid = u32::try_from(held.uid).map_err(|_| Status::internal("a UID beyond 32 bits"))?;
    let request = CopyRequest {
        account_id: ids::unsigned(held.account_id),
        mailbox_id: ids::unsigned(held.mailbox_id),
        uids: vec![UidRange { first: uid, last: uid }],
        target: "INBOX".into(),
        r#move: true,
        ..CopyRequest::default()
    };
    let mut tx = pool.begin().await.map_err(status)?;
    // As the owner: an operator needs no right in the mailbox.
    let moved = copy_in(&mut tx, &Default::default(), &request).await?;
    let Some(uid) = moved.target_uids.first() else { return Ok(false) };
    let by = if by.trim().is_empty() { "an operator" } else { by.trim() };
    sqlx::query(TELL)
        .bind(queue_id)
        .bind(&held.address)
        .bind(format!("from {} into INBOX by {by}", held.mailbox))
        .bind(serde_json::json!({ "mailbox": "INBOX", "uid": uid, "from": held.mailbox }).to_string())
        .execute(&mut *tx)
        .await
        .map_err(status)?;
    tx.commit().await.map_err(status)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_for_people() {
        let header = b"From: =?utf-8?q?J=C3=B6rg?= <j@x>\r\nSubject: a\r\n b\x07\x1b[31m\r\n\r\n";
        assert_eq!(field(header, "From"), "J\u{f6}rg <j@x>");
        assert_eq!(field(header, "Subject"), "a b  [31m");
        assert_eq!(field(header, "To"), "");
        let long = format!("Subject: {}\r\n\r\n", "\u{e4}".repeat(10_000));
        assert_eq!(field(long.as_bytes(), "Subject").chars().count(), SHOWN);
    }
}
