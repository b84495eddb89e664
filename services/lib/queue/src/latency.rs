//! How long Redis takes to answer, and how often it does not. Waiting for entries is no latency.

use std::{sync::OnceLock, time::Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

struct Latency {
    seconds: Family<Operation, Histogram, fn() -> Histogram>,
    failed: Family<Operation, Counter>,
}

/// A process has one registry, and connections in many places.
static LATENCY: OnceLock<Latency> = OnceLock::new();

fn latency() -> &'static Latency {
    LATENCY.get_or_init(|| Latency {
        seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_1, 3.0, 11))),
        failed: Family::default(),
    })
}

/// Call it once for a process.
pub fn register(registry: &mut Registry) {
    registry.register("redis_seconds", "Time until Redis answered", latency().seconds.clone());
    registry.register("redis_failed", "Commands that Redis did not answer or refused", latency().failed.clone());
}

pub(crate) async fn timed<T, E>(operation: &'static str, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let started = Instant::now();
    let answer = call.await;
    let label = Operation { operation };
    match &answer {
        Ok(_) => latency().seconds.get_or_create(&label).observe(started.elapsed().as_secs_f64()),
        Err(_) => {
            latency().failed.get_or_create(&label).inc();
        }
    }
    answer
}
