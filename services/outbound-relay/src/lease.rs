//! The claims this process holds (Invariant 4): renewed in one call for all, given back when
//! they are not used.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::spool::{
    ClaimRequest, Claimed, DeliveryId, GiveBackRequest, Lease, RenewRequest, spool_client::SpoolClient,
};
use runtime::grpc::Channel;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Leases in one Renew call.
const RENEW_BATCH: usize = 2_000;
const KB: usize = 1024;

type Key = (String, u32);

/// A delivery that is ours for now; letting go of it ends the renewing.
pub(crate) struct Held {
    pub claimed: Claimed,
    /// The message's bytes, when they came with the claim.
    pub content: Option<Arc<Content>>,
    /// Milliseconds since `Leases::epoch`.
    valid_until: Arc<AtomicU64>,
    leases: Arc<Leases>,
}

/// A message's bytes, and the room they take until the last delivery of it has ended.
pub(crate) struct Content {
    pub bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

pub(crate) struct Leases {
    spool: SpoolClient<Channel>,
    content_limit: u32,
    /// kB of contents that may be held.
    room: Arc<Semaphore>,
    duration: Duration,
    epoch: Instant,
    held: Mutex<HashMap<Key, Entry>>,
}

struct Entry {
    token: String,
    valid_until: Arc<AtomicU64>,
}

impl Held {
    /// Whether nobody else can have claimed it yet.
    pub fn is_valid(&self) -> bool {
        self.leases.now() < self.valid_until.load(Ordering::Acquire)
    }

    pub fn queue_id(&self) -> &str {
        self.claimed.id.as_ref().map_or("", |id| &id.queue_id)
    }

    pub fn lease(&self) -> Lease {
        Lease { id: self.claimed.id.clone(), token: self.claimed.token.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.leases.lock().remove(&key(self.claimed.id.as_ref()));
    }
}

impl Leases {
    /// Contents up to `content_limit` bytes come with their claims while `room` bytes suffice.
    pub fn new(spool: SpoolClient<Channel>, duration: Duration, content_limit: u32, room: usize) -> Self {
        let room = Arc::new(Semaphore::new(room / KB));
        Self { spool, content_limit, room, duration, epoch: Instant::now(), held: Mutex::default() }
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Claims what can be claimed.
    pub async fn claim(self: &Arc<Self>, deliveries: Vec<DeliveryId>) -> Result<Vec<Held>, Status> {
        let valid_until = self.valid_from_now();
        // Without room they are read when their turn comes.
        let is_tight = self.room.available_permits() < KB;
        let content_limit = if is_tight { 0 } else { self.content_limit };
        let request = ClaimRequest { deliveries, lease_ms: millis(self.duration), content_limit };
        let answer = self.spool.clone().claim(request).await?.into_inner();
        let contents: HashMap<String, Arc<Content>> = answer
            .contents
            .into_iter()
            .filter_map(|c| {
                let kb = u32::try_from(c.content.len() / KB + 1).ok()?;
                let room = Arc::clone(&self.room).try_acquire_many_owned(kb).ok()?;
                // A copy: a slice would keep the whole answer.
                let bytes = Bytes::copy_from_slice(&c.content);
                Some((c.queue_id, Arc::new(Content { bytes, _room: room })))
            })
            .collect();
        let held = answer.claimed.into_iter().map(|claimed| {
            let valid_until = Arc::new(AtomicU64::new(valid_until));
            let entry = Entry { token: claimed.token.clone(), valid_until: Arc::clone(&valid_until) };
            self.lock().insert(key(claimed.id.as_ref()), entry);
            let content = claimed.id.as_ref().and_then(|id| contents.get(&id.queue_id)).cloned();
            Held { claimed, content, valid_until, leases: Arc::clone(self) }
        });
        Ok(held.collect())
    }

    pub async fn renew_forever(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.duration / 3).await;
            let leases: Vec<Lease> = self
                .lock()
                .iter()
                .map(|((queue_id, number), entry)| Lease {
                    id: Some(DeliveryId { queue_id: queue_id.clone(), number: *number }),
                    token: entry.token.clone(),
                })
                .collect();
            for batch in leases.chunks(RENEW_BATCH) {
                self.renew(batch).await;
            }
        }
    }

    async fn renew(&self, batch: &[Lease]) {
        let valid_until = self.valid_from_now();
        let request = RenewRequest { leases: batch.to_vec(), lease_ms: millis(self.duration) };
        match self.spool.clone().renew(request).await {
            Ok(answer) => {
                let renewed: std::collections::HashSet<Key> =
                    answer.into_inner().renewed.iter().map(|id| key(Some(id))).collect();
                let held = self.lock();
                for lease in batch {
                    let key = key(lease.id.as_ref());
                    let until = if renewed.contains(&key) { valid_until } else { 0 };
                    // A later claim of the same delivery has another token, and its own time.
                    if let Some(entry) = held.get(&key).filter(|e| e.token == lease.token) {
                        entry.valid_until.store(until, Ordering::Release);
                    }
                }
            }
            // They run out by themselves if it goes on.
            Err(e) => tracing::warn!(error = %e, leases = batch.len(), "leases not renewed"),
        }
    }

    /// Gives claims back: they are due again after `wait` and as much jitter, and this attempt
    /// does not count.
    pub async fn give_back(&self, held: Vec<Held>, wait: Duration, words: &str) {
        let leases: Vec<Lease> = held.iter().map(Held::lease).collect();
        // No longer renewed with the others, which would undo it.
        drop(held);
        for batch in leases.chunks(RENEW_BATCH) {
            let after_ms = millis(wait).max(500);
            let request = GiveBackRequest { leases: batch.to_vec(), after_ms, text: words.to_owned() };
            if let Err(e) = self.spool.clone().give_back(request).await {
                tracing::warn!(error = %e, "claims not given back, they run out");
            }
        }
    }

    /// A tenth less than what was asked for: clocks differ, and the answer took its time.
    fn valid_from_now(&self) -> u64 {
        self.now() + u64::from(millis(self.duration * 9 / 10))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(id: Option<&DeliveryId>) -> Key {
    id.map(|id| (id.queue_id.clone(), id.number)).unwrap_or_default()
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
