//! The TLS report (RFC 8460 §4.4).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ReportError, cut};

const MAX_POLICIES: usize = 100;
const MAX_FAILURES: usize = 1_000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    pub organisation: String,
    pub report_id: String,
    /// Seconds since 1970.
    pub begin: i64,
    pub end: i64,
    pub policies: Vec<TlsPolicy>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsPolicy {
    pub domain: String,
    /// "tlsa", "sts", "no-policy-found".
    pub kind: String,
    pub successful: u64,
    pub failed: u64,
    pub failures: Vec<TlsFailure>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFailure {
    pub result: String,
    pub host: String,
    pub reason: String,
    pub sessions: u64,
}

impl Tls {
    pub fn parse(document: &[u8]) -> Result<Self, ReportError> {
        let value: Value = serde_json::from_slice(document).map_err(|e| ReportError::Syntax(cut(&e.to_string())))?;
        let range = &value["date-range"];
        let report = Self {
            organisation: text(&value["organization-name"]),
            report_id: text(&value["report-id"]),
            begin: seconds(&text(&range["start-datetime"])).unwrap_or_default(),
            end: seconds(&text(&range["end-datetime"])).unwrap_or_default(),
            policies: list(&value["policies"], MAX_POLICIES).map(policy).filter(|p| !p.domain.is_empty()).collect(),
        };
        match () {
            () if report.report_id.is_empty() => Err(ReportError::Missing("report-id")),
            () if report.policies.is_empty() => Err(ReportError::Missing("policies")),
            () => Ok(report),
        }
    }
}

fn policy(value: &Value) -> TlsPolicy {
    let summary = &value["summary"];
    TlsPolicy {
        domain: text(&value["policy"]["policy-domain"]).to_lowercase(),
        kind: text(&value["policy"]["policy-type"]),
        successful: summary["total-successful-session-count"].as_u64().unwrap_or_default(),
        failed: summary["total-failure-session-count"].as_u64().unwrap_or_default(),
        failures: list(&value["failure-details"], MAX_FAILURES)
            .map(|failure| TlsFailure {
                result: text(&failure["result-type"]),
                host: text(&failure["receiving-mx-hostname"]),
                reason: text(&failure["failure-reason-code"]),
                sessions: failure["failed-session-count"].as_u64().unwrap_or_default(),
            })
            .collect(),
    }
}

fn list(value: &Value, limit: usize) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten().take(limit)
}

fn text(value: &Value) -> String {
    value.as_str().map(cut).unwrap_or_default()
}

/// RFC 3339 in UTC: `2016-04-01T00:00:00Z`.
fn seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u8>().ok();
    let day = message::Day::new(text.get(..4)?.parse().ok()?, number(5..7)?, number(8..10)?)?;
    let (h, m, s) = (i64::from(number(11..13)?), i64::from(number(14..16)?), i64::from(number(17..19)?));
    Some(day.to_epoch() * 86_400 + h * 3600 + m * 60 + s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_example() {
        // RFC 8460 Appendix B, shortened.
        let json = br#"{"organization-name": "Company-X",
            "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
            "contact-info": "sts-reporting@company-x.example", "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
            "policies": [{"policy": {"policy-type": "sts", "policy-string": ["version: STSv1"],
                                     "policy-domain": "company-y.example", "mx-host": ["*.mail.company-y.example"]},
                          "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                          "failure-details": [{"result-type": "certificate-expired", "failed-session-count": 100,
                                               "receiving-mx-hostname": "mx1.mail.company-y.example"}]}]}"#;
        let report = Tls::parse(json).expect("valid");
        assert_eq!((report.begin, report.end), (1_459_468_800, 1_459_555_199));
        assert_eq!((report.policies[0].successful, report.policies[0].failed), (5326, 303));
        assert_eq!(report.policies[0].failures[0].result, "certificate-expired");
    }

    #[test]
    fn anything_else_is_none() {
        for bad in ["", "{}", "[]", "null", r#"{"report-id":1}"#, r#"{"report-id":"x","policies":{}}"#] {
            assert!(Tls::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Tls::parse("[".repeat(100_000).as_bytes()).is_err());
        assert_eq!(seconds("2016-13-01T00:00:00Z"), None);
        assert_eq!(seconds("é"), None);
    }
}
