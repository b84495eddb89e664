//! Receives mail from other servers (MX) and from mail programs (submission).
//!
//! - **Role**: holds a message only until `mda` has committed it, and says 250 only after that
//!   (Invariant 1). Any pod takes any connection.
//! - **Ports**: `mx_listen` (25), `submission_listen` (587, STARTTLS), `submissions_listen`
//!   (465, TLS from the start), and the runtime's HTTP port.
//! - **Peers**: `mda`'s Directory (who is who) and Spool (Accept), `auth-checker` (verdicts,
//!   signatures). When one of them is away, clients hear 451 or 454 and come back. Redis, DNS
//!   blocklists, Rspamd and milters guard the door when they are configured; see `guard`.
//! - **Scaling**: CPU; memory is bounded by `max_bytes_in_flight` and the connection limits.
//! - **SIGTERM**: idle sessions hear 421, open transactions are finished.

mod budget;
mod checker;
mod config;
mod content;
mod directory;
mod filters;
mod guard;
mod headers;
mod metrics;
mod pace;
mod receive;
mod refusal;
mod refused;
mod scan;
mod session;
mod spool;
mod transaction;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use listener::{Listener, Tls};
use smtp::server::{Config as Offer, Pieces};

pub use config::{Config, OverQuota};

/// Binds every port, then serves until shutdown.
pub async fn run(config: Config, service: runtime::Service) -> anyhow::Result<()> {
    let ingress = Ingress::bind(config, &service)?;
    service.ready();
    ingress.serve(service).await;
    Ok(())
}

/// The kinds of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Mail for us, from anybody.
    Mx,
    /// Mail from our users: STARTTLS, then AUTH.
    Submission,
    /// The same with TLS from the start (RFC 8314 §3.3).
    Submissions,
}

impl Role {
    pub(crate) fn is_submission(self) -> bool {
        self != Self::Mx
    }

    /// As it stands in metrics and the journey.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Submission => "submission",
            Self::Submissions => "submissions",
        }
    }
}

/// The service with its ports bound.
pub struct Ingress {
    doors: Vec<(Role, Listener)>,
    parts: session::Parts,
}

impl Ingress {
    pub fn bind(config: Config, service: &runtime::Service) -> anyhow::Result<Self> {
        let encryption = Encryption::load(&config)?;
        let metrics = service.metrics(|registry| {
            queue::register(registry);
            metrics::Metrics::register(registry)
        });
        let counters = service.metrics(listener::Metrics::register);
        let wanted = [
            (Role::Mx, config.mx_listen, None),
            (Role::Submission, config.submission_listen, None),
            (Role::Submissions, config.submissions_listen, encryption.submission.clone()),
        ];
        let mut doors = Vec::new();
        for (role, address, implicit_tls) in wanted {
            let Some(address) = address else { continue };
            let port = listener::Port { address, implicit_tls, refusal: b"421 4.7.0 too many connections\r\n" };
            let listener = Listener::bind(port, &config.listener)
                .with_context(|| format!("configuration key \"{}_listen\"", role.name()))?;
            doors.push((role, listener.with_metrics(counters.clone())));
        }
        Ok(Self { doors, parts: session::Parts::new(config, encryption, metrics)? })
    }

    /// Where a role listens, with the real port when port 0 was configured.
    pub fn address(&self, role: Role) -> Option<SocketAddr> {
        self.doors.iter().find(|(r, _)| *r == role).and_then(|(_, l)| l.local_addr().ok())
    }

    pub async fn serve(self, service: runtime::Service) {
        let (parts, pieces) = (Arc::new(self.parts), Pieces::default());
        let doors = self.doors.into_iter().map(|(role, listener)| {
            let (parts, offer) = (parts.clone(), Arc::new(offer(role, &parts, &pieces)));
            listener.serve(service.shutdown.clone(), move |connection| {
                session::run(connection, role, offer.clone(), parts.clone())
            })
        });
        futures::future::join_all(doors).await;
    }
}

/// Only submission asks for client certificates: other mail servers would send theirs, from any CA,
/// and could not go on.
pub(crate) struct Encryption {
    mx: Option<Tls>,
    submission: Option<Tls>,
}

impl Encryption {
    fn load(config: &Config) -> anyhow::Result<Self> {
        let mx = config.listener.tls().context("configuration key \"listener\"")?;
        let submission = match (&mx, &config.client_ca) {
            (Some(tls), Some(file)) => Some(tls.asking_clients(file).context("configuration key \"client_ca\"")?),
            _ => mx.clone(),
        };
        Ok(Self { mx, submission })
    }

    pub(crate) fn of(&self, role: Role) -> Option<&Tls> {
        if role.is_submission() { self.submission.as_ref() } else { self.mx.as_ref() }
    }
}

/// What a port offers in EHLO.
fn offer(role: Role, parts: &session::Parts, pieces: &Pieces) -> Offer {
    let (config, tls) = (&parts.config, parts.encryption.of(role));
    let submits = role.is_submission();
    let mechanisms = config.mechanisms.iter().filter_map(|name| name.parse().ok());
    Offer {
        hostname: config.hostname.clone(),
        starttls: tls.is_some() && role != Role::Submissions,
        mechanisms: if submits { mechanisms.map(sasl::Mechanism::name).collect() } else { Vec::new() },
        auth_required: submits,
        max_message_size: config.max_message_size,
        max_line: config.max_line_length,
        max_recipients: config.max_recipients,
        max_transactions: config.max_messages_per_session,
        max_errors: config.max_errors,
        // Strangers neither hold our queue nor jump it (RFC 4865 §8, RFC 6710 §5).
        max_hold: Some(config.max_hold_seconds).filter(|s| submits && *s > 0),
        priorities: submits,
        refuse_early: config.refuse_early_talkers,
        pieces: pieces.clone(),
    }
}
