//! Hands deliveries out: at once when they are accepted, again when nobody finished them.
//!
//! `due_at` says when a delivery is to be handed out next. A new one is added to its stream
//! right after the commit and is due again some seconds later, a deferred one at its next
//! attempt, a claimed one when its lease ends. So whatever Redis loses comes back by itself
//! (Invariant 2), and what comes twice is found settled or leased.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use queue::{Item, Producer, Stream};
use sqlx::{PgPool, types::Uuid};
use tokio_util::sync::CancellationToken;

use crate::{ids, metrics::Metrics};

const TICK: Duration = Duration::from_millis(500);
/// Between two rounds while a stream is full: what waits is handed out as soon as there is room.
const BUSY_TICK: Duration = Duration::from_millis(50);
/// Deliveries handed out by one statement.
const BATCH: usize = 2_000;
const STREAMS: [Stream; 2] = [Stream::Local, Stream::Remote];

/// The streams as far as this process knows them.
#[derive(Clone)]
pub struct Dispatch {
    producer: Producer,
    lengths: Arc<[AtomicUsize; 2]>,
    bound: usize,
    redispatch_seconds: u32,
}

impl Dispatch {
    pub fn new(producer: Producer, bound: usize, redispatch_seconds: u32) -> Self {
        Self { producer, lengths: Arc::default(), bound, redispatch_seconds }
    }

    /// When a delivery that is written now is handed out (again) by the dispatcher: at once when
    /// its stream is full, for then it is nobody's turn but by the fair way of [`TAKE`].
    pub fn due_in_seconds(&self, stream: Stream) -> f64 {
        if self.room(stream) == 0 { 0.0 } else { self.redispatch_seconds() }
    }

    fn redispatch_seconds(&self) -> f64 {
        f64::from(self.redispatch_seconds)
    }

    /// Adds fresh deliveries to their streams. What does not fit, or fails, waits for the
    /// dispatcher: nothing to do here.
    pub async fn now(&self, items: &[(Stream, Item)]) {
        for stream in STREAMS {
            let mut fitting: Vec<Item> = items.iter().filter(|(s, _)| *s == stream).map(|(_, i)| i.clone()).collect();
            fitting.truncate(self.room(stream));
            if !fitting.is_empty() {
                self.add(stream, &fitting).await;
            }
        }
    }

    async fn add(&self, stream: Stream, items: &[Item]) {
        match self.producer.add(stream, items).await {
            Ok(length) => self.length(stream).store(length, Ordering::Relaxed),
            Err(e) => tracing::warn!(error = %e, deliveries = items.len(), "not handed out, will be later"),
        }
    }

    fn room(&self, stream: Stream) -> usize {
        self.bound.saturating_sub(self.length(stream).load(Ordering::Relaxed))
    }

    fn length(&self, stream: Stream) -> &AtomicUsize {
        match stream {
            Stream::Local => &self.lengths[0],
            Stream::Remote => &self.lengths[1],
        }
    }
}

/// Takes what is due: of each tenant as much as of any other, and within a tenant in the order it
/// became due, so that a million messages of one do not delay ten of another. Concurrent
/// dispatchers share the work. What goes to a resting destination is put off without passing
/// through Redis and a relay.
///
/// The tenants with open deliveries are found by steps along the index, one for each; the rows that
/// are locked are updated where they lie, however large the table is. A local delivery counts how often it was handed out: see [`crate::delivery`] for what comes of it.
const TAKE: &str = "
with recursive tenants (id) as (
    (select tenant_id from deliveries where not held and (remote is not null) = $1 order by tenant_id limit 1)
    union all
    select (select d.tenant_id from deliveries d
            where not d.held and (d.remote is not null) = $1 and d.tenant_id > t.id order by d.tenant_id limit 1)
    from tenants t where t.id is not null
), due as materialized (
    select x.place from tenants t cross join lateral (
        select d.ctid as place from deliveries d
        where d.tenant_id = t.id and d.due_at <= now() and not d.held and (d.remote is not null) = $1
        order by d.due_at limit (select greatest(1, $2 / greatest(1, count(*))) from tenants where id is not null)
        for update skip locked
    ) x
)
update deliveries d
set due_at = coalesce((select r.until + random() * 0.5 * (r.until - now()) from resting_destinations r
                       where r.domain = lower(split_part(d.remote, '@', -1)) and r.until > now()),
                      now() + make_interval(secs => $3)),
    attempts = case when d.remote is null then d.attempts + 1 else d.attempts end
from spool s
where d.ctid = any (array(select place from due)) and s.queue_id = d.queue_id
returning d.queue_id, d.number, s.traceparent, s.priority, d.attempts,
          exists (select from resting_destinations r
                  where r.domain = lower(split_part(d.remote, '@', -1)) and r.until > now())";

/// Runs until shutdown.
pub async fn run(pool: PgPool, dispatch: Dispatch, metrics: Metrics, shutdown: CancellationToken) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = shutdown.cancelled() => return,
        }
        pause = TICK;
        for stream in STREAMS {
            match dispatch.producer.length(stream).await {
                Ok(length) => {
                    dispatch.length(stream).store(length, Ordering::Relaxed);
                    metrics.stream_length(stream, length);
                }
                // Taking deliveries now would only delay them until they are due again.
                Err(e) => {
                    tracing::warn!(error = %e, "queue is away");
                    continue;
                }
            }
            if let Err(e) = hand_out(&pool, &dispatch, stream).await {
                tracing::warn!(error = %e, "dispatcher cannot read deliveries");
            } else if dispatch.room(stream) == 0 {
                pause = BUSY_TICK;
            }
        }
    }
}

async fn hand_out(pool: &PgPool, dispatch: &Dispatch, stream: Stream) -> Result<(), sqlx::Error> {
    loop {
        let room = dispatch.room(stream).min(BATCH);
        if room == 0 {
            return Ok(());
        }
        let mut rows: Vec<(Uuid, i32, String, i16, i32, bool)> = sqlx::query_as(TAKE)
            .bind(stream == Stream::Remote)
            .bind(i64::try_from(room).unwrap_or(i64::MAX))
            .bind(dispatch.redispatch_seconds())
            .fetch_all(pool)
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        // RFC 6710 §5: among what is due together, the urgent first.
        rows.sort_by_key(|(.., priority, _, _)| -priority);
        let items: Vec<Item> = rows
            .into_iter()
            .filter(|(.., rests)| !rests)
            .map(|(queue_id, number, traceparent, _, attempts, _)| Item {
                queue_id: ids::show(queue_id),
                number: number.unsigned_abs(),
                traceparent,
                handed_out: if stream == Stream::Local { attempts.unsigned_abs() } else { 0 },
            })
            .collect();
        if !items.is_empty() {
            dispatch.add(stream, &items).await;
        }
    }
}
