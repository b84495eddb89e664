use std::{net::SocketAddr, time::Duration};

use listener::ListenerConfig;
use runtime::grpc::Peers;
use serde::Deserialize;

/// Every key of the section `pop3-gateway`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub runtime: runtime::Config,
    /// Our name in the greeting.
    pub hostname: String,
    /// The port that begins in plain text and offers STLS; 110 by the standard.
    pub pop3_listen: SocketAddr,
    /// The port with TLS from the start; 995 by the standard. Bound when there is a certificate.
    pub pop3s_listen: SocketAddr,
    /// Certificates, PROXY networks, connection limits.
    pub listener: ListenerConfig,
    /// `mda`, its roles directory and mailboxes.
    pub mda: Peers,
    /// Whether passwords are taken without TLS. RFC 8314 §3 wants them never to be.
    pub allow_cleartext_login: bool,
    /// SASL mechanisms that AUTH offers, the best first. OAUTHBEARER and XOAUTH2 need `oidc` in `mda`.
    /// SCRAM-SHA-256-PLUS can be added; mutt then fails to log in, since it takes it without having
    /// the channel binding and does not read the answer to its `*`.
    pub mechanisms: Vec<String>,
    /// Whether clients that did not say UTF8 get header fields in ASCII (RFC 6856 §7, RFC 6858); when
    /// false, as they are stored, which is how servers without UTF8 do it.
    pub surrogates: bool,
    /// Seconds of silence that end a session; RFC 1939 §3 wants at least 600.
    pub idle_seconds: u64,
    /// Seconds that `mda` may take for an answer.
    pub call_seconds: u64,
    /// Seconds after which a maildrop is free again when this process died; renewed while it lives.
    pub lock_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: runtime::Config::default(),
            hostname: "localhost".into(),
            pop3_listen: SocketAddr::from(([0, 0, 0, 0], 110)),
            pop3s_listen: SocketAddr::from(([0, 0, 0, 0], 995)),
            listener: ListenerConfig::default(),
            mda: SocketAddr::from(([127, 0, 0, 1], 9400)).into(),
            allow_cleartext_login: false,
            mechanisms: ["SCRAM-SHA-256", "PLAIN", "LOGIN"].map(String::from).to_vec(),
            surrogates: true,
            idle_seconds: 600,
            call_seconds: 10,
            lock_seconds: 60,
        }
    }
}

impl Config {
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        Duration::from_secs(self.call_seconds)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lock_seconds.into())
    }
}

impl runtime::ServiceConfig for Config {
    fn runtime(&self) -> &runtime::Config {
        &self.runtime
    }

    fn validate(&self) -> Result<(), String> {
        for (key, value) in [("idle_seconds", self.idle_seconds), ("call_seconds", self.call_seconds)] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        if !(10..=3600).contains(&self.lock_seconds) {
            return Err(format!("configuration key \"lock_seconds\" = {}: expected 10 to 3600", self.lock_seconds));
        }
        match self
            .mechanisms
            .iter()
            .find(|m| m.is_empty() || !m.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-'))
        {
            Some(wrong) => {
                Err(format!("configuration key \"mechanisms\": {wrong:?}: expected a SASL mechanism such as PLAIN"))
            }
            None => Ok(()),
        }
    }
}
