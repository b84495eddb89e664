use runtime::prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    pub outcome: &'static str,
}

#[derive(Clone, Default)]
pub struct Metrics {
    pub reconciled: Family<Outcome, Counter>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("operator_reconciled", "Resources reconciled, by outcome", metrics.reconciled.clone());
        metrics
    }

    pub(crate) fn count(&self, outcome: &'static str) {
        self.reconciled.get_or_create(&Outcome { outcome }).inc();
    }
}
