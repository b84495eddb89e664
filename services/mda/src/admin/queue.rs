//! The queue in an operator's hand.

use proto::{
    admin::{ChangeQueueRequest, ListQueueRequest, ListQueueResponse, QueueEntry, change_queue_request::Action},
    spool::DeliveryId,
};
use sqlx::{FromRow, PgPool, types::Uuid};
use tonic::Status;

use crate::{bounce::Bouncer, database::status, ids, spool::delivery_id};

#[derive(FromRow)]
struct Row {
    queue_id: Uuid,
    number: i32,
    sender: String,
    recipient: String,
    is_remote: bool,
    attempts: i32,
    accepted_at_ms: i64,
    next_attempt_ms: i64,
    held: bool,
    leased: bool,
    last_text: String,
    size: i32,
}

impl From<Row> for QueueEntry {
    fn from(row: Row) -> Self {
        Self {
            queue_id: ids::show(row.queue_id),
            number: row.number.unsigned_abs(),
            sender: row.sender,
            recipient: row.recipient,
            remote: row.is_remote,
            attempts: row.attempts.unsigned_abs(),
            accepted_at_ms: row.accepted_at_ms,
            next_attempt_ms: row.next_attempt_ms,
            held: row.held,
            leased: row.leased,
            last_text: row.last_text,
            size: u64::from(row.size.unsigned_abs()),
        }
    }
}

pub async fn list(pool: &PgPool, request: ListQueueRequest) -> Result<ListQueueResponse, Status> {
    let queue_id = Some(request.queue_id.as_str()).filter(|id| !id.is_empty()).map(ids::parse).transpose()?;
    let limit = if request.limit == 0 { 100 } else { request.limit.min(100_000) };
    let rows: Vec<Row> = sqlx::query_as(
        "select d.queue_id, d.number, s.reverse_path as sender, coalesce(d.remote, d.recipient) as recipient,
                d.remote is not null as is_remote, d.attempts,
                (extract(epoch from s.accepted_at) * 1000)::bigint as accepted_at_ms,
                (extract(epoch from d.not_before) * 1000)::bigint as next_attempt_ms,
                d.held, coalesce(d.lease_until > now(), false) as leased, d.last_text, s.size
         from deliveries d join spool s using (queue_id)
         where ($1::uuid is null or d.queue_id = $1)
           and ($2 = '' or lower(s.reverse_path) = lower($2))
           and ($3 = '' or lower(d.recipient) = lower($3) or lower(d.remote) = lower($3))
           and ($4 = '' or lower(split_part(coalesce(d.remote, d.recipient), '@', -1)) = lower($4))
         order by s.accepted_at, d.queue_id, d.number limit $5",
    )
    .bind(queue_id)
    .bind(&request.sender)
    .bind(&request.recipient)
    .bind(&request.domain)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .map_err(status)?;
    Ok(ListQueueResponse { entries: rows.into_iter().map(Into::into).collect() })
}

/// Changes no delivery that is under a lease: an attempt may be on its way. Each change is told
/// in the journey by the same statement.
fn statement(action: Action) -> Option<&'static str> {
    macro_rules! change {
        ($set:literal, $where:literal, $event:literal) => {
            concat!(
                "with changed as (update deliveries set ",
                $set,
                " where queue_id = any ($1) and (lease_until is null or lease_until < now()) and ",
                $where,
                " returning queue_id, recipient) insert into journey (queue_id, name, service, recipient, text, detail) \
                 select queue_id, '",
                $event,
                "', 'mda', recipient, 'by an operator', '' from changed"
            )
        };
    }
    match action {
        Action::Retry => Some(change!("not_before = now(), due_at = now()", "not held", "retry")),
        Action::Hold => Some(change!("held = true", "not held", "held")),
        Action::Release => Some(change!("held = false, not_before = now(), due_at = now()", "held", "released")),
        Action::Bounce | Action::Unspecified => None,
    }
}

pub async fn change(pool: &PgPool, bouncer: &Bouncer, request: ChangeQueueRequest) -> Result<u32, Status> {
    let queue_ids = request.queue_ids.iter().map(|id| ids::parse(id)).collect::<Result<Vec<_>, _>>()?;
    if let Some(statement) = statement(request.action()) {
        let done = sqlx::query(statement).bind(queue_ids).execute(pool).await.map_err(status)?;
        return Ok(u32::try_from(done.rows_affected()).unwrap_or(u32::MAX));
    }
    if request.action() != Action::Bounce {
        return Err(Status::invalid_argument("action: expected RETRY, HOLD, RELEASE or BOUNCE"));
    }
    let rows: Vec<(Uuid, i32)> = sqlx::query_as("select queue_id, number from deliveries where queue_id = any ($1)")
        .bind(queue_ids)
        .fetch_all(pool)
        .await
        .map_err(status)?;
    let mut changed = 0;
    for (queue_id, number) in rows {
        let delivery: DeliveryId = delivery_id(queue_id, number);
        if bouncer.bounce(&delivery, "5.7.1", "550 5.7.1 delivery ended by an operator").await? {
            changed += 1;
        }
    }
    Ok(changed)
}
