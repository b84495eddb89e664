//! Transactions of which nothing was accepted: a head and events, no content, no delivery.

use proto::spool::{Event, Refused};
use sqlx::{PgPool, types::Uuid};
use tonic::Status;

use super::lines;
use crate::{content::plain, database::status, ids};

const MOST: usize = 200;
const MOST_RECIPIENTS: usize = 100;
const MOST_EVENTS: usize = 200;

/// A queue id that is known already changes nothing: told before, or accepted after all.
const WRITE: &str = "
with m as (
    select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::text[])
        as m (queue_id, reverse_path, account_id, message_id, size, traceparent)
), parties as materialized (
    select m.queue_id, lower(r.recipient) as recipient, lower(m.reverse_path) as sender,
           coalesce(d.tenant_id, 0) as tenant_id
    from unnest($7::uuid[], $8::text[]) as r (queue_id, recipient) join m using (queue_id)
    left join domains d on d.name = lower(split_part(r.recipient, '@', -1))
    union
    select m.queue_id, '', lower(m.reverse_path), a.tenant_id from m join accounts a on a.id = m.account_id
), fresh as (
    insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size, eight_bit,
                       smtputf8, junk, refused, tenants)
    select queue_id, reverse_path, account_id, message_id, '', '', traceparent, size, false, false, false, true,
           coalesce((select array_agg(distinct tenant_id) from parties p
                     where p.queue_id = m.queue_id and tenant_id <> 0), '{}')
    from m
    on conflict (queue_id) do nothing
    returning queue_id
), found as (
    insert into journey_recipients (at, queue_id, recipient, sender, tenant_id)
    select now(), queue_id, recipient, sender, tenant_id from parties join fresh using (queue_id)
), e as materialized (
    select nextval('journey_ids') as id, e.* from (
        select e.*, case when at_ms is null then clock_timestamp()
                    else greatest(least(to_timestamp(at_ms / 1000.0), now() + interval '1 hour'), now() - interval '1 day')
                    end as at
        from unnest($9::uuid[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
                    $16::text[]) with ordinality
            as e (queue_id, at_ms, name, service, recipient, text, detail, lines, place)
        join fresh using (queue_id)
        order by place) e
), dialogues as (
    insert into journey_dialogues (queue_id, at, event, lines)
    select queue_id, at, id, lines from e where lines <> ''
)
insert into journey (id, queue_id, at, name, service, recipient, text, detail)
select id, queue_id, at, name, service, recipient, text, detail from e";

/// `Ok` means committed.
pub async fn tell(pool: &PgPool, refused: Vec<Refused>) -> Result<(), Status> {
    if refused.len() > MOST {
        return Err(Status::invalid_argument(format!("more than {MOST} transactions at once")));
    }
    let ids = refused.iter().map(|r| ids::parse(&r.queue_id)).collect::<Result<Vec<_>, _>>()?;
    let accounts = refused.iter().map(|r| ids::signed(r.account_id)).collect::<Result<Vec<_>, _>>()?;
    let with_id = || ids.iter().zip(&refused);
    let recipients: Vec<(Uuid, &String)> =
        with_id().flat_map(|(id, r)| r.recipients.iter().take(MOST_RECIPIENTS).map(move |one| (*id, one))).collect();
    let events: Vec<(Uuid, &Event)> =
        with_id().flat_map(|(id, r)| r.events.iter().take(MOST_EVENTS).map(move |event| (*id, event))).collect();
    sqlx::query(WRITE)
        .bind(&ids)
        .bind(refused.iter().map(|r| plain(&r.reverse_path)).collect::<Vec<_>>())
        .bind(accounts)
        .bind(refused.iter().map(|r| plain(&r.message_id)).collect::<Vec<_>>())
        .bind(refused.iter().map(|r| i32::try_from(r.size).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(refused.iter().map(|r| plain(&r.traceparent)).collect::<Vec<_>>())
        .bind(recipients.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(recipients.iter().map(|(_, one)| plain(one)).collect::<Vec<_>>())
        .bind(events.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| Some(e.at_ms).filter(|at| *at > 0)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.name)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.service)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.recipient)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.text)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| plain(&e.detail)).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, e)| lines(&e.dialogue)).collect::<Vec<_>>())
        .execute(pool)
        .await
        .map_err(status)?;
    Ok(())
}
