use std::time::Duration;

use runtime::grpc::Peers;
use serde::Deserialize;

/// Every key of the section `operator`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub runtime: runtime::Config,
    /// `mda`, its role admin.
    pub mda: Peers,
    /// The name that MX records should point at, unless a Domain says another.
    pub hostname: String,
    /// Name servers; `dns.server` is the only one asked when it is set.
    pub dns: dns::Config,
    /// Seconds that an answer of `mda` may take.
    pub mda_seconds: u64,
    /// Seconds after which another process takes over from one that died.
    pub lease_seconds: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: runtime::Config::default(),
            mda: std::net::SocketAddr::from(([127, 0, 0, 1], 9400)).into(),
            hostname: "localhost".into(),
            dns: dns::Config::default(),
            mda_seconds: 20,
            lease_seconds: 15,
        }
    }
}

impl Config {
    pub(crate) fn mda_timeout(&self) -> Duration {
        Duration::from_secs(self.mda_seconds)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }
}

impl runtime::ServiceConfig for Config {
    fn runtime(&self) -> &runtime::Config {
        &self.runtime
    }

    fn validate(&self) -> Result<(), String> {
        if self.hostname.parse::<address::Domain>().is_err() {
            return Err(format!("configuration key \"hostname\" = {:?}: expected a host name", self.hostname));
        }
        if self.mda_seconds == 0 {
            return Err("configuration key \"mda_seconds\" = 0: expected at least 1".into());
        }
        if !(3..=300).contains(&self.lease_seconds) {
            return Err(format!("configuration key \"lease_seconds\" = {}: expected 3 to 300", self.lease_seconds));
        }
        Ok(())
    }
}
