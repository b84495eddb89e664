use std::{net::SocketAddr, time::Duration};

use address::Domain;
use ipnet::IpNet;
use listener::ListenerConfig;
use runtime::grpc::Peers;
use serde::Deserialize;

/// Every key of the section `smtp-ingress`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Our name: greeting, `Received:`, and the authserv-id of `Authentication-Results:`
    /// (RFC 8601 §2.5). Fields with it that come from outside are removed as forged.
    pub hostname: String,
    /// Mail from other servers, usually port 25. Absent: not served.
    pub mx_listen: Option<SocketAddr>,
    /// Submission with STARTTLS, usually port 587. Needs `listener.tls_cert`.
    pub submission_listen: Option<SocketAddr>,
    /// Submission with implicit TLS, usually port 465. Needs `listener.tls_cert`.
    pub submissions_listen: Option<SocketAddr>,
    /// TLS, PROXY protocol and limits of all ports.
    pub listener: ListenerConfig,
    /// `mda`, for Directory and Spool.
    pub mda: Peers,
    pub auth_checker: Peers,
    /// Bytes of one message (552 5.3.4).
    pub max_message_size: u64,
    /// Bytes of all messages that are being received (452 4.3.1).
    pub max_bytes_in_flight: usize,
    /// Recipients of one transaction (452 4.5.3); RFC 5321 §4.5.3.1.8 wants at least 100.
    pub max_recipients: usize,
    /// Refused commands after which a session ends (421 4.7.0).
    pub max_errors: u32,
    /// Seconds to wait for a command (RFC 5321 §4.5.3.2.7).
    pub command_seconds: u64,
    /// Seconds to wait for the next piece of content (RFC 5321 §4.5.3.2.5).
    pub data_seconds: u64,
    /// Seconds for a question to the Directory.
    pub directory_seconds: u64,
    /// Seconds for a verdict or a signature. Above `verify_seconds` of `auth-checker`.
    pub checker_seconds: u64,
    /// Seconds for one attempt to commit a message; there are up to three.
    pub accept_seconds: u64,
    /// Seconds that a good answer of the Directory is remembered; 0 asks every time.
    pub resolve_cache_seconds: u64,
    /// Networks whose `Postroad-Trace:` field is believed: other sites of the same operator.
    pub trace_from: Vec<IpNet>,
    pub runtime: runtime::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            mx_listen: None,
            submission_listen: None,
            submissions_listen: None,
            listener: ListenerConfig::default(),
            mda: SocketAddr::from(([127, 0, 0, 1], 9400)).into(),
            auth_checker: SocketAddr::from(([127, 0, 0, 1], 9010)).into(),
            max_message_size: 50 << 20,
            max_bytes_in_flight: 512 << 20,
            max_recipients: 1000,
            max_errors: 20,
            command_seconds: 300,
            data_seconds: 180,
            directory_seconds: 10,
            checker_seconds: 30,
            accept_seconds: 30,
            resolve_cache_seconds: 3,
            trace_from: vec![
                IpNet::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
            ],
            runtime: runtime::Config::default(),
        }
    }
}

impl Config {
    pub(crate) fn command_timeout(&self) -> Duration {
        Duration::from_secs(self.command_seconds)
    }

    pub(crate) fn data_timeout(&self) -> Duration {
        Duration::from_secs(self.data_seconds)
    }
}

impl runtime::ServiceConfig for Config {
    fn runtime(&self) -> &runtime::Config {
        &self.runtime
    }

    fn validate(&self) -> Result<(), String> {
        if self.hostname.parse::<Domain>().is_err() {
            return Err(format!("configuration key \"hostname\" = {:?}: expected a domain name", self.hostname));
        }
        let ports = [self.mx_listen, self.submission_listen, self.submissions_listen];
        if ports.iter().all(Option::is_none) {
            return Err("configuration keys \"mx_listen\", \"submission_listen\", \"submissions_listen\" are \
                        missing: expected at least one address such as 0.0.0.0:25"
                .into());
        }
        let has_tls = self.listener.tls_cert.is_some();
        for (key, address) in
            [("submission_listen", self.submission_listen), ("submissions_listen", self.submissions_listen)]
        {
            if let (Some(address), false) = (address, has_tls) {
                return Err(format!(
                    "configuration key {key:?} = {address}: expected \"listener.tls_cert\" beside it, \
                     because passwords need TLS"
                ));
            }
        }
        for (key, value) in [
            ("max_message_size", self.max_message_size),
            ("max_recipients", self.max_recipients as u64),
            ("max_errors", self.max_errors.into()),
            ("command_seconds", self.command_seconds),
            ("data_seconds", self.data_seconds),
            ("directory_seconds", self.directory_seconds),
            ("checker_seconds", self.checker_seconds),
            ("accept_seconds", self.accept_seconds),
        ] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        // A message may occupy twice its size while it grows.
        if (self.max_bytes_in_flight as u64) < self.max_message_size.saturating_mul(2) {
            return Err(format!(
                "configuration key \"max_bytes_in_flight\" = {}: expected at least twice \"max_message_size\" = {}",
                self.max_bytes_in_flight, self.max_message_size
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use runtime::ServiceConfig as _;

    use super::*;

    #[test]
    fn relations_between_keys() {
        let any = "0.0.0.0:0".parse().ok();
        assert!(Config::default().validate().is_err_and(|e| e.contains("mx_listen")));
        let mx = Config { mx_listen: any, ..Config::default() };
        assert_eq!(mx.validate(), Ok(()));
        let no_tls = Config { submissions_listen: any, ..mx.clone() };
        assert!(no_tls.validate().is_err_and(|e| e.contains("tls_cert")));
        let small = Config { max_bytes_in_flight: 60 << 20, ..mx.clone() };
        assert!(small.validate().is_err_and(|e| e.contains("max_bytes_in_flight")));
        assert!(Config { hostname: "a b".into(), ..mx }.validate().is_err());
    }
}
