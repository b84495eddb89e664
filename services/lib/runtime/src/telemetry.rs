//! Logs as JSON lines, traces over OTLP, W3C trace context (traceparent) across every border.
//!
//! Every message has a trace id, exported or not: it stands in the log and in the journey.

use std::collections::HashMap;

use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};
use tonic::metadata::{KeyRef, MetadataKey, MetadataMap};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::sampling::{KeepErrors, Share};

const FIELD: &str = "traceparent";

/// The header field in which our relay tells the next site the trace. A site takes it as a
/// link, and only from peers it trusts.
pub const TRACE_HEADER: &str = "Postroad-Trace";

/// Starts logs and traces of this process. Call it within tokio: the exporter needs it.
pub fn init(name: &'static str, config: &crate::Config) -> anyhow::Result<SdkTracerProvider> {
    let endpoint = config
        .otlp_endpoint
        .clone()
        .or_else(|| std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|e| !e.is_empty()));
    let builder = SdkTracerProvider::builder().with_resource(Resource::builder().with_service_name(name).build());
    let provider = match endpoint {
        Some(endpoint) => {
            let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
            builder
                .with_sampler(Share::new(config.trace_ratio))
                .with_span_processor(KeepErrors::new(BatchSpanProcessor::builder(exporter).build()))
                .build()
        }
        // Nobody listens: spans only carry the trace id on.
        None => builder.with_sampler(Sampler::AlwaysOff).build(),
    };
    global::set_text_map_propagator(TraceContextPropagator::new());
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(&filter)
            .map_err(|e| anyhow::anyhow!("environment variable RUST_LOG = {filter:?}: {e}"))?,
        _ => EnvFilter::try_new(&config.log)
            .map_err(|e| anyhow::anyhow!("configuration key \"runtime.log\" = {:?}: {e}", config.log))?,
    };
    subscriber(provider.tracer(name), filter).try_init()?;
    Ok(provider)
}

/// Spans go to traces alone and events to the log alone: what is logged may say more than a trace should
/// (addresses of clients), and a line never shows its spans, whose fields would be written as JSON all the same.
///
/// The level stands outermost. Beneath the other two it could not speak for them, and each of the thousand
/// trace points of the libraries below us would ask them every time.
fn subscriber(tracer: SdkTracer, level: EnvFilter) -> impl Subscriber + Send + Sync {
    let traces = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_tracer(tracer)
        .with_filter(filter_fn(|data| data.is_span()));
    let log = tracing_subscriber::fmt::layer()
        .json()
        .with_current_span(false)
        .with_span_list(false)
        .with_filter(filter_fn(|data| data.is_event()));
    tracing_subscriber::registry().with(traces).with(log).with(level)
}

/// Sends what is not sent yet; bounded, because a collector that is away must not hold the exit.
pub async fn flush(provider: SdkTracerProvider) {
    let shutdown = tokio::task::spawn_blocking(move || provider.shutdown());
    let _ = tokio::time::timeout(std::time::Duration::from_secs(3), shutdown).await;
}

struct Inject<'a>(&'a mut MetadataMap);

impl Injector for Inject<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct Extract<'a>(&'a MetadataMap);

impl Extractor for Extract<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        let ascii = |key| match key {
            KeyRef::Ascii(key) => Some(key.as_str()),
            KeyRef::Binary(_) => None,
        };
        self.0.keys().filter_map(ascii).collect()
    }
}

/// Puts the current span into a call's metadata. [`crate::grpc`] does it for every client.
pub fn inject(metadata: &mut MetadataMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|p| p.inject_context(&context, &mut Inject(metadata)));
}

/// Makes `span` a child of the caller's span, if the call carries one.
pub fn continue_call(span: &Span, metadata: &MetadataMap) {
    set_parent(span, global::get_text_map_propagator(|p| p.extract(&Extract(metadata))));
}

/// The traceparent of a span, to be stored or sent on; empty when there is none.
pub fn traceparent(span: &Span) -> String {
    let mut fields = HashMap::new();
    global::get_text_map_propagator(|p| p.inject_context(&span.context(), &mut fields));
    fields.remove(FIELD).unwrap_or_default()
}

/// Makes `span` a child of a stored traceparent; anything else is ignored.
pub fn continue_from(span: &Span, traceparent: &str) {
    set_parent(span, context_of(traceparent));
}

/// Links `span` to a stored traceparent: another trace that belongs to it.
pub fn link_to(span: &Span, traceparent: &str) {
    let linked = context_of(traceparent).span().span_context().clone();
    if linked.is_valid() {
        span.add_link(linked);
    }
}

/// Marks a span as an error: it is exported whatever is sampled. The span has the field
/// `otel.status_code`.
pub fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}

/// The 32 hexadecimal digits of a traceparent, or nothing (W3C Trace Context §3.2.2).
pub fn trace_id(traceparent: &str) -> &str {
    traceparent
        .split('-')
        .nth(1)
        .filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        .unwrap_or_default()
}

fn set_parent(span: &Span, context: Context) {
    if context.span().span_context().is_valid() {
        // Fails only when the span has no OpenTelemetry data, and then there is nothing to do.
        let _ = span.set_parent(context);
    }
}

fn context_of(traceparent: &str) -> Context {
    let fields = HashMap::from([(FIELD.to_owned(), traceparent.to_owned())]);
    global::get_text_map_propagator(|p| p.extract(&fields))
}

#[cfg(test)]
mod tests {
    use tracing::level_filters::LevelFilter;

    use super::*;

    #[test]
    fn what_is_below_the_level_is_off_for_everybody() {
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let subscriber = subscriber(tracer, EnvFilter::new("info,listener=debug"));
        assert_eq!(subscriber.max_level_hint(), Some(LevelFilter::DEBUG));
    }
}
