//! APPEND: content and mailbox row in one statement.

use chrono::{DateTime, Utc};
use proto::mailboxes::{AppendRequest, AppendResponse};
use sqlx::PgPool;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{account, change::check_flags, uid};
use crate::{content, database::status};

const APPEND: &str = "
with mailbox as (
    update mailboxes
    set uid_next = uid_next + 1, highest_modseq = highest_modseq + 1, messages = messages + 1,
        unseen = unseen + ($5::smallint & 1 = 0)::int, deleted = deleted + ($5::smallint & 8 <> 0)::int, size = size + $4
    where account_id = $1 and name = $2
    returning id, uid_next - 1 as uid, highest_modseq, uid_validity
), content as (
    insert into contents (id, size, header, body, structure) select $3, $4, $8, $9, $10 from mailbox
), message as (
    insert into messages (account_id, mailbox_id, uid, modseq, content_id, internal_date, size, flags, keywords)
    select $1, id, uid, highest_modseq, $3, coalesce($7, now()), $4, $5, $6 from mailbox
)
select uid_validity, uid from mailbox";

/// The account, for its wake, and where the message is.
pub async fn append(
    pool: &PgPool,
    mut stream: Streaming<AppendRequest>,
    limit: usize,
) -> Result<(u64, AppendResponse), Status> {
    let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("empty stream"))?;
    let target = first.target.ok_or_else(|| Status::invalid_argument("the first request has no target"))?;
    let (flags, keywords) = check_flags(&target.flags.unwrap_or_default())?;
    let internal_date = match target.internal_date_ms {
        0 => None,
        ms => {
            Some(DateTime::<Utc>::from_timestamp_millis(ms).ok_or_else(|| Status::invalid_argument("internal date"))?)
        }
    };
    let content = content::gather(stream, first.content, limit, |r| r.content).await?;
    let stored = content::prepare(&content)?;
    let row: Option<(i64, i64)> = sqlx::query_as(APPEND)
        .bind(account(target.account_id)?)
        .bind(&target.mailbox)
        .bind(Uuid::now_v7())
        .bind(stored.size)
        .bind(flags)
        .bind(keywords)
        .bind(internal_date)
        .bind(stored.header)
        .bind(stored.body)
        .bind(stored.structure)
        .fetch_optional(pool)
        .await
        .map_err(status)?;
    let (uid_validity, new) = row.ok_or_else(|| Status::not_found("no such mailbox"))?;
    Ok((target.account_id, AppendResponse { uid_validity: uid(uid_validity), uid: uid(new) }))
}
