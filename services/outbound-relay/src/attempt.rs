//! One attempt: one message, all its recipients in one lane, one transaction.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use proto::spool::ContentRequest;
use runtime::telemetry;
use smtp::client::{Capabilities, Envelope, Failure, Outcome, Recipient, Stage};
use tokio::sync::Semaphore;
use tonic::Status;
use tracing::{Instrument as _, field::Empty, info_span};

use crate::{
    Relay,
    connect::{NoHost, connect},
    connection::{Aborted, Connection},
    decision::{Decision, Kind},
    fit::{self, Fitted},
    lane::Lane,
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
    /// The peer takes over reporting (RFC 3461 §5.2.1).
    pub peer_reports: bool,
}

impl Trail {
    fn of(connection: &Connection) -> Self {
        Self {
            host: Some(connection.host.clone()),
            peer: format!("{} [{}]:{}", connection.host, connection.address.ip(), connection.address.port()),
            tls: connection.tls.clone(),
            dialogue: connection.dialogue(),
            peer_reports: connection.capabilities().dsn,
        }
    }
}

/// What an attempt says about the destination as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reached {
    /// It works.
    Took,
    /// Neither good nor bad news.
    Nothing,
    /// It wants less of us (421, 4xx to MAIL).
    Busy,
    /// The connection ended in the middle.
    Lost { words: String },
    /// No host answers, or none as it must.
    NoHost { words: String },
}

/// Tries deliveries of one message, and settles them. `slot` holds the worker's connection
/// between attempts; `gate` bounds the transactions of all workers.
pub(crate) async fn run(
    relay: &Arc<Relay>,
    lane: &Lane,
    held: Vec<Held>,
    slot: &mut Option<Connection>,
    gate: &Semaphore,
) -> Reached {
    // While these waited their lease may have run out; whoever has it now will do it.
    let held: Vec<Held> = held.into_iter().filter(Held::is_valid).collect();
    let Some(first) = held.first() else { return Reached::Nothing };
    let queue_id = first.queue_id().to_owned();
    let span = info_span!(
        parent: None,
        "relay.attempt",
        mail.queue_id = queue_id,
        mail.tenant = first.claimed.tenant,
        mail.status = Empty,
        attempt = first.claimed.attempt,
        recipients = held.len(),
        otel.kind = "client",
        otel.status_code = Empty,
        smtp.reply_code = Empty,
        tls.protocol.version = Empty,
        outcome = Empty,
    );
    // The first attempt is a part of the message's trace; a later one, maybe days after, is linked
    // to it: no trace stays open for days.
    if first.claimed.attempt <= 1 {
        telemetry::continue_from(&span, &first.claimed.traceparent);
    } else {
        telemetry::link_to(&span, &first.claimed.traceparent);
    }

    let started = Instant::now();
    relay.metrics.in_flight.inc();
    let reached = async {
        let (ended, reached) = transact(relay, lane, &queue_id, held, slot, gate).await;
        settle::settle(relay, &queue_id, ended).await;
        reached
    }
    .instrument(span)
    .await;
    relay.metrics.in_flight.dec();
    relay.metrics.seconds.observe(started.elapsed().as_secs_f64());
    reached
}

async fn transact(
    relay: &Arc<Relay>,
    lane: &Lane,
    queue_id: &str,
    held: Vec<Held>,
    slot: &mut Option<Connection>,
    gate: &Semaphore,
) -> (Vec<Ended>, Reached) {
    loop {
        let reused = slot.take();
        let is_reused = reused.is_some();
        let mut connection = match reused {
            Some(connection) => connection,
            None => match connect(relay, lane).await {
                Ok(connection) => {
                    relay.metrics.connection(if connection.tls.is_some() { "tls" } else { "clear" });
                    if let Some(version) = connection.tls_version() {
                        relay.metrics.encrypted(version);
                    }
                    connection
                }
                Err(NoHost { host, decision, is_ours }) => {
                    relay.metrics.connection("failed");
                    let reached = match decision.kind {
                        Kind::Transient if !is_ours => Reached::NoHost { words: decision.words.clone() },
                        _ => Reached::Nothing,
                    };
                    let trail = Trail { host, ..Trail::default() };
                    let ended = held.into_iter().map(|h| Ended::new(h, decision.clone(), trail.clone())).collect();
                    return (ended, reached);
                }
            },
        };
        // Waiting for a slow connection costs the others nothing; this does.
        let turn = gate.acquire().await;
        let decided = transaction(relay, queue_id, &held, &mut connection).await;
        let trail = Trail::of(&connection);
        if let Some(version) = connection.tls_version() {
            tracing::Span::current().record("tls.protocol.version", version);
        }
        if connection.is_ready().await && connection.transactions < relay.config.transactions_per_connection {
            *slot = Some(connection);
        } else {
            connection.quit().await;
        }
        drop(turn);
        let (decisions, reached) = match decided {
            // The peer closed the kept connection; that says nothing about this message.
            Decided::Silence(_) if is_reused => continue,
            Decided::Each(decisions, reached) => (decisions, reached),
            Decided::All(decision) => (vec![decision; held.len()], Reached::Nothing),
            Decided::Silence(decision) => {
                let words = decision.words.clone();
                (vec![decision; held.len()], Reached::Lost { words })
            }
        };
        let ended = held.into_iter().zip(decisions).map(|(h, d)| Ended::new(h, d, trail.clone())).collect();
        return (ended, reached);
    }
}

enum Decided {
    /// In the order of the recipients.
    Each(Vec<Decision>, Reached),
    All(Decision),
    /// The connection ended without a word about any recipient, and before the final dot: the
    /// same can safely be tried over another connection.
    Silence(Decision),
}

async fn transaction(relay: &Relay, queue_id: &str, held: &[Held], connection: &mut Connection) -> Decided {
    let unreadable = |status: Status| {
        tracing::warn!(mail.queue_id = queue_id, error = %status, "content not readable");
        Decided::All(Decision::transient("4.3.0", "content is not available now"))
    };
    let header = trace_header(relay);
    let mut envelope = envelope(held, header.len());
    let content = match fits_as_it_is(&envelope, connection.capabilities()) {
        true => match content(relay, queue_id, held).await {
            Ok(content) => content.left_stream(),
            Err(status) => return unreadable(status),
        },
        // What the peer lacks: the message as a whole must be looked at.
        false => match whole(relay, queue_id, held).await {
            Ok(bytes) => match fit::fit(&mut envelope, bytes, connection.capabilities()) {
                Fitted::Yes(bytes) => {
                    envelope.size = (bytes.len() + header.len()) as u64;
                    futures::stream::iter([Ok(bytes)]).right_stream()
                }
                Fitted::No { status, words } => return Decided::All(Decision::permanent(status, words)),
            },
            Err(status) => return unreadable(status),
        },
    };
    let may_finish = || held.iter().all(Held::is_valid);
    match connection.deliver(envelope, header.as_bytes(), content, may_finish).await {
        Ok(outcomes) => {
            let is_silent = |o: &Outcome| matches!(o, Outcome::Failed(Failure::Closed | Failure::Io(_)));
            match outcomes.first() {
                Some(first) if outcomes.iter().all(is_silent) && !connection.is_dot_sent => {
                    Decided::Silence(Decision::of_outcome(first))
                }
                _ => Decided::Each(outcomes.iter().map(Decision::of_outcome).collect(), reached(&outcomes)),
            }
        }
        Err(Aborted::Unusable) => Decided::Silence(Decision::transient("4.4.2", Aborted::Unusable.to_string())),
        Err(aborted) => Decided::All(Decision::transient("4.3.0", aborted.to_string())),
    }
}

/// What the answers say about the destination.
fn reached(outcomes: &[Outcome]) -> Reached {
    if outcomes.iter().any(Outcome::is_accepted) {
        return Reached::Took;
    }
    for outcome in outcomes {
        match outcome {
            Outcome::Refused { reply, .. } if reply.code == 421 => return Reached::Busy,
            Outcome::Refused { stage: Stage::Mail, reply } if reply.is_transient() => return Reached::Busy,
            // It does its work: these messages are the trouble.
            Outcome::Refused { reply, .. } if reply.is_permanent() => return Reached::Took,
            Outcome::Failed(failure @ (Failure::Closed | Failure::Timeout | Failure::Io(_) | Failure::Protocol(_))) => {
                return Reached::Lost { words: failure.to_string() };
            }
            _ => {}
        }
    }
    Reached::Nothing
}

fn fits_as_it_is(envelope: &Envelope, offered: &Capabilities) -> bool {
    (offered.eight_bit_mime || !envelope.eight_bit) && (offered.smtputf8 || !fit::is_international(envelope))
}

/// The message's bytes as a stream; its first chunk is there, so `mda` is too.
async fn content(
    relay: &Relay,
    queue_id: &str,
    held: &[Held],
) -> Result<impl futures::Stream<Item = Result<Bytes, Status>> + Unpin + use<>, Status> {
    if let Some(content) = held.iter().find_map(|h| h.content.as_ref()) {
        return Ok(futures::stream::iter([Ok(content.bytes.clone())]).left_stream());
    }
    let request = ContentRequest { queue_id: queue_id.to_owned(), header_only: false };
    let stream = relay.spool.clone().content(request).await?.into_inner();
    let mut stream = Box::pin(stream.map(|answer| answer.map(|a| a.content)));
    let first = tokio::time::timeout(relay.config.mda_timeout(), stream.next())
        .await
        .map_err(|_| Status::deadline_exceeded("no content in time"))?;
    let first: Option<Bytes> = first.transpose()?;
    Ok(Box::pin(futures::stream::iter(first.map(Ok)).chain(stream)).right_stream())
}

/// Bounded by what `mda` accepts.
async fn whole(relay: &Relay, queue_id: &str, held: &[Held]) -> Result<Bytes, Status> {
    let mut stream = content(relay, queue_id, held).await?;
    let mut bytes = bytes::BytesMut::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes.freeze())
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
            require_tls: claimed.require_tls,
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

#[cfg(test)]
mod tests {
    use super::*;
    use smtp::Reply;

    #[test]
    fn what_answers_say_about_the_destination() {
        let refused = |stage, code| Outcome::Refused { stage, reply: Reply::basic(code, ["x"]) };
        let lost = |failure: Failure| Reached::Lost { words: failure.to_string() };
        for (outcomes, expected) in [
            (vec![refused(Stage::Rcpt, 450), Outcome::Accepted(Reply::basic(250, ["x"]))], Reached::Took),
            (vec![refused(Stage::Rcpt, 550)], Reached::Took),
            (vec![refused(Stage::Rcpt, 450)], Reached::Nothing),
            (vec![refused(Stage::Mail, 451)], Reached::Busy),
            (vec![refused(Stage::Content, 421)], Reached::Busy),
            (vec![Outcome::Failed(Failure::Timeout)], lost(Failure::Timeout)),
            (vec![Outcome::Failed(Failure::NeedsSmtputf8)], Reached::Nothing),
        ] {
            assert_eq!(reached(&outcomes), expected, "{outcomes:?}");
        }
    }
}
