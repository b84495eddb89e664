//! Where mail for a domain goes: MX hosts, or the address that a literal names.

use std::net::IpAddr;

use address::Domain;
use dns::{LookupError, Resolver};

use crate::decision::Decision;

/// A host to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Name(String),
    /// From an address literal (RFC 5321 §4.1.3).
    Address(IpAddr),
}

/// The hosts for `domain`, best first; never empty.
pub(crate) async fn hosts(resolver: &Resolver, domain: &str, own: &str, entropy: u64) -> Result<Vec<Host>, Decision> {
    let parsed: Domain = domain.parse().map_err(|e| Decision::permanent("5.1.2", format!("{domain}: {e}")))?;
    if parsed.is_literal() {
        let address = literal(parsed.as_str());
        return address
            .map(|a| vec![Host::Address(a)])
            .ok_or_else(|| Decision::permanent("5.1.2", format!("{domain} is not an address")));
    }
    let records = resolver.mx(parsed.as_str()).await.map_err(|e| of_lookup(&e))?;
    let own = own.to_ascii_lowercase();
    let names = dns::mx::hosts(parsed.as_str(), records, &[&own], entropy)
        .map_err(|e| Decision::permanent(e.status(), e.to_string()))?;
    Ok(names.into_iter().map(Host::Name).collect())
}

/// A host without an address cannot take mail; a silent name server is no proof of that.
pub(crate) fn of_lookup(error: &LookupError) -> Decision {
    let words = error.to_string();
    match error {
        _ if error.is_transient() => Decision::transient("4.4.3", words),
        LookupError::NoData { .. } => Decision::permanent("5.4.4", words),
        _ => Decision::permanent("5.1.2", words),
    }
}

fn literal(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => inner.get(5..)?.parse().ok().map(IpAddr::V6),
        _ => inner.parse().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        assert_eq!(literal("[192.0.2.1]"), "192.0.2.1".parse().ok());
        assert_eq!(literal("[ipv6:2001:db8::1]"), "2001:db8::1".parse().ok());
        for text in ["[]", "[x]", "192.0.2.1", "[2001:db8::1]", "["] {
            assert_eq!(literal(text), None, "{text}");
        }
    }

    #[test]
    fn silence_defers_and_absence_returns() {
        let transient = LookupError::Refused { name: "a".into() };
        assert_eq!(of_lookup(&transient).status, "4.4.3");
        assert_eq!(of_lookup(&LookupError::NoSuchName { name: "a".into() }).status, "5.1.2");
        assert_eq!(of_lookup(&LookupError::NoData { name: "a".into(), kind: "address" }).status, "5.4.4");
    }
}
