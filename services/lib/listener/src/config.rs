use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Tls, TlsError};

/// What all mail ports of a service share; the addresses are the service's own keys.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerConfig {
    /// PEM file with the certificate chain, the server's own first. Without it no TLS is offered.
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// Further certificates, chosen by the name the client asks for (SNI).
    /// `tls_cert` answers every other name.
    pub more_certificates: Vec<CertificateFiles>,
    /// Networks whose connections must begin with a PROXY protocol header (v1 or v2).
    /// Only load balancers belong here: whoever connects from these can claim any address.
    pub proxy_from: Vec<IpNet>,
    /// Connections of one port at a time, in this process.
    pub max_connections: usize,
    /// Connections of one client (an IPv4 address, an IPv6 /64) at a time, on one port in this process.
    pub max_connections_per_address: usize,
    /// Connections of one network (an IPv4 /24, an IPv6 /48) at a time, on one port in this process.
    pub max_connections_per_network: usize,
    /// Seconds over which the sessions that are open at shutdown hear their goodbye, each at its
    /// own time, so that they do not all come back to the other pods at once. Below
    /// `runtime.drain_seconds`.
    pub goodbye_spread_seconds: u16,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            tls_cert: None,
            tls_key: None,
            more_certificates: Vec::new(),
            proxy_from: Vec::new(),
            max_connections: 20_000,
            max_connections_per_address: 1_000,
            max_connections_per_network: 4_000,
            goodbye_spread_seconds: 0,
        }
    }
}

/// One certificate chain and its private key.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM file with the certificate chain, the server's own first.
    pub cert: PathBuf,
    /// PEM file with the private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

impl ListenerConfig {
    /// Loads the certificates; `None` when none is configured. Errors name the file.
    ///
    /// Call once per service and inside a tokio runtime: the result watches its files.
    pub fn tls(&self) -> Result<Option<Tls>, TlsError> {
        let first = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => Some(CertificateFiles { cert: cert.clone(), key: key.clone() }),
            (None, None) => None,
            _ => return Err(TlsError::HalfPair),
        };
        let files: Vec<_> = first.into_iter().chain(self.more_certificates.iter().cloned()).collect();
        if files.is_empty() { Ok(None) } else { Tls::load(files).map(Some) }
    }
}
