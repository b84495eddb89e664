//! Which mail can share connections.

use address::Address;
use proto::spool::Claimed;

use crate::{Config, egress::Pools, policy};

/// Mail with the same hosts, the same source and the same demands on them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    /// The recipients' domain in A-labels, or the first host of a route.
    pub destination: String,
    /// A number in `routes`.
    pub route: Option<usize>,
    /// Name of an egress pool.
    pub pool: Option<String>,
    /// RFC 8689.
    pub require_tls: bool,
}

impl Lane {
    pub fn of(config: &Config, pools: &Pools, claimed: &Claimed) -> Self {
        let domain = domain(&claimed.forward_path);
        let route = policy::route(config, &claimed.tenant, &domain);
        let hub = route.and_then(|n| config.routes.get(n)).and_then(|r| r.hosts.first());
        Self {
            destination: hub.map_or(domain, |host| host.to_ascii_lowercase()),
            route,
            pool: pools.of_tenant(&claimed.tenant).map(str::to_owned),
            require_tls: claimed.require_tls,
        }
    }

    /// What relays count connections by: those of all pools and demands together.
    pub fn counted(&self) -> &str {
        &self.destination
    }
}

/// The domain of a forward-path, as routing and policies know it.
pub(crate) fn domain(forward_path: &str) -> String {
    let domain = match forward_path.parse::<Address>() {
        Ok(address) => address.domain().to_string(),
        // Routing will say what is wrong with it.
        Err(_) => forward_path.rsplit('@').next().unwrap_or_default().to_ascii_lowercase(),
    };
    if domain.is_ascii() { domain } else { dns::to_ascii(&domain).unwrap_or(domain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lane_for_a_domain_however_it_is_written() {
        for path in ["b@EXAMPLE.com", "\"x y\"@example.com", "@example.com"] {
            assert_eq!(domain(path), "example.com", "{path}");
        }
        assert_eq!(domain("b@bücher.example"), "xn--bcher-kva.example");
        assert_eq!(domain("b@[127.0.0.1]"), "[127.0.0.1]");
    }

    #[test]
    fn tenants_with_a_pool_of_their_own_share_no_connection() {
        let mut config = Config::default();
        let shop = crate::policy::Tenant { egress_pool: Some("shop".into()), ..Default::default() };
        config.tenants.insert("shop".into(), shop);
        let lane = |tenant: &str| {
            let claimed = Claimed { forward_path: "b@x.com".into(), tenant: tenant.into(), ..Claimed::default() };
            Lane::of(&config, &Pools::of(&config), &claimed)
        };
        assert_ne!(lane(""), lane("shop"));
        assert_eq!(lane("").counted(), lane("shop").counted());
    }
}
