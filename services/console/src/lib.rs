//! The HTTP admin API and the web page with the Email Journey.
//!
//! - **Role**: what an operator, a tenant's admin and the support desk see and do in a browser or by
//!   a program; the page that sends a message and shows its way.
//! - **Ports**: HTTP (`listen`).
//! - **Peers**: `mda` (Admin, Console, Journey); submission and MX ports, when the page sends; name
//!   servers; consoles of other sites; an OpenID Connect issuer.
//! - **Scaling**: keeps nothing between requests, so any number of processes share the load.
//!
//! The routes are one table ([`api::routes`]): the router, the authorisation and the OpenAPI document
//! are made of it. Invariant 8: bodies, headers, streams and what other sites answer are bounded.

mod api;
mod assets;
mod caller;
mod config;
mod http;
mod metrics;
mod oidc;
mod openapi;
mod problem;
mod route;
mod server;
mod session;
mod sites;
mod submit;

use std::sync::Arc;

use anyhow::Context as _;
use listener::{Listener, Port};
use proto::{
    MAX_GRPC_MESSAGE, admin::admin_client::AdminClient, console::console_client::ConsoleClient,
    journey::journey_client::JourneyClient,
};
use runtime::{Service, grpc::Channel};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use caller::{Access, Role};
pub use config::{Config, Grant, Oidc, Site};
pub use server::router;

/// What all requests share.
pub struct App {
    config: Config,
    admin: AdminClient<Channel>,
    console: ConsoleClient<Channel>,
    journey: JourneyClient<Channel>,
    resolver: dns::Resolver,
    submission: submit::Places,
    sites: sites::Sites,
    oidc: Option<oidc::Provider>,
    streams: Arc<Semaphore>,
    metrics: metrics::Metrics,
    shutdown: CancellationToken,
}

impl App {
    /// Must run inside a tokio runtime; asks nobody yet.
    pub fn new(config: Config, service: &Service) -> anyhow::Result<Arc<Self>> {
        let mda = runtime::grpc::channel(&config.mda, config.call_timeout());
        Ok(Arc::new(Self {
            admin: AdminClient::new(mda.clone()).max_decoding_message_size(MAX_GRPC_MESSAGE),
            console: ConsoleClient::new(mda.clone()),
            journey: JourneyClient::new(mda).max_decoding_message_size(MAX_GRPC_MESSAGE),
            resolver: dns::Resolver::new(&config.dns).context("configuration key \"dns\"")?,
            submission: submit::Places::new(&config)?,
            sites: sites::Sites::new(&config.sites)?,
            oidc: config.oidc.clone().map(|oidc| oidc::Provider::new(oidc, &config.base_url())).transpose()?,
            streams: Arc::new(Semaphore::new(config.max_streams)),
            metrics: service.metrics(metrics::Metrics::register),
            shutdown: service.shutdown.clone(),
            config,
        }))
    }
}

/// Serves until shutdown, and until the running requests have been answered.
pub async fn run(config: Config, service: Service) -> anyhow::Result<()> {
    let connections = service.metrics(listener::Metrics::register);
    let tls = config.listener.tls()?;
    let refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let port = Port { address: config.listen, implicit_tls: tls, refusal };
    let listener = Listener::bind(port, &config.listener)
        .with_context(|| format!("configuration key \"listen\" = {}", config.listen))?
        .with_metrics(connections);
    let app = App::new(config, &service)?;
    let router = router(app);
    service.ready();
    listener.serve(service.shutdown.clone(), move |connection| server::connection(router.clone(), connection)).await;
    Ok(())
}
