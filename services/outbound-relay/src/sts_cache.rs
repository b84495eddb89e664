//! MTA-STS policies: fetched over HTTPS, kept in Postgres through `mda`, and for minutes here.
//!
//! A kept policy holds until its `max_age` is over, whatever the TXT record or the policy host
//! say or fail to say (RFC 8461 §3.3, §5.1): whoever can suppress those must not get around it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use proto::relay::{GetStsPolicyRequest, StsPolicy, relay_client::RelayClient};
use runtime::grpc::Channel;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::sts::{self, MAX_POLICY, Mode, Policy};

/// RFC 8461 §3.3 suggests a minute.
const FETCH: Duration = Duration::from_secs(60);
/// What was found out is not asked again for so long.
const REMEMBER: Duration = Duration::from_secs(300);
/// After a fetch that failed.
const REMEMBER_FAILURE: Duration = Duration::from_secs(60);
const REFRESH_MS: i64 = 86_400_000;
const MAX_REMEMBERED: usize = 50_000;

pub(crate) struct StsCache {
    resolver: dns::Resolver,
    kept: RelayClient<Channel>,
    https: TlsConnector,
    port: u16,
    known: Mutex<HashMap<String, (Found, Instant)>>,
}

/// What is known of a domain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// In force; never with [`Mode::None`].
    pub policy: Option<Arc<Policy>>,
    /// For the TLS report: a policy is announced and could not be had.
    pub trouble: Option<(&'static str, String)>,
}

impl StsCache {
    pub fn new(resolver: dns::Resolver, kept: RelayClient<Channel>, https: TlsConnector, port: u16) -> Self {
        Self { resolver, kept, https, port, known: Mutex::default() }
    }

    /// The policy for mail to `domain` (A-labels). An error means that the kept policies cannot
    /// be asked; then nobody knows whether one is in force.
    pub async fn policy(&self, domain: &str) -> Result<Found, tonic::Status> {
        if let Some(found) = self.remembered(domain) {
            return Ok(found);
        }
        let now_ms = chrono::Utc::now().timestamp_millis();
        let request = GetStsPolicyRequest { domain: domain.to_owned() };
        let kept = match self.kept.clone().get_sts_policy(request).await {
            Ok(kept) => Some(kept.into_inner()).filter(|k| k.expires_at_ms > now_ms),
            Err(status) if matches!(status.code(), tonic::Code::NotFound | tonic::Code::Unimplemented) => None,
            Err(status) => return Err(status),
        };
        let texts = self.resolver.txt(&format!("_mta-sts.{domain}")).await.unwrap_or_default();
        let id = sts::record_id(&texts);
        let in_force = kept.as_ref().and_then(|k| sts::parse(&k.text).ok());
        // The same one is fetched again daily, so that it does not end unseen (§3.3).
        let is_fresh =
            kept.as_ref().is_some_and(|k| Some(&k.id) == id.as_ref() && now_ms - k.fetched_at_ms < REFRESH_MS);
        let is_new = id.is_some() && !is_fresh;
        let mut found = Found { policy: in_force.map(Arc::new), trouble: None };
        let mut remember = REMEMBER;
        if let Some(id) = id.filter(|_| is_new) {
            match self.fetch(domain).await.and_then(|text| {
                let policy = sts::parse(&text).map_err(|e| ("sts-policy-invalid", e.to_owned()))?;
                Ok((text, policy))
            }) {
                Ok((text, policy)) => {
                    let lifetime = i64::try_from(policy.max_age).unwrap_or(i64::MAX).saturating_mul(1_000);
                    let kept = StsPolicy {
                        domain: domain.to_owned(),
                        id,
                        text,
                        fetched_at_ms: now_ms,
                        expires_at_ms: now_ms.saturating_add(lifetime),
                    };
                    if let Err(e) = self.kept.clone().put_sts_policy(kept).await {
                        tracing::warn!(error = %e, "MTA-STS policy not kept");
                    }
                    found.policy = Some(Arc::new(policy));
                }
                Err((result, words)) => {
                    tracing::info!(domain, result, words, "no MTA-STS policy");
                    found.trouble = Some((result, words));
                    remember = REMEMBER_FAILURE;
                }
            }
        }
        found.policy = found.policy.filter(|p| p.mode != Mode::None);
        self.remember(domain, found.clone(), remember);
        Ok(found)
    }

    fn remembered(&self, domain: &str) -> Option<Found> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(domain).filter(|(_, until)| *until > Instant::now()).map(|(found, _)| found.clone())
    }

    fn remember(&self, domain: &str, found: Found, duration: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            let now = Instant::now();
            known.retain(|_, (_, until)| *until > now);
            if known.len() >= MAX_REMEMBERED {
                known.clear();
            }
        }
        known.insert(domain.to_owned(), (found, Instant::now() + duration));
    }

    /// The policy file, or the result type of RFC 8460 §4.3 and why.
    async fn fetch(&self, domain: &str) -> Result<String, (&'static str, String)> {
        let failed = |words: String| ("sts-policy-fetch-error", words);
        match timeout(FETCH, self.get(domain)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(Fetch::Certificate(words))) => Err(("sts-webpki-invalid", words)),
            Ok(Err(Fetch::Other(words))) => Err(failed(words)),
            Err(_) => Err(failed("timed out".to_owned())),
        }
    }

    /// One GET, no redirects (RFC 8461 §3.3), a certificate that is valid for the policy host.
    async fn get(&self, domain: &str) -> Result<String, Fetch> {
        let other = |e: &dyn std::fmt::Display| Fetch::Other(e.to_string());
        let host = format!("mta-sts.{domain}");
        let addresses = self.resolver.addresses(&host).await.map_err(|e| other(&e))?;
        let stream = self.tcp(&addresses).await?;
        let name = ServerName::try_from(host.clone()).map_err(|e| other(&e))?;
        let stream = self.https.connect(name, stream).await.map_err(|e| Fetch::Certificate(e.to_string()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| other(&e))?;
        let driver = tokio::spawn(connection);
        let request = Request::get("/.well-known/mta-sts.txt")
            .header(header::HOST, &host)
            .header(header::USER_AGENT, "Postroad")
            .body(Empty::<Bytes>::new())
            .map_err(|e| other(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| other(&e))?;
        if answer.status() != StatusCode::OK {
            driver.abort();
            return Err(Fetch::Other(format!("{host} answered {}", answer.status())));
        }
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain") {
            driver.abort();
            return Err(Fetch::Other(format!("{host} answered with {kind:?} instead of text/plain")));
        }
        let body = Limited::new(answer.into_body(), MAX_POLICY).collect().await;
        driver.abort();
        let bytes = body.map_err(|e| Fetch::Other(e.to_string()))?.to_bytes();
        String::from_utf8(bytes.to_vec()).map_err(|e| other(&e))
    }

    async fn tcp(&self, addresses: &[IpAddr]) -> Result<TcpStream, Fetch> {
        let mut last = Fetch::Other("no address".to_owned());
        for address in addresses.iter().take(4) {
            match timeout(Duration::from_secs(10), TcpStream::connect(SocketAddr::new(*address, self.port))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => last = Fetch::Other(format!("connect to {address}: {e}")),
                Err(_) => last = Fetch::Other(format!("connect to {address}: timed out")),
            }
        }
        Err(last)
    }
}

enum Fetch {
    Certificate(String),
    Other(String),
}
