//! Claim and Renew: one attempt at a time, under a lease that dies with its holder (Invariant 4).

use std::collections::HashSet;

use bytes::Bytes;
use proto::spool::{ClaimRequest, ClaimResponse, Claimed, ClaimedContent, DeliveryId, GiveBackRequest, RenewRequest};
use sqlx::{FromRow, PgPool, types::Uuid};
use tonic::Status;

use super::recent::Recent;
use crate::{
    content::{decompress, plain},
    database::status,
    ids, set_aside,
};

/// Longer leases would keep a dead relay's deliveries waiting; shorter ones cost renewals.
const LEASE_MS: std::ops::RangeInclusive<u32> = 1_000..=600_000;
const MAX_DELIVERIES: usize = 10_000;
/// Bytes of contents in one answer; the answer as a whole has a bound.
const MAX_CONTENTS: usize = 8 << 20;

/// Mail for a paused destination need not be handed out again soon.
const PARK: &str = "
update deliveries d set due_at = now() + interval '10 minutes'
from unnest($1::uuid[], $2::int[]) as wanted (queue_id, number)
join deliveries w using (queue_id, number)
join paused_destinations p on p.domain = lower(split_part(coalesce(w.remote, w.recipient), '@', -1))
where d.queue_id = wanted.queue_id and d.number = wanted.number
  and (d.lease_until is null or d.lease_until < now())";

/// See [`set_aside`].
const SET_ASIDE: &str = "
with hopeless as (
    update deliveries d
    set held = true, set_aside_at = now(), lease_token = null, lease_until = null,
        last_text = 'its attempts ended without a word'
    from unnest($1::uuid[], $2::int[]) as wanted (queue_id, number)
    where d.queue_id = wanted.queue_id and d.number = wanted.number and d.lease_until < now() and d.lost + 1 >= $3
    returning d.queue_id, d.recipient
)
insert into journey (queue_id, name, service, recipient, text, detail)
select queue_id, 'set aside', 'mda', recipient, 'its attempts ended without a word', '' from hopeless";

/// The lease's end is also when the dispatcher looks again.
const CLAIM: &str = "
with free as (
    select queue_id, number, gen_random_uuid() as token
    from deliveries d join unnest($1::uuid[], $2::int[]) as wanted (queue_id, number) using (queue_id, number)
    where not exists (select from paused_destinations p
                      where p.domain = lower(split_part(coalesce(d.remote, d.recipient), '@', -1)))
      and remote is not null and not held and not_before <= now()
      and (lease_until is null or (lease_until < now() and lost + 1 < $4))
    for update of d skip locked
)
update deliveries d
set lease_token = token, lease_until = now() + $3 * interval '1 millisecond',
    due_at = now() + $3 * interval '1 millisecond', attempts = attempts + 1,
    lost = case when d.lease_token is null then 0 else d.lost + 1 end
from free join spool s using (queue_id)
where d.queue_id = free.queue_id and d.number = free.number
returning d.queue_id, d.number, free.token, d.remote,
          coalesce(d.reverse_path, s.reverse_path) as reverse_path, d.notify, d.orcpt, s.envid, s.ret, s.eight_bit,
          s.smtputf8, d.attempts, (extract(epoch from s.accepted_at) * 1000)::bigint as accepted_at_ms, s.size,
          s.traceparent, s.require_tls, s.priority, d.delay_reported,
          coalesce((select t.name from accounts a join tenants t on t.id = a.tenant_id where a.id = s.account_id), '')
              as tenant";

/// The attempt that was not made is taken back.
const GIVE_BACK: &str = "
update deliveries d
set lease_token = null, lease_until = null, attempts = greatest(attempts - 1, 0),
    not_before = now() + $4 * interval '1 millisecond',
    due_at = now() + $4 * (1 + random()) * interval '1 millisecond',
    last_text = case when $5 = '' then last_text else $5 end
from unnest($1::uuid[], $2::int[], $3::uuid[]) as l (queue_id, number, token)
where d.queue_id = l.queue_id and d.number = l.number and d.lease_token = l.token
returning d.queue_id, d.number";

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
    require_tls: bool,
    priority: i16,
    delay_reported: bool,
    tenant: String,
}

pub async fn claim(pool: &PgPool, recent: &Recent, request: ClaimRequest) -> Result<ClaimResponse, Status> {
    let (queue_ids, numbers) = columns(&request.deliveries)?;
    let rows: Vec<Row> = sqlx::query_as(CLAIM)
        .bind(&queue_ids)
        .bind(&numbers)
        .bind(lease(request.lease_ms)?)
        .bind(set_aside::LOST_LEASES)
        .fetch_all(pool)
        .await
        .map_err(status)?;
    if rows.len() < queue_ids.len() {
        let set_aside = sqlx::query(SET_ASIDE).bind(&queue_ids).bind(&numbers).bind(set_aside::LOST_LEASES);
        for others in [sqlx::query(PARK).bind(&queue_ids).bind(&numbers), set_aside] {
            // What was claimed must be told all the same.
            if let Err(e) = others.execute(pool).await {
                tracing::warn!(error = %e, "what is not claimed is not put off");
            }
        }
    }
    let limit = usize::try_from(request.content_limit).unwrap_or_default();
    let contents = if limit == 0 { Vec::new() } else { contents(pool, recent, &rows, limit).await };
    Ok(ClaimResponse { claimed: rows.into_iter().map(claimed).collect(), contents })
}

/// The contents of claimed messages, as far as they are small and there is room. What is missing
/// will be asked for: no trouble here may lose a claim.
async fn contents(pool: &PgPool, recent: &Recent, rows: &[Row], limit: usize) -> Vec<ClaimedContent> {
    let (mut seen, mut found, mut missing, mut bytes) = (HashSet::new(), Vec::new(), Vec::new(), 0);
    for row in rows {
        let size = usize::try_from(row.size).unwrap_or(usize::MAX);
        if size > limit || bytes + size > MAX_CONTENTS || !seen.insert(row.queue_id) {
            continue;
        }
        bytes += size;
        match recent.take(&row.queue_id) {
            Some(content) => found.push((row.queue_id, content)),
            None => missing.push(row.queue_id),
        }
    }
    if !missing.is_empty() {
        match stored(pool, &missing).await {
            Ok(more) => found.extend(more),
            Err(e) => tracing::debug!(error = %e, "contents do not come with the claim"),
        }
    }
    found.into_iter().map(|(id, content)| ClaimedContent { queue_id: ids::show(id), content }).collect()
}

async fn stored(pool: &PgPool, wanted: &[Uuid]) -> Result<Vec<(Uuid, Bytes)>, Status> {
    let rows: Vec<(Uuid, i32, Vec<u8>, Vec<u8>)> =
        sqlx::query_as("select id, size, header, body from contents where id = any($1) and object is null")
            .bind(wanted)
            .fetch_all(pool)
            .await
            .map_err(status)?;
    let whole = |(id, size, header, body): (Uuid, i32, Vec<u8>, Vec<u8>)| {
        let size = usize::try_from(size).unwrap_or_default();
        Ok((id, [decompress(&header, size)?, decompress(&body, size)?].concat().into()))
    };
    rows.into_iter().map(whole).collect()
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
        require_tls: row.require_tls,
        priority: row.priority.into(),
        tenant: row.tenant,
        delay_reported: row.delay_reported,
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

pub async fn give_back(pool: &PgPool, request: GiveBackRequest) -> Result<Vec<DeliveryId>, Status> {
    let leases: Vec<_> = request.leases.iter().map(|l| l.id.clone().unwrap_or_default()).collect();
    let (queue_ids, numbers) = columns(&leases)?;
    let tokens = request.leases.iter().map(|l| token(&l.token)).collect::<Result<Vec<_>, _>>()?;
    let rows: Vec<(Uuid, i32)> = sqlx::query_as(GIVE_BACK)
        .bind(queue_ids)
        .bind(numbers)
        .bind(tokens)
        .bind(i64::from(request.after_ms))
        .bind(plain(&request.text))
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
