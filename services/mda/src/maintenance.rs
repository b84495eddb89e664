//! What nobody waits for: reclaiming content, forgetting old journeys, measuring the queue.

use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{forward::Forwarder, metrics::Metrics};

const EVERY: Duration = Duration::from_secs(10);
const BATCH: i64 = 1_000;

/// A content without any reference gains none: references only come from references. So what
/// this statement sees as the last one gone stays gone.
const RECLAIM: &str = "
with candidates as (
    delete from released
    where id in (select id from released order by id limit $1 for update skip locked)
    returning content_id
)
delete from contents c using (select distinct content_id from candidates) r
where c.id = r.content_id
  and not exists (select from messages m where m.content_id = c.id)
  and not exists (select from deliveries d where d.queue_id = c.id)";

/// A message whose deliveries are still open keeps its journey however old it is.
const FORGET: &str = "
with old as (
    delete from spool where queue_id in (
        select queue_id from spool s
        where accepted_at < now() - make_interval(days => $1)
          and not exists (select from deliveries d where d.queue_id = s.queue_id)
        order by accepted_at limit $2 for update skip locked)
    returning queue_id
)
delete from journey j using old where j.queue_id = old.queue_id";

/// Runs until shutdown. Several processes share the work without knowing each other.
pub async fn run(
    pool: PgPool,
    journey_days: u32,
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
        if let Err(e) = once(&pool, journey_days, &metrics).await {
            tracing::warn!(error = %e, "maintenance put off");
        }
        if let Err(e) = keys(&pool, &forwarder).await {
            tracing::warn!(error = %e, "old keys not removed");
        }
    }
}

/// Keys whose time is over.
async fn keys(pool: &PgPool, forwarder: &Forwarder) -> Result<(), sqlx::Error> {
    sqlx::query("delete from dkim_keys where removed_from < now()").execute(pool).await?;
    forwarder.forget().await
}

async fn once(pool: &PgPool, journey_days: u32, metrics: &Metrics) -> Result<(), sqlx::Error> {
    loop {
        let waiting: i64 = sqlx::query_scalar("select count(*) from (select from released limit $1) r")
            .bind(BATCH)
            .fetch_one(pool)
            .await?;
        if waiting == 0 {
            break;
        }
        metrics.reclaimed(sqlx::query(RECLAIM).bind(BATCH).execute(pool).await?.rows_affected());
        if waiting < BATCH {
            break;
        }
    }
    let days = i32::try_from(journey_days).unwrap_or(i32::MAX);
    sqlx::query(FORGET).bind(days).bind(BATCH).execute(pool).await?;
    let (open, oldest): (i64, f64) = sqlx::query_as(
        "select (select reltuples::bigint from pg_class where oid = 'deliveries'::regclass),
                coalesce(extract(epoch from now() - min(due_at)), 0)::float8
         from deliveries where not held",
    )
    .fetch_one(pool)
    .await?;
    metrics.queue(open.max(0), oldest.max(0.0));
    Ok(())
}
