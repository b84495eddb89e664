//! What nobody waits for: reclaiming content, forgetting old journeys, measuring the queue.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    forward::Forwarder,
    journey::days::{self, Retention},
    metrics::Metrics,
};

const EVERY: Duration = Duration::from_secs(10);
const BATCH: i64 = 1_000;

/// A content without any reference gains none: references only come from references. So what
/// this statement sees as the last one gone stays gone.
const RECLAIM: &str = "
with candidates as (
    delete from released
    where id in (select id from released order by id limit $1 for update skip locked)
    returning content_id
), gone as (
    delete from contents c using (select distinct content_id from candidates) r
    where c.id = r.content_id
      and not exists (select from messages m where m.content_id = c.id)
      and not exists (select from deliveries d where d.queue_id = c.id)
    returning c.object
), dead as (
    insert into dead_objects (name) select object from gone where object is not null on conflict do nothing
)
select count(*) from gone";

/// Forgets what went long ago, a mailbox as far as its oldest part reaches. Mailboxes that somebody
/// works in wait for the next time; whoever came from before is told so by `forgotten_modseq`
/// (RFC 7162 §3.2.5.2).
const FORGET_EXPUNGED: &str = "
with old as materialized (
    select account_id, mailbox_id, max(modseq) as modseq
    from (select account_id, mailbox_id, modseq from expunged
          where at < now() - $1 * interval '1 day' limit $2) e
    group by 1, 2
), locked as materialized (
    select m.account_id, m.id from mailboxes m
    where (m.account_id, m.id) in (select account_id, mailbox_id from old)
    order by m.account_id, m.id for no key update skip locked
), raised as (
    update mailboxes m set forgotten_modseq = greatest(m.forgotten_modseq, o.modseq)
    from old o join locked l on l.account_id = o.account_id and l.id = o.mailbox_id
    where m.account_id = o.account_id and m.id = o.mailbox_id
    returning m.account_id, m.id, m.forgotten_modseq
)
delete from expunged e using raised r
where e.account_id = r.account_id and e.mailbox_id = r.id and e.modseq <= r.forgotten_modseq";

/// Beyond so many open deliveries counting would cost more than the figure is worth.
const COUNTED: i64 = 1_000_000;

/// What waits because its destination rests or is paused, or because an operator holds it, waits
/// for no worker: its age says nothing about ours.
const DEPTH: &str = "
with d as (
    select remote is not null as is_remote, not_before,
           case when held then 'held'
                when lease_until > now() then 'leased'
                when not_before > now() then 'deferred'
                when remote is not null and exists (
                    select from resting_destinations r
                    where r.domain = lower(split_part(remote, '@', -1)) and r.until > now()
                    union all
                    select from paused_destinations p where p.domain = lower(split_part(remote, '@', -1))) then 'resting'
                else 'due' end as state
    from deliveries limit $1
)
select is_remote, state, count(*) as deliveries,
       coalesce(extract(epoch from now() - min(not_before)), 0)::float8 as oldest_seconds
from d group by 1, 2";

/// Open deliveries of one stream in one state.
#[derive(Debug, sqlx::FromRow)]
pub struct Depth {
    pub is_remote: bool,
    pub state: String,
    pub deliveries: i64,
    /// Since the oldest could be attempted.
    pub oldest_seconds: f64,
}

/// Of accounts that are gone, once the last delivery to them has ended.
const FORGET_QUOTAS: &str = "
delete from quotas q
where q.account_id <> 0 and q.bytes = 0 and q.messages = 0
  and not exists (select from accounts a where a.id = q.account_id)";

const SET_ASIDE: &str = "select count(*) from deliveries where set_aside_at is not null";

/// Runs until shutdown. Several processes share the work without knowing each other.
pub async fn run(
    pool: PgPool,
    retention: Retention,
    expunged_days: u32,
    metrics: Metrics,
    forwarder: Forwarder,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => (),
            () = shutdown.cancelled() => return,
        }
        if let Err(e) = once(&pool, retention, &metrics).await {
            tracing::warn!(error = %e, "maintenance put off");
        }
        if let Err(e) = forget_expunged(&pool, expunged_days, &metrics).await {
            tracing::warn!(error = %e, "expunged messages not forgotten");
        }
        if let Err(e) = keys(&pool, &forwarder).await {
            tracing::warn!(error = %e, "old keys not removed");
        }
    }
}

async fn forget_expunged(pool: &PgPool, days: u32, metrics: &Metrics) -> Result<(), sqlx::Error> {
    const MOST: i64 = 10_000;
    loop {
        let forgotten =
            sqlx::query(FORGET_EXPUNGED).bind(f64::from(days)).bind(MOST).execute(pool).await?.rows_affected();
        metrics.forgotten(forgotten);
        // Fewer than were looked at: what is left is locked, and waits.
        if i64::try_from(forgotten).unwrap_or(i64::MAX) < MOST {
            return Ok(());
        }
    }
}

/// Keys whose time is over.
async fn keys(pool: &PgPool, forwarder: &Forwarder) -> Result<(), sqlx::Error> {
    sqlx::query("delete from dkim_keys where removed_from < now()").execute(pool).await?;
    forwarder.forget().await
}

async fn once(pool: &PgPool, retention: Retention, metrics: &Metrics) -> Result<(), sqlx::Error> {
    loop {
        let waiting: i64 = sqlx::query_scalar("select count(*) from (select from released limit $1) r")
            .bind(BATCH)
            .fetch_one(pool)
            .await?;
        if waiting == 0 {
            break;
        }
        let gone: i64 = sqlx::query_scalar(RECLAIM).bind(BATCH).fetch_one(pool).await?;
        metrics.reclaimed(gone.unsigned_abs());
        if waiting < BATCH {
            break;
        }
    }
    crate::rules::forget(pool, BATCH).await?;
    sqlx::query(FORGET_QUOTAS).execute(pool).await?;
    let depths: Vec<Depth> = sqlx::query_as(DEPTH).bind(COUNTED).fetch_all(pool).await?;
    metrics.queue(&depths);
    let (set_aside,): (i64,) = sqlx::query_as(SET_ASIDE).fetch_one(pool).await?;
    metrics.set_aside(set_aside);
    days::keep(pool, retention).await
}
