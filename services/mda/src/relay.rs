//! The gRPC service Relay: MTA-STS policies (RFC 8461) and TLS results (RFC 8460) of all relays.

use chrono::{DateTime, NaiveDate, Utc};
use proto::relay::{
    AddTlsResultsRequest, AddTlsResultsResponse, ClaimTlsReportRequest, FinishTlsReportRequest,
    FinishTlsReportResponse, GetStsPolicyRequest, PutStsPolicyResponse, RestRequest, RestResponse, StsPolicy,
    TlsReport, TlsResult, relay_server,
};
use sqlx::PgPool;
use tonic::{Request, Response, Status};

use crate::{content::plain, database::status, reports::day};

pub struct Relay {
    pub pool: PgPool,
}

const MAX_RESULTS: usize = 10_000;

/// A retried call would count twice; a report is a statistic, and nobody waits for it.
const ADD: &str = "
insert into tls_results (day, domain, key, policy, failure, successful, failed)
select (now() at time zone 'utc')::date, domain, md5(policy || chr(10) || failure), policy, failure,
       sum(successful), sum(failed)
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
    as r (domain, policy, failure, successful, failed)
group by domain, policy, failure
on conflict (day, domain, key) do update
set successful = tls_results.successful + excluded.successful, failed = tls_results.failed + excluded.failed";

const REST: &str = "
with old as (delete from resting_destinations where until < now() - interval '1 minute' and domain <> $1)
insert into resting_destinations (domain, until) values ($1, now() + $2 * interval '1 millisecond')
on conflict (domain) do update set until = greatest(resting_destinations.until, excluded.until)";

/// One report is one relay's for ten minutes: should it die, another takes over.
const CLAIM: &str = "
insert into tls_reports (day, domain, claimed_until)
select r.day, r.domain, now() + interval '10 minutes'
from tls_results r left join tls_reports t using (day, domain)
where r.day < (now() at time zone 'utc')::date and (t.day is null or (not t.done and t.claimed_until < now()))
limit 1
on conflict (day, domain) do update set claimed_until = excluded.claimed_until
where not tls_reports.done and tls_reports.claimed_until < now()
returning day, domain";

#[tonic::async_trait]
impl relay_server::Relay for Relay {
    async fn get_sts_policy(&self, request: Request<GetStsPolicyRequest>) -> Result<Response<StsPolicy>, Status> {
        let domain = request.into_inner().domain;
        let row: Option<(String, String, DateTime<Utc>, DateTime<Utc>)> =
            sqlx::query_as("select id, policy, fetched_at, expires_at from sts_policies where domain = $1")
                .bind(&domain)
                .fetch_optional(&self.pool)
                .await
                .map_err(status)?;
        let (id, text, fetched_at, expires_at) = row.ok_or_else(|| Status::not_found("no policy is kept"))?;
        Ok(Response::new(StsPolicy {
            domain,
            id,
            text,
            fetched_at_ms: fetched_at.timestamp_millis(),
            expires_at_ms: expires_at.timestamp_millis(),
        }))
    }

    async fn put_sts_policy(&self, request: Request<StsPolicy>) -> Result<Response<PutStsPolicyResponse>, Status> {
        let policy = request.into_inner();
        let time =
            |ms| DateTime::from_timestamp_millis(ms).ok_or_else(|| Status::invalid_argument("time is out of range"));
        sqlx::query(
            "insert into sts_policies (domain, id, policy, fetched_at, expires_at) values ($1, $2, $3, $4, $5)
             on conflict (domain) do update set id = excluded.id, policy = excluded.policy,
                 fetched_at = excluded.fetched_at, expires_at = excluded.expires_at
             where sts_policies.fetched_at <= excluded.fetched_at",
        )
        .bind(plain(&policy.domain))
        .bind(plain(&policy.id))
        .bind(plain(&policy.text))
        .bind(time(policy.fetched_at_ms)?)
        .bind(time(policy.expires_at_ms)?)
        .execute(&self.pool)
        .await
        .map_err(status)?;
        Ok(Response::new(PutStsPolicyResponse {}))
    }

    async fn rest(&self, request: Request<RestRequest>) -> Result<Response<RestResponse>, Status> {
        let request = request.into_inner();
        sqlx::query(REST)
            .bind(plain(&request.domain))
            .bind(i64::from(request.for_ms))
            .execute(&self.pool)
            .await
            .map_err(status)?;
        Ok(Response::new(RestResponse {}))
    }

    async fn add_tls_results(
        &self,
        request: Request<AddTlsResultsRequest>,
    ) -> Result<Response<AddTlsResultsResponse>, Status> {
        let results = request.into_inner().results;
        if results.len() > MAX_RESULTS {
            return Err(Status::invalid_argument(format!("more than {MAX_RESULTS} results at once")));
        }
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        sqlx::query(ADD)
            .bind(results.iter().map(|r| plain(&r.domain)).collect::<Vec<_>>())
            .bind(results.iter().map(|r| plain(&r.policy)).collect::<Vec<_>>())
            .bind(results.iter().map(|r| plain(&r.failure)).collect::<Vec<_>>())
            .bind(results.iter().map(|r| count(r.successful_sessions)).collect::<Vec<_>>())
            .bind(results.iter().map(|r| count(r.failed_sessions)).collect::<Vec<_>>())
            .execute(&self.pool)
            .await
            .map_err(status)?;
        Ok(Response::new(AddTlsResultsResponse {}))
    }

    async fn claim_tls_report(&self, _: Request<ClaimTlsReportRequest>) -> Result<Response<TlsReport>, Status> {
        let claimed: Option<(NaiveDate, String)> =
            sqlx::query_as(CLAIM).fetch_optional(&self.pool).await.map_err(status)?;
        let Some((day, domain)) = claimed else { return Ok(Response::new(TlsReport::default())) };
        let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
            "select policy, failure, successful, failed from tls_results where day = $1 and domain = $2 order by key",
        )
        .bind(day)
        .bind(&domain)
        .fetch_all(&self.pool)
        .await
        .map_err(status)?;
        let result = |(policy, failure, successful, failed): (String, String, i64, i64)| TlsResult {
            domain: domain.clone(),
            policy,
            failure,
            successful_sessions: successful.unsigned_abs(),
            failed_sessions: failed.unsigned_abs(),
        };
        let results = rows.into_iter().map(result).collect();
        Ok(Response::new(TlsReport { day: day.to_string(), results, domain: domain.clone() }))
    }

    async fn finish_tls_report(
        &self,
        request: Request<FinishTlsReportRequest>,
    ) -> Result<Response<FinishTlsReportResponse>, Status> {
        let request = request.into_inner();
        let day = day(&request.day)?;
        sqlx::query(
            "with done as (update tls_reports set done = true where day = $1 and domain = $2),
                  old as (delete from tls_reports where done and day < $1 - 30)
             delete from tls_results where day = $1 and domain = $2",
        )
        .bind(day)
        .bind(&request.domain)
        .execute(&self.pool)
        .await
        .map_err(status)?;
        Ok(Response::new(FinishTlsReportResponse {}))
    }
}
