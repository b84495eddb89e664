use std::{net::SocketAddr, time::Duration};

use listener::ListenerConfig;
use runtime::grpc::Peers;
use serde::Deserialize;

/// Every key of the section `imap-gateway`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub runtime: runtime::Config,
    /// Our name in the greeting.
    pub hostname: String,
    /// The port that begins in plain text and offers STARTTLS; 143 by the standard.
    pub imap_listen: SocketAddr,
    /// The port with TLS from the start; 993 by the standard. Bound when there is a certificate.
    pub imaps_listen: SocketAddr,
    /// ManageSieve (RFC 5804), 4190 by the standard: begins in plain text and offers STARTTLS. Unset:
    /// not served.
    pub managesieve_listen: Option<SocketAddr>,
    /// Octets of the largest script that ManageSieve takes; `mda` has its own limit.
    pub max_script_bytes: usize,
    /// Certificates, PROXY networks, connection limits.
    pub listener: ListenerConfig,
    /// `mda`, its roles directory and mailboxes.
    pub mda: Peers,
    /// Whether passwords are taken without TLS. RFC 8314 §3 wants them never to be.
    pub allow_cleartext_login: bool,
    /// SASL mechanisms that AUTHENTICATE offers; `mda` must know them.
    pub mechanisms: Vec<String>,
    /// Bytes of the largest message that APPEND takes; `mda` must take them too.
    pub max_message_size: u64,
    /// Seconds of silence that end a session; RFC 9051 §5.4 wants at least 1800.
    pub idle_seconds: u64,
    /// Seconds that a client has to log in.
    pub login_seconds: u64,
    /// Seconds that `mda` may take for an answer.
    pub call_seconds: u64,
    /// Seconds after which IDLE looks for changes even when nobody told of any.
    pub poll_seconds: u64,
    /// Logins that are examined at once; further ones wait their turn, and for `call_seconds` at most.
    pub max_logins: usize,
    /// Seconds over which sessions are sent away at shutdown. Keep it below the grace period.
    pub drain_seconds: u64,
    /// Seconds that one APPEND may take, slow clients included.
    pub upload_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: runtime::Config::default(),
            hostname: "localhost".into(),
            imap_listen: SocketAddr::from(([0, 0, 0, 0], 143)),
            imaps_listen: SocketAddr::from(([0, 0, 0, 0], 993)),
            managesieve_listen: None,
            max_script_bytes: 64 << 10,
            listener: ListenerConfig::default(),
            mda: SocketAddr::from(([127, 0, 0, 1], 9400)).into(),
            allow_cleartext_login: false,
            mechanisms: ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"].map(String::from).to_vec(),
            max_message_size: 128 << 20,
            idle_seconds: 1800,
            login_seconds: 180,
            call_seconds: 10,
            poll_seconds: 30,
            max_logins: 64,
            drain_seconds: 20,
            upload_seconds: 1800,
        }
    }
}

impl Config {
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    pub(crate) fn login_timeout(&self) -> Duration {
        Duration::from_secs(self.login_seconds)
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        Duration::from_secs(self.call_seconds)
    }

    pub(crate) fn poll_interval(&self) -> Duration {
        Duration::from_secs(self.poll_seconds)
    }

    pub(crate) fn drain_spread(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    pub(crate) fn upload_timeout(&self) -> Duration {
        Duration::from_secs(self.upload_seconds)
    }
}

impl runtime::ServiceConfig for Config {
    fn runtime(&self) -> &runtime::Config {
        &self.runtime
    }

    fn validate(&self) -> Result<(), String> {
        for (key, value) in [
            ("idle_seconds", self.idle_seconds),
            ("login_seconds", self.login_seconds),
            ("call_seconds", self.call_seconds),
            ("poll_seconds", self.poll_seconds),
            ("upload_seconds", self.upload_seconds),
            ("max_message_size", self.max_message_size),
        ] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        if self.max_logins == 0 {
            return Err("configuration key \"max_logins\" = 0: expected at least 1".into());
        }
        // A message's header travels to us in one gRPC message.
        let most = (proto::MAX_GRPC_MESSAGE as u64).saturating_sub(16 << 20);
        if self.max_message_size > most {
            let value = self.max_message_size;
            return Err(format!("configuration key \"max_message_size\" = {value}: expected at most {most}"));
        }
        let is_mechanism = |m: &String| {
            !m.is_empty() && m.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        match self.mechanisms.iter().find(|m| !is_mechanism(m)) {
            Some(wrong) => {
                Err(format!("configuration key \"mechanisms\": {wrong:?}: expected a SASL mechanism such as PLAIN"))
            }
            None => Ok(()),
        }
    }
}
