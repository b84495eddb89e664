//! One line of waiting mail for each lane, and workers that bring it out.
//!
//! A worker owns one connection, works while mail waits, keeps the connection for some seconds,
//! and ends. What a dead destination can take from the others is bounded on every side: it starts
//! with `slow_start` workers and gets more only with success; its line never has more than half
//! of the room that is left; and once it is known not to answer, its mail goes back to Postgres
//! until it is time to try again ([`crate::turn`]).

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, futures::OwnedNotified};
use tokio_util::task::TaskTracker;

use crate::{
    Relay,
    attempt::{self, Reached},
    connection::Connection,
    lane::Lane,
    lease::Held,
    policy, shed,
    turn::{Entered, Slot},
};

/// Recipients of one transaction (RFC 5321 §4.5.3.1.8: every server takes 100).
const MAX_RECIPIENTS: usize = 100;
/// All connections are taken: look again after this long, and as much jitter.
const FULL: Duration = Duration::from_millis(500);
/// Connections lost in the middle, one after the other, until the destination counts as down.
const MAX_LOSSES: u32 = 3;

/// Deliveries that a line holds before the first success; each costs renewals of its lease.
const UNPROVEN: usize = 100;

/// What a line had no room for.
pub(crate) struct Refused {
    pub lane: Lane,
    pub held: Vec<Held>,
    pub silence: Duration,
}

pub(crate) struct Destinations(Arc<Shared>);

pub(crate) struct Shared {
    relay: Arc<Relay>,
    lines: Mutex<HashMap<Lane, Line>>,
    /// Transactions of all destinations together.
    gate: Semaphore,
    workers: TaskTracker,
}

struct Line {
    /// Deliveries of one message each.
    waiting: VecDeque<Vec<Held>>,
    /// Deliveries in `waiting`.
    count: usize,
    workers: usize,
    idle: usize,
    /// Workers it may have.
    window: usize,
    /// Connections lost since the last success.
    losses: u32,
    is_proven: bool,
    /// Or when the line was made.
    last_success: Instant,
    more: Arc<Notify>,
}

enum Next {
    Work(Vec<Held>),
    /// Nothing waits; the future ends when that changes.
    Idle(Pin<Box<OwnedNotified>>),
}

impl Destinations {
    pub fn new(relay: Arc<Relay>) -> Self {
        let gate = Semaphore::new(relay.config.concurrency);
        Self(Arc::new(Shared { relay, lines: Mutex::default(), gate, workers: TaskTracker::new() }))
    }

    /// Puts deliveries into their lines and starts workers as needed. Returns those there is no
    /// room for, and how long their destination has taken nothing.
    pub fn push(&self, held: Vec<Held>) -> Vec<Refused> {
        let shared = &self.0;
        let config = &shared.relay.config;
        let pools = shared.relay.egress.current();
        let mut by_lane: HashMap<Lane, Vec<Held>> = HashMap::new();
        for held in held {
            by_lane.entry(Lane::of(config, &pools, &held.claimed)).or_default().push(held);
        }
        // Half of what is left: so a new destination always finds room.
        let free = config.max_held.saturating_sub(shared.relay.leases.count()) / 2;
        let limit = config.max_held_per_destination.min(free.max(1));
        let mut refused = Vec::new();
        let mut lines = shared.lock();
        for (lane, mut held) in by_lane {
            let line = lines.entry(lane.clone()).or_insert_with(|| Line::new(shared.window(&lane).0));
            let room = if line.is_proven { limit } else { limit.min(UNPROVEN) }.saturating_sub(line.count);
            if held.len() > room {
                let held = held.drain(room..).collect();
                refused.push(Refused { lane: lane.clone(), held, silence: line.last_success.elapsed() });
            }
            let messages = line.extend(held);
            for _ in 0..messages.min(line.idle) {
                line.more.notify_one();
            }
            shared.start(&lane, line);
            if line.workers == 0 {
                lines.remove(&lane);
            }
        }
        refused
    }

    /// Gives back what waits and lets running attempts end.
    pub async fn drain(self) {
        let shared = &self.0;
        let mut waiting = Vec::new();
        for line in shared.lock().values_mut() {
            waiting.extend(line.take());
            line.more.notify_waiters();
        }
        shared.relay.leases.give_back(waiting, Duration::from_secs(1), "").await;
        shared.workers.close();
        shared.workers.wait().await;
    }
}

impl Line {
    fn new(window: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            count: 0,
            workers: 0,
            idle: 0,
            window,
            losses: 0,
            is_proven: false,
            last_success: Instant::now(),
            more: Arc::default(),
        }
    }

    /// Returns the number of messages.
    fn extend(&mut self, held: Vec<Held>) -> usize {
        self.count += held.len();
        // Recipients of one message come together, though not always in one read.
        let mut groups: Vec<Vec<Held>> = self.waiting.pop_back().into_iter().collect();
        let before = groups.len();
        let last = groups.first().and_then(|g| g.first()).map(|h| (h.queue_id().to_owned(), 0));
        let mut by_message: HashMap<String, usize> = last.into_iter().collect();
        for held in held {
            let id = held.queue_id().to_owned();
            match by_message.get(&id).and_then(|at| groups.get_mut(*at)) {
                Some(group) if group.len() < MAX_RECIPIENTS => group.push(held),
                _ => {
                    by_message.insert(id, groups.len());
                    groups.push(vec![held]);
                }
            }
        }
        let messages = groups.len() - before;
        self.waiting.extend(groups);
        messages
    }

    fn take(&mut self) -> Vec<Held> {
        self.count = 0;
        self.waiting.drain(..).flatten().collect()
    }
}

impl Shared {
    /// Workers at the beginning and at most.
    fn window(&self, lane: &Lane) -> (usize, usize) {
        let allowance = policy::allowance(&self.relay.config, &lane.destination);
        (allowance.slow_start.max(1), allowance.connections.max(1))
    }

    /// As many workers as there are messages waiting, within the window.
    fn start(self: &Arc<Self>, lane: &Lane, line: &mut Line) {
        let wanted = line.waiting.len().saturating_sub(line.idle);
        let starting = wanted.min(line.window.saturating_sub(line.workers));
        line.workers += starting;
        for _ in 0..starting {
            self.workers.spawn(work(Arc::clone(self), lane.clone()));
        }
    }

    /// The next message's recipients, or idleness; decided and registered under one lock, so that
    /// no job can slip in between.
    fn next(&self, lane: &Lane) -> Option<Next> {
        let mut lines = self.lock();
        let line = lines.get_mut(lane)?;
        if let Some(group) = line.waiting.pop_front() {
            line.count = line.count.saturating_sub(group.len());
            return Some(Next::Work(group));
        }
        line.idle += 1;
        let mut more = Box::pin(Arc::clone(&line.more).notified_owned());
        more.as_mut().enable();
        Some(Next::Idle(more))
    }

    /// One more worker after a success, half as many when the peer wants less.
    fn adjust(self: &Arc<Self>, lane: &Lane, reached: &Reached) -> u32 {
        let max = self.window(lane).1;
        let mut lines = self.lock();
        let Some(line) = lines.get_mut(lane) else { return 0 };
        match reached {
            Reached::Took => {
                line.window = (line.window + 1).min(max);
                line.losses = 0;
                line.is_proven = true;
                line.last_success = Instant::now();
                self.start(lane, line);
            }
            Reached::Lost { .. } => {
                line.losses += 1;
                line.window = (line.window / 2).max(1);
            }
            Reached::Busy => line.window = (line.window / 2).max(1),
            Reached::NoHost { .. } => line.window = 1,
            Reached::Nothing => {}
        }
        line.losses
    }

    /// Everything that waits for the destination goes back until `wait` is over.
    async fn rest(&self, lane: &Lane, wait: Duration, words: &str) {
        shed::rest(&self.relay, lane, wait).await;
        let waiting: Vec<Held> = {
            let mut lines = self.lock();
            let same = lines.iter_mut().filter(|(other, _)| other.counted() == lane.counted());
            same.flat_map(|(_, line)| line.take()).collect()
        };
        if !waiting.is_empty() {
            shed::put_off(&self.relay, waiting, wait, words).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lane, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's place in its line, given up when it ends, also by a panic.
struct Place {
    shared: Arc<Shared>,
    lane: Lane,
    is_held: bool,
}

impl Place {
    /// After idleness: true when the worker shall end. Decided under the lock that jobs are
    /// handed in under, so none is left without a worker.
    fn is_over(&mut self, was_idle: bool) -> bool {
        let mut lines = self.shared.lock();
        let Some(line) = lines.get_mut(&self.lane) else { return true };
        line.idle = line.idle.saturating_sub(usize::from(was_idle));
        let is_surplus = line.workers > line.window;
        if !line.waiting.is_empty() && !is_surplus {
            return false;
        }
        line.workers = line.workers.saturating_sub(1);
        if line.workers == 0 && line.waiting.is_empty() {
            lines.remove(&self.lane);
        }
        self.is_held = false;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_held
            && let Some(line) = self.shared.lock().get_mut(&self.lane)
        {
            line.workers = line.workers.saturating_sub(1);
        }
    }
}

async fn work(shared: Arc<Shared>, lane: Lane) {
    let relay = Arc::clone(&shared.relay);
    let mut place = Place { shared: Arc::clone(&shared), lane: lane.clone(), is_held: true };
    let mut slot = Slot::new(&relay, &lane);
    let mut connection: Option<Connection> = None;
    loop {
        match slot.enter().await {
            Entered::Go => {}
            Entered::Full => {
                let jitter = Duration::from_millis(uuid::Uuid::new_v4().as_u64_pair().0 % 500);
                tokio::time::sleep(FULL + jitter).await;
                if relay.shutdown.is_cancelled() || place.is_over(false) {
                    break;
                }
                continue;
            }
            Entered::BackOff { wait, words } => {
                shared.rest(&lane, wait, &words).await;
                if place.is_over(false) {
                    break;
                }
                continue;
            }
        }
        let more = match shared.next(&lane) {
            Some(Next::Work(group)) => {
                if let Some(wait) = slot.rate().await {
                    let words = "limited in messages a minute";
                    shed::put_off(&relay, group, wait, words).await;
                    shared.rest(&lane, wait, words).await;
                    if place.is_over(false) {
                        break;
                    }
                    continue;
                }
                let mut reached = attempt::run(&relay, &lane, group, &mut connection, &shared.gate).await;
                let losses = shared.adjust(&lane, &reached);
                if let Reached::Lost { words } = &reached
                    && losses >= MAX_LOSSES
                {
                    reached = Reached::NoHost { words: words.clone() };
                }
                if let Some((wait, words)) = slot.reached(&reached).await {
                    shared.rest(&lane, wait, &words).await;
                }
                if relay.shutdown.is_cancelled() && place.is_over(false) {
                    break;
                }
                continue;
            }
            Some(Next::Idle(more)) => more,
            None => break,
        };
        // A kept connection is fine while nobody waits for a turn.
        if connection.is_some() && shared.gate.available_permits() > 0 && !relay.shutdown.is_cancelled() {
            let _ = tokio::time::timeout(relay.config.idle_timeout(), more).await;
        }
        if place.is_over(true) {
            break;
        }
    }
    if let Some(connection) = connection {
        connection.quit().await;
    }
    slot.leave().await;
}
