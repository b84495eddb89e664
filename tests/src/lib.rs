//! What the tests that cross a service's border stand on: real Postgres, Redis and DNS of their
//! own, whole sites, and real clients.
//!
//! Nothing here is skipped when a tool is missing: it fails and names the package.

#![allow(clippy::unwrap_used, reason = "a test ends at its first surprise")]

pub mod bench;
pub mod browser;
pub mod chaos;
pub mod client;
pub mod collector;
pub mod dns;
pub mod door;
pub mod fickle;
pub mod fuzz;
pub mod http;
pub mod imap;
pub mod metrics;
pub mod ports;
pub mod postfix;
pub mod process;
pub mod redis_servers;
pub mod s3;
pub mod sink;
pub mod site;
pub mod sites;
pub mod storage;
pub mod tokens;

use std::time::{Duration, Instant};

/// Asks until there is an answer; panics with `what` after three times `limit`, which is for a machine with
/// nothing else to do.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, limit: Duration, ask: impl Fn() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < 3 * limit, "not within three times {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
