use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use runtime::grpc::Peers;
use serde::Deserialize;

use crate::policy::{EgressSource, Overrides, Route, Tenant};

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
    /// BDAT instead of DATA where it is offered (RFC 3030).
    pub chunking: bool,
    /// DANE (RFC 7672), as soon as a name server has answered with a DNSSEC signature that leads
    /// to the trust anchor (`dns.trust_anchor`).
    pub dane: bool,
    /// MTA-STS (RFC 8461).
    pub mta_sts: bool,
    /// Port of the hosts `mta-sts.<domain>`; the standard knows no other than 443.
    pub mta_sts_port: u16,
    /// CA certificates (PEM) for MTA-STS and for certificates that must be valid, instead of the
    /// Web's.
    pub tls_ca: Option<PathBuf>,
    /// Collect TLS results and report them daily to domains that ask for it (RFC 8460).
    pub tls_reports: bool,
    /// Seconds between two counts handed to `mda`.
    pub tls_results_every: u64,
    /// The sender of these reports; unset: `postmaster@` the hostname.
    pub tls_report_from: Option<String>,
    /// `auth-checker`, which signs them (RFC 8460 §3) and DSNs; unset: they go out unsigned.
    pub auth_checker: Option<Peers>,
    /// Seconds between two looks whether a TLS report is due.
    pub tls_report_every: u64,
    /// Mail that does not go to the MX hosts of its domain; the first that fits.
    pub routes: Vec<Route>,
    /// Addresses and names that connections leave from, by the name of the pool.
    pub egress_pools: BTreeMap<String, Vec<EgressSource>>,
    /// Seconds between two looks at the pools that `mda` keeps besides.
    pub egress_every: u64,
    /// Settings of tenants, by name.
    pub tenants: BTreeMap<String, Tenant>,
    /// Settings of destinations, by domain; they go before those of tenants.
    pub destinations: BTreeMap<String, Overrides>,
    /// Domains by the name that metrics count them under; all others are `other`.
    pub destination_classes: BTreeMap<String, Vec<String>>,
    /// Seconds after which the sender is told that mail is delayed (RFC 3464); 0 never.
    pub delay_report: u64,
    /// Connections to a destination at the beginning; each message it takes allows one more.
    pub slow_start: usize,
    /// Seconds that a destination that does not answer is left alone, doubled with each failure.
    pub back_off_first: u64,
    pub back_off_max: u64,
    /// Seconds to wait for a greeting (RFC 5321 §4.5.3.2.1 says 5 minutes).
    pub greeting_seconds: u64,
    /// Seconds before the second attempt; doubles with every further one.
    pub retry_first: u64,
    /// Seconds between two attempts at most.
    pub retry_max: u64,
    /// Seconds after which undelivered mail is returned (RFC 5321 §4.5.4.1 wants 4 to 5 days).
    pub queue_lifetime: u64,
    /// Attempts at once.
    pub concurrency: usize,
    /// Connections at once to one destination, of all relays together.
    pub per_destination: usize,
    /// Claimed deliveries held at once, running or waiting.
    pub max_held: usize,
    /// Claimed deliveries of one domain waiting at once, and never more than half of the room
    /// left in `max_held`; more are given back for a while.
    pub max_held_per_destination: usize,
    /// Messages of at most so many bytes come with their claim, without a call for each; 0: none.
    pub content_with_claim: u32,
    /// Bytes that such messages may take in memory; others are read when their turn comes.
    pub content_memory: usize,
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
            chunking: true,
            dane: true,
            mta_sts: true,
            mta_sts_port: 443,
            tls_ca: None,
            tls_reports: true,
            tls_results_every: 30,
            tls_report_from: None,
            auth_checker: None,
            tls_report_every: 600,
            routes: Vec::new(),
            egress_pools: BTreeMap::new(),
            egress_every: 5,
            tenants: BTreeMap::new(),
            destinations: BTreeMap::new(),
            destination_classes: BTreeMap::new(),
            delay_report: 4 * 60 * 60,
            slow_start: 3,
            back_off_first: 30,
            back_off_max: 15 * 60,
            greeting_seconds: 300,
            retry_first: 60,
            retry_max: 2 * 60 * 60,
            queue_lifetime: 5 * 24 * 60 * 60,
            concurrency: 500,
            per_destination: 20,
            max_held: 10_000,
            max_held_per_destination: 1_000,
            content_with_claim: 64 << 10,
            content_memory: 64 << 20,
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
            ("slow_start", self.slow_start as u64),
            ("back_off_first", self.back_off_first),
            ("greeting_seconds", self.greeting_seconds),
            ("egress_every", self.egress_every),
            ("tls_results_every", self.tls_results_every),
            ("tls_report_every", self.tls_report_every),
        ] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        if self.retry_max < self.retry_first {
            let (max, first) = (self.retry_max, self.retry_first);
            return Err(format!("configuration key \"retry_max\" = {max}: expected at least retry_first = {first}"));
        }
        if self.content_with_claim > 1 << 20 {
            let limit = self.content_with_claim;
            return Err(format!("configuration key \"content_with_claim\" = {limit}: expected at most 1048576"));
        }
        crate::policy::validate(self)?;
        if !(3..=600).contains(&self.lease_seconds) {
            return Err(format!("configuration key \"lease_seconds\" = {}: expected 3 to 600", self.lease_seconds));
        }
        Ok(())
    }
}
