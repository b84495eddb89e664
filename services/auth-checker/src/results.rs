//! The Authentication-Results field (RFC 8601).
//!
//! Everything in it but our own words comes from the peer, so every value is either a token, or
//! quoted and stripped of control characters.

use std::net::IpAddr;

use mail_auth::dmarc::Policy;

use crate::findings::Findings;

/// A domain or mailbox is not longer (RFC 5321 §4.5.3.1).
const VALUE_LIMIT: usize = 320;

/// Whom the checks were made for.
pub(crate) struct Identities<'a> {
    pub authserv_id: &'a str,
    pub helo: &'a str,
    pub peer: IpAddr,
    /// Empty for the null reverse-path.
    pub reverse_path: &'a str,
}

/// The whole field, folded before each result, ended by CRLF.
pub(crate) fn field(identities: &Identities<'_>, findings: &Findings) -> String {
    let mut field = format!("Authentication-Results: {}", domain_text(identities.authserv_id));
    let mut add = |text: String| {
        field.push_str(";\r\n\t");
        field.push_str(&text);
    };

    if identities.reverse_path.is_empty() {
        add(format!("spf={} smtp.helo={}", findings.spf, value(identities.helo)));
    } else {
        add(format!("spf={} smtp.mailfrom={}", findings.spf, value(identities.reverse_path)));
        if findings.spf_helo != "none" {
            add(format!("spf={} smtp.helo={}", findings.spf_helo, value(identities.helo)));
        }
    }

    if findings.signatures.is_empty() {
        add("dkim=none".to_owned());
    }
    for signature in &findings.signatures {
        let mut text = format!("dkim={}", signature.result);
        if let Some(reason) = signature.reason {
            text.push_str(&format!(" ({reason})"));
        }
        if !signature.domain.is_empty() {
            let (domain, selector) = (value(&signature.domain), value(&signature.selector));
            text.push_str(&format!(" header.d={domain} header.s={selector}"));
        }
        add(text);
    }

    if let Some(arc) = findings.arc {
        add(format!("arc={arc}"));
    }
    if let Some(iprev) = findings.iprev {
        add(format!("iprev={iprev} policy.iprev={}", value(&identities.peer.to_string())));
    }

    let dmarc = &findings.dmarc;
    let mut text = format!("dmarc={}", dmarc.result);
    if let Some(sealer) = &findings.vouched_by {
        text.push_str(&format!(" (overridden: {} saw it pass)", domain_text(sealer)));
    }
    if !dmarc.domain.is_empty() {
        text.push_str(&format!(" header.from={}", value(&dmarc.domain)));
    }
    if let Some(policy) = dmarc.policy {
        text.push_str(&format!(" policy.dmarc={}", policy_text(policy)));
    }
    add(text);

    field.push_str("\r\n");
    field
}

fn policy_text(policy: Policy) -> &'static str {
    match policy {
        Policy::Reject => "reject",
        Policy::Quarantine => "quarantine",
        Policy::None | Policy::Unspecified => "none",
    }
}

/// A pvalue (RFC 8601 §2.2): bare when it is a token or mailbox of harmless characters.
fn value(text: &str) -> String {
    let cut = text.get(..text.floor_char_boundary(VALUE_LIMIT)).unwrap_or_default();
    // A mailbox may have more in its local part than a token (RFC 5321 §4.1.2): SRS0=….
    let more = if cut.contains('@') { "=/?" } else { "" };
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-._+@!#$%&'*^`{|}~".contains(c) || more.contains(c);
    if !cut.is_empty() && cut.chars().all(harmless) {
        return cut.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in cut.chars().filter(|c| !c.is_control()) {
        if c == '"' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// A domain for running text: everything that no domain has is left out.
pub(crate) fn domain_text(domain: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let text: String = domain.chars().filter(kept).take(VALUE_LIMIT).collect();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::{Dmarc, Signature};

    const PEER: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn findings() -> Findings {
        Findings {
            spf: "pass",
            spf_helo: "none",
            signatures: vec![Signature {
                result: "pass",
                reason: None,
                domain: "sender.com".into(),
                selector: "r1".into(),
            }],
            arc: None,
            vouched_by: None,
            iprev: None,
            dmarc: Dmarc { result: "pass", domain: "sender.com".into(), policy: Some(Policy::Reject) },
        }
    }

    fn identities<'a>(reverse_path: &'a str) -> Identities<'a> {
        Identities { authserv_id: "mx.example.com", helo: "mx.sender.com", peer: PEER, reverse_path }
    }

    #[test]
    fn one_result_a_line() {
        assert_eq!(
            field(&identities("alice@sender.com"), &findings()),
            "Authentication-Results: mx.example.com;\r\n\
             \tspf=pass smtp.mailfrom=alice@sender.com;\r\n\
             \tdkim=pass header.d=sender.com header.s=r1;\r\n\
             \tdmarc=pass header.from=sender.com policy.dmarc=reject\r\n"
        );
    }

    #[test]
    fn null_reverse_path_names_the_helo() {
        let text = field(&identities(""), &findings());
        assert!(text.contains("\tspf=pass smtp.helo=mx.sender.com;") && !text.contains("mailfrom"), "{text}");
    }

    #[test]
    fn failures_say_why_and_absent_checks_are_none() {
        let mut some = findings();
        some.signatures[0].result = "fail";
        some.signatures[0].reason = Some("body hash did not verify");
        some.arc = Some("pass");
        some.iprev = Some("fail");
        let text = field(&identities("a@b.example"), &some);
        assert!(text.contains("dkim=fail (body hash did not verify) header.d=sender.com"), "{text}");
        assert!(text.contains(";\r\n\tarc=pass;\r\n\tiprev=fail policy.iprev=\"::1\";"), "{text}");

        some.signatures.clear();
        some.dmarc = Dmarc { result: "none", domain: String::new(), policy: None };
        let text = field(&identities("a@b.example"), &some);
        assert!(text.contains("\tdkim=none;") && text.ends_with("\tdmarc=none\r\n"), "{text}");
    }

    #[test]
    fn hostile_values_stay_values() {
        let hostile = "x@y.example; dmarc=pass\r\nX-Evil: \"1\\";
        let mut some = findings();
        some.signatures[0].selector = hostile.into();
        some.dmarc.domain = hostile.into();
        let text = field(&Identities { authserv_id: hostile, helo: hostile, peer: PEER, reverse_path: hostile }, &some);
        assert_eq!(text.matches("\r\n").count(), 4, "{text}");
        assert!(text.contains(r#"smtp.mailfrom="x@y.example; dmarc=passX-Evil: \"1\\";"#), "{text}");
        assert!(text.lines().all(|line| line.len() < 998));
        let long = field(&identities(&"é".repeat(5_000)), &some);
        assert!(long.lines().all(|line| line.len() < 998));
    }
}
