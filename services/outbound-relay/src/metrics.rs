use std::collections::HashMap;

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

use crate::Config;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeOfClass {
    pub outcome: &'static str,
    /// A name from the configuration, never a domain.
    pub class: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Version {
    pub version: &'static str,
}

pub(crate) struct Metrics {
    /// Deliveries by what an attempt made of them: relayed, deferred, bounced, lost.
    pub attempts: Family<OutcomeOfClass, Counter>,
    /// Domain to class.
    classes: HashMap<String, String>,
    /// Connections made, by how: tls, clear, failed.
    pub connections: Family<Outcome, Counter>,
    /// Of those made with TLS.
    pub tls: Family<Version, Counter>,
    /// Deliveries given back untried: the destination is busy, or does not answer.
    pub put_off: Counter,
    pub in_flight: Gauge,
    pub held: Gauge,
    pub seconds: Histogram,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            classes: HashMap::new(),
            connections: Family::default(),
            tls: Family::default(),
            put_off: Counter::default(),
            in_flight: Gauge::default(),
            held: Gauge::default(),
            seconds: Histogram::new(exponential_buckets(0.005, 2.0, 18)),
        };
        registry.register("relay_deliveries", "Deliveries tried, by outcome", metrics.attempts.clone());
        registry.register("relay_connections", "Connections by kind", metrics.connections.clone());
        registry.register("relay_tls_sessions", "TLS sessions with peers, by version", metrics.tls.clone());
        registry.register("relay_put_off", "Deliveries given back untried", metrics.put_off.clone());
        registry.register("relay_attempts_in_flight", "Attempts running", metrics.in_flight.clone());
        registry.register("relay_held", "Deliveries claimed, running or waiting", metrics.held.clone());
        registry.register("relay_attempt_seconds", "Time of one attempt, all its recipients", metrics.seconds.clone());
        metrics
    }

    pub fn with_classes(mut self, config: &Config) -> Self {
        let named = config.destination_classes.iter();
        let pairs = named.flat_map(|(class, domains)| domains.iter().map(|d| (d.to_ascii_lowercase(), class.clone())));
        self.classes = pairs.collect();
        self
    }

    pub fn outcome(&self, outcome: &'static str, domain: &str) {
        let class = self.classes.get(domain).cloned().unwrap_or_else(|| "other".to_owned());
        self.attempts.get_or_create(&OutcomeOfClass { outcome, class }).inc();
    }

    pub fn put_off(&self, deliveries: usize) {
        self.put_off.inc_by(deliveries as u64);
    }

    pub fn encrypted(&self, version: &'static str) {
        self.tls.get_or_create(&Version { version }).inc();
    }

    pub fn connection(&self, outcome: &'static str) {
        self.connections.get_or_create(&Outcome { outcome }).inc();
    }
}
