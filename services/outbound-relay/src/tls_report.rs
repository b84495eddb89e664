//! TLS results (RFC 8460), counted here and added up in `mda`.
//!
//! Counted are sessions with domains that have a policy, DANE or MTA-STS.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::relay::{AddTlsResultsRequest, TlsResult, relay_client::RelayClient};
use runtime::grpc::Channel;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Kept when `mda` is away; a statistic may lose more.
const MAX_KEPT: usize = 10_000;
const BATCH: usize = 1_000;

/// A policy that a session was under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    domain: String,
    policy: String,
}

impl Subject {
    pub fn new(domain: &str, policy: &Value) -> Self {
        Self { domain: domain.to_owned(), policy: policy.to_string() }
    }
}

type Key = (String, String, String);

/// Successes and failures by domain, policy and failure.
#[derive(Default)]
pub(crate) struct TlsResults {
    counts: Mutex<HashMap<Key, (u64, u64)>>,
    is_off: bool,
}

impl TlsResults {
    pub fn new(is_on: bool) -> Self {
        Self { counts: Mutex::default(), is_off: !is_on }
    }

    pub fn succeeded(&self, subject: &Subject) {
        self.add(subject, String::new(), (1, 0));
    }

    /// `result` is one of RFC 8460 §4.3.
    pub fn failed(&self, subject: &Subject, result: &str, host: &str, address: &str, words: &str) {
        let mut failure = json!({ "result-type": result });
        let given = [("receiving-mx-hostname", host), ("receiving-ip", address), ("failure-reason-code", words)];
        for (name, value) in given.into_iter().filter(|(_, value)| !value.is_empty()) {
            failure[name] = json!(value.chars().take(200).collect::<String>());
        }
        self.add(subject, failure.to_string(), (0, 1));
    }

    fn add(&self, subject: &Subject, failure: String, (good, bad): (u64, u64)) {
        if self.is_off {
            return;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (subject.domain.clone(), subject.policy.clone(), failure);
        if counts.len() < MAX_KEPT || counts.contains_key(&key) {
            let count = counts.entry(key).or_default();
            count.0 += good;
            count.1 += bad;
        }
    }

    fn take(&self) -> Vec<TlsResult> {
        let counts = std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner));
        let result = |((domain, policy, failure), (successful_sessions, failed_sessions)): (Key, (u64, u64))| {
            TlsResult { domain, policy, failure, successful_sessions, failed_sessions }
        };
        counts.into_iter().map(result).collect()
    }

    pub async fn flush(&self, mda: &RelayClient<Channel>) {
        for batch in self.take().chunks(BATCH) {
            let request = AddTlsResultsRequest { results: batch.to_vec() };
            if let Err(e) = mda.clone().add_tls_results(request).await {
                tracing::warn!(error = %e, results = batch.len(), "TLS results lost");
            }
        }
    }

    pub async fn flush_forever(
        self: Arc<Self>,
        mda: RelayClient<Channel>,
        every: Duration,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => self.flush(&mda).await,
                () = shutdown.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_counted_together_and_the_number_of_kinds_is_bounded() {
        let results = TlsResults::new(true);
        let subject = Subject::new("example.com", &json!({ "policy-type": "sts" }));
        for _ in 0..3 {
            results.succeeded(&subject);
            results.failed(&subject, "certificate-expired", "mx.example.com", "192.0.2.1", "");
        }
        let mut taken = results.take();
        taken.sort_by_key(|r| r.failed_sessions);
        let counts: Vec<_> = taken.iter().map(|r| (r.successful_sessions, r.failed_sessions)).collect();
        assert_eq!(counts, [(3, 0), (0, 3)]);
        assert!(taken.iter().any(|r| r.failure.contains("certificate-expired")));
        for n in 0..2 * MAX_KEPT {
            results.failed(&subject, "validation-failure", &n.to_string(), "", "");
        }
        assert_eq!(results.take().len(), MAX_KEPT);
        assert!(results.take().is_empty());
    }
}
