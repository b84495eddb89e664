//! Where mail for a domain goes: MX hosts, or the address that a literal names.

use std::net::IpAddr;

use address::Domain;
use dns::LookupError;
use smtp::client::Credentials;

use crate::{
    Relay,
    decision::Decision,
    lane::Lane,
    policy::{self, RouteTls},
};

/// A host to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name, or an address as text.
    text: String,
    pub port: u16,
}

impl Host {
    pub fn name(&self) -> String {
        self.text.clone()
    }

    /// From an address literal (RFC 5321 §4.1.3), or a route.
    pub fn address(&self) -> Option<IpAddr> {
        self.text.parse().ok()
    }
}

/// Where to go, best first; never empty.
pub(crate) struct Hosts {
    pub hosts: Vec<Host>,
    /// Set by an operator's route; then policies of the domain do not apply.
    pub route: Option<RouteTls>,
    pub credentials: Option<Credentials>,
    pub is_literal: bool,
}

/// The hosts for a lane.
pub(crate) async fn hosts(relay: &Relay, lane: &Lane, entropy: u64) -> Result<Hosts, Decision> {
    let config = &relay.config;
    let host = |text: String| Host { text, port: config.relay_port };
    if let Some(route) = lane.route.and_then(|n| config.routes.get(n)) {
        let hosts = route.hosts.iter().filter_map(|h| policy::host_and_port(h));
        let hosts = hosts.map(|(text, port)| Host { text, port: port.unwrap_or(config.relay_port) }).collect();
        let credentials = route.user.clone().zip(route.password.clone());
        let credentials = credentials.map(|(user, password)| Credentials { user, password });
        return Ok(Hosts { hosts, route: Some(route.tls), credentials, is_literal: false });
    }
    let domain = &lane.destination;
    let parsed: Domain = domain.parse().map_err(|e| Decision::permanent("5.1.2", format!("{domain}: {e}")))?;
    let mx = |hosts, is_literal| Hosts { hosts, route: None, credentials: None, is_literal };
    if parsed.is_literal() {
        let address = literal(parsed.as_str());
        return address
            .map(|a| mx(vec![host(a.to_string())], true))
            .ok_or_else(|| Decision::permanent("5.1.2", format!("{domain} is not an address")));
    }
    let records = relay.resolver.mx(parsed.as_str()).await.map_err(|e| of_lookup(&e))?;
    let own = config.hostname.to_ascii_lowercase();
    let pools = relay.egress.current();
    let own: Vec<&str> = pools.hostnames().chain([own.as_str()]).collect();
    let names = dns::mx::hosts(parsed.as_str(), records, &own, entropy)
        .map_err(|e| Decision::permanent(e.status(), e.to_string()))?;
    Ok(mx(names.into_iter().map(host).collect(), false))
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
