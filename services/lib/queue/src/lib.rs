//! The delivery queue: Redis streams that hand out delivery ids (never content) to workers.
//!
//! Redis is an index that can be rebuilt (Invariant 2): Postgres knows every delivery, so an
//! entry that is lost is added again by `mda`'s dispatcher, and one that comes twice is found
//! settled or leased when it is claimed. Hence nothing here retries or persists; on trouble a
//! consumer waits and goes on.
//!
//! ```text
//! mda ── Producer::add ──▶ postroad:{local}  ── Consumer::next ──▶ mda's delivery worker
//!                     └──▶ postroad:{remote} ── Consumer::next ──▶ outbound-relay
//! mda ── Wakes::publish ─▶ postroad:wake     ── watch_wakes ─────▶ mda, for IDLE sessions
//! ```

mod consumer;
mod latency;
mod producer;
mod rates;
mod turns;
mod wakes;

use std::time::Duration;

pub use latency::register;
pub use consumer::{Acknowledger, Consumer, Entry};
pub use producer::{Item, Producer};
pub use rates::{Penalty, Rate, Rates};
pub use turns::{Allowance, Turn, Turns};
pub use wakes::{Wakes, watch_wakes};

/// `redis://[:password@]host:port/`, `rediss://…` with TLS, or `redis+unix:///path/to/socket`.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Url(redis::Client);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(url: String) -> Result<Self, String> {
        redis::Client::open(url.as_str()).map(Self).map_err(|e| format!("expected a Redis URL: {e}"))
    }
}

/// Redis is away or refuses. Always transient: the dispatcher repairs what was not added.
#[derive(Debug, thiserror::Error)]
#[error("redis: {0}")]
pub struct QueueError(#[from] redis::RedisError);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Deliveries into mailboxes of ours.
    Local,
    /// Deliveries to other hosts.
    Remote,
}

impl Stream {
    /// Hash tags keep a stream's commands on one node of a Redis Cluster.
    fn key(self) -> &'static str {
        match self {
            Self::Local => "postroad:{local}",
            Self::Remote => "postroad:{remote}",
        }
    }
}

/// The one consumer group of each stream.
const GROUP: &str = "workers";

/// A connection that comes back by itself. `patience` bounds the wait for one answer.
fn connection(url: &Url, patience: Duration) -> redis::aio::ConnectionManager {
    let config = redis::aio::ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_millis(500))
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(patience));
    match redis::aio::ConnectionManager::new_lazy_with_config(url.0.clone(), config) {
        Ok(connection) => connection,
        // Fails only for a configuration that subscribes without a receiver; ours does not.
        Err(e) => unreachable!("connection configuration: {e}"),
    }
}
