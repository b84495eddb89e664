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

mod connection;
mod consumer;
mod latency;
mod producer;
mod rates;
mod turns;
mod wakes;

pub use connection::Url;
pub use consumer::{Acknowledger, Consumer, Entry};
pub use latency::register;
pub use producer::{Item, Producer};
pub use rates::{Penalty, Rate, Rates};
pub use turns::{Allowance, Turn, Turns};
pub use wakes::{Wakes, watch_wakes};

use crate::connection::connection;

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
