//! Mail that is not tried now: back to Postgres, without costing an attempt.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use proto::relay::RestRequest;

use crate::{
    Relay,
    attempt::Trail,
    decision::Decision,
    destinations::Refused,
    lane::{self, Lane},
    lease::Held,
    policy,
    settle::{self, Ended},
};

/// A line without success for so long stands still.
const STANDSTILL: Duration = Duration::from_secs(3);
const BUSY: Duration = Duration::from_secs(2);
const MIN_REST: Duration = Duration::from_secs(10);
const MAX_REST: Duration = Duration::from_secs(600);
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// Messages settled at once.
const AT_ONCE: usize = 16;

/// Gives deliveries back for `wait`; `words` say why. Those whose time is over, and those whose
/// sender is to be told of the delay, are settled as if tried: nobody waits unnoticed because the
/// destination does not answer.
pub(crate) async fn put_off(relay: &Arc<Relay>, held: Vec<Held>, wait: Duration, words: &str) {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let (notable, others): (Vec<Held>, Vec<Held>) = held.into_iter().partition(|h| is_notable(relay, h, now_ms));
    relay.metrics.put_off(others.len());
    relay.leases.give_back(others, wait, words).await;

    let mut by_message: HashMap<String, Vec<Held>> = HashMap::new();
    for held in notable {
        by_message.entry(held.queue_id().to_owned()).or_default().push(held);
    }
    futures::stream::iter(by_message)
        .for_each_concurrent(AT_ONCE, |(queue_id, held)| async move {
            let decision = Decision::transient("4.4.1", words);
            let ended = held.into_iter().map(|h| Ended::new(h, decision.clone(), Trail::default())).collect();
            settle::settle(relay, &queue_id, ended).await;
        })
        .await;
}

/// Tells the dispatcher to hand out nothing for the destination for a while. A route stands for
/// many domains; there the relays' own agreement has to do.
pub(crate) async fn rest(relay: &Relay, lane: &Lane, wait: Duration) {
    if lane.route.is_some() || wait < WORTH_TELLING {
        return;
    }
    let for_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let request = RestRequest { domain: lane.destination.clone(), for_ms };
    if let Err(e) = relay.kept.clone().rest(request).await {
        tracing::debug!(error = %e, "dispatcher not told");
    }
}

/// A line is full. One that moves has room soon; one that stands still is left alone for longer
/// and longer.
pub(crate) async fn refuse(relay: &Arc<Relay>, refused: Refused) {
    let Refused { lane, held, silence } = refused;
    if silence < STANDSTILL {
        relay.metrics.put_off(held.len());
        return relay.leases.give_back(held, BUSY, "").await;
    }
    let wait = (silence * 2).clamp(MIN_REST, MAX_REST);
    rest(relay, &lane, wait).await;
    put_off(relay, held, wait, "destination has not taken mail for some time").await;
}

fn is_notable(relay: &Relay, held: &Held, now_ms: i64) -> bool {
    let claimed = &held.claimed;
    let limits = policy::limits(&relay.config, &claimed.tenant, &lane::domain(&claimed.forward_path));
    now_ms >= limits.expiry(claimed.accepted_at_ms)
        || (!claimed.delay_reported && limits.is_delayed(now_ms, claimed.accepted_at_ms))
}
