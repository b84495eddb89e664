//! The pool of Postgres connections, and what its errors mean to callers.

use std::{str::FromStr as _, time::Duration};

use sqlx::{
    Connection as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tonic::Status;

use crate::config::Config;

/// A schema that is newer than we are is no reason to refuse: N-1 goes on beside N, and after a
/// rollback it starts again (Invariant 9).
fn migrations() -> sqlx::migrate::Migrator {
    let mut migrations = sqlx::migrate!("../../migrations");
    migrations.set_ignore_missing(true);
    migrations
}

/// A caller waits this long for a connection; then the database counts as down.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is tried before use: the server may have gone.
const TRUSTED_IDLE: Duration = Duration::from_millis(500);

/// Connects when first used, so that a process starts while the database is still down.
pub fn pool(config: &Config) -> anyhow::Result<PgPool> {
    let options = PgConnectOptions::from_str(&config.database_url)
        .map_err(|e| {
            anyhow::anyhow!("configuration key \"database_url\": {e}, expected postgres://user@host/database")
        })?
        .application_name("postroad-mda")
        // Works behind PgBouncer in transaction mode: every transaction stands for itself.
        // Statements of ours take milliseconds; to compile one takes a hundred.
        .options([("synchronous_commit", "on"), ("jit", "off")]);
    Ok(PgPoolOptions::new()
        .max_connections(config.database_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_IDLE { connection.ping().await.map(|()| true) } else { Ok(true) }
            })
        })
        .connect_lazy_with(options))
}

/// Brings the schema up to date; waits while the database is away.
pub async fn migrate(pool: &PgPool) -> anyhow::Result<()> {
    loop {
        match migrations().run(pool).await {
            Ok(()) => return Ok(()),
            Err(sqlx::migrate::MigrateError::Execute(e)) if is_away(&e) => {
                tracing::warn!(error = %e, "database is away, waiting");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether the same statement may succeed later, on another connection.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Connection trouble, rollbacks by deadlock, resources, shutdown, I/O of the server.
        sqlx::Error::Database(e) => {
            e.code().is_some_and(|c| ["08", "40", "53", "57", "58"].iter().any(|class| c.starts_with(class)))
        }
        _ => false,
    }
}

/// One table from database errors to gRPC status; callers never see SQL.
pub fn status(error: sqlx::Error) -> Status {
    if is_away(&error) {
        tracing::warn!(error = %error, "database is away");
        return Status::unavailable("storage is unavailable");
    }
    tracing::error!(error = %error, "database error");
    Status::internal("storage error")
}
