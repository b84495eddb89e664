//! The gRPC service Reports: what auth-checkers saw, until it is reported (RFC 9990).

use chrono::NaiveDate;
use proto::report::{
    AddDmarcResultsRequest, AddDmarcResultsResponse, ClaimDmarcReportRequest, DmarcReport, DmarcResult,
    FinishDmarcReportRequest, FinishDmarcReportResponse, reports_server,
};
use sqlx::PgPool;
use tonic::{Request, Response, Status};

use crate::{content::plain, database::status};

pub struct Reports {
    pub pool: PgPool,
}

const MAX_RESULTS: usize = 10_000;
const MAX_ROW: usize = 8_192;
/// Rows of one report, the most frequent first: a forger with many addresses makes no larger one.
const MAX_ROWS: i64 = 5_000;

/// A retried call would count twice; a report is a statistic.
const ADD: &str = "
insert into dmarc_results (day, domain, key, row, messages)
select (now() at time zone 'utc')::date, domain, md5(row), row, sum(messages)
from unnest($1::text[], $2::text[], $3::bigint[]) as r (domain, row, messages)
group by domain, row
on conflict (day, domain, key) do update set messages = dmarc_results.messages + excluded.messages";

/// One report is one pod's for ten minutes: should it die, another takes over.
const CLAIM: &str = "
insert into dmarc_reports (day, domain, claimed_until)
select r.day, r.domain, now() + interval '10 minutes'
from (select distinct day, domain from dmarc_results
      where day < (now() at time zone 'utc')::date) r
left join dmarc_reports d using (day, domain)
where d.day is null or (not d.done and d.claimed_until < now())
order by r.day limit 1
on conflict (day, domain) do update set claimed_until = excluded.claimed_until
where not dmarc_reports.done and dmarc_reports.claimed_until < now()
returning day, domain";

#[tonic::async_trait]
impl reports_server::Reports for Reports {
    async fn add_dmarc_results(
        &self,
        request: Request<AddDmarcResultsRequest>,
    ) -> Result<Response<AddDmarcResultsResponse>, Status> {
        let mut results = request.into_inner().results;
        if results.len() > MAX_RESULTS {
            return Err(Status::invalid_argument(format!("more than {MAX_RESULTS} results at once")));
        }
        results.retain(|r| r.row.len() <= MAX_ROW);
        sqlx::query(ADD)
            .bind(results.iter().map(|r| plain(&r.domain)).collect::<Vec<_>>())
            .bind(results.iter().map(|r| plain(&r.row)).collect::<Vec<_>>())
            .bind(results.iter().map(|r| i64::try_from(r.messages).unwrap_or(i64::MAX)).collect::<Vec<_>>())
            .execute(&self.pool)
            .await
            .map_err(status)?;
        Ok(Response::new(AddDmarcResultsResponse {}))
    }

    async fn claim_dmarc_report(&self, _: Request<ClaimDmarcReportRequest>) -> Result<Response<DmarcReport>, Status> {
        let claimed: Option<(NaiveDate, String)> =
            sqlx::query_as(CLAIM).fetch_optional(&self.pool).await.map_err(status)?;
        let Some((day, domain)) = claimed else { return Ok(Response::new(DmarcReport::default())) };
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "select row, messages from dmarc_results where day = $1 and domain = $2
             order by messages desc, key limit $3",
        )
        .bind(day)
        .bind(&domain)
        .bind(MAX_ROWS)
        .fetch_all(&self.pool)
        .await
        .map_err(status)?;
        let result = |(row, messages): (String, i64)| DmarcResult {
            domain: domain.clone(),
            row,
            messages: messages.unsigned_abs(),
        };
        let results = rows.into_iter().map(result).collect();
        Ok(Response::new(DmarcReport { day: day.to_string(), results, domain: domain.clone() }))
    }

    async fn finish_dmarc_report(
        &self,
        request: Request<FinishDmarcReportRequest>,
    ) -> Result<Response<FinishDmarcReportResponse>, Status> {
        let request = request.into_inner();
        let day = day(&request.day)?;
        sqlx::query(
            "with done as (update dmarc_reports set done = true where day = $1 and domain = $2),
                  old as (delete from dmarc_reports where done and day < $1 - 30)
             delete from dmarc_results where day = $1 and domain = $2",
        )
        .bind(day)
        .bind(&request.domain)
        .execute(&self.pool)
        .await
        .map_err(status)?;
        Ok(Response::new(FinishDmarcReportResponse {}))
    }
}

pub fn day(text: &str) -> Result<NaiveDate, Status> {
    text.parse().map_err(|_| Status::invalid_argument(format!("day {text:?}: expected YYYY-MM-DD")))
}
