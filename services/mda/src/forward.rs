//! Forwarding mail from outside to an address elsewhere: whose reverse-path it gets (SRS), and
//! where an answer to that goes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use address::{Address, Domain};
use aws_lc_rs::rand;
use chrono::Utc;
use moka::sync::Cache;
use sqlx::PgPool;
use tonic::Status;

use crate::{
    database::status,
    metrics::Metrics,
    srs::{self, Origin, Rewritten},
};

/// Keys are read again after so long, and when one is missing.
const KEEP: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);
/// Whether a domain is ours is remembered for so long, of so many: a batch of forwards asks once.
const KEEP_DOMAIN: Duration = Duration::from_secs(3);
const DOMAINS: u64 = 10_000;

#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// A new key signs after so many days.
    pub rotate_days: u16,
    /// Answers are taken for so many days.
    pub max_days: u16,
}

#[derive(Clone)]
pub struct Forwarder {
    pool: PgPool,
    ages: Ages,
    metrics: Metrics,
    known: Arc<Mutex<Option<Known>>>,
    ours: Cache<String, bool>,
}

struct Known {
    at: Instant,
    /// The newest first.
    keys: Vec<Vec<u8>>,
}

impl Forwarder {
    pub fn new(pool: PgPool, ages: Ages, metrics: Metrics) -> Self {
        let ours = Cache::builder().max_capacity(DOMAINS).time_to_live(KEEP_DOMAIN).build();
        Self { pool, ages, metrics, known: Arc::default(), ours }
    }

    /// The reverse-path for forwards of each recipient's domain; none where the message's own does:
    /// the domain is not ours to speak for, or the sender is ours and our hosts are its.
    pub async fn reverse_paths(
        &self,
        reverse_path: &str,
        forwarders: &[Option<Domain>],
    ) -> Result<Vec<Option<String>>, Status> {
        let nothing = || Ok(vec![None; forwarders.len()]);
        let Ok(origin) = reverse_path.parse::<Address>() else { return nothing() };
        let asked: Vec<&str> =
            forwarders.iter().flatten().map(Domain::as_str).chain([origin.domain().as_str()]).collect();
        let ours = self.ours(&asked).await?;
        let is_ours = |domain: &Domain| ours.iter().any(|name| *name == domain.as_str());
        if is_ours(origin.domain()) {
            return nothing();
        }
        let keys = self.keys(KEEP).await?;
        let key = keys.first().ok_or_else(|| Status::internal("no SRS key"))?;
        let mut paths = Vec::new();
        for forwarder in forwarders {
            paths.push(match forwarder.as_ref().filter(|d| is_ours(d)) {
                None => None,
                Some(ours) => match srs::rewrite(key, &origin, ours, srs::today(Utc::now().timestamp())) {
                    None => None,
                    Some(Rewritten::Address(address)) => Some(address.to_string()),
                    Some(Rewritten::Kept(address, token)) => {
                        self.keep(&token, reverse_path).await?;
                        Some(address.to_string())
                    }
                },
            });
        }
        if paths.iter().any(Option::is_some) {
            self.metrics.srs("rewritten");
        }
        Ok(paths)
    }

    /// Those of `asked` that are domains of this system.
    async fn ours<'a>(&self, asked: &[&'a str]) -> Result<Vec<&'a str>, Status> {
        let mut known: HashMap<&str, bool> =
            asked.iter().filter_map(|name| Some((*name, self.ours.get(*name)?))).collect();
        let unknown: Vec<&str> = asked.iter().filter(|name| !known.contains_key(**name)).copied().collect();
        if !unknown.is_empty() {
            let found: Vec<String> = sqlx::query_scalar("select name from domains where name = any ($1)")
                .bind(&unknown)
                .fetch_all(&self.pool)
                .await
                .map_err(status)?;
            for name in unknown {
                let is_ours = found.iter().any(|found| found == name);
                self.ours.insert(name.to_owned(), is_ours);
                known.insert(name, is_ours);
            }
        }
        Ok(asked.iter().filter(|name| known.get(**name) == Some(&true)).copied().collect())
    }

    async fn keep(&self, token: &str, reverse_path: &str) -> Result<(), Status> {
        sqlx::query(
            "insert into srs_kept (token, reverse_path) values ($1, $2)
             on conflict (token) do update set used_at = now()",
        )
        .bind(token)
        .bind(reverse_path)
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(status)
    }

    /// Where mail to one of our rewritten addresses goes; none when it is not (any more) ours.
    pub async fn origin(&self, address: &Address) -> Result<Option<Address>, Status> {
        if !srs::is_srs(address) {
            return Ok(None);
        }
        let today = srs::today(Utc::now().timestamp());
        let mut found = srs::reverse(&self.keys(KEEP).await?, address, today, self.ages.max_days);
        if found.is_none() {
            // Another pod may have made the key just now.
            found = srs::reverse(&self.keys(AGAIN).await?, address, today, self.ages.max_days);
        }
        let origin = match found {
            Some(Origin::Address(origin)) => Some(origin),
            Some(Origin::Kept(token)) => {
                let kept: Option<String> = sqlx::query_scalar("select reverse_path from srs_kept where token = $1")
                    .bind(token)
                    .fetch_optional(&self.pool)
                    .await
                    .map_err(status)?;
                kept.and_then(|path| path.parse().ok())
            }
            None => None,
        };
        self.metrics.srs(if origin.is_some() { "reversed" } else { "refused" });
        Ok(origin)
    }

    async fn keys(&self, max_age: Duration) -> Result<Vec<Vec<u8>>, Status> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|known| (known.at.elapsed() < max_age && !known.keys.is_empty()).then(|| known.keys.clone()));
        if let Some(keys) = known {
            return Ok(keys);
        }
        let keys = self.load().await?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Known { at: Instant::now(), keys: keys.clone() });
        Ok(keys)
    }

    /// Makes a key when the newest is too old. Two pods may both make one: both are good.
    async fn load(&self) -> Result<Vec<Vec<u8>>, Status> {
        let mut fresh = [0u8; 32];
        rand::fill(&mut fresh).map_err(|_| Status::internal("no randomness"))?;
        sqlx::query(
            "insert into srs_keys (key)
             select $1 where not exists (select from srs_keys where created_at > now() - make_interval(days => $2))",
        )
        .bind(&fresh[..])
        .bind(i32::from(self.ages.rotate_days))
        .execute(&self.pool)
        .await
        .map_err(status)?;
        sqlx::query_scalar("select key from srs_keys order by id desc").fetch_all(&self.pool).await.map_err(status)
    }

    /// Removes keys and kept reverse-paths that no answer can name any more.
    pub async fn forget(&self) -> Result<(), sqlx::Error> {
        sqlx::query("delete from srs_keys where created_at < now() - make_interval(days => $1)")
            .bind(i32::from(self.ages.rotate_days) + i32::from(self.ages.max_days) + 1)
            .execute(&self.pool)
            .await?;
        sqlx::query("delete from srs_kept where used_at < now() - make_interval(days => $1)")
            .bind(i32::from(self.ages.max_days) + 1)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
