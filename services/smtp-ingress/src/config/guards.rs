//! Keys of what guards the door.

use std::{path::PathBuf, str::FromStr};

use address::Domain;
use queue::Rate;
use serde::Deserialize;

use super::Config;

/// Each `number/time`, such as `100/1h`; absent is no limit. Needs `redis_url`, and lets
/// everything pass while Redis is away (`smtp_unguarded` counts that).
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of one client address (421 4.7.0).
    pub connections_per_address: Option<Rate>,
    /// Messages of one client address on the MX port (450 4.7.1).
    pub messages_per_address: Option<Rate>,
    /// Messages of one account (450 4.7.1).
    pub messages_per_account: Option<Rate>,
    /// Recipients of one account (450 4.7.1). A stolen password sends no more than this; an
    /// account's own number goes before it.
    pub recipients_per_account: Option<Rate>,
    /// Recipients of all accounts of a tenant (450 4.7.1).
    pub recipients_per_tenant: Option<Rate>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_address: None,
            messages_per_address: None,
            messages_per_account: None,
            recipients_per_account: Some(Rate { limit: 10_000, seconds: 86_400 }),
            recipients_per_tenant: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverQuota {
    Defer,
    Refuse,
}

/// A client network, sender and recipient that meet for the first time have to come back.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Greylist {
    /// Seconds before which it is too early.
    pub delay_seconds: u64,
    /// Seconds in which it must come back.
    pub patience_seconds: u64,
    /// Seconds that who came back stays known.
    pub memory_seconds: u64,
}

impl Default for Greylist {
    fn default() -> Self {
        Self { delay_seconds: 60, patience_seconds: 2 * 86_400, memory_seconds: 36 * 86_400 }
    }
}

/// Rspamd's HTTP protocol (`/checkv2` of its normal worker).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// `http://host:port`.
    pub rspamd_url: String,
    #[serde(default = "scan_seconds")]
    pub timeout_seconds: u64,
    /// When Rspamd does not answer: take the message (`true`) or defer it (451 4.7.1).
    #[serde(default)]
    pub fail_open: bool,
    /// Scan what our users submit, too.
    #[serde(default)]
    pub submissions: bool,
}

/// A filter that speaks the milter protocol, version 6. It may refuse, add header fields, and send to
/// Junk (quarantine); one that must rewrite messages fails.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Milter {
    /// `inet:host:port` or `unix:/path`.
    pub address: String,
    /// Seconds for each answer.
    #[serde(default = "scan_seconds")]
    pub timeout_seconds: u64,
    /// When it does not answer: take the message (`true`) or defer it (451 4.7.1).
    #[serde(default)]
    pub fail_open: bool,
    /// Hears of what our users submit, too.
    #[serde(default)]
    pub submissions: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MilterAddress {
    /// `host:port`.
    Inet(String),
    Unix(PathBuf),
}

impl FromStr for MilterAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_endpoint = |text: &str| {
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        match text.split_once(':') {
            Some(("inet", endpoint)) if is_endpoint(endpoint) => Ok(Self::Inet(endpoint.to_owned())),
            Some(("unix" | "local", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            _ => Err("expected inet:host:port or unix:/path"),
        }
    }
}

fn scan_seconds() -> u64 {
    20
}

impl Config {
    pub(super) fn validate_guards(&self) -> Result<(), String> {
        for name in &self.mechanisms {
            if name.parse::<sasl::Mechanism>().is_err() {
                let all: Vec<_> = sasl::Mechanism::ALL.iter().map(|m| m.name()).collect();
                return Err(format!(
                    "configuration key \"mechanisms\" has {name:?}: expected some of {}",
                    all.join(", ")
                ));
            }
        }
        for zone in &self.dnsbl {
            if zone.parse::<Domain>().is_err() {
                return Err(format!(
                    "configuration key \"dnsbl\" has {zone:?}: expected names such as zen.spamhaus.org"
                ));
            }
        }
        if self.greylist.is_some() && self.redis_url.is_none() {
            return Err("configuration key \"redis_url\" is missing: expected redis://host:port/, \
                        because \"greylist\" is there"
                .into());
        }
        if let Some(scan) = &self.scan {
            let uri = scan.rspamd_url.parse::<hyper::Uri>();
            if !uri.is_ok_and(|u| u.scheme_str() == Some("http") && u.host().is_some()) {
                return Err(format!(
                    "configuration key \"scan.rspamd_url\" = {:?}: expected http://host:port",
                    scan.rspamd_url
                ));
            }
        }
        for milter in &self.milters {
            if let Err(expected) = milter.address.parse::<MilterAddress>() {
                return Err(format!("configuration key \"milters.address\" = {:?}: {expected}", milter.address));
            }
            if milter.timeout_seconds == 0 {
                return Err("configuration key \"milters.timeout_seconds\" = 0: expected at least 1".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use runtime::ServiceConfig as _;

    use super::*;

    #[test]
    fn wrong_guards_are_named() {
        let base = || Config { mx_listen: "0.0.0.0:0".parse().ok(), ..Config::default() };
        let scan = |url: &str| Scan { rspamd_url: url.into(), timeout_seconds: 1, fail_open: true, submissions: false };
        let milter = |address: &str, timeout_seconds| Milter {
            address: address.into(),
            timeout_seconds,
            fail_open: false,
            submissions: false,
        };
        let fine = vec![milter("inet:[::1]:8891", 1), milter("unix:/run/m.sock", 1)];
        assert_eq!(Config { milters: fine, ..base() }.validate(), Ok(()));
        assert_eq!(Config { scan: Some(scan("http://rspamd:11333")), ..base() }.validate(), Ok(()));
        for (config, key) in [
            (Config { mechanisms: vec!["GSSAPI".into()], ..base() }, "mechanisms"),
            (Config { dnsbl: vec!["not a zone".into()], ..base() }, "dnsbl"),
            (Config { greylist: Some(Greylist::default()), ..base() }, "redis_url"),
            (Config { milters: vec![milter("inet:nowhere", 1)], ..base() }, "milters.address"),
            (Config { milters: vec![milter("unix:/run/m", 0)], ..base() }, "milters.timeout_seconds"),
            (Config { scan: Some(scan("https://rspamd")), ..base() }, "scan.rspamd_url"),
        ] {
            assert!(config.validate().is_err_and(|e| e.contains(key)), "{key}");
        }
    }
}
