//! The figures, for people and for machines.

use std::{fmt::Write as _, path::Path};

use super::Measure;

/// One size at both.
pub struct Pair {
    pub peer: Measure,
    pub ours: Measure,
}

impl Pair {
    /// Above 1 means that ours is faster.
    fn rate_ratio(&self) -> f64 {
        self.ours.rate() / self.peer.rate()
    }

    /// Above 1 means that ours needs less.
    fn cpu_ratio(&self) -> f64 {
        self.peer.cpu() / self.ours.cpu()
    }
}

/// A table with one line for each size; in both ratios, more is better for us.
pub fn table(peer: &str, ours: &str, pairs: &[Pair]) -> String {
    let mut text =
        format!("{:>6} {:>9}   {:^37}   {:^37}\n", "size", "messages", "delivered messages/s", "server CPU ms/message");
    let head = format!("{peer:>17} {ours:>10} {:>8}", "ratio");
    let _ = writeln!(text, "{:>6} {:>9}   {head}   {head}", "", "");
    for pair in pairs {
        let size = pair.ours.size;
        let _ = writeln!(
            text,
            "{:>3} kB {:>9}   {:>17.0} {:>10.0} {:>7.2}x   {:>17.2} {:>10.2} {:>7.2}x",
            size.bytes / 1000,
            size.count,
            pair.peer.rate(),
            pair.ours.rate(),
            pair.rate_ratio(),
            pair.peer.cpu(),
            pair.ours.cpu(),
            pair.cpu_ratio()
        );
    }
    text
}

/// One run of one server: how fast, and which programs the CPU went to.
pub fn line(name: &str, measure: &Measure) -> String {
    let shares = measure.cpu.by_name().into_iter().filter(|(_, ms)| *ms > 0.0);
    let shares: Vec<String> = shares.map(|(name, ms)| format!("{name} {:.2}", measure.per_message(ms))).collect();
    format!(
        "{name}: {} x {} kB: accepted in {:.2} s, delivered in {:.2} s ({:.0}/s), CPU {:.2} ms/message ({})",
        measure.size.count,
        measure.size.bytes / 1000,
        measure.accepted.as_secs_f64(),
        measure.delivered.as_secs_f64(),
        measure.rate(),
        measure.cpu(),
        shares.join(", ")
    )
}

/// JSON lines; `ratio` above 1 is always good for us.
pub fn write(file: &Path, pairs: &[Pair], more: &[serde_json::Value]) -> std::io::Result<()> {
    let mut text: String = more.iter().map(|line| format!("{line}\n")).collect();
    for pair in pairs {
        let (peer, ours) = (&pair.peer, &pair.ours);
        for (name, peer, ours, unit, ratio) in [
            ("inbound_delivery", peer.rate(), ours.rate(), "messages/s", pair.rate_ratio()),
            ("inbound_delivery_cpu", peer.cpu(), ours.cpu(), "ms/message", pair.cpu_ratio()),
        ] {
            let size = pair.ours.size.bytes;
            let object = serde_json::json!({
                "name": name, "size": size, "peer": peer, "ours": ours, "unit": unit, "ratio": ratio,
            });
            let _ = writeln!(text, "{object}");
        }
    }
    std::fs::write(file, text)
}
