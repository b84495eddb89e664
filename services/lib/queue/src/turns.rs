//! How many connections all relays together have to one destination, and whether to leave it
//! alone for a while.
//!
//! Kept in Redis, so it may be forgotten at any time (Invariant 2): then a destination starts
//! afresh, slowly.

use std::{sync::LazyLock, time::Duration};

use redis::Script;

use crate::{QueueError, Url, connection, connection::Connection, latency::timed};

/// Forgotten after so long without traffic.
const FORGET_MS: u64 = 24 * 60 * 60 * 1000;

/// What a destination allows.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Connections at once, of all relays.
    pub connections: usize,
    /// Connections at the beginning; each success adds one.
    pub slow_start: usize,
    /// A connection that its relay does not renew for so long is taken for dead.
    pub lease: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// `is_open` when no further success need be reported.
    Go { is_open: bool },
    /// All connections are taken.
    Full,
    /// It did not answer lately: not before `wait`; `words` say what happened.
    BackOff { wait: Duration, words: String },
}

/// One hash (`failures`, `until`, `words`, `window`) and one sorted set (connections by the end
/// of their lease) for each destination. While it fails, one connection at a time tries.
static ENTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = tonumber(redis.call('HGET', KEYS[1], 'until') or '0') - now
if wait > 0 then return {'backoff', tostring(wait), redis.call('HGET', KEYS[1], 'words') or ''} end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local max = tonumber(ARGV[2])
local window = tonumber(redis.call('HGET', KEYS[1], 'window') or ARGV[3])
local failures = tonumber(redis.call('HGET', KEYS[1], 'failures') or '0')
local limit = math.min(max, window)
if failures > 0 then limit = 1 end
if redis.call('ZCARD', KEYS[2]) >= limit then return {'full', '0', ''} end
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[4]), ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
if failures == 0 and window >= max then return {'open', '0', ''} end
return {'go', '0', ''}",
    )
});

static SUCCESS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local max = tonumber(ARGV[1])
local window = math.min(max, tonumber(redis.call('HGET', KEYS[1], 'window') or ARGV[2]) + 1)
redis.call('HDEL', KEYS[1], 'failures', 'until', 'words')
redis.call('HSET', KEYS[1], 'window', window)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return window >= max and 1 or 0",
    )
});

/// A failure that several connections saw at once counts once.
static FAILURE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = tonumber(redis.call('HGET', KEYS[1], 'until') or '0') - now
if wait > 0 then return wait end
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
wait = math.min(tonumber(ARGV[2]), tonumber(ARGV[1]) * 2 ^ (math.min(failures, 20) - 1))
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + wait), 'words', ARGV[3], 'window', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return math.floor(wait)",
    )
});

/// It answers, but wants less of us.
static SLOW_DOWN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local window = tonumber(redis.call('HGET', KEYS[1], 'window') or ARGV[1])
redis.call('HSET', KEYS[1], 'window', math.max(1, math.floor(window / 2)))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1",
    )
});

/// A fixed minute is enough for a limit that peers state by the minute or hour.
static RATE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local time = redis.call('TIME')
local key = KEYS[1] .. ':' .. math.floor(time[1] / 60)
if redis.call('INCR', key) > tonumber(ARGV[1]) then return (60 - time[1] % 60) * 1000 end
redis.call('PEXPIRE', key, 120000)
return 0",
    )
});

/// The destinations as all relays see them. A failing call means that Redis is away; then each
/// relay keeps to its own limits.
#[derive(Clone)]
pub struct Turns {
    connection: Connection,
}

/// A hash tag, so that both keys are on one node of a Redis Cluster.
fn key(destination: &str, what: &str) -> String {
    let plain: String = destination.chars().filter(|c| !matches!(c, '{' | '}')).collect();
    format!("postroad:{{destination:{plain}}}:{what}")
}

impl Turns {
    pub fn new(url: &Url) -> Self {
        Self { connection: connection(url, Duration::from_secs(2)) }
    }

    /// Asks for a connection named `holder`; asked again with the same name, it renews the lease.
    pub async fn enter(&self, destination: &str, holder: &str, allowance: Allowance) -> Result<Turn, QueueError> {
        let mut enter = ENTER.key(key(destination, "state"));
        enter
            .key(key(destination, "connections"))
            .arg(holder)
            .arg(allowance.connections.max(1))
            .arg(allowance.slow_start.max(1))
            .arg(millis(allowance.lease))
            .arg(FORGET_MS);
        let (word, wait, words): (String, String, String) =
            timed("turn", enter.invoke_async(&mut self.connection.clone())).await?;
        Ok(match word.as_str() {
            "backoff" => Turn::BackOff { wait: Duration::from_millis(wait.parse().unwrap_or(1_000)), words },
            "full" => Turn::Full,
            word => Turn::Go { is_open: word == "open" },
        })
    }

    /// Keeps connections from being taken for dead.
    pub async fn renew(&self, held: &[(String, String)], lease: Duration) -> Result<(), QueueError> {
        let until = now_ms().saturating_add(millis(lease));
        for held in held.chunks(self.pipeline_length()) {
            let mut pipeline = redis::pipe();
            for (destination, holder) in held {
                // XX: one that was flushed away is not brought back.
                let key = key(destination, "connections");
                pipeline.cmd("ZADD").arg(key).arg("XX").arg(until).arg(holder).ignore();
            }
            pipeline.query_async::<()>(&mut self.connection.clone()).await?;
        }
        Ok(())
    }

    pub async fn leave(&self, destination: &str, holder: &str) -> Result<(), QueueError> {
        let key = key(destination, "connections");
        redis::cmd("ZREM").arg(key).arg(holder).query_async::<i64>(&mut self.connection.clone()).await?;
        Ok(())
    }

    /// It took mail. True when no further success need be reported.
    pub async fn succeeded(&self, destination: &str, allowance: Allowance) -> Result<bool, QueueError> {
        let open: i64 = SUCCESS
            .key(key(destination, "state"))
            .arg(allowance.connections.max(1))
            .arg(allowance.slow_start.max(1))
            .arg(FORGET_MS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(open == 1)
    }

    /// It does not answer: nobody tries for `first`, doubled with each further time up to `max`.
    /// Returns how long.
    pub async fn failed(
        &self,
        destination: &str,
        first: Duration,
        max: Duration,
        words: &str,
    ) -> Result<Duration, QueueError> {
        let wait: u64 = FAILURE
            .key(key(destination, "state"))
            .arg(millis(first))
            .arg(millis(max))
            .arg(words)
            .arg(FORGET_MS)
            .invoke_async(&mut self.connection.clone())
            .await?;
        Ok(Duration::from_millis(wait))
    }

    /// Nothing is held against these any more: an operator wants them tried.
    pub async fn forgive(&self, destinations: &[String]) -> Result<(), QueueError> {
        for destinations in destinations.chunks(self.pipeline_length()) {
            let mut pipeline = redis::pipe();
            for destination in destinations {
                pipeline.cmd("HDEL").arg(key(destination, "state")).arg("until").arg("words").ignore();
            }
            pipeline.query_async::<()>(&mut self.connection.clone()).await?;
        }
        Ok(())
    }

    /// Destinations are on different nodes of a cluster.
    fn pipeline_length(&self) -> usize {
        if self.connection.is_cluster() { 1 } else { 1_000 }
    }

    /// Half as many connections from now on.
    pub async fn slow_down(&self, destination: &str, allowance: Allowance) -> Result<(), QueueError> {
        SLOW_DOWN
            .key(key(destination, "state"))
            .arg(allowance.connections.max(1))
            .arg(FORGET_MS)
            .invoke_async::<i64>(&mut self.connection.clone())
            .await?;
        Ok(())
    }

    /// One of `per_minute` messages; else how long until the next minute.
    pub async fn message(&self, destination: &str, per_minute: u32) -> Result<Option<Duration>, QueueError> {
        let wait: u64 =
            RATE.key(key(destination, "minute")).arg(per_minute).invoke_async(&mut self.connection.clone()).await?;
        Ok((wait > 0).then(|| Duration::from_millis(wait)))
    }
}

fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
