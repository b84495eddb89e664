//! From the stream to the destinations. Nothing here waits for a peer.
//!
//! An entry leaves the stream as soon as its delivery is claimed: from then on Postgres brings it
//! back when its lease ends (Invariant 2). So the stream holds only what nobody has looked at,
//! and no destination can fill it.

use std::{sync::Arc, time::Duration};

use queue::{Acknowledger, Consumer, Entry, Stream, Url};

use crate::{Relay, destinations::Destinations, shed};

/// Entries read and claimed at once.
const BATCH: usize = 200;
const PAUSE: Duration = Duration::from_millis(200);

/// Reads until shutdown, then waits for the attempts that run.
pub(crate) async fn run(relay: &Arc<Relay>, redis_url: &Url) {
    let name = format!("{}-{}", relay.config.hostname, uuid::Uuid::new_v4());
    let mut consumer = Consumer::new(redis_url, Stream::Remote, name, BATCH);
    let acknowledger = consumer.acknowledger();
    let destinations = Destinations::new(Arc::clone(relay));
    while !relay.shutdown.is_cancelled() {
        relay.metrics.held.set(i64::try_from(relay.leases.count()).unwrap_or(i64::MAX));
        if relay.leases.count() + BATCH > relay.config.max_held.max(BATCH) {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let entries = tokio::select! {
            entries = consumer.next() => entries,
            () = relay.shutdown.cancelled() => break,
        };
        if !entries.is_empty() {
            take(relay, &destinations, &acknowledger, entries).await;
        }
    }
    destinations.drain().await;
}

/// Claims what was read, and hands it to its destinations.
async fn take(relay: &Arc<Relay>, destinations: &Destinations, acknowledger: &Acknowledger, entries: Vec<Entry>) {
    let held = loop {
        let ids = entries.iter().map(|e| e.delivery.clone()).collect();
        match relay.leases.claim(ids).await {
            Ok(held) => break held,
            // Without mda there is nothing to do anyway; unread entries wait in Redis.
            Err(e) => tracing::warn!(error = %e, "cannot claim deliveries"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE * 5) => (),
            () = relay.shutdown.cancelled() => return,
        }
    };
    // Those that were not claimed were settled, leased by another, or are not due.
    acknowledger.acknowledge(&entries).await;
    for refused in destinations.push(held) {
        tracing::debug!(deliveries = refused.held.len(), "destination is busy, given back for a while");
        shed::refuse(relay, refused).await;
    }
}
