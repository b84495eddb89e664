use std::time::Duration;

use runtime::prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Clone)]
pub struct Metrics {
    calls: Family<Call, Counter>,
    seconds: Family<Operation, Histogram>,
    bytes: Family<Operation, Counter>,
    deleted: Family<Reason, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self {
            calls: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.002, 3.0, 9))),
            bytes: Family::default(),
            deleted: Family::default(),
        };
        registry.register("mda_object_calls", "Calls of the object store", m.calls.clone());
        registry.register("mda_object_seconds", "Time of a call", m.seconds.clone());
        registry.register("mda_object_bytes", "Octets put and got", m.bytes.clone());
        registry.register("mda_objects_deleted", "Objects deleted: released, orphan", m.deleted.clone());
        m
    }

    pub(super) fn called(&self, operation: &'static str, is_ok: bool, took: Duration) {
        let outcome = if is_ok { "ok" } else { "failed" };
        self.calls.get_or_create(&Call { operation, outcome }).inc();
        self.seconds.get_or_create(&Operation { operation }).observe(took.as_secs_f64());
    }

    pub(super) fn moved(&self, operation: &'static str, bytes: u64) {
        self.bytes.get_or_create(&Operation { operation }).inc_by(bytes);
    }

    pub(super) fn deleted(&self, was_orphan: bool) {
        let reason = if was_orphan { "orphan" } else { "released" };
        self.deleted.get_or_create(&Reason { reason }).inc();
    }
}
