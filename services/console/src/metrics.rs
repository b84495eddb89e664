use axum::http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    operation: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Login {
    way: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sent {
    outcome: &'static str,
}

#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<Request, Counter>,
    seconds: Histogram,
    logins: Family<Login, Counter>,
    sent: Family<Sent, Counter>,
    pub streams: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self {
            requests: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            logins: Family::default(),
            sent: Family::default(),
            streams: Gauge::default(),
        };
        registry.register("console_requests", "API requests by operation and status", m.requests.clone());
        registry.register("console_request_seconds", "Time to the answer's head", m.seconds.clone());
        registry.register("console_logins", "Logins by way and outcome", m.logins.clone());
        registry.register("console_sent", "Messages sent on the Email Journey page, by outcome", m.sent.clone());
        registry.register("console_streams", "Event streams that are open", m.streams.clone());
        m
    }

    pub fn request(&self, operation: &'static str, status: StatusCode, seconds: f64) {
        self.requests.get_or_create(&Request { operation, status: status.as_u16() }).inc();
        self.seconds.observe(seconds);
    }

    pub fn login(&self, way: &'static str, is_in: bool) {
        self.logins.get_or_create(&Login { way, outcome: if is_in { "success" } else { "refused" } }).inc();
    }

    pub fn sent(&self, outcome: &'static str) {
        self.sent.get_or_create(&Sent { outcome }).inc();
    }
}
