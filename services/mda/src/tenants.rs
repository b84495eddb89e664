//! Whose volumes have time series of their own: a bounded number of tenants, those with the most.

use std::collections::{HashMap, HashSet};

/// Counts after which the order is made anew.
const RANK_EVERY: u32 = 1_000;
/// Tenants remembered for each that is named; the smallest are forgotten.
const REMEMBERED: usize = 20;
pub const OTHER: &str = "other";

/// What was counted in another's name stays there: series only rise, and one that ends and comes
/// back begins at zero, as after a restart.
#[derive(Debug)]
pub struct Top {
    named: HashSet<String>,
    weights: HashMap<String, u64>,
    most: usize,
    since_ranked: u32,
}

impl Top {
    pub fn new(most: usize) -> Self {
        Self { named: HashSet::new(), weights: HashMap::new(), most, since_ranked: 0 }
    }

    /// The name under which this counts, and names whose series end now.
    pub fn count<'a>(&mut self, tenant: &'a str, n: u64) -> (&'a str, Vec<String>) {
        let room = self.most.max(1).saturating_mul(REMEMBERED);
        if self.weights.len() < room || self.weights.contains_key(tenant) {
            let weight = self.weights.entry(tenant.to_owned()).or_default();
            *weight = weight.saturating_add(n);
        }
        if self.named.len() < self.most && !self.named.contains(tenant) {
            self.named.insert(tenant.to_owned());
        }
        self.since_ranked += 1;
        let ended = if self.since_ranked >= RANK_EVERY { self.rank() } else { Vec::new() };
        (if self.named.contains(tenant) { tenant } else { OTHER }, ended)
    }

    fn rank(&mut self) -> Vec<String> {
        self.since_ranked = 0;
        let mut order: Vec<(&String, u64)> = self.weights.iter().map(|(name, weight)| (name, *weight)).collect();
        order.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let now: HashSet<String> = order.iter().take(self.most).map(|(name, _)| (*name).clone()).collect();
        let ended = self.named.difference(&now).cloned().collect();
        self.named = now;
        // Last week's giant makes room for today's; half of the rest is forgotten when it is full.
        let is_full = self.weights.len() >= self.most.max(1).saturating_mul(REMEMBERED);
        let named = &self.named;
        self.weights.retain(|name, weight| {
            *weight /= 2;
            named.contains(name) || (*weight > 0 && !is_full)
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_go_to_the_largest() {
        let mut top = Top::new(2);
        assert_eq!(top.count("early", 1).0, "early");
        assert_eq!(top.count("small", 1).0, "small");
        assert_eq!(top.count("large", 9).0, OTHER);
        let mut ended = Vec::new();
        for _ in 0..RANK_EVERY {
            ended.extend(top.count("large", 9).1);
            ended.extend(top.count("early", 1).1);
        }
        assert_eq!(ended, ["small"]);
        assert_eq!(
            (top.count("large", 1).0, top.count("early", 1).0, top.count("small", 1).0),
            ("large", "early", OTHER)
        );
    }

    #[test]
    fn memory_is_bounded_whoever_comes() {
        let mut top = Top::new(3);
        for n in 0..100_000 {
            top.count(&format!("tenant-{n}"), 1);
            assert!(top.named.len() <= 3 && top.weights.len() <= 3 * REMEMBERED);
        }
        assert_eq!(Top::new(0).count("a", 1).0, OTHER);
    }
}
