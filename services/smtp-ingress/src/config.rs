//! Every key, what it means, and which values are refused.

mod guards;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use address::Domain;
use ipnet::IpNet;
use listener::ListenerConfig;
use runtime::grpc::Peers;
use serde::Deserialize;

pub use guards::{Greylist, Limits, Milter, MilterAddress, OverQuota, Scan};

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
    /// PEM file of the CAs whose certificates submission clients are asked for. Who shows one logs in
    /// with EXTERNAL as the address in it (subjectAltName, rfc822Name). Needs EXTERNAL in `mechanisms`.
    pub client_ca: Option<PathBuf>,
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
    /// Seconds for one attempt at a verdict or a signature; there are up to three. Above
    /// `verify_seconds` of `auth-checker`.
    pub checker_seconds: u64,
    /// Seconds for one attempt to commit a message; there are up to six, with 7.6 seconds of pauses.
    pub accept_seconds: u64,
    /// Seconds that a good answer of the Directory is remembered; 0 asks every time.
    pub resolve_cache_seconds: u64,
    /// Networks whose `Postroad-Trace:` field is believed: other sites of the same operator.
    pub trace_from: Vec<IpNet>,
    /// Tell the journey of transactions of which nothing was accepted, too.
    pub tell_refusals: bool,
    /// Counts that all pods share: `limits`, `greylist`. Absent: they are not kept.
    pub redis_url: Option<queue::Url>,
    /// For `dnsbl`.
    pub dns: dns::Config,
    /// SASL mechanisms of submission, the best first. OAUTHBEARER and XOAUTH2 need `oidc` in `mda`.
    pub mechanisms: Vec<String>,
    /// Octets of a line of content (554 5.6.0); RFC 5321 §4.5.3.1.6 allows 998. 0 is no limit.
    pub max_line_length: usize,
    /// Messages of one session (421 4.7.0), announced by LIMITS (RFC 9422).
    pub max_messages_per_session: u32,
    /// Seconds that a submitted message may be held back (RFC 4865); 0 does not offer it.
    pub max_hold_seconds: u64,
    /// `Received:` fields of a message (554 5.4.6).
    pub max_hops: usize,
    /// A full mailbox is refused for now (`defer`, 452 4.2.2) or for good (`refuse`, 552 5.2.2).
    pub over_quota: OverQuota,
    /// Mail that an alias leads elsewhere gets an ARC seal (RFC 8617), which costs two RSA signatures.
    pub seal_forwards: bool,
    /// Milliseconds before the greeting of the MX port; only who is no mail server talks in it.
    pub greeting_delay_ms: u64,
    /// Refuse clients that talk before the greeting or pipeline where they must wait (554 5.5.0).
    pub refuse_early_talkers: bool,
    /// Octets of content a second, on average over `min_rate_seconds` (421 4.4.2); 0 is no limit.
    pub min_bytes_per_second: u64,
    pub min_rate_seconds: u64,
    /// Refused commands that are answered at once; each further one waits `tarpit_ms` longer,
    /// at most ten times that.
    pub tarpit_errors: u32,
    /// 0 does not tarpit.
    pub tarpit_ms: u64,
    /// Sliding-window limits, shared by all pods.
    pub limits: Limits,
    /// DNS blocklists asked about clients of the MX port, such as `zen.spamhaus.org` (550 5.7.1).
    pub dnsbl: Vec<String>,
    /// First mail of a stranger is deferred (451 4.7.1). Absent: it is not.
    pub greylist: Option<Greylist>,
    /// Content scanning by Rspamd. Absent: nothing is scanned.
    pub scan: Option<Scan>,
    /// Filters that speak the milter protocol, asked in this order.
    pub milters: Vec<Milter>,
    pub runtime: runtime::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            mx_listen: None,
            submission_listen: None,
            submissions_listen: None,
            client_ca: None,
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
            tell_refusals: true,
            trace_from: vec![
                IpNet::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
            ],
            redis_url: None,
            dns: dns::Config::default(),
            mechanisms: ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"].map(String::from).to_vec(),
            max_line_length: 998,
            max_messages_per_session: 1000,
            max_hold_seconds: 30 * 86_400,
            max_hops: 50,
            over_quota: OverQuota::Defer,
            seal_forwards: true,
            greeting_delay_ms: 0,
            refuse_early_talkers: false,
            min_bytes_per_second: 100,
            min_rate_seconds: 60,
            tarpit_errors: 5,
            tarpit_ms: 500,
            limits: Limits::default(),
            dnsbl: Vec::new(),
            greylist: None,
            scan: None,
            milters: Vec::new(),
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
            ("max_messages_per_session", self.max_messages_per_session.into()),
            ("max_hops", self.max_hops as u64),
            ("min_rate_seconds", self.min_rate_seconds),
        ] {
            if value == 0 {
                return Err(format!("configuration key {key:?} = 0: expected at least 1"));
            }
        }
        let offers_external = self.mechanisms.iter().any(|m| m.eq_ignore_ascii_case("EXTERNAL"));
        if self.client_ca.is_some() != offers_external {
            let (there, missing) =
                if offers_external { ("mechanisms", "client_ca") } else { ("client_ca", "mechanisms") };
            return Err(format!(
                "configuration key {there:?}: expected {missing:?} with it, because EXTERNAL needs a client's certificate"
            ));
        }
        self.validate_guards()?;
        // A message may occupy twice its size while it grows.
        if (self.max_bytes_in_flight as u64) < self.max_message_size.saturating_mul(2).max(1 << 20) {
            return Err(format!(
                "configuration key \"max_bytes_in_flight\" = {}: expected at least 1048576 and twice \"max_message_size\" = {}",
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
        let external = Config { mechanisms: vec!["EXTERNAL".into()], ..mx.clone() };
        assert!(external.validate().is_err_and(|e| e.contains("client_ca")));
        let external = Config { client_ca: Some("ca.pem".into()), ..external };
        assert_eq!(external.validate(), Ok(()));
        let small = Config { max_bytes_in_flight: 60 << 20, ..mx.clone() };
        assert!(small.validate().is_err_and(|e| e.contains("max_bytes_in_flight")));
        assert!(Config { hostname: "a b".into(), ..mx }.validate().is_err());
    }
}
