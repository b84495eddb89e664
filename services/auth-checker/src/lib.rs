//! SPF, DKIM, ARC and DMARC verdicts on incoming mail, DKIM signatures for submitted mail.
//!
//! - **Role**: a calculator with a DNS cache. It stores nothing; any pod answers any call.
//! - **Ports**: gRPC (`listen`) and the runtime's HTTP port.
//! - **Peers**: called by `smtp-ingress`; asks name servers, and `mda`'s Directory for keys. When
//!   DMARC reports are on, hands counts to `mda`'s Reports, and the daily reports to its Spool.
//! - **Scaling**: CPU. Calls in progress are bounded by `concurrency`, content by
//!   `max_message_size`, so memory is too.
//!
//! A name server that is silent is never a verdict against a message: what cannot be evaluated
//! is `temperror`, and the sender is asked to come back (`dns_failure`).

mod arc;
mod config;
mod dmarc;
mod findings;
mod metrics;
mod observed;
mod report_mail;
mod results;
mod server;
mod sign;
mod spf_syntax;
mod trailing_space;
mod verdict;
mod verify;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
pub use config::{Config, DnsFailure};
use proto::{
    auth::auth_server::AuthServer, directory::directory_client::DirectoryClient, report::reports_client::ReportsClient,
    spool::spool_client::SpoolClient,
};
use tokio::net::TcpListener;

/// Serves until shutdown.
pub async fn run(config: Config, service: runtime::Service) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("configuration key \"listen\" = {}: cannot listen", config.listen))?;
    serve(listener, config, service).await
}

/// [`run`] on a socket that is bound already.
pub async fn serve(listener: TcpListener, config: Config, service: runtime::Service) -> anyhow::Result<()> {
    let resolver = dns::Resolver::new(&config.dns).context("configuration key \"dns\"")?;
    let mda = runtime::grpc::channel(&config.mda, config.directory_timeout());
    let directory = DirectoryClient::new(mda.clone());
    let metrics = Arc::new(service.metrics(metrics::Metrics::register));
    let keys = Arc::new(sign::KeyStore::new(directory.clone()));
    let auth = server::Auth::new(&config, resolver.clone(), keys.clone(), metrics.clone());
    let mut background = Vec::new();
    if let Some(from) = config.dmarc_report_from.as_ref().and_then(|from| from.parse().ok()) {
        let reports = ReportsClient::new(mda.clone());
        let every = Duration::from_secs(config.dmarc_results_every);
        background.push(tokio::spawn(auth.collector().flush_forever(reports.clone(), every, service.shutdown.clone())));
        let spool = SpoolClient::new(mda);
        let hostname = config.hostname.clone();
        let reporter = report_mail::Reporter { resolver, reports, directory, spool, keys, metrics, hostname, from };
        let every = Duration::from_secs(config.dmarc_report_every);
        background.push(tokio::spawn(reporter.run_forever(every, service.shutdown.clone())));
    }
    let auth = AuthServer::new(auth).max_decoding_message_size(proto::MAX_GRPC_MESSAGE);
    service.ready();
    runtime::grpc::serve(listener, tonic::service::Routes::new(auth), service.shutdown).await?;
    for task in background {
        task.await?;
    }
    Ok(())
}
