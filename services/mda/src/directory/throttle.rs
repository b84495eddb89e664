//! Back-off after failed logins, shared by all pods and by SMTP, IMAP and POP3.
//!
//! Counted by the name that was tried, whether it exists or not, and by the client's network. Who
//! is over the limit hears "later" before any password is looked at, so guessing on brings
//! nothing. A network from which an account has logged in before is counted by itself: strangers
//! cannot lock the owner out.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use queue::{Penalty, Rates};
use serde::Deserialize;
use tonic::Status;

use crate::metrics::Metrics;

/// A network that an account logged in from stays known so long.
const KNOWN: Duration = Duration::from_secs(30 * 86_400);

/// Keys below `login_backoff`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Failed logins of an account without consequence.
    pub account_failures: u32,
    /// Failed logins from a network (IPv4 /24, IPv6 /56) without consequence.
    pub network_failures: u32,
    /// Seconds of the first wait; it doubles with each further failure.
    pub first_seconds: u64,
    /// Seconds of the longest wait.
    pub longest_seconds: u64,
    /// Seconds without a failure after which all is forgotten.
    pub memory_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            account_failures: 10,
            network_failures: 50,
            first_seconds: 2,
            longest_seconds: 900,
            memory_seconds: 3_600,
        }
    }
}

impl Config {
    fn penalty(&self, free: u32) -> Penalty {
        let seconds = Duration::from_secs;
        Penalty {
            free,
            first: seconds(self.first_seconds),
            longest: seconds(self.longest_seconds),
            memory: seconds(self.memory_seconds),
        }
    }
}

#[derive(Clone)]
pub struct Throttle {
    pub rates: Rates,
    pub config: Config,
    pub metrics: Metrics,
}

/// One attempt: whose name, from where.
pub struct Attempt {
    account: String,
    /// Remembered once the account has logged in from here.
    known: String,
    network: Option<String>,
}

impl Throttle {
    /// Refuses who has to wait. Open when Redis is away: a login must not depend on it.
    pub async fn admit(&self, authcid: &str, peer: &str) -> Result<Attempt, Status> {
        let name = hex(super::authenticate::sha256(&[authcid.to_lowercase().as_bytes()]));
        let network = peer.parse().ok().map(network_of);
        let known = format!("{{{name}}}:known:{}", network.as_deref().unwrap_or_default());
        let is_known = network.is_some() && self.open(self.rates.is_remembered(&known).await);
        let account = match &network {
            Some(network) if is_known => format!("{{{name}}}:login:{network}"),
            _ => format!("{{{name}}}:login"),
        };
        let attempt = Attempt { account, known, network: network.map(|n| format!("login:{n}")) };
        for key in [Some(&attempt.account), attempt.network.as_ref()].into_iter().flatten() {
            let wait: Duration = self.open(self.rates.wait(key).await);
            if !wait.is_zero() {
                self.metrics.login_throttled();
                return Err(Status::resource_exhausted("too many failed logins, try again later"));
            }
        }
        Ok(attempt)
    }

    pub async fn failed(&self, attempt: &Attempt) {
        self.metrics.login_failed();
        let config = &self.config;
        let account = self.rates.failed(&attempt.account, config.penalty(config.account_failures));
        self.open(account.await);
        if let Some(network) = &attempt.network {
            self.open(self.rates.failed(network, config.penalty(config.network_failures)).await);
        }
    }

    /// The network's count stays: one account of his own must not buy a guesser new attempts.
    pub async fn succeeded(&self, attempt: &Attempt) {
        if attempt.network.is_some() {
            self.open(self.rates.remember(&attempt.known, KNOWN).await);
        }
        self.open(self.rates.forgive(&attempt.account).await);
    }

    fn open<T: Default>(&self, answer: Result<T, queue::QueueError>) -> T {
        answer.unwrap_or_else(|_| {
            self.metrics.login_unlimited();
            T::default()
        })
    }
}

/// What one customer of a provider usually has, with some neighbours.
fn network_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(v6) => format!("{}/56", Ipv6Addr::from(u128::from(v6) >> 72 << 72)),
    }
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let of = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(of("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(of("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(of("2001:db8:1:2ff:3::4"), "2001:db8:1:200::/56");
    }
}
