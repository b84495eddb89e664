//! What others reported about our domains (RFC 9990, RFC 8460): one by one, and over time.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::admin::{ListReportsRequest, SummarizeReportsRequest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::domains::domain;
use crate::{
    problem::Problem,
    route::{Call, Json, Nothing},
};

const DAYS: u32 = 30;
const MAX_DAYS: u32 = 400;
const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Dmarc,
    Tls,
}

impl Kind {
    fn wire(self) -> String {
        match self {
            Self::Dmarc => "dmarc".to_owned(),
            Self::Tls => "tls".to_owned(),
        }
    }
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Whose policy it is about; empty means all.
    domain: String,
    /// `dmarc` or `tls`; empty means both.
    kind: String,
    /// At most this many, up to 1000; 0 means 100.
    limit: u32,
}

#[derive(Serialize, JsonSchema)]
pub struct Report {
    id: u64,
    kind: String,
    /// Who sent it, in its own words.
    organisation: String,
    domain: String,
    begin_ms: i64,
    end_ms: i64,
    /// Messages that passed DMARC; TLS sessions that succeeded.
    good: u64,
    bad: u64,
    received_at_ms: i64,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// Whose policy it is about; empty means all.
    domain: String,
    /// `dmarc` or `tls`; empty means `dmarc`.
    kind: String,
    /// So many days, up to 400, and today; 0 means 30.
    days: u32,
}

/// Reports added up by the day (UTC) that they begin on.
#[derive(Serialize, JsonSchema)]
pub struct OverTime {
    kind: Kind,
    /// The window's first day and its last.
    from_ms: i64,
    to_ms: i64,
    /// In order, without the days that nobody reported.
    days: Vec<Day>,
    /// Of DMARC reports: hosts that sent under the name, those with most failures first.
    sources: Vec<Source>,
}

#[derive(Serialize, JsonSchema)]
pub struct Day {
    day_ms: i64,
    /// Messages that passed DMARC; TLS sessions that succeeded.
    good: u64,
    bad: u64,
    reports: u32,
}

#[derive(Serialize, JsonSchema)]
pub struct Source {
    /// An IP address.
    source: String,
    good: u64,
    bad: u64,
}

/// Another tenant's domain is not found.
async fn own(call: &Call, text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let domain = domain(text)?;
    call.caller()?.must_own(&call.app, &domain).await?;
    Ok(domain.to_string())
}

fn kind(text: &str) -> Result<Option<Kind>, Problem> {
    match text {
        "" => Ok(None),
        "dmarc" => Ok(Some(Kind::Dmarc)),
        "tls" => Ok(Some(Kind::Tls)),
        other => Err(Problem::bad_request(format!("kind = {other:?}: expected dmarc or tls"))),
    }
}

pub async fn list(call: Call, filter: Filter, _: Nothing) -> Result<Json<Vec<Report>>, Problem> {
    let request = ListReportsRequest {
        domain: own(&call, &filter.domain).await?,
        kind: kind(&filter.kind)?.map(Kind::wire).unwrap_or_default(),
        limit: filter.limit,
        ..ListReportsRequest::default()
    };
    let found = call.app.admin.clone().list_reports(call.scoped(request)?).await?.into_inner().reports;
    let report = |r: proto::admin::ReceivedReport| Report {
        id: r.id,
        kind: r.kind,
        organisation: r.organisation,
        domain: r.domain,
        begin_ms: r.begin_ms,
        end_ms: r.end_ms,
        good: r.good,
        bad: r.bad,
        received_at_ms: r.received_at_ms,
    };
    Ok(Json(found.into_iter().map(report).collect()))
}

pub async fn over_time(call: Call, window: Window, _: Nothing) -> Result<Json<OverTime>, Problem> {
    let kind = kind(&window.kind)?.unwrap_or_default();
    let days = if window.days == 0 { DAYS } else { window.days.min(MAX_DAYS) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let today = i64::try_from(now).unwrap_or_default() / DAY_MS * DAY_MS;
    let from_ms = today - i64::from(days) * DAY_MS;
    let request = SummarizeReportsRequest {
        domain: own(&call, &window.domain).await?,
        kind: kind.wire(),
        from_ms,
        to_ms: today + DAY_MS,
    };
    let found = call.app.admin.clone().summarize_reports(call.scoped(request)?).await?.into_inner();
    let day = |d: proto::admin::ReportedDay| Day { day_ms: d.day_ms, good: d.good, bad: d.bad, reports: d.reports };
    let source = |s: proto::admin::ReportedSource| Source { source: s.source, good: s.good, bad: s.bad };
    Ok(Json(OverTime {
        kind,
        from_ms,
        to_ms: today,
        days: found.days.into_iter().map(day).collect(),
        sources: found.sources.into_iter().map(source).collect(),
    }))
}
