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
    /// Domains whose ARC seal is believed: mail that fails DMARC is accepted when one of them saw
    /// it pass, and only such ones handled it since (RFC 8617 §7.2).
    pub trusted_arc_sealers: Vec<String>,
    /// Look whether the client's address has a name that leads back to it (RFC 8601 §2.7.3).
    pub iprev: bool,
    /// Our name in DMARC reports.
    pub hostname: String,
    /// The sender of DMARC aggregate reports (RFC 9990); its domain should be one of ours, or they
    /// go out unsigned. Absent: nothing is collected and nothing sent.
    pub dmarc_report_from: Option<String>,
    /// Seconds between two counts handed to `mda`.
    pub dmarc_results_every: u64,
    /// Seconds between two looks whether a report is due.
    pub dmarc_report_every: u64,
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
            trusted_arc_sealers: Vec::new(),
            iprev: true,
            hostname: "localhost".into(),
            dmarc_report_from: None,
            dmarc_results_every: 30,
            dmarc_report_every: 600,
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
            ("dmarc_results_every", self.dmarc_results_every),
            ("dmarc_report_every", self.dmarc_report_every),
        ] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        if self.hostname.parse::<address::Domain>().is_err() {
            return Err(format!("configuration key \"hostname\" = {:?}: expected a host name", self.hostname));
        }
        if let Some(from) = self.dmarc_report_from.as_ref().filter(|f| f.parse::<address::Address>().is_err()) {
            return Err(format!("configuration key \"dmarc_report_from\" = {from:?}: expected an address"));
        }
        if let Some(wrong) = self.trusted_arc_sealers.iter().find(|d| d.parse::<address::Domain>().is_err()) {
            return Err(format!("configuration key \"trusted_arc_sealers\" has {wrong:?}: expected domains"));
        }
        Ok(())
    }
}
