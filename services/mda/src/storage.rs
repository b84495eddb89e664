//! How storage is: connections of the pool, and how long a statement takes from asking for one.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

const EVERY: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub async fn watch(pool: PgPool, metrics: Metrics, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => (),
            () = shutdown.cancelled() => return,
        }
        let open = usize::try_from(pool.size()).unwrap_or(usize::MAX);
        metrics.pool(open.saturating_sub(pool.num_idle()), pool.num_idle());
        let started = Instant::now();
        match sqlx::query("select 1").execute(&pool).await {
            Ok(_) => metrics.probed(started.elapsed()),
            Err(e) => {
                metrics.probe_failed();
                tracing::debug!(error = %e, "storage does not answer");
            }
        }
    }
}
