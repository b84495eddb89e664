//! POP3 (RFC 1939) on port 110 with STLS (RFC 2595), and on 995 with TLS from the start (RFC 8314).
//!
//! Holds no mail and no state that outlives a session: it asks `mda` who may log in
//! (Directory), for the maildrop's lock, its messages and their removal (Mailboxes). An `mda`
//! that cannot be reached is `-ERR [SYS/TEMP]`, and the next command tries again.
//!
//! Peers: `mda`. Invariants: 8 (bounded by the `pop3` crate), 10 (bytes are passed on as stored).

mod ahead;
mod config;
mod content;
mod login;
mod maildrop;
mod metrics;
mod session;

use std::{net::SocketAddr, sync::Arc};

use listener::{Listener, Port, Tls};
use proto::{
    MAX_GRPC_MESSAGE, directory::directory_client::DirectoryClient, mailboxes::mailboxes_client::MailboxesClient,
};
use runtime::{Service, grpc::Channel};

pub use config::Config;
use metrics::Metrics;

/// What all sessions share.
struct Gateway {
    config: Config,
    tls: Option<Tls>,
    directory: DirectoryClient<Channel>,
    mailboxes: MailboxesClient<Channel>,
    /// On a channel of its own: slow readers of large messages hold up nobody's commands.
    contents: MailboxesClient<Channel>,
    metrics: Metrics,
}

/// Serves until shutdown, and until the running sessions have ended.
pub async fn run(config: Config, service: Service) -> anyhow::Result<()> {
    let (connections, metrics) = service.metrics(|r| (listener::Metrics::register(r), Metrics::register(r)));
    let tls = config.listener.tls()?;
    if let Some(tls) = &tls {
        service.metrics(|registry| tls.register(registry));
    }
    let mda = runtime::grpc::channel(&config.mda, config.call_timeout());
    let bind = |address: SocketAddr, implicit_tls: Option<Tls>| -> std::io::Result<Listener> {
        let port = Port { address, implicit_tls, refusal: b"-ERR [SYS/TEMP] too many connections\r\n" };
        Ok(Listener::bind(port, &config.listener)?.with_metrics(connections.clone()))
    };
    let mut ports = vec![bind(config.pop3_listen, None)?];
    match &tls {
        Some(tls) => ports.push(bind(config.pop3s_listen, Some(tls.clone()))?),
        None => tracing::warn!("no certificate is configured: neither STLS nor the port for TLS is offered"),
    }
    let gateway = Arc::new(Gateway {
        tls,
        directory: DirectoryClient::new(mda.clone()),
        contents: MailboxesClient::new(runtime::grpc::channel(&config.mda, config.call_timeout())),
        mailboxes: MailboxesClient::new(mda).max_decoding_message_size(MAX_GRPC_MESSAGE),
        metrics,
        config,
    });
    service.ready();
    let serving = ports.into_iter().map(|port| {
        let gateway = gateway.clone();
        port.serve(service.shutdown.clone(), move |connection| session::run(gateway.clone(), connection))
    });
    futures::future::join_all(serving).await;
    Ok(())
}
