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
pub(crate) struct Outcome {
    pub outcome: &'static str,
}

pub(crate) struct Metrics {
    /// Deliveries by what an attempt made of them: relayed, deferred, bounced, lost.
    pub attempts: Family<Outcome, Counter>,
    /// Connections made, by how: tls, clear, failed.
    pub connections: Family<Outcome, Counter>,
    pub in_flight: Gauge,
    pub held: Gauge,
    pub seconds: Histogram,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            connections: Family::default(),
            in_flight: Gauge::default(),
            held: Gauge::default(),
            seconds: Histogram::new(exponential_buckets(0.005, 2.0, 18)),
        };
        registry.register("relay_deliveries", "Deliveries tried, by outcome", metrics.attempts.clone());
        registry.register("relay_connections", "Connections by kind", metrics.connections.clone());
        registry.register("relay_attempts_in_flight", "Attempts running", metrics.in_flight.clone());
        registry.register("relay_held", "Deliveries claimed, running or waiting", metrics.held.clone());
        registry.register("relay_attempt_seconds", "Time of one attempt, all its recipients", metrics.seconds.clone());
        metrics
    }

    pub fn outcome(&self, outcome: &'static str) {
        self.attempts.get_or_create(&Outcome { outcome }).inc();
    }

    pub fn connection(&self, outcome: &'static str) {
        self.connections.get_or_create(&Outcome { outcome }).inc();
    }
}
