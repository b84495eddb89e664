//! The end of an attempt: outcomes and journey to `mda`, bounces where there is no hope.

use std::{sync::Arc, time::Duration};

use proto::spool::{Bounced, Deferred, Event, Outcome, Relayed, SettleRequest, outcome::Result as End};
use serde_json::json;

use crate::{
    Relay,
    attempt::Trail,
    bounce::{self, Report},
    decision::{Decision, Kind},
    lease::Held,
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
}

impl Ended {
    pub fn new(held: Held, decision: Decision, trail: Trail) -> Self {
        Self { held, decision, trail }
    }
}

/// What is written down about one delivery.
enum Fate {
    Relayed,
    Deferred { next_attempt_ms: i64 },
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

/// Settles all deliveries of one message. Returns when `mda` has written it down, or when no
/// lease is left that would let it.
pub(crate) async fn settle(relay: &Arc<Relay>, queue_id: &str, mut ended: Vec<Ended>) {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let entropy = uuid::Uuid::new_v4().as_u64_pair().0;
    let limits = Limits::of(&relay.config);
    let later = |e: &Ended| {
        let claimed = &e.held.claimed;
        next_attempt(claimed.attempt, now_ms, claimed.accepted_at_ms, &limits, entropy)
    };
    let mut fates: Vec<Fate> = ended
        .iter()
        .map(|e| match e.decision.kind {
            Kind::Relayed => Fate::Relayed,
            Kind::Permanent => Fate::Bounced,
            Kind::Transient => later(e).map_or(Fate::Bounced, |next_attempt_ms| Fate::Deferred { next_attempt_ms }),
        })
        .collect();
    for (end, fate) in ended.iter_mut().zip(&fates) {
        if matches!(fate, Fate::Bounced) && end.decision.kind == Kind::Transient {
            end.decision.status = "4.4.7".to_owned();
            end.decision.words = format!("too long in the queue; at last: {}", end.decision.words);
        }
    }

    // The report is accepted before the failure is settled, or a crash in between would swallow it.
    let failed: Vec<&Ended> =
        ended.iter().zip(&fates).filter(|(_, fate)| matches!(fate, Fate::Bounced)).map(|(end, _)| end).collect();
    if !failed.is_empty() && !report(relay, queue_id, &failed).await {
        let soon = now_ms + i64::try_from(relay.config.retry_first).unwrap_or(60) * 1_000;
        for fate in fates.iter_mut().filter(|f| matches!(f, Fate::Bounced)) {
            *fate = Fate::Deferred { next_attempt_ms: soon };
        }
    }

    let outcomes: Vec<Outcome> = ended.iter().zip(&fates).map(|(end, fate)| outcome(end, fate)).collect();
    if let Some(first) = outcomes.first() {
        let name = first.event.as_ref().map_or("", |e| e.name.as_str());
        tracing::Span::current().record("outcome", name);
    }
    for (end, fate) in ended.iter().zip(&fates) {
        relay.metrics.outcome(fate.name());
        tracing::info!(
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

async fn commit(relay: &Relay, queue_id: &str, ended: &[Ended], outcomes: Vec<Outcome>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let request = SettleRequest { outcomes: outcomes.clone() };
        match relay.spool.clone().settle(request).await {
            Ok(answer) => {
                let settled = answer.into_inner().settled.len();
                if settled < outcomes.len() {
                    // Invariant 4: another has claimed them since; its outcome counts.
                    tracing::warn!(mail.queue_id = queue_id, lost = outcomes.len() - settled, "leases lost");
                    relay.metrics.outcome("lost");
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

/// False when the report could not be handed in now.
async fn report(relay: &Relay, queue_id: &str, failed: &[&Ended]) -> bool {
    let started = tokio::time::Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match bounce::send(relay, queue_id, failed).await {
            Ok(Report::Sent) | Ok(Report::NotWanted) => return true,
            Err(e) if !runtime::grpc::is_transient(&e) => {
                tracing::error!(mail.queue_id = queue_id, error = %e, "bounce refused, nobody is told");
                return true;
            }
            Err(e) => tracing::warn!(mail.queue_id = queue_id, error = %e, "bounce not handed in, trying again"),
        }
        let is_hopeless = started.elapsed() > BOUNCE_PATIENCE || !failed.iter().any(|e| e.held.is_valid());
        if is_hopeless || relay.shutdown.is_cancelled() {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

fn outcome(end: &Ended, fate: &Fate) -> Outcome {
    let result = match fate {
        Fate::Relayed => End::Relayed(Relayed {}),
        Fate::Bounced => End::Bounced(Bounced {}),
        Fate::Deferred { next_attempt_ms } => End::Deferred(Deferred { next_attempt_ms: *next_attempt_ms }),
    };
    let mut detail = json!({
        "attempt": end.held.claimed.attempt,
        "status": end.decision.status,
        "peer": end.trail.peer,
        "tls": end.trail.tls,
        "dialogue": end.trail.dialogue,
    });
    if let (Fate::Deferred { next_attempt_ms }, Some(object)) = (fate, detail.as_object_mut()) {
        object.insert("next_attempt_ms".to_owned(), json!(next_attempt_ms));
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
            at_ms: 0,
        }),
    }
}
