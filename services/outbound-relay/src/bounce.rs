//! Reports to senders: a DSN (RFC 3464) accepted as a message of its own, with the null
//! reverse-path.

use address::QueueId;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use dsn::{Action, RecipientReport, Returned};
use proto::{
    directory::{self, ResolveRequest, resolution},
    spool::{AcceptRequest, ContentRequest, Envelope, Event, Recipient, Target, target::To},
};
use runtime::telemetry;
use tonic::Status;

use crate::{Relay, lane, policy, settle::Ended, sign};

/// A larger message is returned as its header section only, also with RET=FULL.
const MAX_RETURNED: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// With this queue id.
    Sent(String),
    /// And why nobody is told.
    NotWanted(&'static str),
}

/// Whether NOTIFY (RFC 3461 §4.1) asks for a report of this kind.
fn is_wanted(action: Action, notify: &str) -> bool {
    match action {
        Action::Failed => dsn::wants_failure(notify),
        Action::Delayed => dsn::wants_delay(notify),
        Action::Delivered | Action::Relayed => dsn::wants_success(notify),
    }
}

/// Reports what became of deliveries of one message to its reverse-path.
///
/// Its queue id follows from the message and the recipients, so that a repeated call is the same
/// message, whatever crashed between.
pub(crate) async fn send(relay: &Relay, queue_id: &str, ended: &[&Ended], action: Action) -> Result<Report, Status> {
    let told: Vec<&Ended> = ended.iter().copied().filter(|e| is_wanted(action, &e.held.claimed.notify)).collect();
    let Some(message) = told.first().map(|e| &e.held.claimed) else { return Ok(Report::NotWanted("NOTIFY")) };
    // RFC 5321 §4.5.5: no report about a report.
    if message.reverse_path.is_empty() {
        return Ok(Report::NotWanted("null reverse-path"));
    }
    let targets = targets(relay, &message.reverse_path).await?;
    if targets.is_empty() {
        tracing::info!(mail.queue_id = queue_id, "sender takes no mail, nobody is told");
        return Ok(Report::NotWanted("sender takes no mail"));
    }

    let original: QueueId = queue_id.parse().map_err(|_| Status::invalid_argument("queue id"))?;
    let numbers: Vec<u32> = told.iter().filter_map(|e| e.held.claimed.id.as_ref().map(|id| id.number)).collect();
    let id = uuid::Uuid::new_v8(dsn::report_id_of(action, &original.to_bytes(), &numbers));
    let report_id = QueueId::from_bytes(id.into_bytes()).to_string();
    // RFC 3461 §6.2: only a failure returns the message.
    let wants_full =
        action == Action::Failed && message.ret.eq_ignore_ascii_case("FULL") && message.size <= MAX_RETURNED as u64;
    let returned = read(relay, queue_id, !wants_full).await?;

    let host = &relay.config.hostname;
    let mut content = dsn::Report {
        reporting_mta: host.clone(),
        to: message.reverse_path.clone(),
        message_id: format!("{report_id}@{host}"),
        date: Utc::now().to_rfc2822(),
        boundary: format!("=_{report_id}"),
        arrival_date: DateTime::from_timestamp_millis(message.accepted_at_ms).unwrap_or_default().to_rfc2822(),
        envelope_id: Some(message.envid.clone()),
        recipients: told.iter().map(|e| recipient(relay, e, action)).collect(),
        returned: if wants_full { Returned::Message(&returned) } else { Returned::Header(&returned) },
    }
    .to_bytes();
    match sign::fields(relay, host, &content).await {
        Ok(fields) => drop(content.splice(0..0, fields.into_bytes())),
        // The sender is told all the same.
        Err(e) => tracing::warn!(mail.queue_id = queue_id, error = %e, "report goes unsigned"),
    }

    let what = match action {
        Action::Failed => "bounce",
        Action::Delayed => "delay report",
        Action::Delivered | Action::Relayed => "success report",
    };
    let envelope = Envelope {
        queue_id: report_id.clone(),
        recipients: vec![Recipient { forward_path: message.reverse_path.clone(), targets, ..Recipient::default() }],
        eight_bit: !content.is_ascii(),
        // RFC 8689 §5.
        require_tls: message.require_tls,
        traceparent: telemetry::traceparent(&tracing::Span::current()),
        events: vec![Event {
            name: "received".to_owned(),
            service: "outbound-relay".to_owned(),
            text: format!("{what} of {queue_id}"),
            ..Event::default()
        }],
        ..Envelope::default()
    };
    accept(relay, envelope, content.into()).await?;
    Ok(Report::Sent(report_id))
}

fn recipient(relay: &Relay, end: &Ended, action: Action) -> RecipientReport {
    let claimed = &end.held.claimed;
    // Only a reply, which begins with its code, is the host's word; trouble on the way is ours.
    let is_reply = end.decision.words.bytes().take(3).all(|b| b.is_ascii_digit());
    let limits = policy::limits(&relay.config, &claimed.tenant, &lane::domain(&claimed.forward_path));
    let until = DateTime::from_timestamp_millis(limits.expiry(claimed.accepted_at_ms));
    RecipientReport {
        original_recipient: Some(claimed.orcpt.clone()),
        final_recipient: claimed.forward_path.clone(),
        action,
        status: end.decision.status.clone(),
        remote_mta: end.trail.host.clone().filter(|_| is_reply),
        diagnostic: Some(end.decision.words.clone()),
        last_attempt: Some(Utc::now().to_rfc2822()),
        will_retry_until: until.filter(|_| action == Action::Delayed).map(|until| until.to_rfc2822()),
    }
}

/// Where a message to `address` goes: mailboxes of ours, or back out into the world.
pub(crate) async fn targets(relay: &Relay, address: &str) -> Result<Vec<Target>, Status> {
    let request = ResolveRequest { recipients: vec![address.to_owned()] };
    let answer = relay.directory.clone().resolve(request).await?.into_inner();
    let Some(resolution) = answer.resolutions.into_iter().next() else { return Ok(Vec::new()) };
    let is_remote = resolution.kind() == resolution::Kind::Remote;
    let mut targets: Vec<Target> = resolution
        .targets
        .into_iter()
        .filter_map(|target| match target.to? {
            directory::target::To::AccountId(id) => Some(Target { to: Some(To::AccountId(id)) }),
            directory::target::To::Remote(path) => Some(Target { to: Some(To::Remote(path)) }),
        })
        .collect();
    if targets.is_empty() && is_remote {
        targets.push(Target { to: Some(To::Remote(address.to_owned())) });
    }
    Ok(targets)
}

async fn read(relay: &Relay, queue_id: &str, header_only: bool) -> Result<Bytes, Status> {
    let request = ContentRequest { queue_id: queue_id.to_owned(), header_only };
    let mut stream = relay.spool.clone().content(request).await?.into_inner();
    let mut content = BytesMut::new();
    while let Some(answer) = stream.message().await? {
        content.extend_from_slice(&answer.content);
        if content.len() > 2 * MAX_RETURNED {
            break;
        }
    }
    Ok(content.freeze())
}

/// Hands a message of our own to the spool.
pub(crate) async fn accept(relay: &Relay, envelope: Envelope, mut content: Bytes) -> Result<(), Status> {
    let first = content.split_to(content.len().min(proto::CHUNK));
    let mut requests = vec![AcceptRequest { envelope: Some(envelope), content: first }];
    while !content.is_empty() {
        let chunk = content.split_to(content.len().min(proto::CHUNK));
        requests.push(AcceptRequest { envelope: None, content: chunk });
    }
    relay.spool.clone().accept(tokio_stream::iter(requests)).await?;
    Ok(())
}
