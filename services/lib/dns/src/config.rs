use std::{net::SocketAddr, path::PathBuf};

/// Which name servers are asked, and how patiently.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The only name server asked, over UDP and TCP: `ADDR:PORT`. Unset: `/etc/resolv.conf`.
    pub server: Option<SocketAddr>,
    /// Milliseconds to wait for one answer.
    pub timeout_ms: u64,
    /// How often a question is asked before it counts as unanswered.
    pub attempts: usize,
    /// Answers kept in memory, for as long as their TTL says.
    pub cache_size: u64,
    /// File of DNSKEY records that DNSSEC signatures must lead to; unset: the root's.
    pub trust_anchor: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { server: None, timeout_ms: 3_000, attempts: 2, cache_size: 10_000, trust_anchor: None }
    }
}
