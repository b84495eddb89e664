//! What keeps strangers and stolen passwords within bounds: limits that all pods share, DNS
//! blocklists, greylisting, content scanning.
//!
//! Each is another system that may be away; mail does not stop for that, unless the operator
//! wants it to (`scan.fail_open`). The metric `smtp_unguarded` tells how often.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use dns::{LookupError, Resolver};
use proto::directory::Account;
use queue::{Rate, Rates};

use crate::{
    config::{Config, Greylist, Limits, Milter},
    content::Content,
    filters::{Filters, Opening},
    metrics::Metrics,
    receive::Arrival,
    refusal::Refusal,
    scan::{Scanned, Scanner},
};

pub struct Guard {
    rates: Option<Rates>,
    limits: Limits,
    greylist: Option<Greylist>,
    blocklists: Vec<String>,
    resolver: Option<Resolver>,
    scanner: Option<Scanner>,
    milters: Vec<Arc<Milter>>,
    metrics: Metrics,
}

impl Guard {
    /// Must be called inside a tokio runtime.
    pub fn new(config: &Config, metrics: Metrics) -> anyhow::Result<Self> {
        let resolver = match config.dnsbl.as_slice() {
            [] => None,
            _ => Some(Resolver::new(&config.dns).context("configuration key \"dns\"")?),
        };
        Ok(Self {
            rates: config.redis_url.as_ref().map(Rates::new),
            limits: config.limits.clone(),
            greylist: config.greylist.clone(),
            blocklists: config.dnsbl.clone(),
            resolver,
            scanner: config.scan.clone().map(Scanner::new),
            milters: config.milters.iter().cloned().map(Arc::new).collect(),
            metrics,
        })
    }

    pub async fn connection(&self, peer: IpAddr) -> Result<(), Refusal> {
        let fits = self.count("connections", &shown(peer), self.limits.connections_per_address).await;
        if fits { Ok(()) } else { Err(Refusal::too_many_connections()) }
    }

    /// A message begins.
    pub async fn message(&self, peer: IpAddr, account: Option<&Account>) -> Result<(), Refusal> {
        let fits = match account {
            Some(a) => {
                self.count("messages", &format!("account:{}", a.account_id), self.limits.messages_per_account).await
            }
            None => self.count("messages", &shown(peer), self.limits.messages_per_address).await,
        };
        if fits { Ok(()) } else { Err(Refusal::message_rate()) }
    }

    /// A recipient of a submitted message.
    pub async fn submitted_recipient(&self, account: &Account) -> Result<(), Refusal> {
        let own = Some(Rate { limit: account.daily_recipients, seconds: 86_400 }).filter(|r| r.limit > 0);
        let rate = own.or(self.limits.recipients_per_account);
        let fits = self.count("recipients", &format!("account:{}", account.account_id), rate).await
            && self
                .count("recipients", &format!("tenant:{}", account.tenant_id), self.limits.recipients_per_tenant)
                .await;
        if fits { Ok(()) } else { Err(Refusal::recipient_rate()) }
    }

    /// The list that has the client, if one has.
    pub async fn blocklist(&self, peer: IpAddr) -> Option<&str> {
        let resolver = self.resolver.as_ref()?;
        let asked = self.blocklists.iter().map(|zone| async move {
            match resolver.addresses(&format!("{}.{zone}", reversed(peer))).await {
                Ok(found) => found.iter().any(is_listing).then_some(zone.as_str()),
                Err(LookupError::NoSuchName { .. } | LookupError::NoData { .. }) => None,
                Err(_) => {
                    self.metrics.unguarded("dnsbl");
                    None
                }
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().next()
    }

    /// Who was not here before comes back later (RFC 6647).
    pub async fn greylist(&self, peer: IpAddr, sender: &str, recipient: &str) -> Result<(), Refusal> {
        let (Some(grey), Some(rates)) = (&self.greylist, &self.rates) else { return Ok(()) };
        let seconds = Duration::from_secs;
        let delay = seconds(grey.delay_seconds);
        let key = format!("grey:{}:{}:{}", network(peer), sender.to_lowercase(), recipient.to_lowercase());
        let met = rates.meet(&key, delay, seconds(grey.patience_seconds), seconds(grey.memory_seconds)).await;
        match met {
            Ok(age) if age < delay => Err(Refusal::greylisted(delay - age)),
            Ok(_) => Ok(()),
            Err(_) => {
                self.metrics.unguarded("greylist");
                Ok(())
            }
        }
    }

    /// What Rspamd thinks; `None` when it is not asked, or does not answer and need not.
    pub async fn scan(&self, arrival: &Arrival<'_>, content: &Content) -> Result<Option<Scanned>, Refusal> {
        let Some(scanner) = &self.scanner else { return Ok(None) };
        match scanner.scan(arrival, content).await {
            Ok(scanned) => scanned.judge().map(Some),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "content scanner did not answer");
                if !scanner.fails_open() {
                    return Err(Refusal::scan_deferred());
                }
                self.metrics.unguarded("scan");
                Ok(None)
            }
        }
    }

    /// The milters hear of a new message.
    pub async fn filters(&self, opening: &Opening<'_>) -> Result<Filters, Refusal> {
        Filters::begin(&self.milters, &self.metrics, opening).await
    }

    async fn count(&self, what: &str, whose: &str, rate: Option<Rate>) -> bool {
        let (Some(rates), Some(rate)) = (&self.rates, rate) else { return true };
        match rates.count(&format!("{what}:{whose}"), 1, rate).await {
            Ok(fits) => fits,
            Err(_) => {
                self.metrics.unguarded("limits");
                true
            }
        }
    }
}

/// An IPv6 client is its /64, else it would have as many addresses as it likes.
fn shown(peer: IpAddr) -> String {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("{}/64", std::net::Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
    }
}

/// Big senders try again from a neighbour.
fn network(peer: IpAddr) -> String {
    match peer.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}")
        }
        v6 => shown(v6),
    }
}

/// `4.3.2.1`, or the nibbles of an IPv6 address (RFC 5782 §2.1, §2.4).
fn reversed(peer: IpAddr) -> String {
    let parts: Vec<String> = match peer.to_canonical() {
        IpAddr::V4(v4) => v4.octets().iter().rev().map(u8::to_string).collect(),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|b| [b & 15, b >> 4]);
            nibbles.map(|n| format!("{n:x}")).collect()
        }
    };
    parts.join(".")
}

/// RFC 5782 §2.1: 127.0.0.0/8. What lists answer instead of "ask me properly" is no listing.
fn is_listing(answer: &IpAddr) -> bool {
    match answer {
        IpAddr::V4(v4) => {
            v4.is_loopback() && !v4.octets().starts_with(&[127, 255, 255]) && v4.octets() != [127, 0, 0, 1]
        }
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn blocklist_names_and_answers() {
        assert_eq!(reversed(ip("192.0.2.99")), "99.2.0.192");
        assert_eq!(reversed(ip("2001:db8::9")), format!("9.{}8.b.d.0.1.0.0.2", "0.".repeat(23)));
        assert!(is_listing(&ip("127.0.0.2")) && is_listing(&ip("127.0.0.10")));
        assert!(!is_listing(&ip("127.255.255.254")) && !is_listing(&ip("192.0.2.1")) && !is_listing(&ip("127.0.0.1")));
    }

    #[test]
    fn clients_as_they_are_counted() {
        assert_eq!(shown(ip("::ffff:192.0.2.1")), "192.0.2.1");
        assert_eq!(shown(ip("2001:db8:1:2:3::4")), "2001:db8:1:2::/64");
        assert_eq!(network(ip("192.0.2.1")), "192.0.2");
    }
}
