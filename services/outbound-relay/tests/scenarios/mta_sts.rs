//! MTA-STS end to end: a policy host with HTTPS on loopback, a policy that outlives its host, and
//! the report that goes out (RFC 8461, RFC 8460).

use std::{io::Read as _, sync::Arc};

use crate::support::{Peer, Script, Tls, delivery, site, tls::Authority, told};
use proto::relay::{TlsReport, TlsResult};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Answers every request with `answer`; ends with the returned task.
async fn policy_host(config: Arc<rustls::ServerConfig>, answer: String) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
            let answer = answer.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = vec![0; 4_096];
                let n = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..n]).into_owned();
                assert!(request.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), "{request}");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, task)
}

fn ok(policy: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{policy}", policy.len())
}

/// The TLS results, once there are some.
async fn counted(site: &crate::support::Site) -> Vec<TlsResult> {
    for _ in 0..1_000 {
        let results = site.mda.0.lock().unwrap().tls_results.clone();
        if !results.is_empty() {
            return results;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no results");
}

const ENFORCE: &str = "version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 86400\r\n";
const ZONE: [&str; 4] = [
    "example.com. MX 10 mx.example.com.",
    "mx.example.com. A 127.0.0.1",
    "_mta-sts.example.com. TXT v=STSv1; id=20260101;",
    "mta-sts.example.com. A 127.0.0.1",
];

#[tokio::test(flavor = "multi_thread")]
async fn fetched_kept_and_in_force_when_its_host_is_gone() {
    let authority = Authority::new();
    let (port, host) = policy_host(authority.issue("mta-sts.example.com", false).config, ok(ENFORCE)).await;
    let tls = Tls::With(authority.issue("mx.example.com", false).config);
    let peer = Peer::start("127.0.0.1:0", Script { tls, ..Script::default() }).await;
    let adjust = |c: &mut outbound_relay::Config| {
        c.tls_ca = Some(authority.file.clone());
        c.mta_sts_port = port;
        c.tls_results_every = 1;
        c.back_off_first = 1;
        c.back_off_max = 1;
    };
    let first = site(&ZONE, peer.address.port(), adjust).await;
    first.submit(vec![delivery("bob@example.com")]).await;
    assert_eq!(told(&first.outcomes(1).await[0]).0, "relayed");
    let kept = first.mda.0.lock().unwrap().policies.get("example.com").cloned().unwrap();
    assert_eq!((kept.id.as_str(), kept.text.as_str()), ("20260101", ENFORCE));
    assert_eq!(kept.expires_at_ms - kept.fetched_at_ms, 86_400_000);
    first.stop().await;

    // Another relay, no policy host, no TXT record, and somebody strips STARTTLS: nothing goes.
    host.abort();
    peer.change(|s| s.tls = Tls::No);
    let second = site(&ZONE[..2], peer.address.port(), adjust).await;
    second.mda.0.lock().unwrap().policies.insert("example.com".into(), kept);
    second.submit(vec![delivery("bob@example.com")]).await;
    let (name, text) = told(&second.outcomes(1).await[0]);
    assert_eq!((name, peer.taken()), ("deferred", 1), "{text}");
    assert!(text.contains("offers no TLS"), "{text}");
    let results = counted(&second).await;
    second.stop().await;
    assert_eq!(results.len(), 1);
    assert!(results[0].failure.contains("starttls-not-supported") && results[0].policy.contains("mode: enforce"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_had_is_reported_and_costs_no_mail() {
    let authority = Authority::new();
    let redirect = "HTTP/1.1 301 Moved\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n".to_owned();
    for (name, certificate, answer, result) in [
        ("wrong name", "other.example.com", ok(ENFORCE), "sts-webpki-invalid"),
        ("redirect", "mta-sts.example.com", redirect, "sts-policy-fetch-error"),
        ("garbage", "mta-sts.example.com", ok("<html>"), "sts-policy-invalid"),
        ("too long", "mta-sts.example.com", ok(&"mx: a\r\n".repeat(20_000)), "sts-policy-fetch-error"),
    ] {
        let (port, _host) = policy_host(authority.issue(certificate, false).config, answer).await;
        let peer = Peer::start("127.0.0.1:0", Script::default()).await;
        let site = site(&ZONE, peer.address.port(), |c| {
            c.tls_ca = Some(authority.file.clone());
            c.mta_sts_port = port;
            c.tls_results_every = 1;
        })
        .await;
        site.submit(vec![delivery("bob@example.com")]).await;
        assert_eq!(told(&site.outcomes(1).await[0]).0, "relayed", "{name}");
        let results = counted(&site).await;
        site.stop().await;
        assert!(results.iter().any(|r| r.failure.contains(result)), "{name}: {results:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daily_report_goes_to_whom_the_domain_names() {
    let zone = ["_smtp._tls.example.com. TXT v=TLSRPTv1; rua=mailto:tls@reports.example"];
    let site = site(&zone, 25, |c| c.tls_report_every = 1).await;
    let result = |failure: &str, good, bad| TlsResult {
        domain: "example.com".into(),
        policy: r#"{"policy-type":"sts","policy-domain":"example.com"}"#.into(),
        failure: failure.into(),
        successful_sessions: good,
        failed_sessions: bad,
    };
    let failure = r#"{"result-type":"certificate-expired","receiving-mx-hostname":"mx.example.com"}"#;
    let results = vec![result("", 41, 0), result(failure, 0, 1)];
    let report = TlsReport { domain: "example.com".into(), day: "2026-01-31".into(), results };
    site.mda.0.lock().unwrap().tls_reports.push(report);
    for _ in 0..2_000 {
        if site.mda.0.lock().unwrap().finished_reports == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (envelope, content) = site.mda.0.lock().unwrap().accepted.pop().unwrap();
    assert_eq!(
        (envelope.reverse_path.as_str(), envelope.recipients[0].forward_path.as_str()),
        ("", "tls@reports.example")
    );
    let content = String::from_utf8(content).unwrap();
    assert!(content.contains("report-type=\"tlsrpt\"") && content.contains("TLS-Report-Domain: example.com"));
    let (_, encoded) = content.split_once("json.gz\"\r\n\r\n").unwrap();
    let encoded: String = encoded.lines().take_while(|l| !l.starts_with("--")).collect();
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    let mut json = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut json).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["organization-name"], "mx.sender.com");
    assert_eq!(json["policies"][0]["summary"]["total-successful-session-count"], 41);
    assert_eq!(json["policies"][0]["failure-details"][0]["failed-session-count"], 1);
    site.stop().await;
}
