//! Accept: the commit that a 250 stands for (Invariant 1).

use address::{Address, Domain};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use proto::spool::{Envelope, Event, target::To};
use queue::{Item, Stream};
use runtime::telemetry;
use sqlx::{PgConnection, PgExecutor, PgPool, types::Uuid};
use tonic::Status;
use tracing::Instrument as _;

use super::{
    batch::{Batcher, Job},
    recent::Recent,
};
use crate::{
    content::{self, Prepared, plain},
    database::{is_away, status},
    dispatcher::Dispatch,
    forward::Forwarder,
    ids,
    journey::lines,
    metrics::Metrics,
    objects::Objects,
};

/// A message as it comes to the door of storage.
pub struct Draft {
    pub envelope: Envelope,
    pub content: Bytes,
}

/// Writes drafts, many in one commit, and hands their deliveries out.
#[derive(Clone)]
pub struct Accepting {
    batcher: Batcher<Row>,
    commits: Commits,
    forwarder: Forwarder,
    objects: Objects,
}

#[derive(Clone)]
struct Commits {
    pool: PgPool,
    dispatch: Dispatch,
    metrics: Metrics,
    /// What is about to be relayed.
    recent: Recent,
}

/// A draft that is checked, parsed and compressed: ready to be written in a transaction of the caller's.
pub struct Ready(Row);

struct Row {
    queue_id: Uuid,
    account_id: i64,
    envelope: Envelope,
    deliveries: Vec<Delivery>,
    stored: Prepared,
    /// For whoever claims it soon, when it goes elsewhere.
    content: Option<Bytes>,
    /// FUTURERELEASE: nobody attempts a delivery before (RFC 4865).
    held_until: Option<DateTime<Utc>>,
}

struct Delivery {
    recipient: usize,
    account_id: Option<i64>,
    remote: Option<String>,
    /// Instead of the message's.
    reverse_path: Option<String>,
}

impl Accepting {
    pub fn new(pool: PgPool, dispatch: Dispatch, metrics: Metrics, forwarder: Forwarder, objects: Objects) -> Self {
        let commits = Commits { pool, dispatch, metrics, recent: Recent::default() };
        let workers = commits.clone();
        let batcher = Batcher::start(2, move |jobs: Vec<Job<Row>>| {
            let commits = workers.clone();
            async move { commits.commit(jobs).await }
        });
        Self { batcher, commits, forwarder, objects }
    }

    pub fn recent(&self) -> &Recent {
        &self.commits.recent
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    pub async fn ready(&self, draft: Draft) -> Result<Ready, Status> {
        self.ready_from(draft, None).await
    }

    /// The same with a reverse-path of its own for what goes elsewhere.
    pub async fn ready_from(&self, draft: Draft, remote_path: Option<&String>) -> Result<Ready, Status> {
        let mut row = check(draft).await?;
        self.objects.take_out(row.queue_id, &mut row.stored).await?;
        for delivery in row.deliveries.iter_mut().filter(|d| d.remote.is_some()) {
            delivery.reverse_path = remote_path.cloned();
        }
        Ok(Ready(row))
    }

    /// Part of what else the transaction does; after its commit they are to be handed out.
    pub async fn write_within(&self, tx: &mut PgConnection, messages: &[&Ready]) -> Result<(), sqlx::Error> {
        let rows: Vec<&Row> = messages.iter().map(|ready| &ready.0).collect();
        if rows.is_empty() { Ok(()) } else { self.commits.write(tx, &rows).await.map(drop) }
    }

    pub async fn hand_out(&self, messages: &[&Ready]) {
        let rows: Vec<&Row> = messages.iter().map(|ready| &ready.0).collect();
        hand_out(&self.commits.dispatch, &rows).await;
    }

    pub async fn accept(&self, draft: Draft) -> Result<(), Status> {
        let mut row = check(draft).await?;
        self.forward(&mut row).await?;
        self.objects.take_out(row.queue_id, &mut row.stored).await?;
        let bytes = row.stored.header.len() + row.stored.body.len();
        let span = tracing::info_span!("postgres commit", otel.kind = "client", db.system.name = "postgresql");
        self.batcher.run(row, bytes).instrument(span).await
    }

    /// Mail from outside that an alias leads elsewhere leaves under a reverse-path of ours.
    async fn forward(&self, row: &mut Row) -> Result<(), Status> {
        if row.account_id != 0 || row.envelope.reverse_path.is_empty() {
            return Ok(());
        }
        let recipients = &row.envelope.recipients;
        let forwarder = |delivery: &Delivery| {
            let path = &recipients.get(delivery.recipient)?.forward_path;
            let is_forward = delivery.remote.as_ref().is_some_and(|remote| remote != path);
            path.parse::<Address>().ok().filter(|_| is_forward).map(|address| address.domain().clone())
        };
        let forwarders: Vec<Option<Domain>> = row.deliveries.iter().map(forwarder).collect();
        if forwarders.iter().all(Option::is_none) {
            return Ok(());
        }
        let paths = self.forwarder.reverse_paths(&row.envelope.reverse_path, &forwarders).await?;
        for (delivery, path) in row.deliveries.iter_mut().zip(paths) {
            delivery.reverse_path = path;
        }
        Ok(())
    }
}

async fn check(draft: Draft) -> Result<Row, Status> {
    let envelope = draft.envelope;
    let mut deliveries = Vec::new();
    for (index, recipient) in envelope.recipients.iter().enumerate() {
        if recipient.targets.is_empty() {
            return Err(Status::invalid_argument(format!("recipient {} has no target", index + 1)));
        }
        for target in &recipient.targets {
            let (account_id, remote) = match &target.to {
                Some(To::AccountId(id)) => (Some(ids::signed(*id)?), None),
                Some(To::Remote(path)) => (None, Some(plain(path))),
                None => return Err(Status::invalid_argument(format!("recipient {} has an empty target", index + 1))),
            };
            deliveries.push(Delivery { recipient: index, account_id, remote, reverse_path: None });
        }
    }
    if deliveries.is_empty() {
        return Err(Status::invalid_argument("no recipient"));
    }
    Ok(Row {
        queue_id: ids::parse(&envelope.queue_id)?,
        account_id: ids::signed(envelope.account_id)?,
        stored: content::prepare(draft.content.clone()).await?,
        held_until: held_until(&envelope)?,
        content: deliveries.iter().any(|d| d.remote.is_some()).then(|| draft.content.clone()),
        deliveries,
        envelope,
    })
}

fn held_until(envelope: &Envelope) -> Result<Option<DateTime<Utc>>, Status> {
    if envelope.not_before_ms == 0 {
        return Ok(None);
    }
    let at = DateTime::from_timestamp_millis(envelope.not_before_ms);
    let at = at.ok_or_else(|| Status::invalid_argument("release time is out of range"))?;
    Ok(Some(at).filter(|at| *at > Utc::now()))
}

fn priority(envelope: &Envelope) -> i16 {
    i16::try_from(envelope.priority.clamp(-9, 9)).unwrap_or_default()
}

impl Commits {
    /// One transaction for all; if the batch as a whole is refused, each alone, so that one bad
    /// message takes no other with it.
    async fn commit(&self, jobs: Vec<Job<Row>>) {
        let rows: Vec<&Row> = jobs.iter().map(|j| &j.work).collect();
        match self.write(&self.pool, &rows).await {
            Ok(submitted) => {
                self.promised(&rows, &submitted).await;
                jobs.into_iter().for_each(|j| j.finish(Ok(())));
            }
            Err(e) if !over_quota(&e).is_empty() => {
                let full = over_quota(&e);
                let (refused, rest): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|j| full.contains(&j.work.queue_id));
                let is_progress = !refused.is_empty();
                refused.into_iter().for_each(|j| j.finish(Err(Status::permission_denied("over quota"))));
                if is_progress && !rest.is_empty() {
                    Box::pin(self.commit(rest)).await;
                }
            }
            Err(e) if is_away(&e) || jobs.len() == 1 => {
                let status = status(e);
                jobs.into_iter().for_each(|j| j.finish(Err(status.clone())));
            }
            Err(e) => {
                tracing::warn!(error = %e, messages = jobs.len(), "batch refused, trying each alone");
                for job in jobs {
                    let outcome = self.write(&self.pool, &[&job.work]).await.map_err(status);
                    if let Ok(submitted) = &outcome {
                        self.promised(&[&job.work], submitted).await;
                    }
                    job.finish(outcome.map(drop));
                }
            }
        }
    }

    /// What follows a commit.
    async fn promised(&self, rows: &[&Row], submitted: &[Submitted]) {
        self.metrics.submitted(submitted);
        for row in rows.iter().filter(|row| row.held_until.is_none()) {
            row.content.iter().for_each(|content| self.recent.keep(row.queue_id, content.clone()));
        }
        hand_out(&self.dispatch, rows).await;
    }

    async fn write(&self, executor: impl PgExecutor<'_>, rows: &[&Row]) -> Result<Vec<Submitted>, sqlx::Error> {
        write(executor, &self.dispatch, rows).await
    }
}

/// Each message's trace shows when Redis had its deliveries.
async fn hand_out(dispatch: &Dispatch, rows: &[&Row]) {
    let span = |row: &&Row| {
        let span = tracing::info_span!(
            parent: None,
            "redis hand out",
            otel.kind = "producer",
            mail.queue_id = row.envelope.queue_id,
            messaging.system = "redis",
        );
        telemetry::continue_from(&span, &row.envelope.traceparent);
        span
    };
    let spans: Vec<tracing::Span> = rows.iter().map(span).collect();
    dispatch.now(&items(rows)).await;
    drop(spans);
}

/// The messages that no mailbox of theirs has room for: nothing of the batch was written.
pub fn over_quota(error: &sqlx::Error) -> Vec<Uuid> {
    let refusal = error.as_database_error().filter(|e| e.code().is_some_and(|code| code == "PR552"));
    let detail = refusal.and_then(|e| e.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?.detail());
    detail.unwrap_or_default().split(' ').filter_map(|id| id.parse().ok()).collect()
}

fn items(rows: &[&Row]) -> Vec<(Stream, Item)> {
    let item = |row: &Row, number: usize, delivery: &Delivery| {
        let stream = if delivery.account_id.is_some() { Stream::Local } else { Stream::Remote };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let (queue_id, traceparent) = (row.envelope.queue_id.clone(), row.envelope.traceparent.clone());
        (stream, Item { queue_id, number, traceparent, handed_out: 0 })
    };
    // What is held is the dispatcher's, later; of the rest the urgent goes first (RFC 6710 §5).
    let mut rows: Vec<&&Row> = rows.iter().filter(|row| row.held_until.is_none()).collect();
    rows.sort_by_key(|row| -priority(&row.envelope));
    rows.iter().flat_map(|row| row.deliveries.iter().enumerate().map(move |(n, d)| item(row, n, d))).collect()
}

/// Every table a message begins in, in one statement and one round trip. A queue id that is
/// known already changes nothing: the retried Accept of a message that was committed.
const WRITE: &str = "
with m as (
    select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
                         $8::int[], $9::bool[], $10::bool[], $11::bool[], $12::bytea[], $13::bytea[], $14::bytea[],
                         $30::bool[], $31::smallint[], $35::bool[], $37::text[])
        as m (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent,
              size, eight_bit, smtputf8, junk, header, body, structure, require_tls, priority, refuse, object)
), r as (
    select * from unnest($15::uuid[], $16::int[], $17::text[], $18::bigint[], $19::text[], $20::text[], $21::text[],
                         $32::timestamptz[], $36::text[])
        as r (queue_id, number, recipient, account_id, remote, notify, orcpt, held_until, own_path)
), places as materialized (
    select r.queue_id, lower(r.recipient) as recipient, coalesce(a.address, lower(r.remote)) as target,
           coalesce(a.tenant_id, 0) as tenant_id
    from r left join accounts a on a.id = r.account_id
), parties as materialized (
    select queue_id, recipient, tenant_id from places
    union
    select queue_id, target, tenant_id from places where target is not null
    union
    select m.queue_id, '', a.tenant_id from m join accounts a on a.id = m.account_id
), fresh as (
    insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent,
                       size, eight_bit, smtputf8, junk, require_tls, priority, tenants)
    select queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size, eight_bit, smtputf8, junk,
           require_tls, priority,
           coalesce((select array_agg(distinct tenant_id) from parties p
                     where p.queue_id = m.queue_id and tenant_id <> 0), '{}')
    from m
    on conflict (queue_id) do nothing
    returning queue_id
), found as (
    insert into journey_recipients (at, queue_id, recipient, sender, tenant_id)
    select now(), queue_id, p.recipient, lower(m.reverse_path), p.tenant_id
    from parties p join m using (queue_id) join fresh using (queue_id)
), d as (
    select r.*, m.size, coalesce(a.tenant_id, 0) as tenant_id
    from r join fresh using (queue_id) join m using (queue_id)
    left join accounts a on a.id = coalesce(nullif(m.account_id, 0), r.account_id)
), reserved as materialized (
    select queue_id, number, reserve_quota(account_id, size) as has_room
    from (select d.queue_id, d.number, d.account_id, d.size from d join quotas q on q.account_id = d.account_id
          order by q.tenant_id, q.account_id, d.queue_id) l
), full_up as materialized (
    select refuse_over_quota(array_agg(queue_id)) from (
        select queue_id from reserved join m using (queue_id) where m.refuse group by 1
        having not bool_or(has_room) and count(*) = (select count(*) from d where d.queue_id = reserved.queue_id)) f
    having count(*) > 0
), content as (
    insert into contents (id, size, header, body, structure, object)
    select queue_id, size, header, body, structure, object from m join fresh using (queue_id)
), delivery as (
    insert into deliveries (queue_id, number, recipient, account_id, remote, notify, orcpt, not_before, due_at,
                            tenant_id, reserved, reverse_path)
    select queue_id, number, recipient, account_id, remote, notify, orcpt, coalesce(held_until, now()),
           coalesce(held_until, now() + make_interval(secs => case when remote is null then $22::float8 else $34::float8 end)),
           tenant_id, case when has_room is null then 0 when has_room then size else -1 end, own_path
    from d left join reserved using (queue_id, number)
    where (select count(*) from full_up) >= 0
), e as materialized (
    select nextval('journey_ids') as id, e.* from (
        select e.*, case when at_ms is null then clock_timestamp()
                    else greatest(least(to_timestamp(at_ms / 1000.0), now() + interval '1 hour'), now() - interval '1 day')
                    end as at
        from unnest($23::uuid[], $24::bigint[], $25::text[], $26::text[], $27::text[], $28::text[], $29::text[],
                    $33::text[]) with ordinality
            as e (queue_id, at_ms, name, service, recipient, text, detail, lines, place)
        join fresh using (queue_id)
        order by place) e
), dialogues as (
    insert into journey_dialogues (queue_id, at, event, lines)
    select queue_id, at, id, lines from e where lines <> ''
), told as (
    insert into journey (id, queue_id, at, name, service, recipient, text, detail)
    select id, queue_id, at, name, service, recipient, text, detail from e
)
select t.name, count(*), sum(m.size)::bigint
from fresh join m using (queue_id) join accounts a on a.id = m.account_id join tenants t on t.id = a.tenant_id
group by t.name";

/// What was submitted: tenant, messages, octets.
type Submitted = (String, i64, i64);

async fn write(
    executor: impl PgExecutor<'_>,
    dispatch: &Dispatch,
    rows: &[&Row],
) -> Result<Vec<Submitted>, sqlx::Error> {
    fn column<'a, T>(rows: &[&'a Row], value: impl Fn(&'a Row) -> T) -> Vec<T> {
        rows.iter().map(|r| value(r)).collect()
    }
    let deliveries: Vec<(&Row, usize, &Delivery)> =
        rows.iter().flat_map(|r| r.deliveries.iter().enumerate().map(move |(n, d)| (*r, n, d))).collect();
    let recipient = |row: &Row, d: &Delivery| row.envelope.recipients.get(d.recipient).cloned().unwrap_or_default();
    let events: Vec<(&Row, Event)> = rows.iter().flat_map(|r| journey(r).map(move |e| (*r, e))).collect();
    sqlx::query_as(WRITE)
        .bind(column(rows, |r| r.queue_id))
        .bind(column(rows, |r| plain(&r.envelope.reverse_path)))
        .bind(column(rows, |r| r.account_id))
        .bind(column(rows, |r| r.stored.message_id.as_str()))
        .bind(column(rows, |r| plain(&r.envelope.envid)))
        .bind(column(rows, |r| plain(&r.envelope.ret)))
        .bind(column(rows, |r| plain(&r.envelope.traceparent)))
        .bind(column(rows, |r| r.stored.size))
        .bind(column(rows, |r| r.envelope.eight_bit))
        .bind(column(rows, |r| r.envelope.smtputf8))
        .bind(column(rows, |r| r.envelope.junk))
        .bind(column(rows, |r| r.stored.header.as_slice()))
        .bind(column(rows, |r| r.stored.body.as_slice()))
        .bind(column(rows, |r| r.stored.structure.as_slice()))
        .bind(deliveries.iter().map(|(r, ..)| r.queue_id).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(_, n, _)| i32::try_from(*n).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(r, _, d)| plain(&recipient(r, d).forward_path)).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(.., d)| d.account_id).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(.., d)| d.remote.as_deref()).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(r, _, d)| plain(&recipient(r, d).notify)).collect::<Vec<_>>())
        .bind(deliveries.iter().map(|(r, _, d)| plain(&recipient(r, d).orcpt)).collect::<Vec<_>>())
        .bind(dispatch.due_in_seconds(Stream::Local))
        .bind(events.iter().map(|(r, _)| r.queue_id).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| Some(e.at_ms).filter(|at| *at > 0)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.name)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.service)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.recipient)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.text)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.detail)).collect::<Vec<_>>())
        .bind(column(rows, |r| r.envelope.require_tls))
        .bind(column(rows, |r| priority(&r.envelope)))
        .bind(deliveries.iter().map(|(r, ..)| r.held_until).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| lines(&e.dialogue)).collect::<Vec<_>>())
        .bind(dispatch.due_in_seconds(Stream::Remote))
        .bind(column(rows, |r| r.envelope.refuse_over_quota))
        .bind(deliveries.iter().map(|(.., d)| d.reverse_path.as_deref()).collect::<Vec<_>>())
        .bind(column(rows, |r| r.stored.object.as_deref()))
        .fetch_all(executor)
        .await
}

/// What the door saw, then that it is in the queue.
fn journey(row: &Row) -> impl Iterator<Item = Event> {
    let held = row.held_until.map(|at| format!(", held until {}", at.to_rfc3339())).unwrap_or_default();
    let queued = Event {
        name: "queued".into(),
        service: "mda".into(),
        text: format!("{} bytes for {} deliveries{held}", row.stored.size, row.deliveries.len()),
        ..Event::default()
    };
    row.envelope.events.iter().cloned().chain([queued])
}
