//! The end of an attempt: outcomes and journey to `mda`, reports to the sender where one is due.

use std::{sync::Arc, time::Duration};

use dsn::Action;
use proto::spool::{Bounced, Deferred, Event, Outcome, Relayed, outcome::Result as End};
use serde_json::json;

use crate::{
    Relay,
    attempt::Trail,
    bounce::{self, Report},
    decision::{Decision, Kind},
    lane,
    lease::Held,
    policy,
    retry::{Limits, next_attempt},
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A bounce that cannot be handed in for so long is tried again with the next attempt.
const BOUNCE_PATIENCE: Duration = Duration::from_secs(60);

/// One delivery after its attempt.
pub(crate) struct Ended {
    pub held: Held,
    pub decision: Decision,
    pub trail: Trail,
    /// Whether the sender was told.
    report: Option<String>,
}

impl Ended {
    pub fn new(held: Held, decision: Decision, trail: Trail) -> Self {
        Self { held, decision, trail, report: None }
    }
}

/// What is written down about one delivery.
enum Fate {
    Relayed,
    Deferred { next_attempt_ms: i64, delay_reported: bool },
    Bounced,
}

impl Fate {
    fn name(&self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Deferred { .. } => "deferred",
            Self::Bounced => "bounced",
        }
    }
}

fn limits(relay: &Relay, end: &Ended) -> Limits {
    let claimed = &end.held.claimed;
    policy::limits(&relay.config, &claimed.tenant, &lane::domain(&claimed.forward_path))
}

/// Settles all deliveries of one message. Returns when `mda` has written it down, or when no
/// lease is left that would let it.
pub(crate) async fn settle(relay: &Arc<Relay>, queue_id: &str, mut ended: Vec<Ended>) {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let entropy = uuid::Uuid::new_v4().as_u64_pair().0;
    let later = |e: &Ended| {
        let claimed = &e.held.claimed;
        next_attempt(claimed.attempt, now_ms, claimed.accepted_at_ms, &limits(relay, e), entropy)
    };
    let deferred = |next_attempt_ms| Fate::Deferred { next_attempt_ms, delay_reported: false };
    let mut fates: Vec<Fate> = ended
        .iter()
        .map(|e| match e.decision.kind {
            Kind::Relayed => Fate::Relayed,
            Kind::Permanent => Fate::Bounced,
            Kind::Transient => later(e).map_or(Fate::Bounced, deferred),
        })
        .collect();
    for (end, fate) in ended.iter_mut().zip(&fates) {
        if matches!(fate, Fate::Bounced) && end.decision.kind == Kind::Transient {
            end.decision.status = "4.4.7".to_owned();
            end.decision.words = format!("too long in the queue; at last: {}", end.decision.words);
        }
    }

    // Reports are accepted before the end is settled, or a crash in between would swallow them.
    let is_bounced = |fate: &Fate, _: &Ended| matches!(fate, Fate::Bounced);
    match report(relay, queue_id, &ended, &fates, Action::Failed, is_bounced).await {
        Some(done) => note(&mut ended, &fates, &done, is_bounced),
        None => {
            let soon = now_ms + i64::try_from(relay.config.retry_first).unwrap_or(60) * 1_000;
            fates.iter_mut().filter(|f| matches!(f, Fate::Bounced)).for_each(|f| *f = deferred(soon));
        }
    }
    let is_delayed = |fate: &Fate, e: &Ended| {
        matches!(fate, Fate::Deferred { .. })
            && !e.held.claimed.delay_reported
            && limits(relay, e).is_delayed(now_ms, e.held.claimed.accepted_at_ms)
    };
    if let Some(done) = report(relay, queue_id, &ended, &fates, Action::Delayed, is_delayed).await {
        note(&mut ended, &fates, &done, is_delayed);
        for (end, fate) in ended.iter().zip(&mut fates) {
            let is_meant = is_delayed(fate, end);
            if let Fate::Deferred { delay_reported, .. } = fate {
                *delay_reported |= is_meant;
            }
        }
    }
    // RFC 3461 §5.2.2: a host without DSN will never tell, so we do.
    let is_unreported_success = |fate: &Fate, e: &Ended| {
        matches!(fate, Fate::Relayed) && !e.trail.peer_reports && dsn::wants_success(&e.held.claimed.notify)
    };
    if let Some(done) = report(relay, queue_id, &ended, &fates, Action::Relayed, is_unreported_success).await {
        note(&mut ended, &fates, &done, is_unreported_success);
    }

    let outcomes: Vec<Outcome> = ended.iter().zip(&fates).map(|(end, fate)| outcome(end, fate)).collect();
    if let Some(first) = outcomes.first() {
        let name = first.event.as_ref().map_or("", |e| e.name.as_str());
        tracing::Span::current().record("outcome", name);
    }
    if let Some(first) = ended.first() {
        let span = tracing::Span::current();
        span.record("mail.status", &first.decision.status);
        if let Some(code) = reply_code(&first.decision.words) {
            span.record("smtp.reply_code", code);
        }
    }
    if fates.iter().any(|fate| !matches!(fate, Fate::Relayed)) {
        runtime::telemetry::failed(&tracing::Span::current());
    }
    for (end, fate) in ended.iter().zip(&fates) {
        relay.metrics.outcome(fate.name(), &lane::domain(&end.held.claimed.forward_path));
        tracing::debug!(
            mail.queue_id = queue_id,
            attempt = end.held.claimed.attempt,
            outcome = fate.name(),
            smtp.status = end.decision.status,
            tls = end.trail.tls.is_some(),
            "attempt ended"
        );
    }
    commit(relay, queue_id, &ended, outcomes).await;
}

/// Of the peer; our own words have none.
fn reply_code(words: &str) -> Option<u16> {
    words.split([' ', '-']).next()?.parse().ok().filter(|code| (200..600).contains(code))
}

/// The journey says who was told.
fn note(ended: &mut [Ended], fates: &[Fate], done: &Report, is_meant: impl Fn(&Fate, &Ended) -> bool) {
    for (end, fate) in ended.iter_mut().zip(fates) {
        if is_meant(fate, end) {
            end.report = Some(match done {
                Report::Sent(id) => format!("sent as {id}"),
                Report::NotWanted(why) => format!("none: {why}"),
            });
        }
    }
}

async fn commit(relay: &Relay, queue_id: &str, ended: &[Ended], outcomes: Vec<Outcome>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match relay.settler.settle(outcomes.clone()).await {
            Ok(settled) => {
                if settled < outcomes.len() {
                    // Invariant 4: another has claimed them since; its outcome counts.
                    tracing::warn!(mail.queue_id = queue_id, lost = outcomes.len() - settled, "leases lost");
                    relay.metrics.outcome("lost", "");
                }
                return;
            }
            Err(e) if !runtime::grpc::is_transient(&e) => {
                tracing::error!(mail.queue_id = queue_id, error = %e, "outcome refused");
                return;
            }
            Err(e) => tracing::warn!(mail.queue_id = queue_id, error = %e, "outcome not settled, trying again"),
        }
        // What the peer took must be written down if it can be: a lease that nobody else has
        // claimed is still good even when it could not be renewed.
        let is_relayed = ended.iter().any(|e| e.decision.kind == Kind::Relayed);
        if !is_relayed && !ended.iter().any(|e| e.held.is_valid()) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// What became of the report about those that `is_meant` picks; `None` when none of them is, or
/// when it could not be handed in now.
async fn report(
    relay: &Relay,
    queue_id: &str,
    ended: &[Ended],
    fates: &[Fate],
    action: Action,
    is_meant: impl Fn(&Fate, &Ended) -> bool,
) -> Option<Report> {
    let meant: Vec<&Ended> = ended.iter().zip(fates).filter(|(e, f)| is_meant(f, e)).map(|(e, _)| e).collect();
    if meant.is_empty() {
        return Some(Report::NotWanted("nothing to report"));
    }
    let started = tokio::time::Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match bounce::send(relay, queue_id, &meant, action).await {
            Ok(report) => return Some(report),
            Err(e) if !runtime::grpc::is_transient(&e) => {
                tracing::error!(mail.queue_id = queue_id, error = %e, "report refused, nobody is told");
                return Some(Report::NotWanted("the report was refused"));
            }
            Err(e) => tracing::warn!(mail.queue_id = queue_id, error = %e, "report not handed in, trying again"),
        }
        let is_hopeless = started.elapsed() > BOUNCE_PATIENCE || !meant.iter().any(|e| e.held.is_valid());
        if is_hopeless || relay.shutdown.is_cancelled() {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

fn outcome(end: &Ended, fate: &Fate) -> Outcome {
    let result = match fate {
        Fate::Relayed => End::Relayed(Relayed {}),
        Fate::Bounced => End::Bounced(Bounced {}),
        Fate::Deferred { next_attempt_ms, delay_reported } => {
            End::Deferred(Deferred { next_attempt_ms: *next_attempt_ms, delay_reported: *delay_reported })
        }
    };
    let mut detail = json!({
        "attempt": end.held.claimed.attempt,
        "status": end.decision.status,
        "peer": end.trail.peer,
        "tls": end.trail.tls,
    });
    if let Fate::Deferred { next_attempt_ms, .. } = fate {
        detail["next_attempt_ms"] = json!(next_attempt_ms);
    }
    if let Some(report) = &end.report {
        detail["report"] = json!(report);
    }
    let text = match &end.trail.host {
        Some(host) => format!("{host}: {}", end.decision.words),
        None => end.decision.words.clone(),
    };
    Outcome {
        lease: Some(end.held.lease()),
        result: Some(result),
        event: Some(Event {
            name: fate.name().to_owned(),
            service: "outbound-relay".to_owned(),
            recipient: end.held.claimed.forward_path.clone(),
            text,
            detail: detail.to_string(),
            dialogue: end.trail.dialogue.clone(),
            // An attempt after the first has a trace of its own.
            traceparent: runtime::telemetry::traceparent(&tracing::Span::current()),
            at_ms: 0,
        }),
    }
}
