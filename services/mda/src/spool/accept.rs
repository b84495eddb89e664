//! Accept: the commit that a 250 stands for (Invariant 1).

use address::{Address, Domain};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use proto::spool::{Envelope, Event, target::To};
use queue::{Item, Stream};
use sqlx::{PgPool, types::Uuid};
use tonic::Status;

use super::batch::{Batcher, Job};
use crate::{
    content::{self, Prepared, plain},
    database::{is_away, status},
    dispatcher::Dispatch,
    forward::Forwarder,
    ids,
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
    forwarder: Forwarder,
}

struct Row {
    queue_id: Uuid,
    account_id: i64,
    envelope: Envelope,
    deliveries: Vec<Delivery>,
    stored: Prepared,
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
    pub fn new(pool: PgPool, dispatch: Dispatch, forwarder: Forwarder) -> Self {
        let batcher = Batcher::start(2, move |jobs: Vec<Job<Row>>| {
            let (pool, dispatch) = (pool.clone(), dispatch.clone());
            async move { commit(&pool, &dispatch, jobs).await }
        });
        Self { batcher, forwarder }
    }

    pub async fn accept(&self, draft: Draft) -> Result<(), Status> {
        let mut row = check(draft)?;
        self.forward(&mut row).await?;
        let bytes = row.stored.header.len() + row.stored.body.len();
        self.batcher.run(row, bytes).await
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

fn check(draft: Draft) -> Result<Row, Status> {
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
        stored: content::prepare(&draft.content)?,
        held_until: held_until(&envelope)?,
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

/// One transaction for all; if the batch as a whole is refused, each alone, so that one bad
/// message takes no other with it.
async fn commit(pool: &PgPool, dispatch: &Dispatch, jobs: Vec<Job<Row>>) {
    let rows: Vec<&Row> = jobs.iter().map(|j| &j.work).collect();
    match write(pool, dispatch, &rows).await {
        Ok(()) => {
            dispatch.now(&items(&rows)).await;
            jobs.into_iter().for_each(|j| j.finish(Ok(())));
        }
        Err(e) if is_away(&e) || jobs.len() == 1 => {
            let status = status(e);
            jobs.into_iter().for_each(|j| j.finish(Err(status.clone())));
        }
        Err(e) => {
            tracing::warn!(error = %e, messages = jobs.len(), "batch refused, trying each alone");
            for job in jobs {
                let outcome = write(pool, dispatch, &[&job.work]).await.map_err(status);
                if outcome.is_ok() {
                    dispatch.now(&items(&[&job.work])).await;
                }
                job.finish(outcome);
            }
        }
    }
}

fn items(rows: &[&Row]) -> Vec<(Stream, Item)> {
    let item = |row: &Row, number: usize, delivery: &Delivery| {
        let stream = if delivery.account_id.is_some() { Stream::Local } else { Stream::Remote };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let (queue_id, traceparent) = (row.envelope.queue_id.clone(), row.envelope.traceparent.clone());
        (stream, Item { queue_id, number, traceparent })
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
                         $30::bool[], $31::smallint[])
        as m (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent,
              size, eight_bit, smtputf8, junk, header, body, structure, require_tls, priority)
), fresh as (
    insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent,
                       size, eight_bit, smtputf8, junk, require_tls, priority)
    select queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size, eight_bit, smtputf8, junk,
           require_tls, priority
    from m
    on conflict (queue_id) do nothing
    returning queue_id
), content as (
    insert into contents (id, size, header, body, structure)
    select queue_id, size, header, body, structure from m join fresh using (queue_id)
), delivery as (
    insert into deliveries (queue_id, number, recipient, account_id, remote, notify, orcpt, not_before, due_at,
                            reverse_path)
    select queue_id, number, recipient, account_id, remote, notify, orcpt, coalesce(held_until, now()),
           coalesce(held_until, now() + make_interval(secs => $22)), reverse_path
    from unnest($15::uuid[], $16::int[], $17::text[], $18::bigint[], $19::text[], $20::text[], $21::text[],
                $32::timestamptz[], $33::text[])
        as d (queue_id, number, recipient, account_id, remote, notify, orcpt, held_until, reverse_path)
    join fresh using (queue_id)
)
insert into journey (queue_id, at, name, service, recipient, text, detail)
select queue_id, coalesce(to_timestamp(at_ms / 1000.0), clock_timestamp()), name, service, recipient, text, detail
from unnest($23::uuid[], $24::bigint[], $25::text[], $26::text[], $27::text[], $28::text[], $29::text[])
    as e (queue_id, at_ms, name, service, recipient, text, detail)
join fresh using (queue_id)";

async fn write(pool: &PgPool, dispatch: &Dispatch, rows: &[&Row]) -> Result<(), sqlx::Error> {
    fn column<'a, T>(rows: &[&'a Row], value: impl Fn(&'a Row) -> T) -> Vec<T> {
        rows.iter().map(|r| value(r)).collect()
    }
    let deliveries: Vec<(&Row, usize, &Delivery)> =
        rows.iter().flat_map(|r| r.deliveries.iter().enumerate().map(move |(n, d)| (*r, n, d))).collect();
    let recipient = |row: &Row, d: &Delivery| row.envelope.recipients.get(d.recipient).cloned().unwrap_or_default();
    let events: Vec<(&Row, Event)> = rows.iter().flat_map(|r| journey(r).map(move |e| (*r, e))).collect();
    sqlx::query(WRITE)
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
        .bind(dispatch.redispatch_seconds())
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
        .bind(deliveries.iter().map(|(.., d)| d.reverse_path.as_deref()).collect::<Vec<_>>())
        .execute(pool)
        .await?;
    Ok(())
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
