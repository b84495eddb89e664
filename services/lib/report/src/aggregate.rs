//! The aggregate report (RFC 9990 §3.1).

use serde::{Deserialize, Serialize};

use crate::{ReportError, cut, xml};

/// Records of one report that are read.
const MAX_RECORDS: usize = 20_000;
/// Signatures, overrides and SPF results of one record.
const MAX_LIST: usize = 100;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregate {
    pub organisation: String,
    pub email: String,
    pub report_id: String,
    /// Seconds since 1970, both included.
    pub begin: i64,
    pub end: i64,
    pub policy: Policy,
    pub records: Vec<Record>,
}

/// What was published while the report was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub domain: String,
    /// "none", "quarantine", "reject"; empty when not given.
    pub p: String,
    pub sp: String,
    pub np: String,
    /// "r" or "s".
    pub adkim: String,
    pub aspf: String,
    pub testing: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub row: Row,
    pub count: u64,
}

/// Everything about a kind of messages but how many there were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub source: String,
    /// "pass", "none", "quarantine", "reject": what became of them.
    pub disposition: String,
    /// Whether an aligned identifier passed: "pass" or "fail".
    pub dkim: String,
    pub spf: String,
    pub overrides: Vec<Override>,
    pub header_from: String,
    /// The reverse-path's domain; empty for the null one.
    pub envelope_from: String,
    pub signatures: Vec<AuthDkim>,
    pub paths: Vec<AuthSpf>,
}

/// Why the policy was not followed (RFC 9990 §3.1.1.9).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    pub reason: String,
    pub comment: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthDkim {
    pub domain: String,
    pub selector: String,
    pub result: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthSpf {
    pub domain: String,
    /// "mfrom" or "helo".
    pub scope: String,
    pub result: String,
}

impl Aggregate {
    /// Messages that passed, and those that did not.
    pub fn totals(&self) -> (u64, u64) {
        let count = |wanted: bool| {
            let rows = self.records.iter().filter(|r| (r.row.dkim == "pass" || r.row.spf == "pass") == wanted);
            rows.fold(0u64, |sum, r| sum.saturating_add(r.count))
        };
        (count(true), count(false))
    }

    pub fn to_xml(&self, generator: &str) -> String {
        let mut w = xml::Writer::new();
        w.open("feedback xmlns=\"urn:ietf:params:xml:ns:dmarc-2.0\"");
        w.text("version", "1.0");
        w.open("report_metadata");
        w.text("org_name", &self.organisation);
        w.text("email", &self.email);
        w.text("report_id", &self.report_id);
        w.open("date_range");
        w.text("begin", &self.begin.to_string());
        w.text("end", &self.end.to_string());
        w.close("date_range");
        w.text("generator", generator);
        w.close("report_metadata");
        let policy = &self.policy;
        w.open("policy_published");
        w.text("domain", &policy.domain);
        for (name, value) in
            [("p", &policy.p), ("sp", &policy.sp), ("np", &policy.np), ("adkim", &policy.adkim), ("aspf", &policy.aspf)]
        {
            w.some_text(name, value);
        }
        w.text("testing", if policy.testing { "y" } else { "n" });
        w.text("discovery_method", "treewalk");
        w.close("policy_published");
        for record in &self.records {
            record.write(&mut w);
        }
        w.close("feedback");
        w.finish()
    }

    pub fn parse(document: &[u8]) -> Result<Self, ReportError> {
        let mut report = Self::default();
        let mut record = Record::default();
        let mut signature = AuthDkim::default();
        let mut path = AuthSpf::default();
        let mut reason = Override::default();
        xml::read(document, |event| {
            let (path_of, text) = match event {
                xml::Event::Text(path, text) => (path, text),
                xml::Event::End(ended) => {
                    match ended {
                        ["feedback", "record"] => {
                            if report.records.len() == MAX_RECORDS {
                                return Err(ReportError::TooLarge(MAX_RECORDS));
                            }
                            report.records.push(std::mem::take(&mut record));
                        }
                        ["feedback", "record", "auth_results", "dkim"] => {
                            push(&mut record.row.signatures, std::mem::take(&mut signature));
                        }
                        ["feedback", "record", "auth_results", "spf"] => {
                            push(&mut record.row.paths, std::mem::take(&mut path));
                        }
                        ["feedback", "record", "row", "policy_evaluated", "reason"] => {
                            push(&mut record.row.overrides, std::mem::take(&mut reason));
                        }
                        _ => (),
                    }
                    return Ok(());
                }
            };
            let number = || text.trim().parse::<i64>().unwrap_or_default();
            let ["feedback", section, rest @ ..] = path_of else { return Ok(()) };
            match (*section, rest) {
                ("report_metadata", ["org_name"]) => report.organisation = cut(text),
                ("report_metadata", ["email"]) => report.email = cut(text),
                ("report_metadata", ["report_id"]) => report.report_id = cut(text),
                ("report_metadata", ["date_range", "begin"]) => report.begin = number(),
                ("report_metadata", ["date_range", "end"]) => report.end = number(),
                ("policy_published", ["domain"]) => report.policy.domain = cut(text).to_lowercase(),
                ("policy_published", ["p"]) => report.policy.p = cut(text),
                ("policy_published", ["sp"]) => report.policy.sp = cut(text),
                ("policy_published", ["np"]) => report.policy.np = cut(text),
                ("policy_published", ["adkim"]) => report.policy.adkim = cut(text),
                ("policy_published", ["aspf"]) => report.policy.aspf = cut(text),
                ("policy_published", ["testing"]) => report.policy.testing = text.trim() == "y",
                ("record", ["row", "source_ip"]) => record.row.source = cut(text),
                ("record", ["row", "count"]) => record.count = text.trim().parse().unwrap_or_default(),
                ("record", ["row", "policy_evaluated", "disposition"]) => record.row.disposition = cut(text),
                ("record", ["row", "policy_evaluated", "dkim"]) => record.row.dkim = cut(text),
                ("record", ["row", "policy_evaluated", "spf"]) => record.row.spf = cut(text),
                ("record", ["row", "policy_evaluated", "reason", "type"]) => reason.reason = cut(text),
                ("record", ["row", "policy_evaluated", "reason", "comment"]) => reason.comment = cut(text),
                ("record", ["identifiers", "header_from"]) => record.row.header_from = cut(text),
                ("record", ["identifiers", "envelope_from"]) => record.row.envelope_from = cut(text),
                ("record", ["auth_results", "dkim", "domain"]) => signature.domain = cut(text),
                ("record", ["auth_results", "dkim", "selector"]) => signature.selector = cut(text),
                ("record", ["auth_results", "dkim", "result"]) => signature.result = cut(text),
                ("record", ["auth_results", "spf", "domain"]) => path.domain = cut(text),
                ("record", ["auth_results", "spf", "scope"]) => path.scope = cut(text),
                ("record", ["auth_results", "spf", "result"]) => path.result = cut(text),
                _ => (),
            }
            Ok(())
        })?;
        for (name, value) in [
            ("report_metadata/org_name", &report.organisation),
            ("report_metadata/report_id", &report.report_id),
            ("policy_published/domain", &report.policy.domain),
        ] {
            if value.is_empty() {
                return Err(ReportError::Missing(name));
            }
        }
        Ok(report)
    }
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() < MAX_LIST {
        list.push(item);
    }
}

impl Record {
    fn write(&self, w: &mut xml::Writer) {
        let row = &self.row;
        w.open("record");
        w.open("row");
        w.text("source_ip", &row.source);
        w.text("count", &self.count.to_string());
        w.open("policy_evaluated");
        w.text("disposition", &row.disposition);
        w.text("dkim", &row.dkim);
        w.text("spf", &row.spf);
        for reason in &row.overrides {
            w.open("reason");
            w.text("type", &reason.reason);
            w.some_text("comment", &reason.comment);
            w.close("reason");
        }
        w.close("policy_evaluated");
        w.close("row");
        w.open("identifiers");
        w.text("header_from", &row.header_from);
        w.some_text("envelope_from", &row.envelope_from);
        w.close("identifiers");
        w.open("auth_results");
        for signature in &row.signatures {
            w.open("dkim");
            w.text("domain", &signature.domain);
            w.text("selector", &signature.selector);
            w.text("result", &signature.result);
            w.close("dkim");
        }
        for path in &row.paths {
            w.open("spf");
            w.text("domain", &path.domain);
            w.some_text("scope", &path.scope);
            w.text("result", &path.result);
            w.close("spf");
        }
        w.close("auth_results");
        w.close("record");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Aggregate {
        let row = Row {
            source: "192.0.2.1".into(),
            disposition: "quarantine".into(),
            dkim: "fail".into(),
            spf: "fail".into(),
            overrides: vec![Override { reason: "local_policy".into(), comment: "a < b & \"c\"".into() }],
            header_from: "sender.com".into(),
            envelope_from: "x]]>y.example".into(),
            signatures: vec![AuthDkim { domain: "other.com".into(), selector: "<s>".into(), result: "pass".into() }],
            paths: vec![AuthSpf { domain: "x.example".into(), scope: "mfrom".into(), result: "softfail".into() }],
        };
        let passed = Row { dkim: "pass".into(), ..Row::default() };
        Aggregate {
            organisation: "example.com".into(),
            email: "dmarc@example.com".into(),
            report_id: "2026-01-31.sender.com".into(),
            begin: 1_769_817_600,
            end: 1_769_903_999,
            policy: Policy {
                domain: "sender.com".into(),
                p: "reject".into(),
                sp: "none".into(),
                np: String::new(),
                adkim: "r".into(),
                aspf: "s".into(),
                testing: true,
            },
            records: vec![Record { row, count: 7 }, Record { row: passed, count: 3 }],
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let xml = report().to_xml("test 1");
        assert_eq!(Aggregate::parse(xml.as_bytes()), Ok(report()), "{xml}");
        assert_eq!(report().totals(), (3, 7));
    }

    #[test]
    fn reports_of_the_former_standard_are_read_too() {
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
<feedback>
  <report_metadata>
    <org_name>acme.com</org_name><email>noreply@acme.com</email>
    <report_id>9391651994964116463</report_id>
    <date_range><begin>1335571200</begin><end>1335657599</end></date_range>
  </report_metadata>
  <policy_published><domain>Example.com</domain><adkim>r</adkim><aspf>r</aspf><p>none</p><sp>none</sp><pct>100</pct></policy_published>
  <record>
    <row><source_ip>72.150.241.94</source_ip><count>2</count>
      <policy_evaluated><disposition>none</disposition><dkim>fail</dkim><spf>pass</spf></policy_evaluated></row>
    <identifiers><header_from>example.com</header_from></identifiers>
    <auth_results><dkim><domain>example.com</domain><result>fail</result><human_result>x</human_result></dkim>
      <spf><domain>example.com</domain><result>pass</result></spf></auth_results>
  </record>
</feedback>"#;
        let report = Aggregate::parse(xml.as_bytes()).expect("valid");
        assert_eq!((report.organisation.as_str(), report.policy.domain.as_str()), ("acme.com", "example.com"));
        assert_eq!((report.totals(), report.begin), ((2, 0), 1_335_571_200));
    }

    #[test]
    fn hostile_documents_are_refused_or_cut() {
        for bad in ["", "<feedback>", "<feedback></feedback>", "no xml", "<a><b></a></b>", "\u{0}"] {
            assert!(Aggregate::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let bomb = r#"<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><feedback>&y;</feedback>"#;
        assert!(Aggregate::parse(bomb.as_bytes()).is_err());
        let deep = "<a>".repeat(100_000);
        assert!(Aggregate::parse(deep.as_bytes()).is_err());
        let many = format!("<feedback>{}</feedback>", "<record></record>".repeat(MAX_RECORDS + 1));
        assert_eq!(Aggregate::parse(many.as_bytes()), Err(ReportError::TooLarge(MAX_RECORDS)));
        assert!(Aggregate::parse(b"<feedback>\xff\xfe</feedback>").is_err());
        let mut long = report();
        long.organisation = "o".repeat(100_000);
        let read = Aggregate::parse(long.to_xml("x").as_bytes()).expect("valid");
        assert_eq!(read.organisation.len(), 512);
    }
}
