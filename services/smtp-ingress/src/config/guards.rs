//! Keys of what guards the door.

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
        assert_eq!(Config { scan: Some(scan("http://rspamd:11333")), ..base() }.validate(), Ok(()));
        for (config, key) in [
            (Config { mechanisms: vec!["GSSAPI".into()], ..base() }, "mechanisms"),
            (Config { dnsbl: vec!["not a zone".into()], ..base() }, "dnsbl"),
            (Config { greylist: Some(Greylist::default()), ..base() }, "redis_url"),
            (Config { scan: Some(scan("https://rspamd")), ..base() }, "scan.rspamd_url"),
        ] {
            assert!(config.validate().is_err_and(|e| e.contains(key)), "{key}");
        }
    }
}
