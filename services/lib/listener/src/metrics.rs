use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What a listener counts. One value may be shared by all ports of a service.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Connections that reached a session.
    pub accepted: Counter,
    /// Connections turned away by a limit.
    pub refused: Counter,
    /// Connections whose PROXY header or TLS handshake failed.
    pub failed: Counter,
    /// Sessions running now.
    pub active: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("connections", "Connections that reached a session", metrics.accepted.clone());
        registry.register("connections_refused", "Connections turned away by a limit", metrics.refused.clone());
        registry.register(
            "connections_failed",
            "Connections whose PROXY header or TLS handshake failed",
            metrics.failed.clone(),
        );
        registry.register("connections_active", "Sessions running now", metrics.active.clone());
        metrics
    }
}
