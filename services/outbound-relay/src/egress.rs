//! Where whose mail leaves from: the pools of the configuration, and those that `mda` keeps for
//! operators. What the configuration says goes before.

use std::{
    collections::{BTreeMap, HashMap},
    net::{SocketAddr, UdpSocket},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use proto::relay::{EgressPool, ListPoolsRequest, egress_client::EgressClient};
use runtime::grpc::Channel;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{Config, policy::EgressSource};

const PAUSE: Duration = Duration::from_secs(1);

/// The pools at one moment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pools {
    sources: BTreeMap<String, Vec<EgressSource>>,
    /// Tenant to pool.
    tenants: HashMap<String, String>,
}

impl Pools {
    pub fn of(config: &Config) -> Self {
        let tenants = config.tenants.iter().filter_map(|(name, t)| Some((name.clone(), t.egress_pool.clone()?)));
        Self { sources: config.egress_pools.clone(), tenants: tenants.collect() }
    }

    fn with(config: &Config, kept: Vec<EgressPool>) -> Self {
        let mut pools = Self::of(config);
        for pool in kept {
            for tenant in pool.tenants {
                pools.tenants.entry(tenant).or_insert_with(|| pool.name.clone());
            }
            let sources = pool.sources.into_iter().filter_map(|s| {
                let hostname = Some(s.hostname).filter(|h| !h.is_empty());
                Some(EgressSource { address: s.address.parse().ok()?, hostname })
            });
            pools.sources.entry(pool.name).or_insert_with(|| sources.collect());
        }
        pools
    }

    pub fn of_tenant(&self, tenant: &str) -> Option<&str> {
        self.tenants.get(tenant).map(String::as_str)
    }

    /// Those sources of a pool whose addresses are ours: the others cannot be bound to.
    pub fn sources(&self, pool: &str) -> Vec<EgressSource> {
        let is_here = |s: &&EgressSource| UdpSocket::bind(SocketAddr::new(s.address, 0)).is_ok();
        self.sources.get(pool).into_iter().flatten().filter(is_here).cloned().collect()
    }

    /// Names that we call ourselves.
    pub fn hostnames(&self) -> impl Iterator<Item = &str> {
        self.sources.values().flatten().filter_map(|s| s.hostname.as_deref())
    }
}

pub(crate) struct Egress {
    client: EgressClient<Channel>,
    current: RwLock<Arc<Pools>>,
}

impl Egress {
    pub fn new(channel: Channel, config: &Config) -> Self {
        Self { client: EgressClient::new(channel), current: RwLock::new(Arc::new(Pools::of(config))) }
    }

    pub fn current(&self) -> Arc<Pools> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks until there is an answer: until then a tenant's mail could leave from the wrong address.
    pub async fn load_first(&self, config: &Config, shutdown: &CancellationToken) {
        while let Err(e) = self.load(config).await {
            tracing::warn!(error = %e, "egress pools not known yet");
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => (),
                () = shutdown.cancelled() => return,
            }
        }
    }

    pub async fn load_forever(&self, config: &Config) {
        loop {
            tokio::time::sleep(Duration::from_secs(config.egress_every)).await;
            if let Err(e) = self.load(config).await {
                tracing::debug!(error = %e, "egress pools stay as they are");
            }
        }
    }

    async fn load(&self, config: &Config) -> Result<(), Status> {
        let pools = match self.client.clone().list_pools(ListPoolsRequest {}).await {
            Ok(answer) => Pools::with(config, answer.into_inner().pools),
            // The version before knows none (Invariant 9).
            Err(e) if e.code() == Code::Unimplemented => Pools::of(config),
            Err(e) => return Err(e),
        };
        if pools != *self.current() {
            tracing::info!(pools = pools.sources.len(), "egress pools");
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pools);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto::relay::EgressSource as Kept;

    use super::*;
    use crate::policy::Tenant;

    fn kept(name: &str, address: &str, tenants: &[&str]) -> EgressPool {
        let sources = vec![Kept { address: address.into(), hostname: format!("{name}.example") }];
        EgressPool { name: name.into(), sources, tenants: tenants.iter().map(|t| (*t).to_owned()).collect() }
    }

    #[test]
    fn the_configuration_goes_before_what_is_kept() {
        let mut config = Config::default();
        let source = EgressSource { address: "127.0.0.5".parse().expect("address"), hostname: None };
        config.egress_pools.insert("own".into(), vec![source]);
        config.tenants.insert("a".into(), Tenant { egress_pool: Some("own".into()), ..Tenant::default() });
        let pools = Pools::with(&config, vec![kept("bulk", "127.0.0.6", &["a", "b"]), kept("own", "127.0.0.7", &[])]);
        assert_eq!(
            (pools.of_tenant("a"), pools.of_tenant("b"), pools.of_tenant("")),
            (Some("own"), Some("bulk"), None)
        );
        assert_eq!(pools.sources("own")[0].address.to_string(), "127.0.0.5");
        assert_eq!(pools.hostnames().collect::<Vec<_>>(), ["bulk.example"]);
    }

    #[test]
    fn an_address_that_is_not_ours_is_no_source() {
        let pools = Pools::with(&Config::default(), vec![kept("far", "192.0.2.1", &[]), kept("bad", "x", &[])]);
        assert!(pools.sources("far").is_empty() && pools.sources("bad").is_empty() && pools.sources("none").is_empty());
    }
}
