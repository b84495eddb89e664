//! IMAP (RFC 3501, RFC 9051) on port 143 with STARTTLS, and on 993 with TLS from the start
//! (RFC 8314). ManageSieve (RFC 5804) on 4190 when it is configured.
//!
//! Holds no mail: it asks `mda` who may log in (Directory), and for mailboxes, messages and
//! changes (Mailboxes). What a session keeps is its view of the selected mailbox: which UID has
//! which sequence number. An `mda` that cannot be reached is `NO [UNAVAILABLE]`, and the next
//! command tries again on the same connection.
//!
//! Peers: `mda`. Invariants: 5 (what `mda` says is told in its order), 8 (bounded by the `imap`
//! crate's framer), 10 (bytes are passed on as stored).

mod access;
mod account;
mod append;
mod capability;
mod catenate;
mod config;
mod content;
mod deflate;
mod exchange;
mod failure;
mod fetch;
mod folders;
mod idle;
mod login;
mod manage;
mod metrics;
mod notify;
mod search;
mod selected;
mod session;
mod store;
mod waiting;
mod watching;
mod wire;

use std::{net::SocketAddr, sync::Arc};

use listener::{Listener, Port, Tls};
use proto::{
    MAX_GRPC_MESSAGE, directory::directory_client::DirectoryClient, mailboxes::mailboxes_client::MailboxesClient,
    rules::rules_client::RulesClient,
};
use runtime::{Service, grpc::Channel};
use tokio::sync::Semaphore;

pub use config::Config;
use metrics::Metrics;

/// What all sessions share.
struct Gateway {
    config: Config,
    tls: Option<Tls>,
    directory: DirectoryClient<Channel>,
    mailboxes: MailboxesClient<Channel>,
    /// What the clients above are made of.
    channel: Channel,
    /// For APPEND, whose call lasts as long as the client sends.
    uploads: MailboxesClient<Channel>,
    /// Scripts, for ManageSieve.
    rules: RulesClient<Channel>,
    metrics: Metrics,
    /// Large messages that are held whole, for decoding or searching; bounds what all sessions cost.
    large: Arc<Semaphore>,
    /// Logins that are examined: passwords are dear to verify, and storms of logins must not
    /// starve those who are in.
    logins: Semaphore,
    /// Looks for changes: one message may wake ten thousand sessions, and what all their calls hold at once would stay
    /// with the process.
    looks: Semaphore,
}

/// Large messages held whole at once.
const LARGE_AT_ONCE: usize = 2;
/// Looks for changes at once.
const LOOKS_AT_ONCE: usize = 128;

/// Serves until shutdown, and until the running sessions have said goodbye.
pub async fn run(config: Config, service: Service) -> anyhow::Result<()> {
    let (connections, metrics) = service.metrics(|r| (listener::Metrics::register(r), Metrics::register(r)));
    let tls = config.listener.tls()?;
    if let Some(tls) = &tls {
        service.metrics(|registry| tls.register(registry));
    }
    let bind = |address: SocketAddr, implicit_tls: Option<Tls>| -> std::io::Result<Listener> {
        let port = Port { address, implicit_tls, refusal: b"* BYE [UNAVAILABLE] Too many connections.\r\n" };
        Ok(Listener::bind(port, &config.listener)?.with_metrics(connections.clone()))
    };
    let mut ports = vec![bind(config.imap_listen, None)?];
    match &tls {
        Some(tls) => ports.push(bind(config.imaps_listen, Some(tls.clone()))?),
        None => tracing::warn!("no certificate is configured: neither STARTTLS nor the port for TLS is offered"),
    }
    let manage = match config.managesieve_listen {
        Some(address) => {
            let port = Port { address, implicit_tls: None, refusal: b"BYE (TRYLATER) \"Too many connections.\"\r\n" };
            Some(Listener::bind(port, &config.listener)?.with_metrics(connections.clone()))
        }
        None => None,
    };
    let mda = runtime::grpc::channel(&config.mda, config.call_timeout());
    let slow = runtime::grpc::channel(&config.mda, config.upload_timeout());
    let gateway = Arc::new(Gateway {
        tls,
        directory: DirectoryClient::new(mda.clone()),
        rules: RulesClient::new(mda.clone()),
        channel: mda.clone(),
        mailboxes: MailboxesClient::new(mda).max_decoding_message_size(MAX_GRPC_MESSAGE),
        uploads: MailboxesClient::new(slow),
        metrics,
        large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
        looks: Semaphore::new(LOOKS_AT_ONCE),
        logins: Semaphore::new(config.max_logins.min(Semaphore::MAX_PERMITS)),
        config,
    });
    service.ready();
    let serving = ports.into_iter().map(|port| {
        let gateway = gateway.clone();
        port.serve(service.shutdown.clone(), move |connection| session::run(gateway.clone(), connection))
    });
    let managing = manage.map(|port| {
        let gateway = gateway.clone();
        port.serve(service.shutdown.clone(), move |connection| manage::run(gateway.clone(), connection))
    });
    let managing = async {
        if let Some(managing) = managing {
            managing.await;
        }
    };
    futures::future::join(futures::future::join_all(serving), managing).await;
    Ok(())
}
