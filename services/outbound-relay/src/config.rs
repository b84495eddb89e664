use std::{net::IpAddr, time::Duration};

use runtime::grpc::Peers;
use serde::Deserialize;

/// Every key of the section `outbound-relay`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub runtime: runtime::Config,
    /// Where delivery ids come from.
    pub redis_url: Option<queue::Url>,
    /// `mda`: claims, content, settling.
    pub mda: Peers,
    /// Name servers; `dns.server` is the only one asked when it is set.
    pub dns: dns::Config,
    /// Our name in EHLO, and in DSNs (RFC 3464 §2.2.2). Peers look it up: it should have the
    /// address that mail leaves from.
    pub hostname: String,
    /// Port of the world's MTAs.
    pub relay_port: u16,
    /// Address that connections leave from; SPF records name it. The system chooses when absent.
    pub source_address: Option<IpAddr>,
    /// Prepend `Postroad-Trace` with the W3C trace context, so that a receiving Postroad links it.
    pub trace_header: bool,
    /// Seconds before the second attempt; doubles with every further one.
    pub retry_first: u64,
    /// Seconds between two attempts at most.
    pub retry_max: u64,
    /// Seconds after which undelivered mail is returned (RFC 5321 §4.5.4.1 wants 4 to 5 days).
    pub queue_lifetime: u64,
    /// Attempts at once.
    pub concurrency: usize,
    /// Attempts at once to one domain.
    pub per_destination: usize,
    /// Claimed deliveries held at once, running or waiting.
    pub max_held: usize,
    /// Claimed deliveries of one domain held at once; more are given back for a while.
    pub max_held_per_destination: usize,
    /// Seconds a claim holds without being renewed; so long a crash delays its deliveries.
    pub lease_seconds: u32,
    /// Seconds to wait for a connection to one address.
    pub connect_seconds: u64,
    /// Seconds a connection is kept for further mail to its domain.
    pub idle_seconds: u64,
    /// Transactions over one connection.
    pub transactions_per_connection: u32,
    /// Seconds to wait for an answer of `mda`.
    pub mda_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: runtime::Config::default(),
            redis_url: None,
            mda: std::net::SocketAddr::from(([127, 0, 0, 1], 9400)).into(),
            dns: dns::Config::default(),
            hostname: "localhost".into(),
            relay_port: 25,
            source_address: None,
            trace_header: true,
            retry_first: 60,
            retry_max: 2 * 60 * 60,
            queue_lifetime: 5 * 24 * 60 * 60,
            concurrency: 100,
            per_destination: 10,
            max_held: 10_000,
            max_held_per_destination: 1_000,
            lease_seconds: 30,
            connect_seconds: 30,
            idle_seconds: 10,
            transactions_per_connection: 100,
            mda_seconds: 30,
        }
    }
}

impl Config {
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }

    pub(crate) fn mda_timeout(&self) -> Duration {
        Duration::from_secs(self.mda_seconds)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_seconds)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }
}

impl runtime::ServiceConfig for Config {
    fn runtime(&self) -> &runtime::Config {
        &self.runtime
    }

    fn validate(&self) -> Result<(), String> {
        if self.redis_url.is_none() {
            return Err("configuration key \"redis_url\" is missing: expected a Redis URL".into());
        }
        if self.hostname.parse::<address::Domain>().is_err() {
            return Err(format!("configuration key \"hostname\" = {:?}: expected a host name", self.hostname));
        }
        for (key, value) in [
            ("retry_first", self.retry_first),
            ("queue_lifetime", self.queue_lifetime),
            ("concurrency", self.concurrency as u64),
            ("per_destination", self.per_destination as u64),
            ("max_held", self.max_held as u64),
            ("max_held_per_destination", self.max_held_per_destination as u64),
            ("connect_seconds", self.connect_seconds),
            ("transactions_per_connection", self.transactions_per_connection.into()),
            ("mda_seconds", self.mda_seconds),
        ] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        if self.retry_max < self.retry_first {
            let (max, first) = (self.retry_max, self.retry_first);
            return Err(format!("configuration key \"retry_max\" = {max}: expected at least retry_first = {first}"));
        }
        if !(3..=600).contains(&self.lease_seconds) {
            return Err(format!("configuration key \"lease_seconds\" = {}: expected 3 to 600", self.lease_seconds));
        }
        Ok(())
    }
}
