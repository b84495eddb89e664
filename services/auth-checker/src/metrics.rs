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
pub(crate) struct Check {
    pub method: &'static str,
    pub result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Call {
    pub call: &'static str,
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub outcome: &'static str,
}

pub(crate) struct Metrics {
    /// Results by method (spf, dkim, dmarc, arc).
    pub checks: Family<Check, Counter>,
    /// Calls by outcome: the disposition of Verify; signed, unsigned of Sign; error.
    pub calls: Family<Call, Counter>,
    pub seconds: Family<Call, Histogram>,
    /// Verdicts that local policy changed, by reason.
    pub overrides: Family<Reason, Counter>,
    /// Forwards by outcome: sealed, unsealed.
    pub seals: Family<Outcome, Counter>,
    /// DMARC reports by outcome: sent, nobody.
    pub reports: Family<Outcome, Counter>,
    /// Questions that another call was asking already.
    pub joined: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let buckets = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let metrics = Self {
            checks: Family::default(),
            calls: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            overrides: Family::default(),
            seals: Family::default(),
            reports: Family::default(),
            joined: Gauge::default(),
        };
        registry.register("auth_checks", "Authentication results by method", metrics.checks.clone());
        registry.register("auth_calls", "Calls by outcome", metrics.calls.clone());
        registry.register(
            "auth_call_seconds",
            "Time to answer a call, content already received",
            metrics.seconds.clone(),
        );
        let m = &metrics;
        registry.register("auth_overrides", "Verdicts that local policy changed", m.overrides.clone());
        registry.register("auth_seals", "Forwards by whether they got an ARC seal", m.seals.clone());
        registry.register("auth_dmarc_reports", "DMARC aggregate reports by outcome", m.reports.clone());
        registry.register("auth_dns_joined", "DNS questions that were being asked already", m.joined.clone());
        metrics
    }

    pub fn report(&self, outcome: &'static str) {
        self.reports.get_or_create(&Outcome { outcome }).inc();
    }

    pub fn check(&self, method: &'static str, result: &'static str) {
        self.checks.get_or_create(&Check { method, result }).inc();
    }

    pub fn call(&self, call: &'static str, outcome: &'static str, started: std::time::Instant) {
        let label = Call { call, outcome };
        self.calls.get_or_create(&label).inc();
        self.seconds.get_or_create(&label).observe(started.elapsed().as_secs_f64());
    }
}
