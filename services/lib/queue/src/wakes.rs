use std::time::Duration;

use crate::{QueueError, Url, connection, connection::Connection, latency::timed};
use futures::StreamExt as _;

const CHANNEL: &str = "postroad:wake";

/// Tells every `mda` that something in an account changed, so that IDLE sessions look.
/// A wake that is lost costs time, not truth: sessions also look by themselves.
#[derive(Clone)]
pub struct Wakes {
    connection: Connection,
}

impl Wakes {
    pub fn new(url: &Url) -> Self {
        Self { connection: connection(url, Duration::from_secs(2)) }
    }

    /// One publication for a whole batch.
    pub async fn publish(&self, accounts: impl Iterator<Item = u64>) -> Result<(), QueueError> {
        let text: Vec<String> = accounts.map(|a| a.to_string()).collect();
        if !text.is_empty() {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(CHANNEL).arg(text.join(" "));
            timed("wake", publish.query_async::<()>(&mut self.connection.clone())).await?;
        }
        Ok(())
    }
}

/// Calls `woken` for every account that changed anywhere, until it is dropped.
/// `None` means that wakes may have been lost: everybody should look.
pub async fn watch_wakes(url: Url, mut woken: impl FnMut(Option<u64>)) {
    loop {
        let subscription = match url.publisher().await {
            Ok(client) => client.get_async_pubsub().await,
            Err(e) => Err(e),
        };
        match subscription {
            Ok(mut subscription) => match subscription.subscribe(CHANNEL).await {
                Ok(()) => {
                    woken(None);
                    let mut messages = subscription.into_on_message();
                    while let Some(message) = messages.next().await {
                        let text: String = message.get_payload().unwrap_or_default();
                        text.split(' ').filter_map(|a| a.parse().ok()).for_each(|a| woken(Some(a)));
                    }
                }
                Err(e) => tracing::warn!(error = %e, "cannot subscribe to wakes"),
            },
            Err(e) => tracing::debug!(error = %e, "redis is away"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
