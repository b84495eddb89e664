//! Who watches which account, and telling them when it changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// Watchers of this process, fed by Redis with the changes of all processes.
#[derive(Clone)]
pub struct WakeHub {
    wakes: queue::Wakes,
    watched: Arc<Mutex<HashMap<u64, watch::Sender<u64>>>>,
}

impl WakeHub {
    pub fn new(url: &queue::Url) -> Self {
        Self { wakes: queue::Wakes::new(url), watched: Arc::default() }
    }

    /// To be called after the commit. Without Redis at least this process's watchers know.
    pub async fn changed(&self, accounts: impl Iterator<Item = u64>) {
        let mut accounts: Vec<u64> = accounts.collect();
        accounts.sort_unstable();
        accounts.dedup();
        if let Err(e) = self.wakes.publish(accounts.iter().copied()).await {
            tracing::warn!(error = %e, "wake not published");
            accounts.iter().for_each(|a| self.wake(Some(*a)));
        }
    }

    /// `None` wakes everybody.
    pub fn wake(&self, account: Option<u64>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        match account {
            Some(account) => {
                if let Some(sender) = watched.get(&account) {
                    sender.send_modify(|n| *n += 1);
                }
            }
            None => {
                watched.retain(|_, sender| !sender.is_closed());
                watched.values().for_each(|sender| sender.send_modify(|n| *n += 1));
            }
        }
    }

    /// Ends all watches: their gateways ask another process, and this one can stop at once.
    pub fn close(&self) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn watch(&self, account: u64) -> watch::Receiver<u64> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Accounts nobody watches any more are swept now and then.
        if watched.len().is_power_of_two() && watched.len() > 64 {
            watched.retain(|_, sender| !sender.is_closed());
        }
        watched.entry(account).or_insert_with(|| watch::channel(0).0).subscribe()
    }
}
