//! The gRPC side: collects content within its bounds, answers within the deadline.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use proto::auth::{
    SignRequest, SignResponse, VerifyParameters, VerifyRequest, VerifyResponse, auth_server, verify_response::Action,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, field::Empty, info_span};

use crate::{
    config::{Config, DnsFailure},
    dmarc::{MAX_AUTHOR_DOMAINS, author_domains},
    findings::Findings,
    metrics::{Metrics, Outcome, Reason},
    observed::Collector,
    results::{self, Identities},
    sign::{Key, KeyStore},
    verdict::{self, Local, Override, Verdict},
    verify::{Checked, Checker, Session},
};

/// Hashing more than this would hold a worker thread noticeably.
const LARGE: usize = 1 << 20;

pub(crate) struct Auth {
    checker: Arc<Checker>,
    keys: Arc<KeyStore>,
    /// None when nobody sends reports.
    collector: Option<Arc<Collector>>,
    gate: Semaphore,
    metrics: Arc<Metrics>,
    verify_timeout: Duration,
    max_message_size: usize,
    dns_failure: DnsFailure,
}

impl Auth {
    pub fn new(config: &Config, resolver: dns::Resolver, keys: Arc<KeyStore>, metrics: Arc<Metrics>) -> Self {
        Self {
            checker: Arc::new(Checker::new(resolver, config)),
            keys,
            collector: config.dmarc_report_from.is_some().then(Arc::default),
            gate: Semaphore::new(config.concurrency),
            metrics,
            verify_timeout: config.verify_timeout(),
            max_message_size: config.max_message_size,
            dns_failure: config.dns_failure,
        }
    }

    pub fn collector(&self) -> Arc<Collector> {
        self.collector.clone().unwrap_or_default()
    }

    /// A place among the running calls, taken before content is read: that bounds memory.
    async fn enter(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.gate.acquire().await.map_err(|_| Status::unavailable("shutting down"))
    }

    async fn verify(&self, mut stream: Streaming<VerifyRequest>) -> Result<VerifyResponse, Status> {
        let _place = self.enter().await?;
        let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("no parameters"))?;
        let parameters = first.parameters.ok_or_else(|| Status::invalid_argument("no parameters"))?;
        let (seal_domain, quarantine_rejects) = (parameters.seal_domain.clone(), parameters.quarantine_rejects);
        let session = session(parameters)?;
        let seal = match seal_domain.trim_end_matches('.').to_ascii_lowercase() {
            domain if domain.is_empty() => None,
            domain => self.keys.of(&domain).await?.rsa().map(|key| (domain, key)),
        };
        let content = collect(&mut stream, first.content, |request| request.content, self.max_message_size).await?;

        let started = Instant::now();
        let session = Arc::new(session);
        let Checked { findings, arc_set, observed } = self.check(Arc::clone(&session), content, seal).await?;
        let local = Local { vouched_by: findings.vouched_by.as_deref(), quarantine_rejects };
        let verdict = verdict::with_local(&findings.dmarc, self.dns_failure, local);
        self.observe(&findings, &verdict, started);
        if !seal_domain.is_empty() {
            let outcome = if arc_set.is_empty() { "unsealed" } else { "sealed" };
            self.metrics.seals.get_or_create(&Outcome { outcome }).inc();
        }
        if let (Some(collector), Some(observed)) = (&self.collector, observed) {
            collector.add(observed, findings.dmarc.result == "pass", verdict.action, verdict.over);
        }
        let identities = Identities {
            authserv_id: &session.authserv_id,
            helo: &session.helo,
            peer: session.peer,
            reverse_path: &session.reverse_path,
        };
        Ok(VerifyResponse {
            action: verdict.action.into(),
            reason: verdict.reason,
            authentication_results: results::field(&identities, &findings),
            spf: findings.spf.to_owned(),
            dkim: findings.dkim().to_owned(),
            dmarc: findings.dmarc.result.to_owned(),
            arc: findings.arc.unwrap_or("none").to_owned(),
            iprev: findings.iprev.unwrap_or_default().to_owned(),
            from_domain: findings.dmarc.domain,
            arc_set,
            r#override: verdict.over.name().to_owned(),
        })
    }

    async fn check(
        &self,
        session: Arc<Session>,
        content: Bytes,
        seal: Option<(String, Key)>,
    ) -> Result<Checked, Status> {
        let checker = Arc::clone(&self.checker);
        let limit = self.verify_timeout;
        let is_large = content.len() > LARGE;
        let work = async move {
            // Time that ran out is DNS that did not answer: nothing else here waits.
            let seal = seal.as_ref().map(|(domain, key)| (domain.as_str(), key));
            let checked = tokio::time::timeout(limit, checker.check(&session, &content, seal)).await;
            checked.unwrap_or_else(|_| Checked::unknown())
        };
        if !is_large {
            return Ok(work.await);
        }
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(work)).await.map_err(|e| Status::internal(e.to_string()))
    }

    async fn sign(&self, mut stream: Streaming<SignRequest>) -> Result<SignResponse, Status> {
        let _place = self.enter().await?;
        let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("no domain"))?;
        let domain = first.domain.trim_end_matches('.').to_ascii_lowercase();
        if domain.is_empty() {
            return Err(Status::invalid_argument("no domain"));
        }
        let content = collect(&mut stream, first.content, |request| request.content, self.max_message_size).await?;

        let started = Instant::now();
        if !self.is_ours_to_sign(&domain, &content).await? {
            self.metrics.call("sign", "foreign", started);
            return Ok(SignResponse::default());
        }
        let keys = self.keys.of(&domain).await?;
        let is_large = content.len() > LARGE;
        let sign = move || keys.sign(&domain, &content).map_err(|e| Status::internal(format!("cannot sign: {e}")));
        let header = if is_large {
            tokio::task::spawn_blocking(sign).await.map_err(|e| Status::internal(e.to_string()))??
        } else {
            sign()?
        };
        self.metrics.call("sign", if header.is_empty() { "unsigned" } else { "signed" }, started);
        Ok(SignResponse { header })
    }

    /// A signature says that the domain answers for the message (RFC 6376 §1): it must be an
    /// author's, or stand above one's (DSNs come from our hosts), and nobody else's address may
    /// stand beside it.
    async fn is_ours_to_sign(&self, domain: &str, content: &[u8]) -> Result<bool, Status> {
        let header = content.get(..message::split(content)).unwrap_or_default();
        let authors = author_domains(&message::from_addresses(header));
        let is_under =
            |author: &String| author.strip_suffix(domain).is_some_and(|below| below.is_empty() || below.ends_with('.'));
        if !authors.iter().any(is_under) {
            return Ok(false);
        }
        for other in authors.iter().filter(|author| !is_under(author)).take(MAX_AUTHOR_DOMAINS) {
            if self.keys.of(other).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(authors.len() <= MAX_AUTHOR_DOMAINS)
    }

    fn observe(&self, findings: &Findings, verdict: &Verdict, started: Instant) {
        self.metrics.check("spf", findings.spf);
        self.metrics.check("dkim", findings.dkim());
        self.metrics.check("dmarc", findings.dmarc.result);
        if let Some(arc) = findings.arc {
            self.metrics.check("arc", arc);
        }
        if let Some(iprev) = findings.iprev {
            self.metrics.check("iprev", iprev);
        }
        if verdict.over != Override::None {
            self.metrics.overrides.get_or_create(&Reason { reason: verdict.over.name() }).inc();
        }
        self.metrics.joined.set(i64::try_from(self.checker.joined()).unwrap_or(i64::MAX));
        let outcome = match verdict.action {
            Action::Reject => "reject",
            Action::Defer => "defer",
            Action::Quarantine => "quarantine",
            Action::Accept | Action::Unspecified => "accept",
        };
        self.metrics.call("verify", outcome, started);
        let span = tracing::Span::current();
        span.record("mail.spf", findings.spf).record("mail.dkim", findings.dkim());
        span.record("mail.dmarc", findings.dmarc.result).record("mail.arc", findings.arc.unwrap_or("none"));
        span.record("mail.action", outcome);
        tracing::debug!(spf = findings.spf, dkim = findings.dkim(), dmarc = findings.dmarc.result, outcome, "verdict");
    }
}

#[tonic::async_trait]
impl auth_server::Auth for Auth {
    async fn verify(&self, request: Request<Streaming<VerifyRequest>>) -> Result<Response<VerifyResponse>, Status> {
        let span = info_span!(
            "verdict",
            mail.spf = Empty,
            mail.dkim = Empty,
            mail.dmarc = Empty,
            mail.arc = Empty,
            mail.action = Empty,
        );
        let started = Instant::now();
        let answer = self.verify(request.into_inner()).instrument(span).await;
        answer.map(Response::new).inspect_err(|_| self.metrics.call("verify", "error", started))
    }

    async fn sign(&self, request: Request<Streaming<SignRequest>>) -> Result<Response<SignResponse>, Status> {
        let span = info_span!("signature");
        let started = Instant::now();
        let answer = self.sign(request.into_inner()).instrument(span).await;
        answer.map(Response::new).inspect_err(|_| self.metrics.call("sign", "error", started))
    }
}

fn session(parameters: VerifyParameters) -> Result<Session, Status> {
    let peer: IpAddr = parameters.peer.parse().map_err(|_| Status::invalid_argument("peer is not an IP address"))?;
    Ok(Session {
        // ::ffff:192.0.2.1 is an IPv4 client on a dual-stack socket; SPF means the IPv4 address.
        peer: peer.to_canonical(),
        helo: parameters.helo,
        reverse_path: parameters.reverse_path,
        authserv_id: parameters.authserv_id,
    })
}

/// All content as one buffer; a single chunk is taken as it is.
async fn collect<T>(
    stream: &mut Streaming<T>,
    first: Bytes,
    content: impl Fn(T) -> Bytes,
    limit: usize,
) -> Result<Bytes, Status> {
    let mut buffer: Option<BytesMut> = None;
    let mut whole = first;
    while let Some(request) = stream.message().await? {
        let chunk = content(request);
        if chunk.is_empty() {
            continue;
        }
        if whole.is_empty() && buffer.is_none() {
            whole = chunk;
            continue;
        }
        let buffer = buffer.get_or_insert_with(|| BytesMut::from(whole.as_ref()));
        if buffer.len() + chunk.len() > limit {
            return Err(Status::out_of_range("the message is larger than max_message_size"));
        }
        buffer.extend_from_slice(&chunk);
    }
    let whole = buffer.map_or(whole, BytesMut::freeze);
    if whole.len() > limit {
        return Err(Status::out_of_range("the message is larger than max_message_size"));
    }
    Ok(whole)
}
