//! Deletes objects whose row is gone, and finds those that never had one.
//!
//! Names are in the order of their time, so each object is looked at once in its life: when it has become
//! too old to be named by a row that is not there yet (the database refuses such a row).

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use sqlx::types::Uuid;
use tonic::Status;

use super::{Inner, names};
use crate::database::status;

pub(super) const DELETE_EVERY: Duration = Duration::from_secs(10);
/// Objects of one step.
const BATCH: usize = 1_000;

/// Those that a row names again (a backup was restored) live.
const DEAD: &str = "
with due as materialized (
    select name from dead_objects where died_at < now() - make_interval(secs => $1)
    order by died_at limit $2 for update skip locked
), alive as (
    delete from dead_objects d using due, contents c
    where d.name = due.name and c.id = right(due.name, 32)::uuid and c.object = due.name
    returning d.name
)
select name, was_orphan from due join dead_objects using (name) where name not in (select name from alive)";

const ORPHANS: &str = "
insert into dead_objects (name, died_at, was_orphan)
select name, '-infinity', true from unnest($1::text[], $2::uuid[]) as o (name, content_id)
where not exists (select from contents c where c.id = o.content_id and c.object = o.name)
on conflict do nothing";

impl Inner {
    /// Several processes share the work.
    pub(super) async fn delete_dead(&self) -> Result<(), Status> {
        self.is_ours().await?;
        loop {
            let mut tx = self.pool.begin().await.map_err(status)?;
            let due: Vec<(String, bool)> = sqlx::query_as(DEAD)
                .bind(self.config.keep_seconds as f64)
                .bind(BATCH as i64)
                .fetch_all(&mut *tx)
                .await
                .map_err(status)?;
            if due.is_empty() {
                return tx.commit().await.map_err(status);
            }
            let paths: Vec<_> = due.iter().map(|(name, _)| Ok(self.path(name))).collect();
            let delete = self.place.store.delete_stream(stream::iter(paths).boxed());
            let gone = delete.filter_map(|one| async {
                match one {
                    // What is not there is as good as deleted.
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => None,
                    Err(e) => Some(Err::<(), _>(e)),
                }
            });
            self.call("delete", gone.try_collect::<Vec<()>>()).await?;
            let names: Vec<&str> = due.iter().map(|(name, _)| name.as_str()).collect();
            sqlx::query("delete from dead_objects where name = any ($1)")
                .bind(names)
                .execute(&mut *tx)
                .await
                .map_err(status)?;
            tx.commit().await.map_err(status)?;
            due.iter().for_each(|(_, was_orphan)| self.metrics.deleted(*was_orphan));
            if due.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// Of several processes one sweeps at a time.
    pub(super) async fn sweep(&self) -> Result<(), Status> {
        self.is_ours().await?;
        loop {
            let mut tx = self.pool.begin().await.map_err(status)?;
            let state: Option<(String, i64)> = sqlx::query_as(
                "select swept, (extract(epoch from clock_timestamp() - make_interval(secs => $1)) * 1000)::bigint
                 from object_store for update skip locked",
            )
            .bind(self.config.orphan_seconds as f64)
            .fetch_optional(&mut *tx)
            .await
            .map_err(status)?;
            let Some((swept, until)) = state else { return Ok(()) };
            let found = self.call("list", self.list(&swept, &names::before(until))).await?;
            let Some(last) = found.last().cloned() else { return Ok(()) };
            let ours: Vec<(&String, Uuid)> = found.iter().filter_map(|n| Some((n, names::content(n)?))).collect();
            let orphans = sqlx::query(ORPHANS)
                .bind(ours.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())
                .bind(ours.iter().map(|(_, content)| *content).collect::<Vec<_>>())
                .execute(&mut *tx)
                .await
                .map_err(status)?
                .rows_affected();
            sqlx::query("update object_store set swept = $1").bind(&last).execute(&mut *tx).await.map_err(status)?;
            tx.commit().await.map_err(status)?;
            if orphans > 0 {
                tracing::info!(orphans, "objects without a message found");
            }
            if found.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// The first names after `after` and not after `until`, in their order.
    async fn list(&self, after: &str, until: &str) -> object_store::Result<Vec<String>> {
        let prefix = &self.place.prefix;
        let prefix = (!prefix.as_ref().is_empty()).then_some(prefix);
        let mut names: BTreeSet<String> = BTreeSet::new();
        let mut all = match after {
            "" => self.place.store.list(prefix),
            after => self.place.store.list_with_offset(prefix, &self.path(after)),
        };
        while let Some(found) = all.try_next().await? {
            let Some(name) = self.name_of(&found.location) else { continue };
            if name.as_str() <= after || name.as_str() > until {
                // A sorted listing has nothing more for us.
                if self.place.is_sorted && name.as_str() > until {
                    break;
                }
                continue;
            }
            names.insert(name);
            if names.len() > BATCH {
                names.pop_last();
            }
            if self.place.is_sorted && names.len() == BATCH {
                break;
            }
        }
        Ok(names.into_iter().collect())
    }

    fn name_of(&self, location: &Path) -> Option<String> {
        let parts: Vec<_> = location.prefix_match(&self.place.prefix)?.map(|p| p.as_ref().to_owned()).collect();
        Some(parts.join("/"))
    }
}
