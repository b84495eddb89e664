//! The gRPC side: collects content within its bounds, answers within the deadline.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use proto::{
    auth::{
        SignRequest, SignResponse, VerifyParameters, VerifyRequest, VerifyResponse, auth_server,
        verify_response::Action,
    },
    directory::directory_client::DirectoryClient,
};
use runtime::grpc::Channel;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, field::Empty, info_span};

use crate::{
    config::{Config, DnsFailure},
    findings::Findings,
    metrics::Metrics,
    results::{self, Identities},
    sign::KeyStore,
    verdict,
    verify::{Checker, Session},
};

/// Hashing more than this would hold a worker thread noticeably.
const LARGE: usize = 1 << 20;

pub(crate) struct Auth {
    checker: Arc<Checker>,
    keys: KeyStore,
    gate: Semaphore,
    metrics: Arc<Metrics>,
    verify_timeout: Duration,
    max_message_size: usize,
    dns_failure: DnsFailure,
}

impl Auth {
    pub fn new(
        config: &Config,
        resolver: dns::Resolver,
        directory: DirectoryClient<Channel>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            checker: Arc::new(Checker::new(resolver, config.max_signatures, config.dns_failure)),
            keys: KeyStore::new(directory),
            gate: Semaphore::new(config.concurrency),
            metrics,
            verify_timeout: config.verify_timeout(),
            max_message_size: config.max_message_size,
            dns_failure: config.dns_failure,
        }
    }

    /// A place among the running calls, taken before content is read: that bounds memory.
    async fn enter(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.gate.acquire().await.map_err(|_| Status::unavailable("shutting down"))
    }

    async fn verify(&self, mut stream: Streaming<VerifyRequest>) -> Result<VerifyResponse, Status> {
        let _place = self.enter().await?;
        let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("no parameters"))?;
        let session = session(first.parameters.ok_or_else(|| Status::invalid_argument("no parameters"))?)?;
        let content = collect(&mut stream, first.content, |request| request.content, self.max_message_size).await?;

        let started = Instant::now();
        let session = Arc::new(session);
        let findings = self.check(Arc::clone(&session), content).await?;
        let verdict = verdict::decide(&findings.dmarc, self.dns_failure);
        self.observe(&findings, verdict.action, started);
        let identities =
            Identities { authserv_id: &session.authserv_id, helo: &session.helo, reverse_path: &session.reverse_path };
        Ok(VerifyResponse {
            action: verdict.action.into(),
            reason: verdict.reason,
            authentication_results: results::field(&identities, &findings),
            spf: findings.spf.to_owned(),
            dkim: findings.dkim().to_owned(),
            dmarc: findings.dmarc.result.to_owned(),
            arc: findings.arc.unwrap_or("none").to_owned(),
            from_domain: findings.dmarc.domain,
        })
    }

    async fn check(&self, session: Arc<Session>, content: Bytes) -> Result<Findings, Status> {
        let checker = Arc::clone(&self.checker);
        let limit = self.verify_timeout;
        let is_large = content.len() > LARGE;
        let work = async move {
            // Time that ran out is DNS that did not answer: nothing else here waits.
            tokio::time::timeout(limit, checker.check(&session, &content)).await.unwrap_or_else(|_| Findings::unknown())
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

    fn observe(&self, findings: &Findings, action: Action, started: Instant) {
        self.metrics.check("spf", findings.spf);
        self.metrics.check("dkim", findings.dkim());
        self.metrics.check("dmarc", findings.dmarc.result);
        if let Some(arc) = findings.arc {
            self.metrics.check("arc", arc);
        }
        let outcome = match action {
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
