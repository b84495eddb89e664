//! The queue in an operator's hand.

use ::queue::Turns;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::{
    admin::{ChangeQueueRequest, ListQueueRequest, ListQueueResponse, QueueEntry, change_queue_request::Action},
    spool::DeliveryId,
};
use sqlx::{FromRow, PgPool, types::Uuid};
use tonic::Status;

use super::scope::Scope;
use crate::{bounce::Bouncer, database::status, ids, spool::delivery_id};

#[derive(FromRow)]
struct Row {
    queue_id: Uuid,
    number: i32,
    sender: String,
    recipient: String,
    is_remote: bool,
    attempts: i32,
    accepted_at_ms: i64,
    next_attempt_ms: i64,
    held: bool,
    set_aside: bool,
    leased: bool,
    last_text: String,
    size: i32,
}

impl From<Row> for QueueEntry {
    fn from(row: Row) -> Self {
        Self {
            queue_id: ids::show(row.queue_id),
            number: row.number.unsigned_abs(),
            sender: row.sender,
            recipient: row.recipient,
            remote: row.is_remote,
            attempts: row.attempts.unsigned_abs(),
            accepted_at_ms: row.accepted_at_ms,
            next_attempt_ms: row.next_attempt_ms,
            held: row.held,
            set_aside: row.set_aside,
            leased: row.leased,
            last_text: row.last_text,
            size: u64::from(row.size.unsigned_abs()),
        }
    }
}

/// Which deliveries are meant; `$1` to `$8`, see [`Criteria`].
macro_rules! matching {
    () => {
        "($1::uuid[] is null or d.queue_id = any ($1))
           and ($2 = '' or lower(s.reverse_path) = lower($2))
           and ($3 = '' or lower(d.recipient) = lower($3) or lower(d.remote) = lower($3))
           and ($4 = '' or lower(split_part(coalesce(d.remote, d.recipient), '@', -1)) = lower($4))
           and ($5 = '' or exists (select from tenants t where t.id = d.tenant_id and t.name = $5))
           and s.accepted_at <= now() - $6 * interval '1 second'
           and ($7 = '' or position(lower($7) in lower(d.last_text)) > 0)
           and case $8 when 0 then true when 1 then d.held else d.set_aside_at is not null end"
    };
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;
type QueryAs<'q, O> = sqlx::query::QueryAs<'q, sqlx::Postgres, O, sqlx::postgres::PgArguments>;

struct Criteria {
    queue_ids: Option<Vec<Uuid>>,
    filter: ListQueueRequest,
}

impl Criteria {
    fn new(queue_ids: &[String], filter: ListQueueRequest) -> Result<Self, Status> {
        let one = Some(&filter.queue_id).filter(|id| !id.is_empty());
        let queue_ids = queue_ids.iter().chain(one).map(|id| ids::parse(id)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { queue_ids: Some(queue_ids).filter(|ids| !ids.is_empty()), filter })
    }

    fn age(&self) -> i64 {
        i64::try_from(self.filter.older_than_seconds).unwrap_or(i64::MAX).min(10_000_000_000)
    }

    fn limit(&self, none: i64) -> i64 {
        if self.filter.limit == 0 { none } else { i64::from(self.filter.limit).min(none.max(100_000)) }
    }

    fn bind_as<'q, O>(&'q self, query: QueryAs<'q, O>) -> QueryAs<'q, O> {
        let f = &self.filter;
        let query = query.bind(self.queue_ids.as_deref()).bind(&f.sender).bind(&f.recipient).bind(&f.domain);
        query.bind(&f.tenant).bind(self.age()).bind(&f.last_reply).bind(self.state())
    }

    /// 0 any, 1 held, 2 set aside.
    fn state(&self) -> i32 {
        if self.filter.set_aside { 2 } else { i32::from(self.filter.held) }
    }

    fn bind<'q>(&'q self, query: Query<'q>) -> Query<'q> {
        let f = &self.filter;
        let query = query.bind(self.queue_ids.as_deref()).bind(&f.sender).bind(&f.recipient).bind(&f.domain);
        query.bind(&f.tenant).bind(self.age()).bind(&f.last_reply).bind(self.state())
    }
}

const LIST: &str = concat!(
    "select d.queue_id, d.number, s.reverse_path as sender, coalesce(d.remote, d.recipient) as recipient,
            d.remote is not null as is_remote, d.attempts,
            (extract(epoch from s.accepted_at) * 1000)::bigint as accepted_at_ms,
            (extract(epoch from d.not_before) * 1000)::bigint as next_attempt_ms,
            d.held, d.set_aside_at is not null as set_aside, coalesce(d.lease_until > now(), false) as leased, d.last_text, s.size
     from deliveries d join spool s using (queue_id)
     where ",
    matching!(),
    " order by s.accepted_at, d.queue_id, d.number limit $9"
);

pub async fn list(pool: &PgPool, scope: &Scope, mut request: ListQueueRequest) -> Result<ListQueueResponse, Status> {
    if let Some(tenant) = scope.tenant() {
        request.tenant = tenant.to_owned();
    }
    let criteria = Criteria::new(&[], request)?;
    let rows: Vec<Row> =
        criteria.bind_as(sqlx::query_as(LIST)).bind(criteria.limit(100)).fetch_all(pool).await.map_err(status)?;
    Ok(ListQueueResponse { entries: rows.into_iter().map(Into::into).collect() })
}

/// Changes no delivery that is under a lease: an attempt may be on its way. Each change is told
/// in the journey by the same statement.
fn statement(action: Action) -> Option<&'static str> {
    macro_rules! change {
        ($set:literal, $where:literal, $event:literal) => {
            concat!(
                "with meant as (select d.queue_id, d.number from deliveries d join spool s using (queue_id) where ",
                $where,
                " and (d.lease_until is null or d.lease_until < now()) and ",
                matching!(),
                " limit $9 for update of d), changed as (update deliveries d set ",
                $set,
                " from meant where d.queue_id = meant.queue_id and d.number = meant.number
                 returning d.queue_id, d.recipient)
                 insert into journey (queue_id, name, service, recipient, text, detail)
                 select queue_id, '",
                $event,
                "', 'mda', recipient, 'by an operator' || $10, '' from changed"
            )
        };
    }
    match action {
        Action::Retry => Some(change!(
            "not_before = now(), due_at = now(), held = false, set_aside_at = null, lost = 0,
             attempts = case when remote is null then 0 else attempts end",
            "(not d.held or d.set_aside_at is not null)",
            "retry"
        )),
        Action::Hold => Some(change!("held = true, set_aside_at = null", "not d.held", "held")),
        Action::Release => Some(change!(
            "held = false, not_before = now(), due_at = now(), set_aside_at = null, lost = 0,
             attempts = case when remote is null then 0 else attempts end",
            "d.held",
            "released"
        )),
        Action::Redirect => Some(change!(
            "remote = $11, account_id = null, attempts = 0, not_before = now(), due_at = now(), held = false, set_aside_at = null, lost = 0",
            "true",
            "redirected"
        )),
        Action::Bounce | Action::Unspecified => None,
    }
}

/// Bounces of one call: each is a message of its own.
const MAX_BOUNCES: i64 = 2_000;
const BOUNCES_AT_ONCE: usize = 32;

const BOUNCE: &str = concat!(
    "select d.queue_id, d.number from deliveries d join spool s using (queue_id)
     where (d.lease_until is null or d.lease_until < now()) and ",
    matching!(),
    " order by d.queue_id limit $9"
);

/// Destinations of what is due now are tried, whatever relays thought of them.
const DUE: &str = "
select distinct lower(split_part(remote, '@', -1)) from deliveries
where remote is not null and due_at <= now() and not held limit 1000";

async fn forgive(pool: &PgPool, turns: &Turns) {
    let domains: Result<Vec<String>, _> = sqlx::query_scalar(DUE).fetch_all(pool).await;
    let forgiven = match &domains {
        Ok(domains) => {
            let rest = sqlx::query("delete from resting_destinations where domain = any ($1)").bind(domains);
            rest.execute(pool)
                .await
                .map_err(|e| e.to_string())
                .map(drop)
                .and(turns.forgive(domains).await.map_err(|e| e.to_string()))
        }
        Err(e) => Err(e.to_string()),
    };
    if let Err(error) = forgiven {
        tracing::warn!(error, "destinations may still be left alone for a while");
    }
}

pub async fn change(
    pool: &PgPool,
    turns: &Turns,
    bouncer: &Bouncer,
    scope: &Scope,
    mut request: ChangeQueueRequest,
) -> Result<u32, Status> {
    if request.queue_ids.is_empty() && request.filter.is_none() {
        return Err(Status::invalid_argument("expected queue ids or a filter"));
    }
    if let Some(tenant) = scope.tenant() {
        request.filter.get_or_insert_default().tenant = tenant.to_owned();
    }
    let action = request.action();
    let redirect_to = request.redirect_to.trim();
    let criteria = Criteria::new(&request.queue_ids, request.filter.unwrap_or_default())?;
    if let Some(statement) = statement(action) {
        let mut query =
            criteria.bind(sqlx::query(statement)).bind(Some(criteria.limit(i64::MAX)).filter(|n| *n < i64::MAX));
        if action == Action::Redirect {
            let to: address::Address = redirect_to
                .parse()
                .map_err(|e| Status::invalid_argument(format!("redirect_to = {redirect_to:?}: {e}")))?;
            let is_ours: bool = sqlx::query_scalar("select exists (select from domains where name = $1)")
                .bind(to.domain().as_str())
                .fetch_one(pool)
                .await
                .map_err(status)?;
            if is_ours {
                return Err(Status::invalid_argument(format!(
                    "redirect_to = {redirect_to:?}: expected an address elsewhere; for our own, make an alias"
                )));
            }
            query = query.bind(format!(" to {to}")).bind(to.to_string());
        } else {
            query = query.bind("");
        }
        let done = query.execute(pool).await.map_err(status)?;
        if matches!(action, Action::Retry | Action::Release | Action::Redirect) {
            forgive(pool, turns).await;
        }
        return Ok(u32::try_from(done.rows_affected()).unwrap_or(u32::MAX));
    }
    if action != Action::Bounce {
        return Err(Status::invalid_argument("action: expected RETRY, HOLD, RELEASE, BOUNCE or REDIRECT"));
    }
    let limit = criteria.limit(MAX_BOUNCES).min(MAX_BOUNCES);
    let rows: Vec<(Uuid, i32)> =
        criteria.bind_as(sqlx::query_as(BOUNCE)).bind(limit).fetch_all(pool).await.map_err(status)?;
    futures::stream::iter(rows)
        .map(|(queue_id, number)| async move {
            let delivery: DeliveryId = delivery_id(queue_id, number);
            bouncer.bounce(&delivery, "5.7.1", "550 5.7.1 delivery ended by an operator").await
        })
        .buffer_unordered(BOUNCES_AT_ONCE)
        .try_fold(0, |changed, bounced| async move { Ok(changed + u32::from(bounced)) })
        .await
}
