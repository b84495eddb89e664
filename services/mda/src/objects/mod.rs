//! Bodies of large messages in an object store (S3), when one is configured.
//!
//! The row in `contents` is the truth; it names its object. The order of writing and deleting keeps the
//! promise of a 250 (Invariant 1): an object is there before the commit that names it, and goes a good while
//! after the row has gone. An Accept that dies in between leaves an object without a row, which the
//! [`sweep`] finds. Small bodies stay in Postgres, so that most mail costs no call here.
//!
//! The store may be away: then what needs it is `unavailable`, which is 451 to SMTP and [UNAVAILABLE] to
//! IMAP, and nothing is lost.

mod config;
mod metrics;
mod names;
mod sweep;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, path::Path};
use sqlx::{PgPool, types::Uuid};
use tokio::sync::{OnceCell, Semaphore};
use tonic::Status;

pub use config::Config;
pub use metrics::Metrics;

use crate::{content::Prepared, database::status};

/// Objects that one process writes at once, and reads at once: each is in memory.
const AT_ONCE: usize = 64;
/// Says whose objects these are.
const MARK: &str = "installation";

/// Shared by its clones; without a store everything is in Postgres.
#[derive(Clone)]
pub struct Objects(Option<Arc<Inner>>);

struct Inner {
    pool: PgPool,
    place: config::Place,
    config: Config,
    metrics: Metrics,
    puts: Semaphore,
    gets: Semaphore,
    /// That the place is this installation's.
    ours: OnceCell<()>,
}

impl Objects {
    pub fn new(pool: PgPool, config: &Config, metrics: Metrics) -> Result<Self, String> {
        let place = config.place()?;
        Ok(Self(place.map(|place| {
            let (puts, gets) = (Semaphore::new(AT_ONCE), Semaphore::new(AT_ONCE));
            Arc::new(Inner { pool, place, config: config.clone(), metrics, puts, gets, ours: OnceCell::new() })
        })))
    }

    /// Puts the body where large ones are; to be called before the commit that names it.
    pub async fn take_out(&self, content: Uuid, stored: &mut Prepared) -> Result<(), Status> {
        let Some(inner) = &self.0 else { return Ok(()) };
        if stored.object.is_some() || stored.body.len() < inner.config.min_bytes.max(1) {
            return Ok(());
        }
        inner.is_ours().await?;
        let _turn = inner.puts.acquire().await.map_err(|_| away())?;
        let name = names::new(content);
        // The clone is one of a reference count.
        let body = Bytes::from(std::mem::take(&mut stored.body));
        let size = body.len() as u64;
        let path = inner.path(&name);
        inner.call("put", inner.place.store.put(&path, PutPayload::from(body))).await?;
        inner.metrics.moved("put", size);
        stored.object = Some(name);
        Ok(())
    }

    /// The stored body of a row, wherever it is.
    pub async fn body(&self, body: Vec<u8>, object: Option<&str>) -> Result<Bytes, Status> {
        let Some(name) = object else { return Ok(body.into()) };
        self.range(name, 0, None).await.map(|(body, _)| body)
    }

    /// Octets from `start`, at most `most`, and how many there are altogether. `start` lies within it.
    pub async fn range(&self, name: &str, start: u64, most: Option<u64>) -> Result<(Bytes, u64), Status> {
        let Some(inner) = &self.0 else {
            tracing::error!("a message's body is in an object store, but \"content_store.url\" is not configured");
            return Err(away());
        };
        let _turn = inner.gets.acquire().await.map_err(|_| away())?;
        let range = match (start, most) {
            (0, None) => None,
            (start, None) => Some(GetRange::Offset(start)),
            (start, Some(most)) => Some(GetRange::Bounded(start..start.saturating_add(most))),
        };
        let path = inner.path(name);
        let (octets, size) = inner
            .call("get", async {
                let options = GetOptions { range, ..GetOptions::default() };
                let result = inner.place.store.get_opts(&path, options).await?;
                let size = result.meta.size;
                Ok((result.bytes().await?, size))
            })
            .await?;
        inner.metrics.moved("get", octets.len() as u64);
        Ok((octets, size))
    }
}

fn away() -> Status {
    Status::unavailable("the content store is unavailable")
}

impl Inner {
    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.place.prefix.clone(), Path::join)
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Status> {
        let started = Instant::now();
        let answer = tokio::time::timeout(self.config.timeout(), call).await;
        self.metrics.called(operation, matches!(answer, Ok(Ok(_))), started.elapsed());
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(object_store::Error::NotFound { path, .. })) if operation == "get" => {
                tracing::error!(object = path, "a message's body is missing in the content store");
                Err(Status::data_loss("a message's body is missing"))
            }
            Ok(Err(e)) => {
                tracing::warn!(operation, error = %e, "content store is away");
                Err(away())
            }
            Err(_) => {
                tracing::warn!(operation, limit = ?self.config.timeout(), "content store does not answer");
                Err(away())
            }
        }
    }

    /// Two installations in one place would sweep each other's objects away: who comes second writes none.
    async fn is_ours(&self) -> Result<(), Status> {
        self.ours.get_or_try_init(|| self.mark()).await.copied()
    }

    async fn mark(&self) -> Result<(), Status> {
        let installation: Uuid =
            sqlx::query_scalar("select installation from object_store").fetch_one(&self.pool).await.map_err(status)?;
        let (path, ours) = (self.path(MARK), installation.to_string());
        let find = || async {
            match self.place.store.get(&path).await {
                Ok(found) => found.bytes().await.map(Some),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(e) => Err(e),
            }
        };
        let mut found = self.call("get", find()).await?;
        if found.is_none() {
            let put = async {
                let options = PutMode::Create.into();
                match self.place.store.put_opts(&path, PutPayload::from(ours.clone()), options).await {
                    // Another process was faster.
                    Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
                    Err(e) => Err(e),
                }
            };
            self.call("put", put).await?;
            found = self.call("get", find()).await?;
        }
        if found.as_deref() == Some(ours.as_bytes()) {
            return Ok(());
        }
        tracing::error!(
            "configuration key \"content_store.url\": the place belongs to another installation, expected one of \
             its own"
        );
        Err(away())
    }
}

/// Runs until shutdown.
pub async fn run(objects: Objects, shutdown: tokio_util::sync::CancellationToken) {
    let Some(inner) = objects.0 else { return };
    let sweep_every = Duration::from_secs(inner.config.sweep_seconds);
    let mut swept: Option<Instant> = None;
    loop {
        if let Err(e) = inner.delete_dead().await {
            tracing::warn!(error = %e, "dead objects not deleted, will be later");
        }
        if swept.is_none_or(|at| at.elapsed() >= sweep_every) {
            swept = Some(Instant::now());
            if let Err(e) = inner.sweep().await {
                tracing::warn!(error = %e, "content store not swept, will be later");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(sweep_every.min(sweep::DELETE_EVERY)) => (),
            () = shutdown.cancelled() => return,
        }
    }
}
