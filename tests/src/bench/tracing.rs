//! What tracing costs: the same mail with every trace exported, and with none.

use super::{Measure, Run, Size, measure, subject::Postroad};
use crate::collector::Collector;

/// Each way as often, in turn, so that a machine that gets slower is not taken for tracing.
const ROUNDS: usize = 4;

async fn all(run: &Run, sizes: [Size; 3], environment: &[(String, String)]) -> Vec<Measure> {
    let mut subject = Postroad::start_with(environment).await;
    let mut measures = Vec::new();
    for size in sizes {
        measures.push(measure(run, &mut subject, size).await);
    }
    measures
}

/// A table; the collector is in this process, and its CPU is not counted.
pub async fn compare(run: &Run, sizes: [Size; 3]) -> String {
    let (_collector, endpoint) = Collector::blind().await;
    let on = [("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint)];
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        eprintln!("tracing, round {round} of {ROUNDS}");
        without.push(all(run, sizes, &[]).await);
        with.push(all(run, sizes, &on).await);
    }
    let mut text = format!(
        "Tracing at 100 % and off, {} sessions, CPU ms a message, the better of {ROUNDS} rounds\n\n  size        off        on   more\n",
        run.sessions
    );
    for (n, size) in sizes.iter().enumerate() {
        let best = |rounds: &[Vec<Measure>]| rounds.iter().map(|r| r[n].cpu()).fold(f64::INFINITY, f64::min);
        let (off, on) = (best(&without), best(&with));
        let more = (on / off - 1.0) * 100.0;
        text.push_str(&format!("{:>3} kB {off:>10.3} {on:>9.3} {more:>5.1} %\n", size.bytes / 1_000));
    }
    text
}
