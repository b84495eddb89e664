//! Settle: an attempt's end and the journey's line about it, in one transaction (Invariant 6).

use chrono::{DateTime, Utc};
use proto::spool::{DeliveryId, Outcome, outcome::Result as Ended};
use sqlx::{PgExecutor, PgPool, types::Uuid};
use tonic::Status;

use super::claim::{columns, delivery_id, token};
use crate::{content::plain, database::status, journey::lines};

/// Final outcomes delete the delivery, and let go of the content; deferred ones give it back.
const SETTLE: &str = "
with o as (
    select * from unnest($1::uuid[], $2::int[], $3::uuid[], $4::bool[], $5::timestamptz[],
                         $6::text[], $7::text[], $8::text[], $9::text[], $10::bool[], $11::text[], $12::text[])
        as o (queue_id, number, token, final, next_attempt, name, service, text, detail, delay_reported, lines,
              traceparent)
), mine as (
    select o.*, d.recipient
    from deliveries d join o using (queue_id, number)
    where d.lease_token = o.token
    for update of d
), gone as (
    delete from deliveries d using mine
    where mine.final and d.queue_id = mine.queue_id and d.number = mine.number
    returning d.queue_id
), released as (
    insert into released (content_id) select distinct queue_id from gone
), later as (
    update deliveries d
    set lease_token = null, lease_until = null, not_before = mine.next_attempt, due_at = mine.next_attempt,
        last_text = mine.text, delay_reported = d.delay_reported or mine.delay_reported
    from mine
    where not mine.final and d.queue_id = mine.queue_id and d.number = mine.number
), e as materialized (
    select nextval('journey_ids') as id, clock_timestamp() as at, mine.* from mine
), dialogues as (
    insert into journey_dialogues (queue_id, at, event, lines)
    select queue_id, at, id, lines from e where lines <> ''
), told as (
    insert into journey (id, queue_id, at, name, service, recipient, text, detail, traceparent)
    select id, queue_id, at, name, service, recipient, text, detail, traceparent from e
)
select queue_id, number from mine";

pub async fn settle(pool: &PgPool, outcomes: Vec<Outcome>) -> Result<Vec<DeliveryId>, Status> {
    let leases: Vec<_> = outcomes.iter().map(|o| o.lease.clone().unwrap_or_default()).collect();
    let deliveries: Vec<_> = leases.iter().map(|l| l.id.clone().unwrap_or_default()).collect();
    let (queue_ids, numbers) = columns(&deliveries)?;
    let tokens = leases.iter().map(|l| token(&l.token)).collect::<Result<Vec<_>, _>>()?;
    let ends = outcomes.iter().map(|o| ended(o.result.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let event = |o: &Outcome| o.event.clone().unwrap_or_default();
    let name = |o: &Outcome, (_, _, name): &End| {
        let given = event(o).name;
        if given.is_empty() { (*name).to_owned() } else { plain(&given) }
    };
    let rows: Vec<(Uuid, i32)> = sqlx::query_as(SETTLE)
        .bind(queue_ids)
        .bind(numbers)
        .bind(tokens)
        .bind(ends.iter().map(|(is_final, ..)| *is_final).collect::<Vec<_>>())
        .bind(ends.iter().map(|(_, at, _)| *at).collect::<Vec<_>>())
        .bind(outcomes.iter().zip(&ends).map(|(o, e)| name(o, e)).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| plain(&event(o).service)).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| plain(&event(o).text)).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| plain(&event(o).detail)).collect::<Vec<_>>())
        .bind(
            outcomes
                .iter()
                .map(|o| matches!(&o.result, Some(Ended::Deferred(d)) if d.delay_reported))
                .collect::<Vec<_>>(),
        )
        .bind(outcomes.iter().map(|o| lines(&event(o).dialogue)).collect::<Vec<_>>())
        .bind(outcomes.iter().map(|o| plain(&event(o).traceparent)).collect::<Vec<_>>())
        .fetch_all(pool)
        .await
        .map_err(status)?;
    Ok(rows.into_iter().map(|(queue_id, number)| delivery_id(queue_id, number)).collect())
}

type End = (bool, Option<DateTime<Utc>>, &'static str);

/// Whether it is final, else when it is tried again, and the journey's word for it.
fn ended(result: Option<&Ended>) -> Result<End, Status> {
    match result {
        Some(Ended::Relayed(_)) => Ok((true, None, "relayed")),
        Some(Ended::Bounced(_)) => Ok((true, None, "bounced")),
        Some(Ended::Deferred(d)) => match DateTime::from_timestamp_millis(d.next_attempt_ms) {
            Some(at) => Ok((false, Some(at), "deferred")),
            None => Err(Status::invalid_argument("next attempt is out of range")),
        },
        None => Err(Status::invalid_argument("an outcome without result")),
    }
}

/// Tells the reclaimer that contents lost a reference; in the transaction that took it away.
pub async fn release(executor: impl PgExecutor<'_>, contents: &[Uuid]) -> Result<(), sqlx::Error> {
    if !contents.is_empty() {
        sqlx::query("insert into released (content_id) select * from unnest($1::uuid[])")
            .bind(contents)
            .execute(executor)
            .await?;
    }
    Ok(())
}
