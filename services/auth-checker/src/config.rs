use std::{net::SocketAddr, time::Duration};

use runtime::grpc::Peers;
use serde::Deserialize;

/// What happens when DNS trouble leaves DMARC undecided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsFailure {
    /// 451: the sender tries again.
    Defer,
    /// Deliver, with `dmarc=temperror` in Authentication-Results.
    Accept,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// gRPC.
    pub listen: SocketAddr,
    /// `mda`, for signing keys.
    pub mda: Peers,
    /// Name servers; `dns.server` is the only one asked when it is set.
    pub dns: dns::Config,
    /// `defer` or `accept`.
    pub dns_failure: DnsFailure,
    /// Seconds for one verdict; what is not known by then is `temperror`.
    pub verify_seconds: u64,
    /// Seconds to wait for signing keys.
    pub directory_seconds: u64,
    /// Calls worked on at once; more wait.
    pub concurrency: usize,
    /// Bytes of content; a larger message is refused.
    pub max_message_size: usize,
    /// DKIM signatures looked at in one message; those of the From domain come first.
    pub max_signatures: usize,
    pub runtime: runtime::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 9010)),
            mda: SocketAddr::from(([127, 0, 0, 1], 9400)).into(),
            dns: dns::Config::default(),
            dns_failure: DnsFailure::Defer,
            verify_seconds: 20,
            directory_seconds: 5,
            concurrency: 64,
            max_message_size: 100 << 20,
            max_signatures: 10,
            runtime: runtime::Config::default(),
        }
    }
}

impl Config {
    pub(crate) fn verify_timeout(&self) -> Duration {
        Duration::from_secs(self.verify_seconds)
    }

    pub(crate) fn directory_timeout(&self) -> Duration {
        Duration::from_secs(self.directory_seconds)
    }
}

impl runtime::ServiceConfig for Config {
    fn runtime(&self) -> &runtime::Config {
        &self.runtime
    }

    fn validate(&self) -> Result<(), String> {
        for (key, value) in [
            ("verify_seconds", self.verify_seconds),
            ("directory_seconds", self.directory_seconds),
            ("concurrency", self.concurrency as u64),
            ("max_message_size", self.max_message_size as u64),
        ] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        Ok(())
    }
}
