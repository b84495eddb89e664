//! The daily aggregate report (RFC 9990): to whom it goes, and the message that carries it. One
//! pod makes a report, because `mda` gives it to one.

use std::{fmt::Write as _, time::Duration};

use address::{Address, QueueId};
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use mail_auth::{common::parse::TxtRecordParser as _, dmarc::Dmarc};
use proto::{
    directory::{self, ResolveRequest, directory_client::DirectoryClient},
    report::{ClaimDmarcReportRequest, DmarcReport, FinishDmarcReportRequest, reports_client::ReportsClient},
    spool::{AcceptRequest, Envelope, Event, Recipient, Target, spool_client::SpoolClient, target::To},
};
use report::{Aggregate, Record};
use runtime::grpc::Channel;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{dmarc::Records, metrics::Metrics, observed::Kept, sign::KeyStore};

/// Of one record; more are not served.
const MAX_ADDRESSES: usize = 5;
/// Reports of one look.
const MAX_REPORTS: usize = 1_000;
const GENERATOR: &str = concat!("Postroad ", env!("CARGO_PKG_VERSION"));

pub(crate) struct Reporter {
    pub resolver: dns::Resolver,
    pub reports: ReportsClient<Channel>,
    pub directory: DirectoryClient<Channel>,
    pub spool: SpoolClient<Channel>,
    pub keys: std::sync::Arc<KeyStore>,
    pub metrics: std::sync::Arc<Metrics>,
    pub hostname: String,
    pub from: Address,
}

impl Reporter {
    pub async fn run_forever(self, every: Duration, shutdown: CancellationToken) {
        loop {
            for _ in 0..MAX_REPORTS {
                match self.next().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => {
                        tracing::warn!(error = %e, "DMARC report put off");
                        break;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(every) => (),
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// False when there is none.
    async fn next(&self) -> Result<bool, Status> {
        let report = self.reports.clone().claim_dmarc_report(ClaimDmarcReportRequest {}).await?.into_inner();
        if report.domain.is_empty() {
            return Ok(false);
        }
        let addresses = self.addresses(&report.domain).await?;
        if addresses.is_empty() {
            self.metrics.report("nobody");
        } else if let Some(document) = self.document(&report) {
            let xml = document.to_xml(GENERATOR);
            let packed = report::gzip(xml.as_bytes()).map_err(|e| Status::internal(e.to_string()))?;
            for to in &addresses {
                self.mail(&document, &report.day, to, &packed).await?;
                self.metrics.report("sent");
            }
        }
        let request = FinishDmarcReportRequest { domain: report.domain, day: report.day };
        self.reports.clone().finish_dmarc_report(request).await?;
        Ok(true)
    }

    /// Who is to get it: `rua=` as it is now, without those elsewhere that did not agree.
    async fn addresses(&self, domain: &str) -> Result<Vec<Address>, Status> {
        let texts = match self.resolver.txt(&format!("_dmarc.{domain}")).await {
            Ok(texts) => texts,
            // Claimed again in ten minutes.
            Err(e) if e.is_transient() => return Err(Status::unavailable(e.to_string())),
            Err(_) => Vec::new(),
        };
        let mut records = texts.iter().filter_map(|text| Dmarc::parse(text).ok());
        let (Some(record), None) = (records.next(), records.next()) else { return Ok(Vec::new()) };
        let mut addresses: Vec<Address> = Vec::new();
        for uri in record.rua.iter().take(MAX_ADDRESSES) {
            let path = uri.uri.split(['?', '!']).next().unwrap_or_default();
            let path = path.get(..7).filter(|s| s.eq_ignore_ascii_case("mailto:")).map_or(path, |_| &path[7..]);
            let Ok(address) = path.parse::<Address>() else { continue };
            if !addresses.contains(&address) && self.agrees(domain, address.domain().as_str()).await? {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// RFC 9990 §4: who gets reports about another organisation's domain says so in its own zone,
    /// or anybody could have floods of them sent anywhere.
    async fn agrees(&self, domain: &str, receiver: &str) -> Result<bool, Status> {
        let (ours, theirs) =
            tokio::join!(Records::walk(&self.resolver, domain), Records::walk(&self.resolver, receiver));
        if ours.organizational(domain) == theirs.organizational(receiver) {
            return Ok(true);
        }
        match self.resolver.txt(&format!("{domain}._report._dmarc.{receiver}")).await {
            Ok(texts) => Ok(texts.iter().any(|t| {
                let version = t.split(|b| *b == b';').next().unwrap_or_default();
                version.trim_ascii() == b"v=DMARC1"
            })),
            Err(e) if e.is_transient() && !matches!(e, dns::LookupError::Refused { .. }) => {
                Err(Status::unavailable(e.to_string()))
            }
            Err(_) => Ok(false),
        }
    }

    fn document(&self, report: &DmarcReport) -> Option<Aggregate> {
        let begin = begin(&report.day)?;
        let mut records: Vec<Record> = Vec::new();
        let mut policy = None;
        for result in &report.results {
            let Ok(kept) = serde_json::from_str::<Kept>(&result.row) else { continue };
            // A policy that changed during the day: the most frequent one is told (§3.1.1.3).
            policy.get_or_insert(kept.policy);
            match records.iter_mut().find(|r| r.row == kept.row) {
                Some(same) => same.count += result.messages,
                None => records.push(Record { row: kept.row, count: result.messages }),
            }
        }
        Some(Aggregate {
            organisation: self.hostname.clone(),
            email: self.from.to_string(),
            // The same report has the same id, should it be sent twice.
            report_id: format!("{}.{}", report.day, report.domain),
            begin,
            end: begin + 86_399,
            policy: policy?,
            records,
        })
    }

    async fn mail(&self, document: &Aggregate, day: &str, to: &Address, packed: &[u8]) -> Result<(), Status> {
        let queue_id = queue_id(&format!("dmarc {} {to}", document.report_id));
        let mut content = message(document, &self.hostname, &self.from, to, &queue_id, packed);
        let domain = self.from.domain().as_str();
        let signature = self.keys.of(domain).await?.sign(domain, content.as_bytes());
        content.insert_str(0, &signature.map_err(|e| Status::internal(format!("cannot sign: {e}")))?);
        let targets = self.targets(to).await?;
        if targets.is_empty() {
            return Ok(());
        }
        let envelope = Envelope {
            queue_id,
            // What cannot be delivered must not come back (RFC 9990 §3.5).
            reverse_path: String::new(),
            recipients: vec![Recipient { forward_path: to.to_string(), targets, ..Recipient::default() }],
            events: vec![Event {
                name: "received".to_owned(),
                service: "auth-checker".to_owned(),
                text: format!("DMARC report of {day} for {}", document.policy.domain),
                ..Event::default()
            }],
            ..Envelope::default()
        };
        let mut content = bytes::Bytes::from(content);
        let mut requests = vec![AcceptRequest {
            envelope: Some(envelope),
            content: content.split_to(content.len().min(proto::CHUNK)),
        }];
        while !content.is_empty() {
            requests.push(AcceptRequest { envelope: None, content: content.split_to(content.len().min(proto::CHUNK)) });
        }
        self.spool.clone().accept(tokio_stream::iter(requests)).await?;
        Ok(())
    }

    async fn targets(&self, to: &Address) -> Result<Vec<Target>, Status> {
        let request = ResolveRequest { recipients: vec![to.to_string()] };
        let resolved = self.directory.clone().resolve(request).await?.into_inner().resolutions;
        let targets = resolved.into_iter().flat_map(|r| r.targets).filter_map(|target| match target.to? {
            directory::target::To::AccountId(id) => Some(Target { to: Some(To::AccountId(id)) }),
            directory::target::To::Remote(path) => Some(Target { to: Some(To::Remote(path)) }),
        });
        Ok(targets.collect())
    }
}

/// Seconds since 1970 at which a day (UTC) begins.
fn begin(day: &str) -> Option<i64> {
    day.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp().as_second())
}

/// A report that is sent again is the same message.
fn queue_id(name: &str) -> String {
    let hash = digest::digest(&digest::SHA256, name.as_bytes());
    let mut id = [0; 16];
    id.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    // A UUID of version 8 (RFC 9562 §5.8).
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    QueueId::from_bytes(id).to_string()
}

/// RFC 9990 §3.5.1: subject and file name are as receivers expect them.
fn message(
    document: &Aggregate,
    submitter: &str,
    from: &Address,
    to: &Address,
    queue_id: &str,
    packed: &[u8],
) -> String {
    let Aggregate { begin, end, report_id, policy, .. } = document;
    let (domain, boundary) = (&policy.domain, format!("=_{queue_id}"));
    let zoned = Timestamp::now().to_zoned(TimeZone::UTC);
    // Fails only for years that the format cannot write.
    let date = jiff::fmt::rfc2822::to_string(&zoned).unwrap_or_default();
    let file = format!("{submitter}!{domain}!{begin}!{end}!{queue_id}.xml.gz");
    let mut message = format!(
        "From: <{from}>\r\nTo: <{to}>\r\nDate: {date}\r\nMessage-ID: <{queue_id}@{submitter}>\r\n\
         Subject: Report Domain: {domain} Submitter: {submitter} Report-ID: <{report_id}>\r\n\
         Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n\
         --{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
         DMARC aggregate report for {domain} from {submitter}.\r\n\r\n\
         --{boundary}\r\nContent-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"{file}\"\r\n\r\n"
    );
    let encoded = STANDARD.encode(packed);
    for line in encoded.as_bytes().chunks(76) {
        let _ = write!(message, "{}\r\n", String::from_utf8_lossy(line));
    }
    let _ = write!(message, "--{boundary}--\r\n");
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_message_that_is_read_again() {
        let policy = report::Policy { domain: "sender.com".into(), p: "reject".into(), ..Default::default() };
        let record = Record { count: 3, ..Record::default() };
        let document = Aggregate {
            organisation: "mx.example.com".into(),
            report_id: "2026-01-31.sender.com".into(),
            begin: begin("2026-01-31").expect("a day"),
            policy,
            records: vec![record],
            ..Aggregate::default()
        };
        assert_eq!(document.begin, 1_769_817_600);
        let packed = report::gzip(document.to_xml(GENERATOR).as_bytes()).expect("memory");
        let (from, to) = ("d@example.com".parse().expect("valid"), "r@sender.com".parse().expect("valid"));
        let id = queue_id("x");
        assert_eq!(id, queue_id("x"));
        let message = message(&document, "mx.example.com", &from, &to, &id, &packed);
        let found = report::documents(message.as_bytes());
        let [report::Document::Xml(xml)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(Aggregate::parse(xml), Ok(document));
        assert!(message.lines().all(|l| l.len() <= 998) && message.is_ascii());
    }
}
