//! `postroad admin dkim | dmarc | report`: keys, a tenant's mind about DMARC, what others report.

use clap::Subcommand;
use proto::admin;
use serde_json::{Value, json};

use super::{Answer, zone_line};
use crate::client::{Admin, refused};

#[derive(Debug, Subcommand)]
pub enum Dkim {
    /// The keys of a domain, and when they sign
    List { domain: String },
    /// Make new keys; prints the DNS records to publish before they sign
    Rotate {
        domain: String,
        /// Until the new keys sign: time to publish their records. Default: a day
        #[arg(long, value_name = "SECONDS")]
        publish_seconds: Option<u64>,
        /// From then on, until the old records may go. Default: a week
        #[arg(long, value_name = "SECONDS")]
        overlap_seconds: Option<u64>,
    },
    /// Remove a key at once, because others may know it
    Remove { domain: String, selector: String },
}

#[derive(Debug, Subcommand)]
pub enum Dmarc {
    /// What becomes of mail that DMARC refuses, for all domains of a tenant
    Override {
        tenant: String,
        #[arg(value_enum)]
        action: Refused,
    },
    /// The same for one domain, whatever its tenant has
    OverrideDomain {
        domain: String,
        #[arg(value_enum)]
        action: OfDomain,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum OfDomain {
    /// It is refused, as the sender's domain asks for
    Reject,
    /// It goes to Junk
    Quarantine,
    /// As its tenant has it
    Inherit,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Refused {
    /// It is refused, as the sender's domain asks for
    Reject,
    /// It goes to Junk
    Quarantine,
}

#[derive(Debug, Subcommand)]
pub enum Report {
    /// DMARC and TLS reports about our domains, the newest first
    List {
        #[arg(long)]
        domain: Option<String>,
        /// dmarc or tls
        #[arg(long)]
        kind: Option<String>,
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// One report, row by row
    Show { id: u64 },
}

impl Dkim {
    pub async fn run(self, mut client: Admin) -> anyhow::Result<Answer> {
        let keys = match self {
            Dkim::List { domain } => client.list_dkim_keys(admin::ListDkimKeysRequest { domain }).await,
            Dkim::Rotate { domain, publish_seconds, overlap_seconds } => {
                client.rotate_dkim(admin::RotateDkimRequest { domain, publish_seconds, overlap_seconds }).await
            }
            Dkim::Remove { domain, selector } => {
                client.remove_dkim_key(admin::RemoveDkimKeyRequest { domain, selector }).await
            }
        };
        let keys = keys.map_err(refused)?.into_inner();
        let lines = keys.keys.iter().flat_map(key_lines).collect();
        let documents: Vec<Value> = keys.keys.iter().map(key_document).collect();
        Ok(Answer { lines, document: json!({ "domain": keys.domain, "keys": documents }) })
    }
}

fn state(key: &admin::DkimKey) -> String {
    key.state().as_str_name().to_lowercase()
}

/// What the key does, and its record as a line of a zone file.
fn key_lines(key: &admin::DkimKey) -> Vec<String> {
    let until = match key.removed_from_ms {
        0 => String::new(),
        _ => format!(", signs until {}, published until {}", time(key.retired_from_ms), time(key.removed_from_ms)),
    };
    let head = format!("; {} {}: signs from {}{until}", key.selector, state(key), time(key.active_from_ms));
    [Some(head), key.record.as_ref().map(zone_line)].into_iter().flatten().collect()
}

fn key_document(key: &admin::DkimKey) -> Value {
    let record = key.record.clone().unwrap_or_default();
    json!({
        "selector": key.selector,
        "algorithm": key.algorithm,
        "state": state(key),
        "created_at_ms": key.created_at_ms,
        "active_from_ms": key.active_from_ms,
        "retired_from_ms": key.retired_from_ms,
        "removed_from_ms": key.removed_from_ms,
        "record": { "name": record.name, "type": record.r#type, "value": record.value },
    })
}

/// RFC 3339, in UTC and seconds.
fn time(ms: i64) -> String {
    jiff::Timestamp::from_second(ms.div_euclid(1000)).map_or_else(|_| ms.to_string(), |at| at.to_string())
}

impl Dmarc {
    pub async fn run(self, mut client: Admin) -> anyhow::Result<Answer> {
        let (request, whose) = match self {
            Dmarc::Override { tenant, action } => {
                let (quarantine, whose) = (matches!(action, Refused::Quarantine), format!("tenant {tenant}"));
                (admin::SetDmarcOverrideRequest { tenant, quarantine, ..Default::default() }, whose)
            }
            Dmarc::OverrideDomain { domain, action } => {
                let quarantine = matches!(action, OfDomain::Quarantine);
                let (inherit, whose) = (matches!(action, OfDomain::Inherit), format!("domain {domain}"));
                (admin::SetDmarcOverrideRequest { domain, quarantine, inherit, ..Default::default() }, whose)
            }
        };
        client.set_dmarc_override(request.clone()).await.map_err(refused)?;
        let words = match request {
            admin::SetDmarcOverrideRequest { inherit: true, .. } => "is treated as its tenant has it",
            admin::SetDmarcOverrideRequest { quarantine: true, .. } => "goes to Junk",
            _ => "is refused",
        };
        let mut document = json!({ "quarantine": request.quarantine });
        match request.domain.as_str() {
            "" => document["tenant"] = json!(request.tenant),
            domain => {
                document["domain"] = json!(domain);
                document["inherit"] = json!(request.inherit);
            }
        }
        Ok(Answer { lines: vec![format!("{whose}: mail that DMARC refuses {words}")], document })
    }
}

impl Report {
    pub async fn run(self, mut client: Admin) -> anyhow::Result<Answer> {
        let (request, shows) = match self {
            Report::List { domain, kind, limit } => {
                let (domain, kind) = (domain.unwrap_or_default(), kind.unwrap_or_default());
                (admin::ListReportsRequest { domain, kind, limit, ..Default::default() }, false)
            }
            Report::Show { id } => (admin::ListReportsRequest { id, ..Default::default() }, true),
        };
        let reports = client.list_reports(request).await.map_err(refused)?.into_inner().reports;
        if shows && reports.is_empty() {
            anyhow::bail!("there is no such report");
        }
        let mut lines = Vec::new();
        for report in &reports {
            lines.push(report_line(report));
            if shows {
                lines.extend(rows(report));
            }
        }
        Ok(Answer { lines, document: reports.iter().map(report_document).collect() })
    }
}

fn report_line(report: &admin::ReceivedReport) -> String {
    let (good, bad) = if report.kind == "tls" { ("sessions good", "failed") } else { ("messages passed", "failed") };
    format!(
        "{}  {}  {}  {} to {}  from {}: {} {good}, {} {bad}",
        report.id,
        report.kind,
        report.domain,
        time(report.begin_ms),
        time(report.end_ms),
        report.organisation,
        report.good,
        report.bad
    )
}

/// A line for each record of a DMARC report, for each failure of a TLS report.
fn rows(report: &admin::ReceivedReport) -> Vec<String> {
    let detail: Value = serde_json::from_str(&report.detail).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let records = list(&detail["records"]).into_iter().map(|record| {
        let row = &record["row"];
        format!(
            "  {} from {}  {}  dkim {}  spf {}  {}",
            record["count"],
            text(&row["source"]),
            text(&row["header_from"]),
            text(&row["dkim"]),
            text(&row["spf"]),
            text(&row["disposition"])
        )
    });
    let failures = list(&detail["failures"]).into_iter().map(|failure| {
        format!("  {} at {}: {}", failure["sessions"], text(&failure["host"]), text(&failure["result"]))
    });
    records.chain(failures).collect()
}

fn report_document(report: &admin::ReceivedReport) -> Value {
    json!({
        "id": report.id,
        "kind": report.kind,
        "organisation": report.organisation,
        "report_id": report.report_id,
        "domain": report.domain,
        "begin_ms": report.begin_ms,
        "end_ms": report.end_ms,
        "good": report.good,
        "bad": report.bad,
        "received_at_ms": report.received_at_ms,
        "detail": serde_json::from_str::<Value>(&report.detail).unwrap_or_default(),
    })
}
