//! Search: every question is answered from one index, newest first.

use chrono::{DateTime, Utc};
use proto::journey::{FindRequest, Message};
use sqlx::{FromRow, PgPool, Postgres, QueryBuilder, types::Uuid};
use tonic::Status;

use crate::{database::status, ids};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 1_000;

#[derive(FromRow)]
struct Head {
    queue_id: Uuid,
    message_id: String,
    reverse_path: String,
    accepted_at_ms: i64,
    size: i32,
    traceparent: String,
    open: i64,
    refused: bool,
    tenants: Vec<String>,
}

impl From<Head> for Message {
    fn from(head: Head) -> Self {
        Self {
            queue_id: ids::show(head.queue_id),
            message_id: head.message_id,
            reverse_path: head.reverse_path,
            accepted_at_ms: head.accepted_at_ms,
            size: u64::from(head.size.unsigned_abs()),
            trace_id: runtime::telemetry::trace_id(&head.traceparent).to_owned(),
            open: u32::try_from(head.open).unwrap_or(u32::MAX),
            refused: head.refused,
            tenants: head.tenants,
        }
    }
}

struct Criteria {
    request: FindRequest,
    id: String,
    queue_id: Option<Uuid>,
    tenant: Option<i64>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    limit: i64,
}

pub(crate) async fn find(pool: &PgPool, request: FindRequest) -> Result<Vec<Message>, Status> {
    let id = request.id.trim().trim_start_matches('<').trim_end_matches('>').to_owned();
    if [&id, &request.sender, &request.recipient, &request.tenant].iter().all(|c| c.is_empty())
        && (request.since_ms, request.until_ms) == (0, 0)
    {
        return Err(Status::invalid_argument("expected an id, a sender, a recipient, a tenant or a time"));
    }
    let time = |ms: i64, what: &str| match ms {
        0 => Ok(None),
        ms => DateTime::from_timestamp_millis(ms)
            .map(Some)
            .ok_or_else(|| Status::invalid_argument(format!("{what} = {ms}: expected milliseconds since 1970"))),
    };
    let mut criteria = Criteria {
        queue_id: ids::parse(&id).ok(),
        id,
        tenant: None,
        since: time(request.since_ms, "since_ms")?,
        until: time(request.until_ms, "until_ms")?,
        limit: i64::from(if request.limit == 0 { DEFAULT_LIMIT } else { request.limit.min(MAX_LIMIT) }),
        request,
    };
    if !criteria.request.tenant.is_empty() {
        let tenant: Option<i64> = sqlx::query_scalar("select id from tenants where name = $1")
            .bind(&criteria.request.tenant)
            .fetch_optional(pool)
            .await
            .map_err(status)?;
        let Some(tenant) = tenant else { return Ok(Vec::new()) };
        criteria.tenant = Some(tenant);
    }
    // Planned anew for these two: which index is the right one depends on how much each of them has, and a plan
    // for all of them knows only what is usual.
    let is_usual = criteria.request.sender.is_empty() || criteria.request.recipient.is_empty();
    let mut query = query(&criteria);
    let heads: Vec<Head> = query.build_query_as().persistent(is_usual).fetch_all(pool).await.map_err(status)?;
    Ok(heads.into_iter().map(Into::into).collect())
}

/// One index finds the candidates in order: the id's, the recipient's, the sender's, the tenant's, or
/// that of time; the other criteria are looked at on what it finds.
fn query(c: &Criteria) -> QueryBuilder<Postgres> {
    let by_recipient = !c.request.recipient.is_empty() && c.id.is_empty();
    let by_tenant = c.tenant.is_some() && c.id.is_empty() && c.request.sender.is_empty() && !by_recipient;
    let mut q = QueryBuilder::new("with found as (");
    if by_recipient || by_tenant {
        // One row for each address of a message: several may match.
        q.push("select at as accepted_at, queue_id from journey_recipients r where ");
        match c.tenant.filter(|_| by_tenant) {
            Some(tenant) => q.push("tenant_id <> 0 and tenant_id = ").push_bind(tenant),
            None => q.push("recipient = lower(").push_bind(c.request.recipient.clone()).push(")"),
        };
        if !c.request.sender.is_empty() {
            q.push(" and sender = lower(").push_bind(c.request.sender.clone()).push(")");
        }
        times(&mut q, c, "at");
        if let Some(tenant) = c.tenant.filter(|_| by_recipient) {
            q.push(" and exists (select from spool s where s.queue_id = r.queue_id and ");
            q.push_bind(tenant).push(" = any (s.tenants))");
        }
        q.push(" group by at, queue_id order by at desc limit ").push_bind(c.limit);
    } else {
        q.push("select accepted_at, queue_id from spool s where true");
        if !c.id.is_empty() {
            q.push(" and (message_id <> '' and message_id = ").push_bind(c.id.clone());
            q.push(" or queue_id = ").push_bind(c.queue_id).push(")");
        }
        if !c.request.sender.is_empty() {
            q.push(" and lower(reverse_path) = lower(").push_bind(c.request.sender.clone()).push(")");
        }
        if !c.request.recipient.is_empty() {
            q.push(
                " and exists (select from journey_recipients r where r.queue_id = s.queue_id and r.at = s.accepted_at",
            );
            q.push(" and r.recipient = lower(").push_bind(c.request.recipient.clone()).push("))");
        }
        if let Some(tenant) = c.tenant {
            q.push(" and ").push_bind(tenant).push(" = any (s.tenants)");
        }
        times(&mut q, c, "accepted_at");
        q.push(" order by accepted_at desc limit ").push_bind(c.limit);
    }
    q.push(
        ") select s.queue_id, message_id, reverse_path, (extract(epoch from s.accepted_at) * 1000)::bigint as accepted_at_ms,
                  size, traceparent, refused,
                  (select count(*) from deliveries d where d.queue_id = s.queue_id) as open,
                  coalesce((select array_agg(name order by name) from tenants t where t.id = any (s.tenants)), '{}')
                      as tenants
           from found join spool s using (queue_id) order by found.accepted_at desc",
    );
    q
}

fn times(q: &mut QueryBuilder<Postgres>, c: &Criteria, column: &str) {
    for (bound, operator) in [(c.since, " >= "), (c.until, " < ")] {
        if let Some(bound) = bound {
            q.push(" and ").push(column).push(operator).push_bind(bound);
        }
    }
}
