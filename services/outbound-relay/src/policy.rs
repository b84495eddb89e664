//! What the configuration says about one tenant and one destination. Pure.

use std::{net::IpAddr, time::Duration};

use serde::Deserialize;

use crate::{Config, retry::Limits};

/// Mail for some domains goes to these hosts instead of the MX.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `example.com`, `.example.com` (all below it), or `*`.
    pub domains: Vec<String>,
    /// Of this tenant only.
    #[serde(default)]
    pub tenant: Option<String>,
    /// `host`, `host:port` or `[address]:port`, tried in this order.
    pub hosts: Vec<String>,
    /// The smarthost's AUTH (RFC 4954), over TLS only.
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
    #[serde(default)]
    pub tls: RouteTls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteTls {
    Never,
    #[default]
    Opportunistic,
    /// With any certificate.
    Required,
    /// With a certificate that is valid for the host's name.
    Verified,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressSource {
    pub address: IpAddr,
    /// EHLO; unset: `hostname`.
    #[serde(default)]
    pub hostname: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// A name in `egress_pools`.
    pub egress_pool: Option<String>,
    pub retry_first: Option<u64>,
    pub retry_max: Option<u64>,
    pub queue_lifetime: Option<u64>,
    pub delay_report: Option<u64>,
}

/// Settings of one destination.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    pub retry_first: Option<u64>,
    pub retry_max: Option<u64>,
    pub queue_lifetime: Option<u64>,
    pub delay_report: Option<u64>,
    /// Instead of `per_destination`.
    pub connections: Option<usize>,
    /// Messages a minute, of all relays together.
    pub per_minute: Option<u32>,
}

/// Retry schedule, lifetime and delay report: the destination's word before the tenant's.
pub(crate) fn limits(config: &Config, tenant: &str, domain: &str) -> Limits {
    let tenant = config.tenants.get(tenant);
    let destination = config.destinations.get(domain);
    let pick = |d: fn(&Overrides) -> Option<u64>, t: fn(&Tenant) -> Option<u64>, all: u64| {
        let seconds = destination.and_then(d).or_else(|| tenant.and_then(t)).unwrap_or(all);
        Duration::from_secs(seconds)
    };
    let first = pick(|d| d.retry_first, |t| t.retry_first, config.retry_first);
    let delay = pick(|d| d.delay_report, |t| t.delay_report, config.delay_report);
    Limits {
        first,
        max: pick(|d| d.retry_max, |t| t.retry_max, config.retry_max).max(first),
        lifetime: pick(|d| d.queue_lifetime, |t| t.queue_lifetime, config.queue_lifetime),
        delay_report: Some(delay).filter(|d| !d.is_zero()),
    }
}

pub(crate) fn allowance(config: &Config, domain: &str) -> queue::Allowance {
    let own = config.destinations.get(domain).and_then(|d| d.connections);
    let connections = own.unwrap_or(config.per_destination);
    // Longer than the longest silence of a connection in use.
    queue::Allowance { connections, slow_start: config.slow_start.min(connections), lease: Duration::from_secs(90) }
}

pub(crate) fn per_minute(config: &Config, domain: &str) -> Option<u32> {
    config.destinations.get(domain).and_then(|d| d.per_minute)
}

/// The number of the first route that fits.
pub(crate) fn route(config: &Config, tenant: &str, domain: &str) -> Option<usize> {
    config.routes.iter().position(|route| {
        route.tenant.as_deref().is_none_or(|wanted| wanted == tenant)
            && route.domains.iter().any(|pattern| fits(pattern, domain))
    })
}

fn fits(pattern: &str, domain: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    match pattern.strip_prefix('.') {
        _ if pattern == "*" => true,
        Some(parent) => domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
        None => pattern == domain,
    }
}

/// `host`, `host:port`, `[address]`, `[address]:port`.
pub(crate) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':')?.parse().ok()?)),
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        },
    };
    let is_host = host.parse::<IpAddr>().is_ok() || host.parse::<address::Domain>().is_ok();
    is_host.then(|| (host.to_ascii_lowercase(), port))
}

/// What serde cannot see.
pub(crate) fn validate(config: &Config) -> Result<(), String> {
    for (n, route) in config.routes.iter().enumerate() {
        let key = |name: &str| format!("configuration key \"routes[{n}].{name}\"");
        if route.domains.is_empty() {
            return Err(format!("{} = []: expected a domain, .domain or *", key("domains")));
        }
        if route.hosts.is_empty() {
            return Err(format!("{} = []: expected a host", key("hosts")));
        }
        if let Some(host) = route.hosts.iter().find(|h| host_and_port(h).is_none()) {
            return Err(format!("{} = {host:?}: expected host, host:port or [address]:port", key("hosts")));
        }
        if route.user.is_some() != route.password.is_some() {
            return Err(format!("{} and password: expected both or none", key("user")));
        }
        if route.user.is_some() && route.tls == RouteTls::Never {
            return Err(format!("{} = never: expected TLS, because credentials are sent", key("tls")));
        }
    }
    for (name, pool) in &config.egress_pools {
        if pool.is_empty() {
            return Err(format!("configuration key \"egress_pools.{name}\" = []: expected an address"));
        }
        if let Some(hostname) =
            pool.iter().filter_map(|s| s.hostname.as_ref()).find(|h| h.parse::<address::Domain>().is_err())
        {
            return Err(format!(
                "configuration key \"egress_pools.{name}.hostname\" = {hostname:?}: expected a host name"
            ));
        }
    }
    for (name, tenant) in &config.tenants {
        if let Some(pool) = tenant.egress_pool.as_ref().filter(|p| !config.egress_pools.contains_key(*p)) {
            let known = config.egress_pools.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(format!(
                "configuration key \"tenants.{name}.egress_pool\" = {pool:?}: expected one of egress_pools ({known})"
            ));
        }
    }
    for (name, destination) in &config.destinations {
        for (key, value) in [
            ("connections", destination.connections.map(|n| n as u64)),
            ("per_minute", destination.per_minute.map(u64::from)),
        ] {
            if value == Some(0) {
                return Err(format!("configuration key \"destinations.{name}.{key}\" = 0: expected at least 1"));
            }
        }
    }
    if config.back_off_max < config.back_off_first {
        let (max, first) = (config.back_off_max, config.back_off_first);
        return Err(format!("configuration key \"back_off_max\" = {max}: expected at least back_off_first = {first}"));
    }
    if let Some(from) = config.tls_report_from.as_ref().filter(|f| f.parse::<address::Address>().is_err()) {
        return Err(format!("configuration key \"tls_report_from\" = {from:?}: expected an address"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        let slow = Tenant { queue_lifetime: Some(600), retry_first: Some(5), ..Tenant::default() };
        config.tenants.insert("shop".into(), slow);
        let picky = Overrides { retry_first: Some(900), connections: Some(2), ..Overrides::default() };
        config.destinations.insert("picky.example".into(), picky);
        config
    }

    #[test]
    fn the_destination_goes_before_the_tenant() {
        let seconds = |tenant, domain| {
            let limits = limits(&config(), tenant, domain);
            (limits.first.as_secs(), limits.lifetime.as_secs())
        };
        assert_eq!(seconds("", "example.com"), (60, 432_000));
        assert_eq!(seconds("shop", "example.com"), (5, 600));
        assert_eq!(seconds("shop", "picky.example"), (900, 600));
        assert_eq!(allowance(&config(), "picky.example").connections, 2);
    }

    #[test]
    fn routes_fit_domains_and_tenants() {
        let route = |domains: &[&str], tenant: Option<&str>| Route {
            domains: domains.iter().map(|d| (*d).to_owned()).collect(),
            tenant: tenant.map(str::to_owned),
            hosts: vec!["hub.example".into()],
            user: None,
            password: None,
            tls: RouteTls::Opportunistic,
        };
        let routes = vec![route(&["a.example", ".b.example"], None), route(&["*"], Some("shop"))];
        let config = Config { routes, ..Config::default() };
        for (tenant, domain, expected) in [
            ("", "a.example", Some(0)),
            ("", "x.a.example", None),
            ("", "b.example", None),
            ("", "x.b.example", Some(0)),
            ("", "xb.example", None),
            ("shop", "c.example", Some(1)),
        ] {
            assert_eq!(super::route(&config, tenant, domain), expected, "{tenant} {domain}");
        }
    }

    #[test]
    fn hosts_with_ports() {
        assert_eq!(host_and_port("Hub.example:587"), Some(("hub.example".into(), Some(587))));
        assert_eq!(host_and_port("[2001:db8::1]:25"), Some(("2001:db8::1".into(), Some(25))));
        assert_eq!(host_and_port("192.0.2.1"), Some(("192.0.2.1".into(), None)));
        for wrong in ["", "a b", "host:", "host:x", "[x]y"] {
            assert_eq!(host_and_port(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn mistakes_name_key_value_and_expectation() {
        let mut config = Config::default();
        config.tenants.insert("shop".into(), Tenant { egress_pool: Some("no".into()), ..Tenant::default() });
        let error = validate(&config).unwrap_err();
        for part in ["tenants.shop.egress_pool", "\"no\"", "expected one of"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
