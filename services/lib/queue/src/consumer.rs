use std::time::{Duration, Instant};

use proto::spool::DeliveryId;
use redis::{
    RedisResult,
    streams::{StreamAutoClaimReply, StreamId, StreamInfoConsumersReply, StreamReadReply},
};

use crate::{GROUP, QueueError, Stream, Url, connection, connection::Connection, latency::timed};

/// Reads follow each other no closer, unless they are full: each batch costs its statements, whatever is in it,
/// and what comes meanwhile shares the next. After a pause the first entry is there at once.
const PACE: Duration = Duration::from_millis(20);
/// One read waits this long for entries.
const BLOCK: Duration = Duration::from_secs(2);
/// An entry idle for longer is taken over from its consumer, which may be dead.
const TAKE_OVER_IDLE: Duration = Duration::from_secs(60);
const TAKE_OVER_EVERY: Duration = Duration::from_secs(20);
/// A consumer without entries that is silent for longer is forgotten.
const FORGET_IDLE: Duration = Duration::from_secs(600);
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);

/// A delivery to work on. It stays pending until acknowledged, or until taken over.
#[derive(Debug, Clone)]
pub struct Entry {
    stream_id: String,
    pub delivery: DeliveryId,
    /// W3C trace context of the message.
    pub traceparent: String,
    /// As in [`crate::Item`].
    pub handed_out: u32,
}

/// Reads one stream as one member of its group.
pub struct Consumer {
    connection: Connection,
    acknowledger: Acknowledger,
    name: String,
    batch: usize,
    last_take_over: Instant,
    next_read: Instant,
}

/// Finishes entries; shared by all tasks that work on them.
#[derive(Clone)]
pub struct Acknowledger {
    connection: Connection,
    stream: Stream,
}

impl Consumer {
    /// `name` is unique among running consumers; `batch` bounds what one read returns.
    pub fn new(url: &Url, stream: Stream, name: String, batch: usize) -> Self {
        Self {
            // A blocking read needs a connection of its own, and patience beyond its block.
            connection: connection(url, BLOCK + Duration::from_secs(3)),
            acknowledger: Acknowledger { connection: connection(url, Duration::from_secs(5)), stream },
            name,
            batch,
            last_take_over: Instant::now(),
            next_read: Instant::now(),
        }
    }

    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }

    /// The next entries, oldest first; empty after a while without any, or when Redis is away.
    pub async fn next(&mut self) -> Vec<Entry> {
        tokio::time::sleep_until(self.next_read.into()).await;
        match self.read().await {
            Ok(entries) => {
                if (1..self.batch).contains(&entries.len()) {
                    self.next_read = Instant::now() + PACE;
                }
                entries
            }
            // The group is gone with the stream: after a flush, or at the very first start.
            Err(e) if e.code() == Some("NOGROUP") => {
                if let Err(e) = self.create_group().await {
                    tracing::warn!(error = %e, "cannot create consumer group");
                    tokio::time::sleep(TROUBLE_PAUSE).await;
                }
                Vec::new()
            }
            Err(e) if e.is_timeout() => Vec::new(),
            Err(e) => {
                tracing::warn!(error = %e, "queue not readable");
                tokio::time::sleep(TROUBLE_PAUSE).await;
                Vec::new()
            }
        }
    }

    async fn read(&mut self) -> RedisResult<Vec<Entry>> {
        if self.last_take_over.elapsed() >= TAKE_OVER_EVERY {
            self.last_take_over = Instant::now();
            self.forget_the_dead().await?;
            let taken = self.take_over().await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
        let reply: Option<StreamReadReply> = redis::cmd("XREADGROUP")
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.name)
            .arg("COUNT")
            .arg(self.batch)
            .arg("BLOCK")
            .arg(millis(BLOCK))
            .arg("STREAMS")
            .arg(self.acknowledger.stream.key())
            .arg(">")
            .query_async(&mut self.connection)
            .await?;
        let ids = reply.into_iter().flat_map(|r| r.keys).flat_map(|k| k.ids).collect();
        Ok(self.entries(ids).await)
    }

    async fn take_over(&mut self) -> RedisResult<Vec<Entry>> {
        let reply: StreamAutoClaimReply = redis::cmd("XAUTOCLAIM")
            .arg(self.acknowledger.stream.key())
            .arg(GROUP)
            .arg(&self.name)
            .arg(millis(TAKE_OVER_IDLE))
            .arg("0-0")
            .arg("COUNT")
            .arg(self.batch)
            .query_async(&mut self.connection)
            .await?;
        Ok(self.entries(reply.claimed).await)
    }

    async fn forget_the_dead(&mut self) -> RedisResult<()> {
        let key = self.acknowledger.stream.key();
        let known: StreamInfoConsumersReply =
            redis::cmd("XINFO").arg("CONSUMERS").arg(key).arg(GROUP).query_async(&mut self.connection).await?;
        for dead in known.consumers {
            if dead.pending == 0 && dead.idle as u128 > FORGET_IDLE.as_millis() && dead.name != self.name {
                let _: i64 = redis::cmd("XGROUP")
                    .arg("DELCONSUMER")
                    .arg(key)
                    .arg(GROUP)
                    .arg(dead.name)
                    .query_async(&mut self.connection)
                    .await?;
            }
        }
        Ok(())
    }

    async fn create_group(&mut self) -> RedisResult<()> {
        let created: RedisResult<()> = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(self.acknowledger.stream.key())
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM")
            .query_async(&mut self.connection)
            .await;
        match created {
            Err(e) if e.code() == Some("BUSYGROUP") => Ok(()),
            created => created,
        }
    }

    /// Entries that nobody can read are finished at once, or they would come back for ever.
    async fn entries(&self, ids: Vec<StreamId>) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(ids.len());
        let mut unreadable = Vec::new();
        for id in ids {
            let delivery = id.get::<String>("d").and_then(|text| parse_delivery(&text));
            match delivery {
                Some(delivery) => {
                    let traceparent = id.get("t").unwrap_or_default();
                    let handed_out = id.get("n").unwrap_or_default();
                    entries.push(Entry { stream_id: id.id, delivery, traceparent, handed_out });
                }
                None => unreadable.push(id.id),
            }
        }
        if !unreadable.is_empty() {
            tracing::error!(count = unreadable.len(), "unreadable queue entries dropped");
            if let Err(e) = self.acknowledger.finish(unreadable).await {
                tracing::warn!(error = %e, "entries not acknowledged");
            }
        }
        entries
    }
}

impl Acknowledger {
    /// Removes entries that are done. When it fails they come again, and are found done.
    pub async fn acknowledge(&self, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let ids = entries.iter().map(|e| e.stream_id.clone()).collect();
        if let Err(e) = self.finish(ids).await {
            tracing::warn!(error = %e, "entries not acknowledged");
        }
    }

    async fn finish(&self, ids: Vec<String>) -> Result<(), QueueError> {
        let key = self.stream.key();
        let mut pipeline = redis::pipe();
        pipeline.cmd("XACK").arg(key).arg(GROUP).arg(&ids).ignore().cmd("XDEL").arg(key).arg(&ids).ignore();
        timed("acknowledge", pipeline.query_async::<()>(&mut self.connection.clone())).await?;
        Ok(())
    }
}

fn parse_delivery(text: &str) -> Option<DeliveryId> {
    let (queue_id, number) = text.split_once('/')?;
    Some(DeliveryId { queue_id: queue_id.to_owned(), number: number.parse().ok()? })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
