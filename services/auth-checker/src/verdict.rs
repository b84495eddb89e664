//! From findings to a disposition (RFC 9989 §5.4): what the domain asks for, applied in the
//! session, so that nobody gets backscatter.

use mail_auth::dmarc::Policy;
use proto::auth::verify_response::Action;

use crate::{config::DnsFailure, findings::Dmarc, results::domain_text};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub action: Action,
    /// One sentence without line breaks.
    pub reason: String,
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
    Verdict { action, reason }
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
