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

use crate::Role;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Port {
    pub port: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cipher {
    pub port: &'static str,
    pub version: &'static str,
    pub cipher: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Guard {
    pub guard: &'static str,
}

#[derive(Debug, Clone)]
pub struct Metrics {
    pub sessions: Family<Port, Counter>,
    pub accepted: Family<Port, Counter>,
    pub accepted_bytes: Counter,
    pub refused: Family<Reason, Counter>,
    pub tls: Family<Cipher, Counter>,
    /// A guard whose other side did not answer, so that it let pass.
    pub unguarded: Family<Guard, Counter>,
    /// Transactions that came to nothing, and that the journey does not know of.
    pub untold: Counter,
    /// Of `max_bytes_in_flight`.
    pub bytes_in_flight: Gauge,
    /// From the final dot to the reply.
    pub seconds: Family<Port, Histogram, fn() -> Histogram>,
}

fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            sessions: Family::default(),
            accepted: Family::default(),
            accepted_bytes: Counter::default(),
            refused: Family::default(),
            tls: Family::default(),
            unguarded: Family::default(),
            untold: Counter::default(),
            bytes_in_flight: Gauge::default(),
            seconds: Family::new_with_constructor(buckets),
        };
        registry.register("smtp_sessions", "Sessions by port", metrics.sessions.clone());
        registry.register("smtp_accepted", "Messages accepted", metrics.accepted.clone());
        registry.register("smtp_accepted_bytes", "Bytes of accepted messages", metrics.accepted_bytes.clone());
        registry.register("smtp_refused", "Commands and messages refused", metrics.refused.clone());
        registry.register("smtp_tls_sessions", "TLS sessions by version and cipher", metrics.tls.clone());
        registry.register(
            "smtp_unguarded",
            "Decisions made without a guard (Redis, DNS, Rspamd) that did not answer",
            metrics.unguarded.clone(),
        );
        registry.register(
            "smtp_refusals_untold",
            "Refused transactions that could not be told to the journey",
            metrics.untold.clone(),
        );
        registry.register(
            "smtp_bytes_in_flight",
            "Memory reserved for messages that are being received, of max_bytes_in_flight",
            metrics.bytes_in_flight.clone(),
        );
        registry.register("smtp_message_seconds", "Time from the final dot to the reply", metrics.seconds.clone());
        metrics
    }

    pub fn session(&self, role: Role) {
        self.sessions.get_or_create(&Port { port: role.name() }).inc();
    }

    pub fn accept(&self, role: Role, bytes: usize) {
        self.accepted.get_or_create(&Port { port: role.name() }).inc();
        self.accepted_bytes.inc_by(bytes as u64);
    }

    pub fn encrypted(&self, role: Role, tls: &listener::TlsInfo) {
        let label = Cipher { port: role.name(), version: tls.version, cipher: tls.cipher.clone() };
        self.tls.get_or_create(&label).inc();
    }

    pub fn unguarded(&self, guard: &'static str) {
        self.unguarded.get_or_create(&Guard { guard }).inc();
    }

    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub fn answered(&self, role: Role, started: std::time::Instant) {
        self.seconds.get_or_create(&Port { port: role.name() }).observe(started.elapsed().as_secs_f64());
    }
}
