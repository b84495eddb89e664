use std::sync::atomic::AtomicU64;

use queue::Stream;
use runtime::prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Default)]
pub struct Metrics {
    delivered: Counter,
    bounced: Counter,
    stream_length: Family<StreamLabel, Gauge>,
    oldest_due: Gauge<f64, AtomicU64>,
    open: Gauge,
    reclaimed: Counter,
    logins_failed: Counter,
    logins_throttled: Counter,
    logins_unlimited: Counter,
    srs: Family<SrsLabel, Counter>,
    reports: Family<ReportLabel, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SrsLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReportLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StreamLabel {
    stream: &'static str,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register("mda_local_delivered", "Local deliveries into mailboxes", m.delivered.clone());
        registry.register("mda_local_bounced", "Local deliveries without a mailbox", m.bounced.clone());
        registry.register("mda_stream_length", "Entries in a delivery stream", m.stream_length.clone());
        registry.register("mda_oldest_due_seconds", "Age of the oldest due delivery", m.oldest_due.clone());
        registry.register("mda_open_deliveries", "Deliveries without a final state", m.open.clone());
        registry.register("mda_contents_reclaimed", "Contents that nothing referred to", m.reclaimed.clone());
        registry.register("mda_logins_failed", "Logins with wrong credentials", m.logins_failed.clone());
        registry.register(
            "mda_logins_throttled",
            "Logins turned away after too many failures",
            m.logins_throttled.clone(),
        );
        registry.register(
            "mda_logins_unlimited",
            "Looks at the login back-off that Redis did not answer",
            m.logins_unlimited.clone(),
        );
        registry.register("mda_srs", "Reverse-paths of forwards: rewritten, reversed, refused", m.srs.clone());
        registry.register(
            "mda_reports_received",
            "Reports from others by kind: dmarc, tls, unreadable",
            m.reports.clone(),
        );
        m
    }

    pub fn srs(&self, outcome: &'static str) {
        self.srs.get_or_create(&SrsLabel { outcome }).inc();
    }

    pub fn report_received(&self, kind: &'static str) {
        self.reports.get_or_create(&ReportLabel { kind }).inc();
    }

    pub fn login_failed(&self) {
        self.logins_failed.inc();
    }

    pub fn login_throttled(&self) {
        self.logins_throttled.inc();
    }

    pub fn login_unlimited(&self) {
        self.logins_unlimited.inc();
    }

    pub fn delivered(&self, n: usize) {
        self.delivered.inc_by(n as u64);
    }

    pub fn bounced(&self) {
        self.bounced.inc();
    }

    pub fn stream_length(&self, stream: Stream, length: usize) {
        let stream = match stream {
            Stream::Local => "local",
            Stream::Remote => "remote",
        };
        self.stream_length.get_or_create(&StreamLabel { stream }).set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    pub fn queue(&self, open: i64, oldest_due_seconds: f64) {
        self.open.set(open);
        self.oldest_due.set(oldest_due_seconds);
    }

    pub fn reclaimed(&self, n: u64) {
        self.reclaimed.inc_by(n);
    }
}
