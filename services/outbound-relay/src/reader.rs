//! From the stream to the destinations. Nothing here waits for a peer.

use std::{sync::Arc, time::Duration};

use address::Address;
use queue::{Acknowledger, Consumer, Entry, Stream, Url};

use crate::{
    Relay,
    destinations::{Destinations, Job},
    lease::Held,
};

/// Entries read and claimed at once.
const BATCH: usize = 200;
const PAUSE: Duration = Duration::from_millis(200);
/// Mail that a busy destination has no room for comes back after this long, plus as much jitter.
const BUSY: Duration = Duration::from_secs(15);

/// Reads until shutdown, then waits for the attempts that run.
pub(crate) async fn run(relay: &Arc<Relay>, redis_url: &Url) {
    let name = format!("{}-{}", relay.config.hostname, uuid::Uuid::new_v4());
    let mut consumer = Consumer::new(redis_url, Stream::Remote, name, BATCH);
    let acknowledger = consumer.acknowledger();
    let destinations = Destinations::new(Arc::clone(relay), acknowledger.clone());
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
async fn take(relay: &Arc<Relay>, destinations: &Destinations, acknowledger: &Acknowledger, mut entries: Vec<Entry>) {
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

    let mut jobs: Vec<(String, Job)> = Vec::with_capacity(held.len());
    for held in held {
        let is_its = |e: &Entry| held.claimed.id.as_ref() == Some(&e.delivery);
        if let Some(at) = entries.iter().position(is_its) {
            let entry = entries.swap_remove(at);
            jobs.push((destination(&held), Job { held, entry }));
        }
    }
    // What is left was settled, leased by another, or is not due: its stream entry has no use.
    acknowledger.acknowledge(&entries).await;

    let busy = destinations.push(jobs);
    if !busy.is_empty() {
        let (held, entries): (Vec<Held>, Vec<Entry>) = busy.into_iter().map(|job| (job.held, job.entry)).unzip();
        let jitter = Duration::from_millis(uuid::Uuid::new_v4().as_u64_pair().0 % 15_000);
        tracing::info!(deliveries = held.len(), "destination is busy, given back for a while");
        relay.leases.give_back(held, BUSY + jitter).await;
        acknowledger.acknowledge(&entries).await;
    }
}

/// The domain mail goes to, as the map of destinations knows it.
fn destination(held: &Held) -> String {
    match held.claimed.forward_path.parse::<Address>() {
        Ok(address) => address.domain().to_string(),
        // Routing will say what is wrong with it.
        Err(_) => held.claimed.forward_path.rsplit('@').next().unwrap_or_default().to_ascii_lowercase(),
    }
}
