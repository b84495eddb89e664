//! The daily TLS report (RFC 8460): who gets which, as a message or a POST.

use std::{io::Write as _, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{NaiveDate, Utc};
use flate2::{Compression, write::GzEncoder};
use http_body_util::Full;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use proto::{
    relay::{ClaimTlsReportRequest, FinishTlsReportRequest, TlsReport},
    spool::{Envelope, Event, Recipient},
};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tonic::Status;

use crate::{Relay, bounce, sign};

const POST: Duration = Duration::from_secs(60);
/// Of one record; more are not served.
const MAX_ADDRESSES: usize = 4;
/// Reports of one look.
const MAX_REPORTS: usize = 1_000;

pub(crate) async fn run_forever(relay: Arc<Relay>) {
    if !relay.config.tls_reports {
        return;
    }
    loop {
        for _ in 0..MAX_REPORTS {
            match next(&relay).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    tracing::warn!(error = %e, "TLS report put off");
                    break;
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(relay.config.tls_report_every)).await;
    }
}

/// False when there is none.
async fn next(relay: &Relay) -> Result<bool, Status> {
    let report = relay.kept.clone().claim_tls_report(ClaimTlsReportRequest {}).await?.into_inner();
    if report.domain.is_empty() {
        return Ok(false);
    }
    let (domain, day) = (report.domain.clone(), report.day.clone());
    let texts = match relay.resolver.txt(&format!("_smtp._tls.{domain}")).await {
        Ok(texts) => texts,
        // Claimed again in ten minutes.
        Err(e) if e.is_transient() => return Err(Status::unavailable(e.to_string())),
        Err(_) => Vec::new(),
    };
    let addresses = rua(&texts);
    if !addresses.is_empty() {
        send(relay, &report, &addresses).await?;
    }
    relay.kept.clone().finish_tls_report(FinishTlsReportRequest { domain, day }).await?;
    Ok(true)
}

/// The `rua` of the one record (RFC 8460 §3).
fn rua(texts: &[Vec<u8>]) -> Vec<String> {
    let mut records = texts.iter().filter_map(|t| {
        let text = std::str::from_utf8(t).ok()?;
        let mut fields = text.split(';').map(str::trim);
        (fields.next()? == "v=TLSRPTv1").then_some(())?;
        Some(fields.find_map(|f| f.strip_prefix("rua="))?.to_owned())
    });
    let Some(first) = records.next() else { return Vec::new() };
    if records.next().is_some() {
        return Vec::new();
    }
    first.split(',').map(|a| a.trim().to_owned()).take(MAX_ADDRESSES).collect()
}

/// To all addresses; one that does not work keeps no other from its report.
async fn send(relay: &Relay, report: &TlsReport, addresses: &[String]) -> Result<(), Status> {
    let id = report_id(report);
    let organisation = &relay.config.hostname;
    let from = relay.config.tls_report_from.clone().unwrap_or_else(|| format!("postmaster@{organisation}"));
    let Some(document) = document(report, organisation, &from, &id) else {
        return Ok(());
    };
    let compressed = gzip(document.to_string().as_bytes()).map_err(|e| Status::internal(e.to_string()))?;
    for address in addresses {
        if let Some(to) = address.strip_prefix("mailto:") {
            let to = to.split('?').next().unwrap_or_default();
            mail(relay, report, to, &from, &id, &compressed).await?;
        } else if let Some(rest) = address.strip_prefix("https://") {
            match tokio::time::timeout(POST, post(relay, rest, compressed.clone())).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::info!(domain = report.domain, error = %e, "TLS report not taken"),
                Err(_) => tracing::info!(domain = report.domain, "TLS report not taken in time"),
            }
        }
    }
    Ok(())
}

/// RFC 8460 §4.4.
fn document(report: &TlsReport, organisation: &str, contact: &str, id: &str) -> Option<Value> {
    let day: NaiveDate = report.day.parse().ok()?;
    let mut policies: Vec<(String, u64, u64, Vec<Value>)> = Vec::new();
    for result in &report.results {
        let at = match policies.iter().position(|(policy, ..)| *policy == result.policy) {
            Some(at) => at,
            None => {
                policies.push((result.policy.clone(), 0, 0, Vec::new()));
                policies.len() - 1
            }
        };
        let (_, good, bad, failures) = policies.get_mut(at)?;
        *good += result.successful_sessions;
        *bad += result.failed_sessions;
        if let Ok(mut failure) = serde_json::from_str::<Value>(&result.failure)
            && result.failed_sessions > 0
            && failure.is_object()
        {
            failure["failed-session-count"] = json!(result.failed_sessions);
            failures.push(failure);
        }
    }
    let policies = policies.into_iter().map(|(policy, good, bad, failures)| {
        json!({
            "policy": serde_json::from_str::<Value>(&policy).unwrap_or_default(),
            "summary": { "total-successful-session-count": good, "total-failure-session-count": bad },
            "failure-details": failures,
        })
    });
    Some(json!({
        "organization-name": organisation,
        "date-range": { "start-datetime": format!("{day}T00:00:00Z"), "end-datetime": format!("{day}T23:59:59Z") },
        "contact-info": contact,
        "report-id": id,
        "policies": policies.collect::<Vec<_>>(),
    }))
}

/// The same report has the same id, should it be sent twice.
fn report_id(report: &TlsReport) -> String {
    format!("{}.{}", report.day, report.domain)
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// RFC 8460 §5.3: multipart/report with the compressed document, signed for the From domain.
async fn mail(
    relay: &Relay,
    report: &TlsReport,
    to: &str,
    from: &str,
    id: &str,
    compressed: &[u8],
) -> Result<(), Status> {
    if to.parse::<address::Address>().is_err() {
        return Ok(());
    }
    let submitter = &relay.config.hostname;
    let digest = dsn::report_id(&[0; 16], &[]);
    let name = format!("tlsrpt {id} {to}");
    let queue_id = address::QueueId::from_bytes(uuid_of(&digest, &name)).to_string();
    let (domain, boundary) = (&report.domain, format!("=_{queue_id}"));
    let encoded = STANDARD.encode(compressed);
    let lines: Vec<&str> = encoded.as_bytes().chunks(76).filter_map(|l| std::str::from_utf8(l).ok()).collect();
    let day = report.day.parse::<NaiveDate>().map_err(|_| Status::internal("day"))?;
    let begin = day.and_hms_opt(0, 0, 0).map_or(0, |t| t.and_utc().timestamp());
    let file = format!("{submitter}!{domain}!{begin}!{}!{queue_id}.json.gz", begin + 86_399);
    let mut content = format!(
        "From: <{from}>\r\nTo: <{to}>\r\nDate: {date}\r\nMessage-ID: <{queue_id}@{submitter}>\r\n\
         Subject: Report Domain: {domain} Submitter: {submitter} Report-ID: <{id}@{submitter}>\r\n\
         TLS-Report-Domain: {domain}\r\nTLS-Report-Submitter: {submitter}\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=\"tlsrpt\"; boundary=\"{boundary}\"\r\n\r\n\
         --{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
         TLS report for {domain} of {day} from {submitter}.\r\n\r\n\
         --{boundary}\r\nContent-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"{file}\"\r\n\r\n{body}\r\n--{boundary}--\r\n",
        date = Utc::now().to_rfc2822(),
        body = lines.join("\r\n"),
    );
    let domain = from.rsplit('@').next().unwrap_or_default();
    content.insert_str(0, &sign::fields(relay, domain, content.as_bytes()).await?);
    let targets = bounce::targets(relay, to).await?;
    if targets.is_empty() {
        return Ok(());
    }
    let envelope = Envelope {
        queue_id,
        // Reports about mail to their domain's trouble must not come back as more of it.
        reverse_path: String::new(),
        recipients: vec![Recipient { forward_path: to.to_owned(), targets, ..Recipient::default() }],
        events: vec![Event {
            name: "received".to_owned(),
            service: "outbound-relay".to_owned(),
            text: format!("TLS report of {day} for {domain}"),
            ..Event::default()
        }],
        ..Envelope::default()
    };
    bounce::accept(relay, envelope, content.into()).await
}

/// FNV-1a, so that a report that is sent again is the same message.
fn uuid_of(seed: &[u8; 16], name: &str) -> [u8; 16] {
    let hash = name.bytes().fold(u128::from_be_bytes(*seed), |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    uuid::Uuid::new_v8(hash.to_be_bytes()).into_bytes()
}

/// RFC 8460 §5.4. `rest` is host, port and path.
async fn post(relay: &Relay, rest: &str, compressed: Vec<u8>) -> anyhow::Result<()> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = crate::policy::host_and_port(authority).ok_or_else(|| anyhow::anyhow!("no host in {rest}"))?;
    let addresses = relay.resolver.addresses(&host).await?;
    let address = addresses.first().ok_or_else(|| anyhow::anyhow!("no address"))?;
    let stream = tokio::net::TcpStream::connect((*address, port.unwrap_or(443))).await?;
    let stream = relay.tls.https().connect(ServerName::try_from(host.clone())?, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("/{path}"))
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/tlsrpt+gzip")
        .body(Full::new(Bytes::from(compressed)))?;
    let answer = sender.send_request(request).await?;
    driver.abort();
    anyhow::ensure!(answer.status().is_success(), "{host} answered {}", answer.status());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proto::relay::TlsResult;

    #[test]
    fn where_reports_go() {
        let of = |texts: &[&str]| rua(&texts.iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(
            of(&["v=TLSRPTv1; rua=mailto:a@b.example,https://c.example/x"]),
            ["mailto:a@b.example", "https://c.example/x"]
        );
        assert_eq!(of(&["v=spf1 -all"]), [""; 0]);
        assert_eq!(of(&["v=TLSRPTv1;rua=mailto:a@b", "v=TLSRPTv1;rua=mailto:c@d"]), [""; 0]);
    }

    #[test]
    fn the_document() {
        let policy = r#"{"policy-type":"sts","policy-domain":"example.com"}"#.to_owned();
        let result = |failure: &str, good, bad| TlsResult {
            domain: "example.com".into(),
            policy: policy.clone(),
            failure: failure.into(),
            successful_sessions: good,
            failed_sessions: bad,
        };
        let report = TlsReport {
            domain: "example.com".into(),
            day: "2026-01-31".into(),
            results: vec![result("", 5, 0), result(r#"{"result-type":"certificate-expired"}"#, 0, 2)],
        };
        let document = document(&report, "mx.sender.com", "postmaster@sender.com", "id").unwrap();
        let policies = document["policies"].as_array().unwrap();
        assert_eq!(policies.len(), 1);
        assert_eq!(policies[0]["summary"]["total-successful-session-count"], 5);
        assert_eq!(policies[0]["failure-details"][0]["failed-session-count"], 2);
        assert_eq!(document["date-range"]["start-datetime"], "2026-01-31T00:00:00Z");
    }
}
