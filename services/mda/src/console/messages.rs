//! Finding messages, for one tenant or all.

use proto::console::{FindMessagesRequest, FindMessagesResponse, Message};
use sqlx::{FromRow, PgPool};
use tonic::Status;
use uuid::Uuid;

use crate::{database::status, ids};

const MOST: u32 = 500;
/// The year 9999, which Postgres still knows.
const LATEST: i64 = 253_402_300_799_000;

#[derive(FromRow)]
struct Row {
    queue_id: Uuid,
    message_id: String,
    reverse_path: String,
    recipients: Vec<String>,
    accepted_at_ms: i64,
    size: i32,
    traceparent: String,
    open: i64,
    last_event: String,
}

/// The page is cut first; what is told about each message is looked up for those alone.
const FIND: &str = "
with page as (
    select queue_id, message_id, reverse_path, accepted_at, size, traceparent
    from spool s
    where ($1 = '' or message_id = $1 or queue_id = $2)
      and ($3 = '' or lower(reverse_path) = lower($3))
      and ($4 = '' or exists (select from journey j where j.queue_id = s.queue_id and lower(j.recipient) = lower($4)))
      and accepted_at >= to_timestamp($5 / 1000.0) and accepted_at < to_timestamp($6 / 1000.0)
      and ($7 = ''
           or exists (select from accounts a join tenants t on t.id = a.tenant_id
                      where a.id = s.account_id and t.name = $7)
           or exists (select from journey j
                      join domains d on d.name = lower(split_part(j.recipient, '@', -1))
                      join tenants t on t.id = d.tenant_id
                      where j.queue_id = s.queue_id and t.name = $7))
    order by accepted_at desc limit $8
)
select queue_id, message_id, reverse_path, (extract(epoch from accepted_at) * 1000)::bigint as accepted_at_ms,
       size, traceparent,
       (select count(*) from deliveries d where d.queue_id = page.queue_id) as open,
       coalesce((select array_agg(r) from (select distinct recipient as r from journey j
                 where j.queue_id = page.queue_id and recipient <> '' limit 20) few), '{}') as recipients,
       coalesce((select name from journey j where j.queue_id = page.queue_id order by id desc limit 1), '') as last_event
from page order by accepted_at desc";

pub async fn find(pool: &PgPool, request: FindMessagesRequest) -> Result<FindMessagesResponse, Status> {
    let id = request.id.trim().trim_start_matches('<').trim_end_matches('>');
    let limit = if request.limit == 0 { 50 } else { request.limit.min(MOST) };
    let until = if request.to_ms <= 0 { LATEST } else { request.to_ms.min(LATEST) };
    let rows: Vec<Row> = sqlx::query_as(FIND)
        .bind(id)
        .bind(ids::parse(id).ok())
        .bind(&request.sender)
        .bind(&request.recipient)
        .bind(request.from_ms.clamp(0, LATEST))
        .bind(until)
        .bind(&request.tenant)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(status)?;
    let messages = rows.into_iter().map(|row| Message {
        queue_id: ids::show(row.queue_id),
        message_id: row.message_id,
        reverse_path: row.reverse_path,
        recipients: row.recipients,
        accepted_at_ms: row.accepted_at_ms,
        size: u64::from(row.size.unsigned_abs()),
        trace_id: runtime::telemetry::trace_id(&row.traceparent).to_owned(),
        open: u32::try_from(row.open).unwrap_or(u32::MAX),
        last_event: row.last_event,
    });
    Ok(FindMessagesResponse { messages: messages.collect() })
}
