//! Local delivery: from the queue into mailboxes, exactly once (Invariant 3).
//!
//! One statement settles a batch of deliveries and inserts their mailbox rows. Whoever reads an
//! entry a second time finds no delivery left.
//!
//! A delivery that comes again and again is looked at with care ([`crate::set_aside`]): it may be
//! what the database refuses, or what ends its worker.

use std::time::Duration;

use proto::spool::DeliveryId;
use queue::{Acknowledger, Consumer, Entry};
use runtime::telemetry;
use sqlx::{FromRow, PgPool, types::Uuid};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field::Empty};

use crate::{bounce::Bouncer, ids, metrics::Metrics, rules::Runner, set_aside, wakes::WakeHub};

/// Deliveries of one statement.
pub const BATCH: usize = 256;
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);

/// Mailbox rows are locked in one order by everybody, so that batches never wait in a circle.
/// Counters and UIDs come from the locked row, so UIDs only rise (Invariant 5).
const DELIVER: &str = r"
with wanted as (
    select distinct * from unnest($1::uuid[], $2::int[]) as w (queue_id, number)
), mine as materialized (
    select d.queue_id, d.number, d.account_id, d.recipient, d.notify, d.orcpt
    from deliveries d join wanted using (queue_id, number)
    where d.account_id is not null and not d.held and d.not_before <= now() and d.reserved >= 0
      -- Whose account has rules is delivered by them; asked by key, whatever the planner thinks of the table.
      and (select r.is_active from rules r where r.account_id = d.account_id) is not true
    for update of d skip locked
), placed as materialized (
    select mine.*, s.size, s.accepted_at, s.reverse_path, box.id as mailbox_id, box.name
    from mine join spool s using (queue_id)
    cross join lateral (
        select id, name from mailboxes m
        where m.account_id = mine.account_id and (m.name = 'INBOX' or (s.junk and m.special_use = '\Junk'))
        order by m.special_use = '\Junk' desc limit 1
    ) box
), locked as materialized (
    select account_id, id, limited from mailboxes
    where (account_id, id) in (select account_id, mailbox_id from placed)
    order by account_id, id
    for update
), counted as materialized (
    select lock_quotas(array_agg(account_id)) from locked where limited having count(*) > 0
), growth as (
    select account_id, mailbox_id, count(*) as messages, sum(size) as size from placed
    where (select count(*) from counted) >= 0 group by 1, 2
), grown as (
    update mailboxes m
    set uid_next = m.uid_next + growth.messages, highest_modseq = m.highest_modseq + 1,
        messages = m.messages + growth.messages, unseen = m.unseen + growth.messages, size = m.size + growth.size
    from growth join locked on locked.account_id = growth.account_id and locked.id = growth.mailbox_id
    where m.account_id = growth.account_id and m.id = growth.mailbox_id
    returning m.account_id, m.id as mailbox_id, m.uid_next - growth.messages as first_uid, m.highest_modseq
), numbered as (
    select placed.*, grown.highest_modseq,
           grown.first_uid - 1 + row_number() over (partition by account_id, mailbox_id order by queue_id, number) as uid
    from placed join grown using (account_id, mailbox_id)
), inserted as (
    insert into messages (account_id, mailbox_id, uid, modseq, content_id, internal_date, size)
    select account_id, mailbox_id, uid, highest_modseq, queue_id, accepted_at, size from numbered
), settled as (
    delete from deliveries d using numbered n where d.queue_id = n.queue_id and d.number = n.number
), told as (
    insert into journey (queue_id, name, service, recipient, text, detail)
    select queue_id, 'delivered', 'mda', recipient, 'into ' || name,
           json_build_object('mailbox', name, 'uid', uid)::text from numbered
), promised as (
    insert into success_reports (queue_id, number, recipient, orcpt, mailbox)
    select queue_id, number, recipient, orcpt, name from numbered
    where notify ilike '%success%' and reverse_path <> ''
    returning queue_id, number
)
select queue_id, number, n.account_id, n.name as mailbox, uid, size, coalesce(t.name, '') as tenant,
       promised.queue_id is not null as promised
from numbered n left join promised using (queue_id, number)
left join accounts a on a.id = n.account_id left join tenants t on t.id = a.tenant_id";

#[derive(FromRow)]
struct Delivered {
    queue_id: Uuid,
    number: i32,
    account_id: i64,
    mailbox: String,
    uid: i64,
    /// A report of it is due.
    promised: bool,
    size: i32,
    tenant: String,
}

pub struct Worker {
    pub pool: PgPool,
    pub consumer: Consumer,
    pub wakes: WakeHub,
    pub bouncer: Bouncer,
    pub rules: Runner,
    pub metrics: Metrics,
}

impl Worker {
    /// Runs until shutdown; a batch that was begun is finished.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let acknowledger = self.consumer.acknowledger();
        loop {
            let entries = tokio::select! {
                entries = self.consumer.next() => entries,
                () = shutdown.cancelled() => return,
            };
            let (suspects, entries): (Vec<_>, Vec<_>) =
                entries.into_iter().partition(|e| e.handed_out >= set_aside::SUSPICIOUS);
            if !entries.is_empty() {
                self.batch(&entries, &acknowledger).await;
            }
            if !suspects.is_empty() {
                self.with_care(&suspects, &acknowledger).await;
            }
        }
    }

    /// Counts before it tries, so that what ends this process is counted too.
    async fn with_care(&self, suspects: &[Entry], acknowledger: &Acknowledger) {
        let ids: Vec<DeliveryId> = suspects.iter().map(|e| e.delivery.clone()).collect();
        let repeated = match set_aside::count(&self.pool, &ids, "its worker ended each time").await {
            Ok(repeated) => repeated,
            Err(e) => return tracing::warn!(error = %e, "deliveries not counted, will be later"),
        };
        let is_repeated = |e: &&Entry| repeated.contains(&e.delivery);
        let (alone, together): (Vec<&Entry>, Vec<&Entry>) = suspects.iter().partition(is_repeated);
        let together: Vec<Entry> = together.into_iter().cloned().collect();
        if !together.is_empty() {
            self.batch(&together, acknowledger).await;
        }
        for entry in alone {
            self.batch(std::slice::from_ref(entry), acknowledger).await;
        }
        // We are still here, so none of them ended us.
        if let Err(e) = set_aside::uncount(&self.pool, &ids).await {
            tracing::warn!(error = %e, "deliveries stay counted");
        }
    }

    async fn batch(&self, entries: &[Entry], acknowledger: &Acknowledger) {
        let spans: Vec<Span> = entries.iter().map(span).collect();
        match self.deliver(entries).await {
            Ok(delivered) => {
                self.metrics.delivered(delivered.iter().map(|d| (d.tenant.as_str(), d.size)));
                self.wakes.changed(delivered.iter().map(|d| ids::unsigned(d.account_id))).await;
                for d in &delivered {
                    let place = entries.iter().position(|e| is_same(&e.delivery, d));
                    if let Some(span) = place.and_then(|at| spans.get(at)) {
                        span.record("mail.tenant", &d.tenant).record("mail.uid", d.uid).record("outcome", "delivered");
                        span.in_scope(|| tracing::debug!(mailbox = %d.mailbox, mail.uid = d.uid, "delivered"));
                    }
                }
                if delivered.iter().any(|d| d.promised) {
                    self.bouncer.successes.notify_one();
                }
                let left: Vec<DeliveryId> = entries
                    .iter()
                    .filter(|e| !delivered.iter().any(|d| is_same(&e.delivery, d)))
                    .map(|e| e.delivery.clone())
                    .collect();
                let left = if left.is_empty() { left } else { self.rules.deliver(left).await };
                if !left.is_empty() {
                    self.bouncer.bounce_homeless(&left).await;
                }
                acknowledger.acknowledge(entries).await;
            }
            // Not acknowledged: the dispatcher or a take-over brings them again.
            Err(e) => {
                tracing::warn!(error = %e, deliveries = entries.len(), "not delivered, will be later");
                spans.iter().for_each(telemetry::failed);
                if crate::database::is_away(&e) {
                    return tokio::time::sleep(TROUBLE_PAUSE).await;
                }
                // One of them may be what the database refuses.
                if let [entry] = entries {
                    return set_aside::refused(&self.pool, &entry.delivery, &e.to_string()).await;
                }
                for entry in entries {
                    Box::pin(self.batch(std::slice::from_ref(entry), acknowledger)).await;
                }
            }
        }
    }

    async fn deliver(&self, entries: &[Entry]) -> Result<Vec<Delivered>, sqlx::Error> {
        let (mut queue_ids, mut numbers) = (Vec::new(), Vec::new());
        for entry in entries {
            if let (Ok(queue_id), Ok(number)) =
                (ids::parse(&entry.delivery.queue_id), i32::try_from(entry.delivery.number))
            {
                queue_ids.push(queue_id);
                numbers.push(number);
            }
        }
        sqlx::query_as(DELIVER).bind(queue_ids).bind(numbers).fetch_all(&self.pool).await
    }
}

fn is_same(id: &DeliveryId, delivered: &Delivered) -> bool {
    id.number == delivered.number.unsigned_abs() && id.queue_id == ids::show(delivered.queue_id)
}

/// One span for each delivery, in its message's own trace. Without outcome: somebody else had it.
fn span(entry: &Entry) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "deliver",
        otel.kind = "consumer",
        otel.status_code = Empty,
        mail.queue_id = entry.delivery.queue_id,
        mail.tenant = Empty,
        mail.uid = Empty,
        outcome = Empty,
    );
    telemetry::continue_from(&span, &entry.traceparent);
    span
}
