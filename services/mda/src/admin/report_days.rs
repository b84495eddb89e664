//! What others reported about our domains, added up over time.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use futures::TryStreamExt as _;
use proto::admin::{ReportedDay, ReportedSource, SummarizeReportsRequest, SummarizeReportsResponse};
use serde::Deserialize;
use sqlx::{FromRow, PgPool};
use tonic::Status;

use super::scope::Scope;
use crate::database::status;

const MAX_DAYS: i64 = 400;
/// Of all reports with details these are read for their sources, none larger than this.
const READ: i64 = 300;
const READ_BYTES: i32 = 1_000_000;
/// Sources are what strangers wrote: so many are counted, and so many told.
const MAX_SOURCES: usize = 20_000;
const TOLD: usize = 25;
/// The longest text of an IP address.
const MAX_ADDRESS: usize = 45;

#[derive(FromRow)]
struct Day {
    day: NaiveDate,
    good: i64,
    bad: i64,
    reports: i64,
}

/// `$1` to `$5`: domain, kind, from, before, tenant.
macro_rules! meant {
    () => {
        "kind = $2 and ($1 = '' or domain = $1) and begin_at >= $3 and begin_at < $4
           and ($5::text is null or domain in (
               select d.name from domains d join tenants t on t.id = d.tenant_id where t.name = $5))"
    };
}

/// Counts are the reporters' own: a sum too large for the column is none of ours.
const DAYS: &str = concat!(
    "select (begin_at at time zone 'utc')::date as day, count(*) as reports,
            least(sum(good), 9e15)::bigint as good, least(sum(bad), 9e15)::bigint as bad
     from received_reports where ",
    meant!(),
    " group by 1 order by 1 desc limit $6"
);

const DETAILS: &str = concat!(
    "select detail from received_reports where octet_length(detail) <= $6 and ",
    meant!(),
    " order by begin_at desc, id limit $7"
);

/// Of a DMARC report's detail, what is added up.
#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    count: u64,
    row: Row,
}

#[derive(Deserialize)]
struct Row {
    source: String,
    dkim: String,
    spf: String,
}

#[derive(Default)]
struct Sources(HashMap<String, (u64, u64)>);

impl Sources {
    fn add(&mut self, detail: &str) {
        let Ok(detail) = serde_json::from_str::<Detail>(detail) else { return };
        for Record { count, row } in detail.records {
            let is_new = !self.0.contains_key(&row.source);
            if row.source.len() > MAX_ADDRESS || (is_new && self.0.len() >= MAX_SOURCES) {
                continue;
            }
            // DMARC passes when one of the two does, aligned (RFC 9989 §4).
            let passes = row.dkim == "pass" || row.spf == "pass";
            let (good, bad) = self.0.entry(row.source).or_default();
            let counter = if passes { good } else { bad };
            *counter = counter.saturating_add(count);
        }
    }

    fn worst(self) -> Vec<ReportedSource> {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort_by(|(a, (a_good, a_bad)), (b, (b_good, b_bad))| (b_bad, b_good, a).cmp(&(a_bad, a_good, b)));
        all.truncate(TOLD);
        all.into_iter().map(|(source, (good, bad))| ReportedSource { source, good, bad }).collect()
    }
}

pub async fn summarize(
    pool: &PgPool,
    request: SummarizeReportsRequest,
    scope: &Scope,
) -> Result<SummarizeReportsResponse, Status> {
    let kind = if request.kind.is_empty() { "dmarc" } else { request.kind.as_str() };
    if !matches!(kind, "dmarc" | "tls") {
        return Err(Status::invalid_argument(format!("kind = {kind:?}: expected dmarc or tls")));
    }
    let domain = request.domain.to_ascii_lowercase();
    let time = |ms: i64, none: DateTime<Utc>| match ms {
        0 => Some(none),
        ms => DateTime::from_timestamp_millis(ms).filter(|at| (1970..=9999).contains(&chrono::Datelike::year(at))),
    };
    let wrong = || Status::invalid_argument("from_ms, to_ms: expected milliseconds since 1970");
    let from = time(request.from_ms, DateTime::<Utc>::UNIX_EPOCH).ok_or_else(wrong)?;
    let to = time(request.to_ms, Utc::now() + chrono::Duration::days(2)).ok_or_else(wrong)?;
    let days: Vec<Day> = sqlx::query_as(DAYS)
        .bind(&domain)
        .bind(kind)
        .bind(from)
        .bind(to)
        .bind(scope.tenant())
        .bind(MAX_DAYS)
        .fetch_all(pool)
        .await
        .map_err(status)?;
    let mut sources = Sources::default();
    if kind == "dmarc" {
        let mut details = sqlx::query_scalar::<_, String>(DETAILS)
            .bind(&domain)
            .bind(kind)
            .bind(from)
            .bind(to)
            .bind(scope.tenant())
            .bind(READ_BYTES)
            .bind(READ)
            .fetch(pool);
        while let Some(detail) = details.try_next().await.map_err(status)? {
            sources.add(&detail);
        }
    }
    let day = |d: Day| ReportedDay {
        day_ms: d.day.and_time(NaiveTime::MIN).and_utc().timestamp_millis(),
        good: d.good.unsigned_abs(),
        bad: d.bad.unsigned_abs(),
        reports: u32::try_from(d.reports).unwrap_or(u32::MAX),
    };
    Ok(SummarizeReportsResponse { days: days.into_iter().rev().map(day).collect(), sources: sources.worst() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_added_up_and_bounded() {
        let mut sources = Sources::default();
        let record = |source: &str, count: u64, dkim: &str, spf: &str| {
            format!(
                r#"{{"count":{count},"row":{{"source":{source:?},"dkim":{dkim:?},"spf":{spf:?},"header_from":"x"}}}}"#
            )
        };
        let detail = |records: &[String]| format!(r#"{{"records":[{}]}}"#, records.join(","));
        sources.add(&detail(&[record("192.0.2.1", 3, "pass", "fail"), record("192.0.2.1", 2, "fail", "fail")]));
        sources.add(&detail(&[record("192.0.2.2", u64::MAX, "fail", "fail"), record("192.0.2.2", 1, "fail", "fail")]));
        for garbage in ["", "null", "[]", r#"{"records":[{"count":-1}]}"#] {
            sources.add(garbage);
        }
        sources.add(&detail(&[record(&"x".repeat(46), 1, "fail", "fail")]));
        for n in 0..MAX_SOURCES {
            sources.add(&detail(&[record(&n.to_string(), 1, "pass", "pass")]));
        }
        assert_eq!(sources.0.len(), MAX_SOURCES);
        let worst = sources.worst();
        assert_eq!(worst.len(), TOLD);
        let first: Vec<_> = worst.iter().take(2).map(|s| (s.source.as_str(), s.good, s.bad)).collect();
        assert_eq!(first, [("192.0.2.2", 0, u64::MAX), ("192.0.2.1", 3, 2)]);
    }
}
