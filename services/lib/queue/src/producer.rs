use std::time::Duration;

use crate::{QueueError, Stream, Url, connection, connection::Connection, latency::timed};

/// Adds deliveries to the streams.
#[derive(Clone)]
pub struct Producer {
    connection: Connection,
}

/// What an entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub queue_id: String,
    pub number: u32,
    /// W3C trace context of the message.
    pub traceparent: String,
    /// How often it was handed out before and came back; 0 the first time.
    pub handed_out: u32,
}

impl Producer {
    pub fn new(url: &Url) -> Self {
        Self { connection: connection(url, Duration::from_secs(5)) }
    }

    /// Adds all of them in one pipeline and returns the stream's length after it.
    pub async fn add(&self, stream: Stream, items: &[Item]) -> Result<usize, QueueError> {
        let mut pipeline = redis::pipe();
        // A blocked reader gets them together, and not the first one alone.
        pipeline.atomic();
        for item in items {
            let delivery = format!("{}/{}", item.queue_id, item.number);
            let add = pipeline.cmd("XADD").arg(stream.key()).arg("*").arg("d").arg(delivery);
            add.arg("t").arg(&item.traceparent);
            if item.handed_out > 0 {
                add.arg("n").arg(item.handed_out);
            }
            add.ignore();
        }
        pipeline.cmd("XLEN").arg(stream.key());
        let (length,): (usize,) = timed("add", pipeline.query_async(&mut self.connection.clone())).await?;
        Ok(length)
    }

    /// Entries that no worker has finished.
    pub async fn length(&self, stream: Stream) -> Result<usize, QueueError> {
        Ok(timed("length", redis::cmd("XLEN").arg(stream.key()).query_async(&mut self.connection.clone())).await?)
    }
}
