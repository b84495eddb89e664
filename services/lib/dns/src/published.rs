//! Whether what is published is what should be. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the DNS says of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum State {
    Published,
    Missing,
    /// Something stands there that does not do what is needed.
    Different,
    /// The name servers did not answer.
    Unknown,
}

/// A record that should be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Any of these hosts (RFC 5321 §5.1).
    Mx { hosts: Vec<String> },
    /// RFC 6376 §3.6.1.
    Dkim { value: String },
    /// RFC 7208.
    Spf { value: String },
    /// RFC 7489 §6.3: the policy is the domain owner's choice, so any will do.
    Dmarc,
}

impl Wanted {
    /// From a TXT record that `mda` asks for.
    pub fn txt(name: &str, value: &str) -> Self {
        if name.contains("._domainkey.") {
            Self::Dkim { value: value.to_owned() }
        } else if name.starts_with("_dmarc.") {
            Self::Dmarc
        } else {
            Self::Spf { value: value.to_owned() }
        }
    }
}

/// Compares with the texts found under the name: hosts for MX, joined strings for TXT.
pub fn compare(wanted: &Wanted, found: &[String]) -> State {
    let those_with = |version: &str| -> Vec<&String> {
        found
            .iter()
            .filter(|text| text.split([' ', ';']).next().is_some_and(|v| v.eq_ignore_ascii_case(version)))
            .collect()
    };
    match wanted {
        _ if found.is_empty() => State::Missing,
        Wanted::Mx { hosts } => {
            let same = |host: &String| {
                hosts.iter().any(|h| h.trim_end_matches('.').eq_ignore_ascii_case(host.trim_end_matches('.')))
            };
            if found.iter().any(same) { State::Published } else { State::Different }
        }
        Wanted::Dkim { value } => {
            let key = tag(value, "p");
            if found.iter().any(|text| tag(text, "p") == key) { State::Published } else { State::Different }
        }
        Wanted::Spf { value } => match those_with("v=spf1").as_slice() {
            [] => State::Missing,
            // Further senders are the owner's choice, and so is what becomes of all others.
            [one] if terms(value).all(|term| terms(one).any(|t| t == term)) => State::Published,
            // Two of them are an error for everybody who checks (RFC 7208 §4.5).
            _ => State::Different,
        },
        Wanted::Dmarc => match those_with("v=DMARC1").as_slice() {
            [] => State::Missing,
            [one] if tag(one, "p").is_some() => State::Published,
            _ => State::Different,
        },
    }
}

/// The value of a tag in a tag-list (RFC 6376 §3.2), without white space.
fn tag(text: &str, name: &str) -> Option<String> {
    text.split(';')
        .filter_map(|t| t.split_once('='))
        .find(|(n, _)| n.trim() == name)
        .map(|(_, value)| value.chars().filter(|c| !c.is_ascii_whitespace()).collect())
}

/// The mechanisms of an SPF record, without `all`.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    text.split_ascii_whitespace()
        .skip(1)
        .map(|t| t.trim_start_matches('+'))
        .filter(|t| !t.trim_start_matches(['-', '~', '?']).eq_ignore_ascii_case("all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(wanted: &Wanted, found: &[&str]) -> State {
        compare(wanted, &found.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn mx_points_at_one_of_the_hosts() {
        let wanted = Wanted::Mx { hosts: vec!["mx.example.com".into()] };
        assert_eq!(state(&wanted, &[]), State::Missing);
        assert_eq!(state(&wanted, &["backup.example.net", "MX.example.com."]), State::Published);
        assert_eq!(state(&wanted, &["mx.example.net"]), State::Different);
    }

    #[test]
    fn dkim_is_the_key_however_it_is_written() {
        let wanted = Wanted::txt("rsa-1._domainkey.example.com", "v=DKIM1; k=rsa; p=AbC+/=");
        assert_eq!(state(&wanted, &["k=rsa;p=Ab C+/=;t=s"]), State::Published);
        assert_eq!(state(&wanted, &["v=DKIM1; p=Other"]), State::Different);
        assert_eq!(state(&wanted, &["v=DKIM1; p="]), State::Different, "revoked (RFC 6376 §3.6.1)");
    }

    #[test]
    fn spf_may_have_more_senders_but_only_once() {
        let wanted = Wanted::txt("example.com", "v=spf1 mx -all");
        assert_eq!(state(&wanted, &["google-site-verification=x"]), State::Missing);
        assert_eq!(state(&wanted, &["v=spf1 +mx include:_spf.example.net ~all", "other"]), State::Published);
        assert_eq!(state(&wanted, &["v=spf1 a -all"]), State::Different);
        assert_eq!(state(&wanted, &["v=spf1 mx -all", "v=spf1 a -all"]), State::Different, "two are an error");
        assert_eq!(state(&wanted, &["v=spf10 mx -all"]), State::Missing);
    }

    #[test]
    fn any_dmarc_policy_will_do() {
        let wanted = Wanted::txt("_dmarc.example.com", "v=DMARC1; p=reject");
        assert_eq!(state(&wanted, &["v=DMARC1; p=none"]), State::Published);
        assert_eq!(state(&wanted, &["v=DMARC1; rua=mailto:x@y"]), State::Different);
        assert_eq!(state(&wanted, &["hello"]), State::Missing);
    }
}
