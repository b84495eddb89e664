//! Which spans are exported: a share of the traces, and whatever went wrong.
//!
//! The share is decided where a trace begins, and told along (W3C Trace Context §3.2.2.5). Spans of
//! the others are recorded all the same, and kept in this process until the last of them here has
//! ended; when one of them is an error, all of them go out.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanContext, SpanKind, Status, TraceId},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample, Span, SpanData, SpanProcessor},
};

/// Traces that wait, and spans of one of them; what is more is forgotten, the oldest first.
const MAX_TRACES: usize = 2_048;
const MAX_SPANS: usize = 64;

/// `share` of the traces that begin here; what others began goes by their decision.
#[derive(Debug, Clone)]
pub struct Share(Sampler);

impl Share {
    pub fn new(share: f64) -> Self {
        Self(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
    }
}

impl ShouldSample for Share {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.0.should_sample(parent, trace_id, name, kind, attributes, links);
        if result.decision == SamplingDecision::Drop {
            result.decision = SamplingDecision::RecordOnly;
        }
        result
    }
}

/// Hands on what is sampled, and what turns out to be an error's.
#[derive(Debug)]
pub struct KeepErrors<P> {
    next: P,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    traces: HashMap<TraceId, Trace>,
    /// In the order of their first span.
    order: VecDeque<TraceId>,
}

#[derive(Debug, Default)]
struct Trace {
    spans: Vec<SpanData>,
    is_error: bool,
}

impl Waiting {
    /// What goes out now that a span has ended.
    fn ended(&mut self, span: SpanData) -> Vec<SpanData> {
        let id = span.span_context.trace_id();
        let is_last = span.parent_span_is_remote || span.parent_span_id == opentelemetry::SpanId::INVALID;
        let is_error = matches!(span.status, Status::Error { .. });
        if !self.traces.contains_key(&id) {
            if is_last && !is_error {
                return Vec::new();
            }
            self.order.push_back(id);
            if self.order.len() > MAX_TRACES
                && let Some(oldest) = self.order.pop_front()
            {
                self.traces.remove(&oldest);
            }
        }
        let trace = self.traces.entry(id).or_default();
        trace.is_error |= is_error;
        if trace.spans.len() < MAX_SPANS {
            trace.spans.push(span);
        }
        if trace.is_error {
            return std::mem::take(&mut trace.spans);
        }
        if is_last {
            // Its place in `order` goes when it is the oldest.
            self.traces.remove(&id);
            if self.traces.is_empty() {
                self.order.clear();
            }
        }
        Vec::new()
    }
}

impl<P> KeepErrors<P> {
    pub fn new(next: P) -> Self {
        Self { next, waiting: Mutex::default() }
    }
}

impl<P: SpanProcessor> SpanProcessor for KeepErrors<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            return self.next.on_end(span);
        }
        let kept = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).ended(span);
        for mut span in kept {
            let c = &span.span_context;
            span.span_context = SpanContext::new(
                c.trace_id(),
                c.span_id(),
                c.trace_flags().with_sampled(true),
                c.is_remote(),
                c.trace_state().clone(),
            );
            self.next.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::trace::{Span as _, TraceContextExt as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Exported(Arc<Mutex<Vec<SpanData>>>);

    impl SpanProcessor for Exported {
        fn on_start(&self, _: &mut Span, _: &Context) {}
        fn on_end(&self, span: SpanData) {
            self.0.lock().expect("test").push(span);
        }
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    /// Names of what is exported of a parent with two children.
    fn exported(share: f64, is_error: bool) -> Vec<String> {
        let exported = Exported::default();
        let provider = SdkTracerProvider::builder()
            .with_sampler(Share::new(share))
            .with_span_processor(KeepErrors::new(exported.clone()))
            .build();
        let tracer = provider.tracer("test");
        let parent = Context::new().with_span(tracer.start_with_context("parent", &Context::new()));
        tracer.start_with_context("first", &parent).end();
        let mut second = tracer.start_with_context("second", &parent);
        if is_error {
            second.set_status(Status::error(""));
        }
        second.end();
        parent.span().end();
        let spans = exported.0.lock().expect("test");
        assert!(spans.iter().all(|s| s.span_context.is_sampled()));
        spans.iter().map(|s| s.name.to_string()).collect()
    }

    #[test]
    fn errors_are_kept_whatever_the_share() {
        assert_eq!(exported(1.0, false), ["first", "second", "parent"]);
        assert!(exported(0.0, false).is_empty());
        assert_eq!(exported(0.0, true), ["first", "second", "parent"]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let provider = SdkTracerProvider::builder()
            .with_sampler(Share::new(0.0))
            .with_span_processor(KeepErrors::new(Exported::default()))
            .build();
        let tracer = provider.tracer("test");
        let keep = KeepErrors::new(Exported::default());
        for _ in 0..MAX_TRACES * 2 {
            let parent = Context::new().with_span(tracer.start_with_context("parent", &Context::new()));
            // A child that ends when its parent never does.
            let child = tracer.start_with_context("child", &parent);
            let data = child.exported_data().expect("recorded");
            for _ in 0..MAX_SPANS * 2 {
                keep.on_end(data.clone());
            }
        }
        let waiting = keep.waiting.lock().expect("test");
        assert!(waiting.traces.len() <= MAX_TRACES && waiting.order.len() <= MAX_TRACES);
        assert!(waiting.traces.values().all(|t| t.spans.len() <= MAX_SPANS));
    }
}
