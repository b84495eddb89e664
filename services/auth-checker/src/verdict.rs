//! From findings to a disposition (RFC 9989 §5.4): what the domain asks for, applied in the
//! session, so that nobody gets backscatter.

use mail_auth::dmarc::Policy;
use proto::auth::verify_response::Action;

use crate::{config::DnsFailure, findings::Dmarc, results::domain_text};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Override {
    #[default]
    None,
    /// A trusted sealer vouches for it.
    Arc,
    /// The recipients' tenants want it in Junk.
    Tenant,
}

impl Override {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Arc => "arc",
            Self::Tenant => "tenant",
        }
    }
}

/// Where local policy goes before the domain's (RFC 9989 §5.4).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Local<'a> {
    pub vouched_by: Option<&'a str>,
    pub quarantine_rejects: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub action: Action,
    /// Why it is not what the domain asks for.
    pub over: Override,
    /// One sentence without line breaks.
    pub reason: String,
}

/// What is done, after local policy had its say.
pub(crate) fn with_local(dmarc: &Dmarc, dns_failure: DnsFailure, local: Local<'_>) -> Verdict {
    let verdict = decide(dmarc, dns_failure);
    let is_unwanted = matches!(verdict.action, Action::Reject | Action::Quarantine) && dmarc.result == "fail";
    match (is_unwanted, local.vouched_by) {
        (true, Some(sealer)) => Verdict {
            action: Action::Accept,
            over: Override::Arc,
            reason: format!("{}, but trusted {} saw it pass", verdict.reason, domain_text(sealer)),
        },
        (true, None) if local.quarantine_rejects && verdict.action == Action::Reject => Verdict {
            action: Action::Quarantine,
            over: Override::Tenant,
            reason: format!("{}, but to Junk by local policy", verdict.reason),
        },
        _ => verdict,
    }
}

/// Sampling (`pct`) is history and not looked at (RFC 9989 §A.6).
pub(crate) fn decide(dmarc: &Dmarc, dns_failure: DnsFailure) -> Verdict {
    let domain = domain_text(&dmarc.domain);
    let (action, reason) = match (dmarc.result, dmarc.policy) {
        ("fail", Some(Policy::Reject)) => {
            (Action::Reject, format!("not authenticated as {domain}, whose DMARC policy is reject"))
        }
        ("fail", Some(Policy::Quarantine)) => {
            (Action::Quarantine, format!("not authenticated as {domain}, whose DMARC policy is quarantine"))
        }
        ("fail", _) => (Action::Accept, format!("not authenticated as {domain}, which asks for no action")),
        // Whatever the answer were, it would change nothing.
        ("temperror", Some(Policy::None | Policy::Unspecified)) => {
            (Action::Accept, format!("DMARC of {domain} not evaluated, its policy is none"))
        }
        ("temperror", _) if dns_failure == DnsFailure::Defer => {
            (Action::Defer, "DMARC cannot be evaluated now, because a name server does not answer".to_owned())
        }
        ("temperror", _) => (Action::Accept, "DMARC not evaluated, because a name server does not answer".to_owned()),
        ("pass", _) => (Action::Accept, format!("authenticated as {domain}")),
        ("permerror", _) if dmarc.domain.is_empty() => (Action::Quarantine, "too many author domains".to_owned()),
        _ => (Action::Accept, "no DMARC policy applies".to_owned()),
    };
    Verdict { action, over: Override::None, reason }
}

/// Of several author domains the strictest answer counts.
pub(crate) fn strictest(all: Vec<Dmarc>, dns_failure: DnsFailure) -> Option<Dmarc> {
    let severity = |dmarc: &Dmarc| match decide(dmarc, dns_failure).action {
        Action::Reject => 3,
        Action::Defer => 2,
        Action::Quarantine => 1,
        _ => 0,
    };
    // max_by_key takes the last of equals, the first named author shall win.
    all.into_iter().rev().max_by_key(severity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dmarc(result: &'static str, policy: Option<Policy>) -> Dmarc {
        Dmarc { result, domain: "example.com".into(), policy }
    }

    fn action(result: &'static str, policy: Option<Policy>) -> Action {
        decide(&dmarc(result, policy), DnsFailure::Defer).action
    }

    #[test]
    fn a_failure_gets_what_the_domain_asks_for() {
        assert_eq!(action("fail", Some(Policy::Reject)), Action::Reject);
        assert_eq!(action("fail", Some(Policy::Quarantine)), Action::Quarantine);
        assert_eq!(action("fail", Some(Policy::None)), Action::Accept);
        assert_eq!(action("pass", Some(Policy::Reject)), Action::Accept);
        assert_eq!(action("none", None), Action::Accept);
    }

    #[test]
    fn dns_trouble_defers_only_where_it_matters() {
        assert_eq!(action("temperror", None), Action::Defer);
        assert_eq!(action("temperror", Some(Policy::Reject)), Action::Defer);
        assert_eq!(action("temperror", Some(Policy::None)), Action::Accept);
        assert_eq!(decide(&dmarc("temperror", None), DnsFailure::Accept).action, Action::Accept);
    }

    #[test]
    fn local_policy_goes_before_the_domains() {
        let after = |policy, vouched_by, quarantine_rejects| {
            let local = Local { vouched_by, quarantine_rejects };
            let verdict = with_local(&dmarc("fail", Some(policy)), DnsFailure::Defer, local);
            (verdict.action, verdict.over)
        };
        assert_eq!(after(Policy::Reject, None, true), (Action::Quarantine, Override::Tenant));
        assert_eq!(after(Policy::Reject, Some("list.org"), true), (Action::Accept, Override::Arc));
        assert_eq!(after(Policy::Quarantine, Some("list.org"), false), (Action::Accept, Override::Arc));
        assert_eq!(after(Policy::Quarantine, None, true), (Action::Quarantine, Override::None));
        assert_eq!(after(Policy::None, Some("list.org"), true), (Action::Accept, Override::None));
        let unknown = with_local(
            &dmarc("temperror", None),
            DnsFailure::Defer,
            Local { vouched_by: None, quarantine_rejects: true },
        );
        assert_eq!(unknown.action, Action::Defer);
    }

    #[test]
    fn of_several_authors_the_strictest_counts() {
        let all = vec![dmarc("pass", Some(Policy::Reject)), dmarc("fail", Some(Policy::Reject)), dmarc("none", None)];
        assert_eq!(strictest(all, DnsFailure::Defer).map(|d| d.result), Some("fail"));
        let equal = vec![dmarc("pass", None), dmarc("none", None)];
        assert_eq!(strictest(equal, DnsFailure::Defer).map(|d| d.result), Some("pass"));
    }

    #[test]
    fn the_reason_is_one_clean_line() {
        let hostile = Dmarc { result: "fail", domain: "a\r\n250 ok.com".into(), policy: Some(Policy::Reject) };
        let reason = decide(&hostile, DnsFailure::Defer).reason;
        assert!(!reason.contains(['\r', '\n']), "{reason}");
    }
}
