//! Rate, errors and duration of calls, on both sides, and a span for each call that belongs to a trace.

use std::{
    sync::OnceLock,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tonic::{Code, Status};
use tower::Service;
use tracing::{Instrument as _, Span, field::Empty, info_span};

use super::{Answer, Call};
use crate::telemetry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    method: String,
    code: &'static str,
}

/// One side's.
#[derive(Debug, Clone)]
struct Side {
    calls: Family<CallLabel, Counter>,
    seconds: Family<MethodLabel, Histogram, fn() -> Histogram>,
}

fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 3.0, 11))
}

impl Side {
    fn new() -> Self {
        Self { calls: Family::default(), seconds: Family::new_with_constructor(buckets) }
    }

    fn ended(&self, method: &str, code: Code, took: Duration) {
        self.calls.get_or_create(&CallLabel { method: method.to_owned(), code: word(code) }).inc();
        self.seconds.get_or_create(&MethodLabel { method: method.to_owned() }).observe(took.as_secs_f64());
    }
}

/// Channels and servers are made in many places; a process has one registry.
static CALLS: OnceLock<(Side, Side)> = OnceLock::new();

fn sides() -> &'static (Side, Side) {
    CALLS.get_or_init(|| (Side::new(), Side::new()))
}

/// Call it once for a process.
pub fn register(registry: &mut Registry) {
    let (server, client) = sides();
    registry.register("grpc_server_calls", "Calls answered, by method and code", server.calls.clone());
    registry.register("grpc_server_seconds", "Time to the head of the answer", server.seconds.clone());
    registry.register("grpc_client_calls", "Calls made, by method and code", client.calls.clone());
    registry.register("grpc_client_seconds", "Time to the head of the answer", client.seconds.clone());
}

pub(super) fn client_ended(path: &str, code: Code, started: Instant) {
    sides().1.ended(&method(path), code, started.elapsed());
}

/// `/postroad.spool.v1.Spool/Accept` is `Spool.Accept`; what is not ours has no name of its own, so
/// that nobody makes time series by asking.
fn method(path: &str) -> String {
    let ours = path.strip_prefix("/postroad.").and_then(|p| p.split_once('/'));
    match ours {
        Some((service, method)) => format!("{}.{method}", service.rsplit('.').next().unwrap_or_default()),
        None => "unknown".to_owned(),
    }
}

/// An error is in the head of its answer, unless a stream had begun.
pub(super) fn code<B>(answer: &tonic::codegen::http::Response<B>) -> Code {
    Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
}

fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// Our trouble, not the caller's mistake.
fn is_trouble(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Around every request to a server.
#[derive(Clone)]
pub(super) struct Counted<S>(pub S);

impl<S> Service<Call> for Counted<S>
where
    S: Service<Call, Response = Answer>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Answer, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let started = Instant::now();
        let method = method(call.uri().path());
        let span = span(&method, call.headers());
        let answer = span.in_scope(|| self.0.call(call)).instrument(span.clone());
        Box::pin(async move {
            let answer = answer.await?;
            let code = code(&answer);
            if is_trouble(code) {
                telemetry::failed(&span);
            }
            span.record("rpc.grpc.status", word(code));
            // The router's own answer, to whatever path was made up.
            let known = if code == Code::Unimplemented { "unknown" } else { &method };
            sides().0.ended(known, code, started.elapsed());
            Ok(answer)
        })
    }
}

/// Calls that belong to nobody's trace begin none: leases are renewed all the time.
fn span(method: &str, headers: &tonic::codegen::http::HeaderMap) -> Span {
    let parent = headers.get("traceparent").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if parent.is_empty() {
        return Span::none();
    }
    let span = info_span!(
        "call",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.grpc.status = Empty,
        mail.queue_id = Empty,
        mail.tenant = Empty,
    );
    telemetry::continue_from(&span, parent);
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_ours_or_unknown() {
        assert_eq!(method("/postroad.spool.v1.Spool/Accept"), "Spool.Accept");
        for other in ["/grpc.health.v1.Health/Check", "/", "", "/postroad.", "/x/y"] {
            assert_eq!(method(other), "unknown", "{other}");
        }
    }

    #[test]
    fn an_answers_code_is_in_its_head() {
        let mut answer = tonic::codegen::http::Response::new(());
        assert_eq!(code(&answer), Code::Ok);
        answer.headers_mut().insert("grpc-status", "14".parse().expect("a header"));
        assert_eq!(code(&answer), Code::Unavailable);
        assert!(is_trouble(Code::Unavailable) && !is_trouble(Code::NotFound));
    }
}
