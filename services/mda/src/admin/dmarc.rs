//! A tenant's and a domain's own mind about DMARC, and what others reported about our domains.

use chrono::{DateTime, Utc};
use proto::admin::{ListReportsRequest, ListReportsResponse, ReceivedReport, SetDmarcOverrideRequest};
use sqlx::{FromRow, PgPool};
use tonic::Status;

use super::scope::Scope;
use crate::database::status;

const LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;

pub async fn set_override(pool: &PgPool, request: SetDmarcOverrideRequest) -> Result<(), Status> {
    let (name, of, statement) = match (request.tenant.as_str(), request.domain.as_str()) {
        (tenant, "") => {
            (tenant.to_owned(), "tenant", "update tenants set dmarc_quarantine = coalesce($2, false) where name = $1")
        }
        ("", domain) => {
            let domain = super::domain(domain)?;
            (domain.as_str().to_owned(), "domain", "update domains set dmarc_quarantine = $2 where name = $1")
        }
        _ => return Err(Status::invalid_argument("expected a tenant or a domain, not both")),
    };
    let changed = sqlx::query(statement)
        .bind(&name)
        .bind(Some(request.quarantine).filter(|_| !request.inherit))
        .execute(pool)
        .await
        .map_err(status)?;
    match changed.rows_affected() {
        0 => Err(Status::not_found(format!("there is no {of} {name:?}"))),
        _ => Ok(()),
    }
}

#[derive(FromRow)]
struct Row {
    id: i64,
    kind: String,
    organisation: String,
    report_id: String,
    domain: String,
    begin_at: DateTime<Utc>,
    end_at: DateTime<Utc>,
    good: i64,
    bad: i64,
    detail: String,
    received_at: DateTime<Utc>,
}

pub async fn reports(pool: &PgPool, request: ListReportsRequest, scope: &Scope) -> Result<ListReportsResponse, Status> {
    let limit = if request.limit == 0 { LIMIT } else { request.limit.min(MAX_LIMIT) };
    let rows: Vec<Row> = sqlx::query_as(
        "select id, kind, organisation, report_id, domain, begin_at, end_at, good, bad,
                case when $4 or $1 <> 0 then detail else '' end as detail, received_at
         from received_reports
         where ($1 = 0 or id = $1) and ($2 = '' or domain = $2) and ($3 = '' or kind = $3)
           and ($6::text is null or domain in (
               select d.name from domains d join tenants t on t.id = d.tenant_id where t.name = $6))
         order by id desc limit $5",
    )
    .bind(i64::try_from(request.id).unwrap_or(-1))
    .bind(request.domain.to_ascii_lowercase())
    .bind(&request.kind)
    .bind(request.detail)
    .bind(i64::from(limit))
    .bind(scope.tenant())
    .fetch_all(pool)
    .await
    .map_err(status)?;
    let report = |row: Row| ReceivedReport {
        id: row.id.unsigned_abs(),
        kind: row.kind,
        organisation: row.organisation,
        report_id: row.report_id,
        domain: row.domain,
        begin_ms: row.begin_at.timestamp_millis(),
        end_ms: row.end_at.timestamp_millis(),
        good: row.good.unsigned_abs(),
        bad: row.bad.unsigned_abs(),
        detail: row.detail,
        received_at_ms: row.received_at.timestamp_millis(),
    };
    Ok(ListReportsResponse { reports: rows.into_iter().map(report).collect() })
}
