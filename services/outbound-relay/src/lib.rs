//! Brings mail to other hosts.
//!
//! - **Role**: claims remote deliveries, tries each once, and says how it went: relayed, deferred
//!   until a time, or bounced with a DSN. It keeps nothing; Postgres knows every delivery.
//! - **Ports**: the runtime's HTTP port only.
//! - **Peers**: the Redis stream `remote`, `mda` (Spool, Directory), name servers, the world's MTAs.
//! - **Scaling**: attempts are bounded by `concurrency`; several processes share the stream.
//!
//! ```text
//! stream ─▶ reader ─claim, ack─▶ destinations ─▶ workers for each domain, few at first,
//!                                                 each with a connection of its own ─▶ settle
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
mod dane;
mod decision;
mod destinations;
mod egress;
mod fit;
mod lane;
mod lease;
mod metrics;
mod policy;
mod reader;
mod retry;
mod route;
mod security;
mod settle;
mod settler;
mod seven_bit;
mod shed;
mod sign;
mod sts;
mod sts_cache;
mod tls;
mod tls_mail;
mod tls_report;
mod turn;

use std::sync::Arc;

use anyhow::Context as _;
pub use config::Config;
pub use policy::{EgressSource, Overrides, Route, RouteTls, Tenant};
use proto::{
    auth::auth_client::AuthClient, directory::directory_client::DirectoryClient, relay::relay_client::RelayClient,
    spool::spool_client::SpoolClient,
};
pub use retry::retry_delay;
use runtime::grpc::Channel;

use crate::{
    lease::Leases, metrics::Metrics, settler::Settler, sts_cache::StsCache, tls::Tls, tls_report::TlsResults,
    turn::Slots,
};

/// What every attempt needs.
struct Relay {
    config: Config,
    resolver: dns::Resolver,
    secure: dns::SecureResolver,
    tls: Tls,
    sts: StsCache,
    tls_results: Arc<TlsResults>,
    spool: SpoolClient<Channel>,
    settler: Settler,
    directory: DirectoryClient<Channel>,
    kept: RelayClient<Channel>,
    auth: Option<AuthClient<Channel>>,
    leases: Arc<Leases>,
    egress: egress::Egress,
    turns: queue::Turns,
    slots: Arc<Slots>,
    metrics: Metrics,
    shutdown: tokio_util::sync::CancellationToken,
}

/// Relays until shutdown; then finishes the attempts that run.
pub async fn run(config: Config, service: runtime::Service) -> anyhow::Result<()> {
    let redis_url =
        config.redis_url.clone().context("configuration key \"redis_url\" is missing: expected a Redis URL")?;
    let channel = runtime::grpc::channel(&config.mda, config.mda_timeout());
    let spool = SpoolClient::new(channel.clone()).max_decoding_message_size(proto::MAX_GRPC_MESSAGE);
    let kept = RelayClient::new(channel.clone());
    let resolver = dns::Resolver::new(&config.dns).context("configuration key \"dns\"")?;
    let tls = Tls::new(config.tls_ca.as_deref())?;
    let relay = Arc::new(Relay {
        secure: dns::SecureResolver::new(&config.dns).context("configuration key \"dns\"")?,
        sts: StsCache::new(resolver.clone(), kept.clone(), tls.https(), config.mta_sts_port),
        resolver,
        tls,
        tls_results: Arc::new(TlsResults::new(config.tls_reports)),
        leases: Arc::new(Leases::new(spool.clone(), config.lease(), config.content_with_claim, config.content_memory)),
        settler: Settler::start(&spool),
        spool,
        egress: egress::Egress::new(channel.clone(), &config),
        directory: DirectoryClient::new(channel),
        kept: kept.clone(),
        auth: config.auth_checker.as_ref().map(|p| AuthClient::new(runtime::grpc::channel(p, config.mda_timeout()))),
        turns: queue::Turns::new(&redis_url),
        slots: Arc::default(),
        metrics: service.metrics(|registry| {
            queue::register(registry);
            Metrics::register(registry).with_classes(&config)
        }),
        shutdown: service.shutdown.clone(),
        config,
    });
    let lease = policy::allowance(&relay.config, "").lease;
    let background = [
        tokio::spawn(Arc::clone(&relay.leases).renew_forever()),
        tokio::spawn(Arc::clone(&relay.slots).renew_forever(relay.turns.clone(), lease)),
        tokio::spawn(Arc::clone(&relay.tls_results).flush_forever(
            kept.clone(),
            std::time::Duration::from_secs(relay.config.tls_results_every),
            service.shutdown.clone(),
        )),
        tokio::spawn(tls_mail::run_forever(Arc::clone(&relay))),
        tokio::spawn({
            let relay = Arc::clone(&relay);
            async move { relay.egress.load_forever(&relay.config).await }
        }),
    ];
    service.ready();
    relay.egress.load_first(&relay.config, &relay.shutdown).await;
    reader::run(&relay, &redis_url).await;
    background.iter().for_each(tokio::task::JoinHandle::abort);
    relay.tls_results.flush(&kept).await;
    Ok(())
}
