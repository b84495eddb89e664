//! Brings mail to other hosts.
//!
//! - **Role**: claims remote deliveries, tries each once, and says how it went: relayed, deferred
//!   until a time, or bounced with a DSN. It keeps nothing; Postgres knows every delivery.
//! - **Ports**: the runtime's HTTP port only.
//! - **Peers**: the Redis stream `remote`, `mda` (Spool, Directory), name servers, the world's MTAs.
//! - **Scaling**: attempts are bounded by `concurrency`; several processes share the stream.
//!
//! ```text
//! stream ─▶ reader ─claim─▶ destinations ─▶ one to `per_destination` workers for each domain,
//!                                            each with a connection of its own ─▶ settle, ack
//! ```
//!
//! Invariant 4: an attempt holds a lease from the claim on, renewed while it runs, looked at once
//! more before the final dot. Only a crash between the peer's 250 and the settling can send a
//! message twice (RFC 5321 §4.5.4 allows no better).

mod attempt;
mod bounce;
mod config;
mod connect;
mod connection;
mod decision;
mod destinations;
mod lease;
mod metrics;
mod reader;
mod retry;
mod route;
mod settle;
mod tls;

use std::sync::Arc;

use anyhow::Context as _;
pub use config::Config;
use proto::{directory::directory_client::DirectoryClient, spool::spool_client::SpoolClient};
pub use retry::retry_delay;
use runtime::grpc::Channel;

use crate::{lease::Leases, metrics::Metrics};

/// What every attempt needs.
struct Relay {
    config: Config,
    resolver: dns::Resolver,
    tls: tokio_rustls::TlsConnector,
    spool: SpoolClient<Channel>,
    directory: DirectoryClient<Channel>,
    leases: Arc<Leases>,
    metrics: Metrics,
    shutdown: tokio_util::sync::CancellationToken,
}

/// Relays until shutdown; then finishes the attempts that run.
pub async fn run(config: Config, service: runtime::Service) -> anyhow::Result<()> {
    let redis_url =
        config.redis_url.clone().context("configuration key \"redis_url\" is missing: expected a Redis URL")?;
    let channel = runtime::grpc::channel(&config.mda, config.mda_timeout());
    let spool = SpoolClient::new(channel.clone()).max_decoding_message_size(proto::MAX_GRPC_MESSAGE);
    let relay = Arc::new(Relay {
        resolver: dns::Resolver::new(&config.dns).context("configuration key \"dns\"")?,
        tls: tls::opportunistic()?,
        leases: Arc::new(Leases::new(spool.clone(), config.lease())),
        spool,
        directory: DirectoryClient::new(channel),
        metrics: service.metrics(Metrics::register),
        shutdown: service.shutdown.clone(),
        config,
    });
    let renewing = tokio::spawn(Arc::clone(&relay.leases).renew_forever());
    service.ready();
    reader::run(&relay, &redis_url).await;
    renewing.abort();
    Ok(())
}
