use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use queue::Stream;
use runtime::prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{maintenance::Depth, tenants::Top};

const STATES: [&str; 5] = ["due", "leased", "deferred", "resting", "held"];

#[derive(Clone)]
pub struct Metrics {
    delivered: Counter,
    bounced: Counter,
    stream_length: Family<StreamLabel, Gauge>,
    oldest_due: Family<StreamLabel, Gauge<f64, AtomicU64>>,
    open: Family<StateLabel, Gauge>,
    set_aside: Gauge,
    reclaimed: Counter,
    forgotten: Counter,
    rules: Family<RuleLabel, Counter>,
    logins_failed: Counter,
    logins_throttled: Counter,
    logins_unlimited: Counter,
    pool: Family<PoolLabel, Gauge>,
    probe: Histogram,
    probe_failed: Counter,
    tenant_messages: Family<TenantLabel, Counter>,
    tenant_bytes: Family<TenantLabel, Counter>,
    top: Arc<Mutex<Top>>,
    srs: Family<SrsLabel, Counter>,
    reports: Family<ReportLabel, Counter>,
    released: Counter,
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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RuleLabel {
    action: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    stream: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PoolLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TenantLabel {
    tenant: String,
    direction: &'static str,
}

const SUBMITTED: &str = "submitted";
const DELIVERED: &str = "delivered";

impl Metrics {
    /// `tenants`: how many have time series of their own.
    pub fn register(registry: &mut Registry, tenants: u16) -> Self {
        let m = Self {
            delivered: Counter::default(),
            bounced: Counter::default(),
            stream_length: Family::default(),
            oldest_due: Family::default(),
            open: Family::default(),
            set_aside: Gauge::default(),
            reclaimed: Counter::default(),
            forgotten: Counter::default(),
            rules: Family::default(),
            srs: Family::default(),
            reports: Family::default(),
            released: Counter::default(),
            logins_failed: Counter::default(),
            logins_throttled: Counter::default(),
            logins_unlimited: Counter::default(),
            pool: Family::default(),
            probe: Histogram::new(exponential_buckets(0.000_2, 3.0, 11)),
            probe_failed: Counter::default(),
            tenant_messages: Family::default(),
            tenant_bytes: Family::default(),
            top: Arc::new(Mutex::new(Top::new(tenants.into()))),
        };
        registry.register("mda_local_delivered", "Local deliveries into mailboxes", m.delivered.clone());
        registry.register("mda_local_bounced", "Local deliveries without a mailbox", m.bounced.clone());
        registry.register("mda_stream_length", "Entries in a delivery stream", m.stream_length.clone());
        registry.register("mda_oldest_due_seconds", "Age of the oldest due delivery", m.oldest_due.clone());
        registry.register("mda_open_deliveries", "Deliveries without a final state", m.open.clone());
        registry.register(
            "mda_set_aside",
            "Deliveries that nobody could work on: an operator must look",
            m.set_aside.clone(),
        );
        registry.register("mda_contents_reclaimed", "Contents that nothing referred to", m.reclaimed.clone());
        registry.register(
            "mda_expunged_forgotten",
            "Expunged messages that are not remembered any more",
            m.forgotten.clone(),
        );
        registry.register("mda_rule_actions", "What rules of accounts did with messages", m.rules.clone());
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
        registry.register("mda_pool_connections", "Connections to Postgres, used and idle", m.pool.clone());
        registry.register(
            "mda_storage_probe_seconds",
            "Time from asking for a connection to the answer of a small statement",
            m.probe.clone(),
        );
        registry.register("mda_storage_probe_failed", "Probes that Postgres did not answer", m.probe_failed.clone());
        registry.register(
            "mda_tenant_messages",
            "Messages submitted by, and delivered to, the largest tenants",
            m.tenant_messages.clone(),
        );
        registry.register("mda_tenant_bytes", "Octets of these messages", m.tenant_bytes.clone());
        registry.register("mda_srs", "Reverse-paths of forwards: rewritten, reversed, refused", m.srs.clone());
        registry.register(
            "mda_reports_received",
            "Reports from others by kind: dmarc, tls, unreadable",
            m.reports.clone(),
        );
        registry.register("mda_quarantine_released", "Messages moved from Junk into INBOX by hand", m.released.clone());
        m
    }

    pub fn srs(&self, outcome: &'static str) {
        self.srs.get_or_create(&SrsLabel { outcome }).inc();
    }

    pub fn report_received(&self, kind: &'static str) {
        self.reports.get_or_create(&ReportLabel { kind }).inc();
    }

    pub fn quarantine_released(&self, messages: usize) {
        self.released.inc_by(u64::try_from(messages).unwrap_or(u64::MAX));
    }

    pub fn rule(&self, action: &'static str) {
        self.rules.get_or_create(&RuleLabel { action }).inc();
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

    /// Tenant and size of each.
    pub fn delivered<'a>(&self, messages: impl Iterator<Item = (&'a str, i32)>) {
        for (tenant, size) in messages {
            self.delivered.inc();
            self.volume(tenant, DELIVERED, 1, size.into());
        }
    }

    /// Tenant, messages, octets.
    pub fn submitted(&self, messages: &[(String, i64, i64)]) {
        for (tenant, count, bytes) in messages {
            self.volume(tenant, SUBMITTED, *count, *bytes);
        }
    }

    fn volume(&self, tenant: &str, direction: &'static str, messages: i64, bytes: i64) {
        let messages = messages.unsigned_abs();
        // Held while series are made and ended, so that none is made again after its end.
        let mut top = self.top.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, ended) = top.count(tenant, messages);
        for tenant in ended {
            for direction in [SUBMITTED, DELIVERED] {
                let label = TenantLabel { tenant: tenant.clone(), direction };
                self.tenant_messages.remove(&label);
                self.tenant_bytes.remove(&label);
            }
        }
        let label = TenantLabel { tenant: name.to_owned(), direction };
        self.tenant_messages.get_or_create(&label).inc_by(messages);
        self.tenant_bytes.get_or_create(&label).inc_by(bytes.unsigned_abs());
    }

    pub fn bounced(&self) {
        self.bounced.inc();
    }

    pub fn stream_length(&self, stream: Stream, length: usize) {
        let stream = name(stream == Stream::Remote);
        self.stream_length.get_or_create(&StreamLabel { stream }).set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// What is not there any more is zero.
    pub fn queue(&self, depths: &[Depth]) {
        for stream in [false, true] {
            let of = |state: &str| depths.iter().find(|d| d.is_remote == stream && d.state == state);
            for state in STATES {
                let label = StateLabel { stream: name(stream), state };
                self.open.get_or_create(&label).set(of(state).map_or(0, |d| d.deliveries));
            }
            let oldest = of("due").map_or(0.0, |d| d.oldest_seconds.max(0.0));
            self.oldest_due.get_or_create(&StreamLabel { stream: name(stream) }).set(oldest);
        }
    }

    pub fn set_aside(&self, deliveries: i64) {
        self.set_aside.set(deliveries);
    }

    pub fn forgotten(&self, n: u64) {
        self.forgotten.inc_by(n);
    }

    pub fn reclaimed(&self, n: u64) {
        self.reclaimed.inc_by(n);
    }

    pub fn pool(&self, used: usize, idle: usize) {
        for (state, n) in [("used", used), ("idle", idle)] {
            self.pool.get_or_create(&PoolLabel { state }).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }

    pub fn probed(&self, took: Duration) {
        self.probe.observe(took.as_secs_f64());
    }

    pub fn probe_failed(&self) {
        self.probe_failed.inc();
    }
}

fn name(is_remote: bool) -> &'static str {
    if is_remote { "remote" } else { "local" }
}
