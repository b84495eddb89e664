//! A worker's turn with a destination, agreed upon with all other relays through Redis.
//!
//! Redis is asked when a connection is to be made, not for every message. When it is away, each
//! relay keeps to its own limits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue::{Allowance, Turn, Turns};

use crate::{Relay, attempt::Reached, lane::Lane, policy};

const RENEW_EVERY: Duration = Duration::from_secs(20);
/// What all relays think is taken for granted no longer than this.
const WHILE_AWAY: Duration = Duration::from_secs(1);

/// The slots of this process, so that all are renewed in one call.
#[derive(Default)]
pub(crate) struct Slots(Mutex<HashMap<String, String>>);

impl Slots {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn renew_forever(self: Arc<Self>, turns: Turns, lease: Duration) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let held: Vec<(String, String)> =
                self.lock().iter().map(|(holder, destination)| (destination.clone(), holder.clone())).collect();
            for batch in held.chunks(1_000) {
                if let Err(e) = turns.renew(batch, lease).await {
                    tracing::debug!(error = %e, "turns not renewed");
                }
            }
        }
    }
}

pub(crate) enum Entered {
    Go,
    Full,
    BackOff { wait: Duration, words: String },
}

pub(crate) struct Slot {
    relay: Arc<Relay>,
    destination: String,
    holder: String,
    allowance: Allowance,
    per_minute: Option<u32>,
    is_held: bool,
    /// All connections are allowed: a success need not be told.
    is_open: bool,
}

impl Slot {
    pub fn new(relay: &Arc<Relay>, lane: &Lane) -> Self {
        Self {
            relay: Arc::clone(relay),
            destination: lane.counted().to_owned(),
            holder: uuid::Uuid::new_v4().simple().to_string(),
            allowance: policy::allowance(&relay.config, &lane.destination),
            per_minute: policy::per_minute(&relay.config, &lane.destination),
            is_held: false,
            is_open: false,
        }
    }

    pub async fn enter(&mut self) -> Entered {
        if self.is_held {
            return Entered::Go;
        }
        match self.relay.turns.enter(&self.destination, &self.holder, self.allowance).await {
            Ok(Turn::Go { is_open }) => {
                self.is_open = is_open;
                self.hold()
            }
            Ok(Turn::Full) => Entered::Full,
            Ok(Turn::BackOff { wait, words }) => Entered::BackOff { wait, words },
            Err(e) => {
                tracing::debug!(error = %e, "turns are not shared now");
                self.hold()
            }
        }
    }

    fn hold(&mut self) -> Entered {
        self.is_held = true;
        self.relay.slots.lock().insert(self.holder.clone(), self.destination.clone());
        Entered::Go
    }

    /// How long to wait when the messages of this minute are used up.
    pub async fn rate(&self) -> Option<Duration> {
        let per_minute = self.per_minute?;
        match self.relay.turns.message(&self.destination, per_minute).await {
            Ok(wait) => wait,
            // Nobody counts: slow rather than too fast.
            Err(_) => {
                tokio::time::sleep(Duration::from_secs(60) / per_minute.max(1)).await;
                None
            }
        }
    }

    /// Tells all relays how it went. When the destination is to be left alone: how long, and why.
    pub async fn reached(&mut self, reached: &Reached) -> Option<(Duration, String)> {
        let turns = &self.relay.turns;
        let config = &self.relay.config;
        match reached {
            Reached::Took if !self.is_open => {
                self.is_open = turns.succeeded(&self.destination, self.allowance).await.unwrap_or(false);
                None
            }
            Reached::Took | Reached::Nothing => None,
            Reached::Busy | Reached::Lost { .. } => {
                self.is_open = false;
                let _ = turns.slow_down(&self.destination, self.allowance).await;
                self.leave().await;
                None
            }
            Reached::NoHost { words } => {
                self.is_open = false;
                let first = Duration::from_secs(config.back_off_first);
                let max = Duration::from_secs(config.back_off_max);
                let wait = turns.failed(&self.destination, first, max, words).await;
                self.leave().await;
                match wait {
                    Ok(wait) => Some((wait, words.clone())),
                    Err(_) => {
                        tokio::time::sleep(WHILE_AWAY).await;
                        Some((first, words.clone()))
                    }
                }
            }
        }
    }

    pub async fn leave(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.relay.slots.lock().remove(&self.holder);
            // Else its lease ends.
            let _ = self.relay.turns.leave(&self.destination, &self.holder).await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.relay.slots.lock().remove(&self.holder);
    }
}
