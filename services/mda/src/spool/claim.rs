//! Claim and Renew: one attempt at a time, under a lease that dies with its holder (Invariant 4).

use proto::spool::{ClaimRequest, Claimed, DeliveryId, RenewRequest};
use sqlx::{FromRow, PgPool, types::Uuid};
use tonic::Status;

use crate::{database::status, ids};

/// Longer leases would keep a dead relay's deliveries waiting; shorter ones cost renewals.
const LEASE_MS: std::ops::RangeInclusive<u32> = 1_000..=600_000;
const MAX_DELIVERIES: usize = 10_000;

/// The lease's end is also when the dispatcher looks again.
const CLAIM: &str = "
with wanted as (
    select * from unnest($1::uuid[], $2::int[]) as w (queue_id, number)
), free as (
    select queue_id, number, gen_random_uuid() as token
    from deliveries join wanted using (queue_id, number)
    where remote is not null and not held and not_before <= now() and (lease_until is null or lease_until < now())
    for update of deliveries skip locked
)
update deliveries d
set lease_token = token, lease_until = now() + $3 * interval '1 millisecond',
    due_at = now() + $3 * interval '1 millisecond', attempts = attempts + 1
from free join spool s using (queue_id)
where d.queue_id = free.queue_id and d.number = free.number
returning d.queue_id, d.number, free.token, d.remote, s.reverse_path, d.notify, d.orcpt, s.envid, s.ret, s.eight_bit,
          s.smtputf8, d.attempts, (extract(epoch from s.accepted_at) * 1000)::bigint as accepted_at_ms, s.size,
          s.traceparent";

#[derive(FromRow)]
struct Row {
    queue_id: Uuid,
    number: i32,
    token: Uuid,
    remote: String,
    reverse_path: String,
    notify: String,
    orcpt: String,
    envid: String,
    ret: String,
    eight_bit: bool,
    smtputf8: bool,
    attempts: i32,
    accepted_at_ms: i64,
    size: i32,
    traceparent: String,
}

pub async fn claim(pool: &PgPool, request: ClaimRequest) -> Result<Vec<Claimed>, Status> {
    let (queue_ids, numbers) = columns(&request.deliveries)?;
    let rows: Vec<Row> = sqlx::query_as(CLAIM)
        .bind(queue_ids)
        .bind(numbers)
        .bind(lease(request.lease_ms)?)
        .fetch_all(pool)
        .await
        .map_err(status)?;
    Ok(rows.into_iter().map(claimed).collect())
}

fn claimed(row: Row) -> Claimed {
    Claimed {
        id: Some(delivery_id(row.queue_id, row.number)),
        token: row.token.to_string(),
        forward_path: row.remote,
        reverse_path: row.reverse_path,
        notify: row.notify,
        orcpt: row.orcpt,
        envid: row.envid,
        ret: row.ret,
        eight_bit: row.eight_bit,
        smtputf8: row.smtputf8,
        attempt: row.attempts.unsigned_abs(),
        accepted_at_ms: row.accepted_at_ms,
        size: u64::from(row.size.unsigned_abs()),
        traceparent: row.traceparent,
    }
}

pub async fn renew(pool: &PgPool, request: RenewRequest) -> Result<Vec<DeliveryId>, Status> {
    let leases: Vec<_> = request.leases.iter().map(|l| l.id.clone().unwrap_or_default()).collect();
    let (queue_ids, numbers) = columns(&leases)?;
    let tokens = request.leases.iter().map(|l| token(&l.token)).collect::<Result<Vec<_>, _>>()?;
    let rows: Vec<(Uuid, i32)> = sqlx::query_as(
        "update deliveries d
         set lease_until = now() + $4 * interval '1 millisecond', due_at = now() + $4 * interval '1 millisecond'
         from unnest($1::uuid[], $2::int[], $3::uuid[]) as l (queue_id, number, token)
         where d.queue_id = l.queue_id and d.number = l.number and d.lease_token = l.token
         returning d.queue_id, d.number",
    )
    .bind(queue_ids)
    .bind(numbers)
    .bind(tokens)
    .bind(lease(request.lease_ms)?)
    .fetch_all(pool)
    .await
    .map_err(status)?;
    Ok(rows.into_iter().map(|(queue_id, number)| delivery_id(queue_id, number)).collect())
}

pub fn delivery_id(queue_id: Uuid, number: i32) -> DeliveryId {
    DeliveryId { queue_id: ids::show(queue_id), number: number.unsigned_abs() }
}

pub fn token(text: &str) -> Result<Uuid, Status> {
    text.parse().map_err(|_| Status::invalid_argument("not a lease token"))
}

/// For UNNEST.
pub fn columns(deliveries: &[DeliveryId]) -> Result<(Vec<Uuid>, Vec<i32>), Status> {
    if deliveries.len() > MAX_DELIVERIES {
        return Err(Status::invalid_argument(format!("more than {MAX_DELIVERIES} deliveries at once")));
    }
    let mut pairs = (Vec::with_capacity(deliveries.len()), Vec::with_capacity(deliveries.len()));
    for delivery in deliveries {
        pairs.0.push(ids::parse(&delivery.queue_id)?);
        pairs.1.push(i32::try_from(delivery.number).map_err(|_| Status::invalid_argument("delivery number"))?);
    }
    Ok(pairs)
}

fn lease(ms: u32) -> Result<i32, Status> {
    if !LEASE_MS.contains(&ms) {
        return Err(Status::invalid_argument(format!("lease of {ms} ms: expected {LEASE_MS:?}")));
    }
    i32::try_from(ms).map_err(|_| Status::invalid_argument("lease"))
}
