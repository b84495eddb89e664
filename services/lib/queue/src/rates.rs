//! Counts that all pods share: rate limits, back-off after failures, first meetings.
//!
//! They guard doors and hold no truth (Invariant 2): when Redis is away or empty, callers go on
//! without them. After a failure nobody asks again for a second, so that a Redis that hangs does
//! not slow every caller.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::Script;
use serde::Deserialize;

use crate::{QueueError, Url, connection, connection::Connection, latency::timed};

const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE_MS: u64 = 1_000;

/// So many in a time, as `100/1h`: a number, and a time in `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate {
    pub limit: u64,
    pub seconds: u64,
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = || {
            let (limit, time) = text.split_once('/')?;
            let (number, unit) = time.trim().split_at_checked(time.trim().len().checked_sub(1)?)?;
            let unit = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3_600,
                "d" => 86_400,
                _ => return None,
            };
            let number: u64 = if number.is_empty() { 1 } else { number.parse().ok()? };
            let seconds = number.checked_mul(unit).filter(|s| (1..=31 * 86_400).contains(s))?;
            Some(Self { limit: limit.trim().parse().ok()?, seconds })
        };
        read().ok_or_else(|| "expected a rate such as 100/1h".to_owned())
    }
}

/// How failures are answered: the first ones with nothing, then with longer and longer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Penalty {
    /// Failures without consequence.
    pub free: u32,
    /// The first wait; it doubles with each further failure.
    pub first: Duration,
    pub longest: Duration,
    /// Without a failure for so long, all is forgotten.
    pub memory: Duration,
}

#[derive(Clone)]
pub struct Rates {
    connection: Connection,
    scripts: Arc<Scripts>,
    started: Instant,
    /// Milliseconds after `started` until when nobody asks.
    away_until: Arc<AtomicU64>,
}

struct Scripts {
    count: Script,
    wait: Script,
    fail: Script,
    meet: Script,
}

/// The window slides: what lies in the last one counts by the part that is still in it.
const COUNT: &str = "
local t = redis.call('TIME')
local now = (t[1] + t[2] / 1000000) / ARGV[1]
local slot = math.floor(now)
local h = redis.call('HMGET', KEYS[1], 's', 'c', 'p')
local s, c, p = tonumber(h[1]), tonumber(h[2]) or 0, tonumber(h[3]) or 0
if s ~= slot then
    p = s == slot - 1 and c or 0
    c = 0
end
if p * (1 - (now - slot)) + c + ARGV[3] > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 's', slot, 'c', c + ARGV[3], 'p', p)
redis.call('EXPIRE', KEYS[1], 2 * ARGV[1])
return 1";

const WAIT: &str = "
local t = redis.call('TIME')
local u = redis.call('HGET', KEYS[1], 'u')
return u and math.max(0, u - (t[1] * 1000 + math.floor(t[2] / 1000))) or 0";

const FAIL: &str = "
local t = redis.call('TIME')
local n = redis.call('HINCRBY', KEYS[1], 'n', 1)
local free = tonumber(ARGV[1])
local wait = 0
if n > free then
    wait = math.min(tonumber(ARGV[3]), ARGV[2] * 2 ^ math.min(n - free - 1, 30))
    redis.call('HSET', KEYS[1], 'u', string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000) + wait))
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return math.floor(wait)";

/// Seconds since the first time, 0 at the first.
const MEET: &str = "
local t = redis.call('TIME')
local first = redis.call('GET', KEYS[1])
if not first then
    redis.call('SET', KEYS[1], t[1], 'EX', ARGV[1])
    return 0
end
local age = t[1] - first
if age >= tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return age";

impl Rates {
    pub fn new(url: &Url) -> Self {
        let scripts = Scripts {
            count: Script::new(COUNT),
            wait: Script::new(WAIT),
            fail: Script::new(FAIL),
            meet: Script::new(MEET),
        };
        Self {
            connection: connection(url, PATIENCE),
            scripts: Arc::new(scripts),
            started: Instant::now(),
            away_until: Arc::default(),
        }
    }

    /// Adds `amount` to what `key` had in the time of `rate`; `false`, and nothing is added, when
    /// that would be more than the limit.
    pub async fn count(&self, key: &str, amount: u64, rate: Rate) -> Result<bool, QueueError> {
        let mut call = self.scripts.count.key(name(key));
        call.arg(rate.seconds).arg(rate.limit).arg(amount);
        self.ask(call.invoke_async::<u64>(&mut self.connection.clone())).await.map(|counted| counted == 1)
    }

    /// How long `key` still has to wait for its failures.
    pub async fn wait(&self, key: &str) -> Result<Duration, QueueError> {
        let call = self.scripts.wait.key(name(key));
        self.ask(call.invoke_async::<u64>(&mut self.connection.clone())).await.map(Duration::from_millis)
    }

    /// A failure of `key`, and the wait that follows from it.
    pub async fn failed(&self, key: &str, penalty: Penalty) -> Result<Duration, QueueError> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let mut call = self.scripts.fail.key(name(key));
        call.arg(penalty.free).arg(ms(penalty.first)).arg(ms(penalty.longest)).arg(ms(penalty.memory));
        self.ask(call.invoke_async::<u64>(&mut self.connection.clone())).await.map(Duration::from_millis)
    }

    /// The failures of `key` are forgotten.
    pub async fn forgive(&self, key: &str) -> Result<(), QueueError> {
        self.ask(redis::cmd("DEL").arg(name(key)).query_async(&mut self.connection.clone())).await
    }

    /// How long ago `key` was first met; zero the first time. Forgotten after `patience`, but
    /// after `memory` from its last time once it was met again later than `delay`.
    pub async fn meet(
        &self,
        key: &str,
        delay: Duration,
        patience: Duration,
        memory: Duration,
    ) -> Result<Duration, QueueError> {
        let mut call = self.scripts.meet.key(name(key));
        call.arg(patience.as_secs().max(1)).arg(delay.as_secs()).arg(memory.as_secs().max(1));
        self.ask(call.invoke_async::<u64>(&mut self.connection.clone())).await.map(Duration::from_secs)
    }

    /// Remembers `key` for a time.
    pub async fn remember(&self, key: &str, memory: Duration) -> Result<(), QueueError> {
        let mut set = redis::cmd("SET");
        set.arg(name(key)).arg(1).arg("EX").arg(memory.as_secs().max(1));
        self.ask(set.query_async(&mut self.connection.clone())).await
    }

    pub async fn is_remembered(&self, key: &str) -> Result<bool, QueueError> {
        self.ask(redis::cmd("EXISTS").arg(name(key)).query_async(&mut self.connection.clone())).await
    }

    async fn ask<T>(&self, call: impl Future<Output = redis::RedisResult<T>>) -> Result<T, QueueError> {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now < self.away_until.load(Ordering::Relaxed) {
            let error = std::io::Error::new(std::io::ErrorKind::NotConnected, "was away a moment ago");
            return Err(QueueError(error.into()));
        }
        let answer = match tokio::time::timeout(PATIENCE, timed("limit", call)).await {
            Ok(answer) => answer.map_err(QueueError),
            Err(_) => Err(QueueError(std::io::Error::from(std::io::ErrorKind::TimedOut).into())),
        };
        if let Err(error) = &answer {
            tracing::warn!(%error, "shared limits are not kept");
            self.away_until.store(now.saturating_add(PAUSE_MS), Ordering::Relaxed);
        }
        answer
    }
}

/// One key a script, so that Redis Cluster can place it anywhere.
fn name(key: &str) -> String {
    format!("postroad:rate:{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let rate = |text: &str| Rate::try_from(text.to_owned()).map(|r| (r.limit, r.seconds));
        assert_eq!(rate("100/1h"), Ok((100, 3_600)));
        assert_eq!(rate("5 / 30s"), Ok((5, 30)));
        assert_eq!(rate("1000/d"), Ok((1_000, 86_400)));
        for bad in ["", "5", "5/", "5/x", "x/1s", "5/0s", "5/99d", "-1/1s", "5/1\u{e4}"] {
            assert!(rate(bad).is_err_and(|e| e.contains("100/1h")), "{bad}");
        }
    }
}
