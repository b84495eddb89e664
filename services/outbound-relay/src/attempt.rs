//! One attempt: one message, all its recipients in one domain, one transaction.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use proto::spool::ContentRequest;
use runtime::telemetry;
use smtp::client::{Envelope, Failure, Outcome, Recipient};
use tonic::Status;
use tracing::{Instrument as _, info_span};

use crate::{
    Relay,
    connect::{NoHost, connect},
    connection::{Aborted, Connection},
    decision::Decision,
    lease::Held,
    settle::{self, Ended},
};

/// What a transaction left behind, for the journey.
#[derive(Debug, Default, Clone)]
pub(crate) struct Trail {
    pub host: Option<String>,
    /// `host [address]:port`, empty when no connection was made.
    pub peer: String,
    pub tls: Option<String>,
    pub dialogue: Vec<String>,
}

impl Trail {
    fn of(connection: &Connection) -> Self {
        Self {
            host: Some(connection.host.clone()),
            peer: format!("{} [{}]:{}", connection.host, connection.address.ip(), connection.address.port()),
            tls: connection.tls.clone(),
            dialogue: connection.dialogue(),
        }
    }
}

/// Tries deliveries of one message to one domain, and settles them.
/// `slot` holds the worker's connection between attempts.
pub(crate) async fn run(relay: &Arc<Relay>, domain: &str, held: Vec<Held>, slot: &mut Option<Connection>) {
    // While these waited their lease may have run out; whoever has it now will do it.
    let held: Vec<Held> = held.into_iter().filter(Held::is_valid).collect();
    let Some(first) = held.first() else { return };
    let queue_id = first.claimed.id.as_ref().map(|id| id.queue_id.clone()).unwrap_or_default();
    let span = info_span!(
        "relay.attempt",
        mail.queue_id = queue_id,
        attempt = first.claimed.attempt,
        recipients = held.len(),
        otel.kind = "client",
        outcome = tracing::field::Empty,
    );
    telemetry::continue_from(&span, &first.claimed.traceparent);

    let started = Instant::now();
    relay.metrics.in_flight.inc();
    async {
        let ended = transact(relay, domain, &queue_id, held, slot).await;
        settle::settle(relay, &queue_id, ended).await;
    }
    .instrument(span)
    .await;
    relay.metrics.in_flight.dec();
    relay.metrics.seconds.observe(started.elapsed().as_secs_f64());
}

async fn transact(
    relay: &Arc<Relay>,
    domain: &str,
    queue_id: &str,
    held: Vec<Held>,
    slot: &mut Option<Connection>,
) -> Vec<Ended> {
    loop {
        let reused = slot.take();
        let is_reused = reused.is_some();
        let mut connection = match reused {
            Some(connection) => connection,
            None => match connect(relay, domain).await {
                Ok(connection) => {
                    relay.metrics.connection(if connection.tls.is_some() { "tls" } else { "clear" });
                    connection
                }
                Err(NoHost { host, decision }) => {
                    relay.metrics.connection("failed");
                    let trail = Trail { host, ..Trail::default() };
                    return held.into_iter().map(|h| Ended::new(h, decision.clone(), trail.clone())).collect();
                }
            },
        };
        let decided = transaction(relay, queue_id, &held, &mut connection).await;
        let trail = Trail::of(&connection);
        if connection.is_ready().await && connection.transactions < relay.config.transactions_per_connection {
            *slot = Some(connection);
        } else {
            connection.quit().await;
        }
        let decisions = match decided {
            // The peer closed the kept connection; that says nothing about this message.
            Decided::Silence(_) if is_reused => continue,
            Decided::Each(decisions) => decisions,
            Decided::All(decision) | Decided::Silence(decision) => vec![decision; held.len()],
        };
        return held.into_iter().zip(decisions).map(|(h, d)| Ended::new(h, d, trail.clone())).collect();
    }
}

enum Decided {
    /// In the order of the recipients.
    Each(Vec<Decision>),
    All(Decision),
    /// The connection ended without a word about any recipient, and before the final dot: the
    /// same can safely be tried over another connection.
    Silence(Decision),
}

async fn transaction(relay: &Relay, queue_id: &str, held: &[Held], connection: &mut Connection) -> Decided {
    let content = match content(relay, queue_id).await {
        Ok(content) => content,
        Err(status) => {
            tracing::warn!(mail.queue_id = queue_id, error = %status, "content not readable");
            return Decided::All(Decision::transient("4.3.0", "content is not available now"));
        }
    };
    let header = trace_header(relay);
    let may_finish = || held.iter().all(Held::is_valid);
    match connection.deliver(envelope(held, header.len()), header.as_bytes(), content, may_finish).await {
        Ok(outcomes) => {
            let is_silent = |o: &Outcome| matches!(o, Outcome::Failed(Failure::Closed | Failure::Io(_)));
            match outcomes.first() {
                Some(first) if outcomes.iter().all(is_silent) && !connection.is_dot_sent => {
                    Decided::Silence(Decision::of_outcome(first))
                }
                _ => Decided::Each(outcomes.iter().map(Decision::of_outcome).collect()),
            }
        }
        Err(Aborted::Unusable) => Decided::Silence(Decision::transient("4.4.2", Aborted::Unusable.to_string())),
        Err(aborted) => Decided::All(Decision::transient("4.3.0", aborted.to_string())),
    }
}

/// The message's bytes as a stream; its first chunk is there, so `mda` is too.
async fn content(
    relay: &Relay,
    queue_id: &str,
) -> Result<impl futures::Stream<Item = Result<Bytes, Status>> + Unpin + use<>, Status> {
    let request = ContentRequest { queue_id: queue_id.to_owned(), header_only: false };
    let stream = relay.spool.clone().content(request).await?.into_inner();
    let mut stream = Box::pin(stream.map(|answer| answer.map(|a| a.content)));
    let first = tokio::time::timeout(relay.config.mda_timeout(), stream.next())
        .await
        .map_err(|_| Status::deadline_exceeded("no content in time"))?;
    let first: Option<Bytes> = first.transpose()?;
    Ok(Box::pin(futures::stream::iter(first.map(Ok)).chain(stream)))
}

fn envelope(held: &[Held], header: usize) -> Envelope {
    let recipients = held.iter().map(|h| Recipient {
        forward_path: h.claimed.forward_path.clone(),
        notify: h.claimed.notify.clone(),
        orcpt: h.claimed.orcpt.clone(),
    });
    let recipients = recipients.collect();
    match held.first() {
        Some(Held { claimed, .. }) => Envelope {
            reverse_path: claimed.reverse_path.clone(),
            recipients,
            size: claimed.size.saturating_add(header as u64),
            eight_bit: claimed.eight_bit,
            smtputf8: claimed.smtputf8,
            envid: claimed.envid.clone(),
            ret: claimed.ret.clone(),
        },
        None => Envelope { recipients, ..Envelope::default() },
    }
}

/// Tells a receiving Postroad which trace to link.
fn trace_header(relay: &Relay) -> String {
    let traceparent = telemetry::traceparent(&tracing::Span::current());
    if !relay.config.trace_header || traceparent.is_empty() {
        return String::new();
    }
    format!("{}: {traceparent}\r\n", telemetry::TRACE_HEADER)
}
