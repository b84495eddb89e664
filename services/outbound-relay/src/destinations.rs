//! One line of waiting mail for each domain, and up to `per_destination` workers for each.
//!
//! A worker owns one connection, works while mail waits, keeps the connection for some seconds,
//! and ends. A slow destination holds its own workers only: others start theirs beside it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use queue::{Acknowledger, Entry};
use tokio::sync::{Notify, Semaphore, futures::OwnedNotified};
use tokio_util::task::TaskTracker;

use crate::{Relay, attempt, connection::Connection, lease::Held};

/// Recipients of one transaction (RFC 5321 §4.5.3.1.8: every server takes 100).
const MAX_RECIPIENTS: usize = 100;

/// A claimed delivery and the stream entry to acknowledge when it is settled.
pub(crate) struct Job {
    pub held: Held,
    pub entry: Entry,
}

impl Job {
    fn queue_id(&self) -> &str {
        self.held.claimed.id.as_ref().map_or("", |id| &id.queue_id)
    }
}

pub(crate) struct Destinations(Arc<Shared>);

pub(crate) struct Shared {
    relay: Arc<Relay>,
    acknowledger: Acknowledger,
    lines: Mutex<HashMap<String, Line>>,
    /// Attempts of all destinations together.
    gate: Semaphore,
    workers: TaskTracker,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Job>,
    workers: usize,
    idle: usize,
    more: Arc<Notify>,
}

enum Next {
    Work(Vec<Job>),
    /// Nothing waits; the future ends when that changes.
    Idle(Pin<Box<OwnedNotified>>),
}

impl Destinations {
    pub fn new(relay: Arc<Relay>, acknowledger: Acknowledger) -> Self {
        let gate = Semaphore::new(relay.config.concurrency);
        Self(Arc::new(Shared { relay, acknowledger, lines: Mutex::default(), gate, workers: TaskTracker::new() }))
    }

    /// Puts jobs into their lines and starts workers as needed. Returns those there is no room for.
    pub fn push(&self, jobs: Vec<(String, Job)>) -> Vec<Job> {
        let shared = &self.0;
        let config = &shared.relay.config;
        let mut refused = Vec::new();
        let mut by_domain: HashMap<String, Vec<Job>> = HashMap::new();
        for (domain, job) in jobs {
            by_domain.entry(domain).or_default().push(job);
        }
        let mut lines = shared.lock();
        for (domain, mut jobs) in by_domain {
            let line = lines.entry(domain.clone()).or_default();
            let room = config.max_held_per_destination.saturating_sub(line.waiting.len());
            if jobs.len() > room {
                refused.extend(jobs.drain(room..));
            }
            let messages = jobs.iter().map(Job::queue_id).collect::<HashSet<_>>().len();
            line.waiting.extend(jobs);
            for _ in 0..messages.min(line.idle) {
                line.more.notify_one();
            }
            let room = config.per_destination.saturating_sub(line.workers);
            let starting = messages.saturating_sub(line.idle).min(room);
            line.workers += starting;
            for _ in 0..starting {
                shared.workers.spawn(work(Arc::clone(shared), domain.clone()));
            }
        }
        refused
    }

    /// Gives back what waits and lets running attempts end.
    pub async fn drain(self) {
        let shared = &self.0;
        let mut waiting = Vec::new();
        for line in shared.lock().values_mut() {
            waiting.extend(line.waiting.drain(..));
            line.more.notify_waiters();
        }
        let (held, entries): (Vec<_>, Vec<_>) = waiting.into_iter().map(|job| (job.held, job.entry)).unzip();
        if !held.is_empty() {
            shared.relay.leases.give_back(held, std::time::Duration::from_secs(1)).await;
            shared.acknowledger.acknowledge(&entries).await;
        }
        shared.workers.close();
        shared.workers.wait().await;
    }
}

impl Shared {
    /// The next message's recipients, or idleness; decided and registered under one lock, so that
    /// no job can slip in between.
    fn next(&self, domain: &str) -> Option<Next> {
        let mut lines = self.lock();
        let line = lines.get_mut(domain)?;
        if let Some(first) = line.waiting.pop_front() {
            let queue_id = first.queue_id().to_owned();
            let mut group = vec![first];
            let mut rest = VecDeque::with_capacity(line.waiting.len());
            for job in line.waiting.drain(..) {
                if group.len() < MAX_RECIPIENTS && job.queue_id() == queue_id {
                    group.push(job);
                } else {
                    rest.push_back(job);
                }
            }
            line.waiting = rest;
            return Some(Next::Work(group));
        }
        line.idle += 1;
        let mut more = Box::pin(Arc::clone(&line.more).notified_owned());
        more.as_mut().enable();
        Some(Next::Idle(more))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's place in its line, given up when it ends, also by a panic.
struct Place {
    shared: Arc<Shared>,
    domain: String,
    is_held: bool,
}

impl Place {
    /// After idleness: true when the worker shall end. Decided under the lock that jobs are
    /// handed in under, so none is left without a worker.
    fn is_over(&mut self) -> bool {
        let mut lines = self.shared.lock();
        let Some(line) = lines.get_mut(&self.domain) else { return true };
        line.idle = line.idle.saturating_sub(1);
        if !line.waiting.is_empty() {
            return false;
        }
        line.workers = line.workers.saturating_sub(1);
        if line.workers == 0 {
            lines.remove(&self.domain);
        }
        self.is_held = false;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_held
            && let Some(line) = self.shared.lock().get_mut(&self.domain)
        {
            line.workers = line.workers.saturating_sub(1);
        }
    }
}

async fn work(shared: Arc<Shared>, domain: String) {
    let relay = &shared.relay;
    let mut place = Place { shared: Arc::clone(&shared), domain: domain.clone(), is_held: true };
    let mut connection: Option<Connection> = None;
    loop {
        let Ok(turn) = shared.gate.acquire().await else { break };
        let more = match shared.next(&domain) {
            Some(Next::Work(jobs)) => {
                let (held, entries): (Vec<Held>, Vec<Entry>) = jobs.into_iter().map(|j| (j.held, j.entry)).unzip();
                attempt::run(relay, &domain, held, &mut connection).await;
                drop(turn);
                shared.acknowledger.acknowledge(&entries).await;
                continue;
            }
            Some(Next::Idle(more)) => more,
            None => break,
        };
        drop(turn);
        // A kept connection is fine while nobody waits for a turn.
        if connection.is_some() && shared.gate.available_permits() > 0 && !relay.shutdown.is_cancelled() {
            let _ = tokio::time::timeout(relay.config.idle_timeout(), more).await;
        }
        if place.is_over() {
            break;
        }
    }
    if let Some(connection) = connection {
        connection.quit().await;
    }
}
