//! What DMARC's aggregate reports tell about verdicts (RFC 9990), counted here and added up in
//! `mda`. Only for domains that ask for reports.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mail_auth::{
    DmarcOutput, DmarcResult,
    dmarc::{Alignment, Dmarc, Policy},
};
use proto::report::{AddDmarcResultsRequest, DmarcResult as Counted, reports_client::ReportsClient};
use report::{AuthDkim, AuthSpf, Override as Reason, Row};
use runtime::grpc::Channel;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{findings::Findings, verdict::Override, verify::Session};
use proto::auth::verify_response::Action;

/// Kept while `mda` is away; a statistic may lose more.
const MAX_KEPT: usize = 10_000;
const BATCH: usize = 1_000;

/// One message, but for what was done with it.
pub(crate) struct Observed {
    /// Where the policy was found.
    pub domain: String,
    kept: Kept,
    is_testing: bool,
}

/// What travels as JSON.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub policy: report::Policy,
    pub row: Row,
}

impl Observed {
    /// None when nobody wants to know, or DMARC did not come to a result.
    pub fn new(
        domain: String,
        record: &Dmarc,
        output: &DmarcOutput,
        session: &Session,
        findings: &Findings,
    ) -> Option<Self> {
        if record.rua.is_empty() || !matches!(findings.dmarc.result, "pass" | "fail") {
            return None;
        }
        let aligned = |result: &DmarcResult| if *result == DmarcResult::Pass { "pass" } else { "fail" }.to_owned();
        let policy = report::Policy {
            domain: domain.clone(),
            p: policy_name(record.p),
            sp: policy_name(record.sp),
            np: policy_name(record.np),
            adkim: alignment(record.adkim),
            aspf: alignment(record.aspf),
            testing: record.t,
        };
        let signature = |s: &crate::findings::Signature| AuthDkim {
            domain: s.domain.clone(),
            selector: s.selector.clone(),
            result: s.result.to_owned(),
        };
        let row = Row {
            source: source(session.peer),
            disposition: String::new(),
            dkim: aligned(output.dkim_result()),
            spf: aligned(output.spf_result()),
            overrides: Vec::new(),
            header_from: findings.dmarc.domain.clone(),
            envelope_from: session.reverse_path.rsplit_once('@').map(|(_, d)| d.to_lowercase()).unwrap_or_default(),
            signatures: findings.signatures.iter().filter(|s| !s.domain.is_empty()).take(10).map(signature).collect(),
            paths: vec![AuthSpf {
                domain: session.spf_domain().to_lowercase(),
                scope: if session.reverse_path.is_empty() { "helo" } else { "mfrom" }.to_owned(),
                result: findings.spf.to_owned(),
            }],
        };
        Some(Self { domain, kept: Kept { policy, row }, is_testing: record.t })
    }
}

fn source(peer: IpAddr) -> String {
    peer.to_string()
}

fn policy_name(policy: Policy) -> String {
    match policy {
        Policy::None => "none",
        Policy::Quarantine => "quarantine",
        Policy::Reject => "reject",
        Policy::Unspecified => "",
    }
    .to_owned()
}

fn alignment(alignment: Alignment) -> String {
    if alignment == Alignment::Strict { "s" } else { "r" }.to_owned()
}

/// Counts by domain and row.
#[derive(Default)]
pub(crate) struct Collector(Mutex<HashMap<(String, String), u64>>);

impl Collector {
    pub fn add(&self, mut observed: Observed, passed: bool, action: Action, over: Override) {
        let row = &mut observed.kept.row;
        row.disposition = match action {
            Action::Reject => "reject",
            Action::Quarantine => "quarantine",
            _ if passed => "pass",
            _ => "none",
        }
        .to_owned();
        let reason = |reason: &str, comment: &str| Reason { reason: reason.to_owned(), comment: comment.to_owned() };
        match over {
            Override::None if observed.is_testing && !passed => row.overrides.push(reason("policy_test_mode", "")),
            Override::None => (),
            Override::Arc => row.overrides.push(reason("trusted_forwarder", "arc=pass")),
            Override::Tenant => row.overrides.push(reason("local_policy", "quarantined instead of rejected")),
        }
        let Ok(text) = serde_json::to_string(&observed.kept) else { return };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (observed.domain, text);
        if counts.len() < MAX_KEPT || counts.contains_key(&key) {
            *counts.entry(key).or_default() += 1;
        }
    }

    fn take(&self) -> Vec<Counted> {
        let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        counts.into_iter().map(|((domain, row), messages)| Counted { domain, row, messages }).collect()
    }

    pub async fn flush(&self, mda: &ReportsClient<Channel>) {
        for batch in self.take().chunks(BATCH) {
            let request = AddDmarcResultsRequest { results: batch.to_vec() };
            if let Err(e) = mda.clone().add_dmarc_results(request).await {
                tracing::warn!(error = %e, results = batch.len(), "DMARC results lost");
            }
        }
    }

    pub async fn flush_forever(
        self: Arc<Self>,
        mda: ReportsClient<Channel>,
        every: Duration,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => self.flush(&mda).await,
                () = shutdown.cancelled() => return self.flush(&mda).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(source: usize) -> Observed {
        let row = Row { source: source.to_string(), ..Row::default() };
        Observed { domain: "a.com".into(), kept: Kept { row, ..Kept::default() }, is_testing: false }
    }

    #[test]
    fn the_same_is_counted_together_within_bounds() {
        let collector = Collector::default();
        for _ in 0..3 {
            collector.add(observed(1), false, Action::Accept, Override::Arc);
        }
        collector.add(observed(1), true, Action::Accept, Override::None);
        let mut taken = collector.take();
        taken.sort_by_key(|c| c.messages);
        assert_eq!(taken.iter().map(|c| c.messages).collect::<Vec<_>>(), [1, 3]);
        assert!(taken[1].row.contains("trusted_forwarder") && taken[0].row.contains(r#""disposition":"pass""#));
        for n in 0..MAX_KEPT + 5 {
            collector.add(observed(n), false, Action::Reject, Override::None);
        }
        assert_eq!(collector.take().len(), MAX_KEPT);
        assert!(collector.take().is_empty());
    }
}
