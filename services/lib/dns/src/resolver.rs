use std::{net::IpAddr, sync::Arc, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        dnssec::TrustAnchors,
        rr::{Name, RData, RecordType},
    },
};

use crate::{Config, LookupError, flight::Flights, mx::Mx};

/// The resolver cannot be set up: `/etc/resolv.conf` is missing or wrong.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the system's name servers cannot be read from /etc/resolv.conf")]
    System(#[source] NetError),
    #[error("the resolver cannot be built")]
    Resolver(#[source] NetError),
    #[error("trust anchors in {file}: {words}")]
    TrustAnchor { file: String, words: String },
    #[error("TLS for the resolver cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// A caching stub resolver; clones share the cache, and one question under way is asked once.
#[derive(Clone)]
pub struct Resolver {
    inner: TokioResolver,
    flights: Arc<Flights>,
}

impl Resolver {
    /// Builds the resolver; asks nothing yet. Must run inside a tokio runtime.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        build(config, None).map(|inner| Self { inner, flights: Arc::default() })
    }

    /// For libraries that bring their own record types (mail-auth).
    pub fn inner(&self) -> &TokioResolver {
        &self.inner
    }

    #[cfg(test)]
    pub(crate) fn open_questions(&self) -> usize {
        self.flights.count()
    }

    /// Questions that were under way already when they were asked again.
    pub fn joined(&self) -> u64 {
        self.flights.joined()
    }

    /// The MX records of `domain`, unsorted. No record is an empty list (the implicit MX
    /// applies); a name that does not exist is [`LookupError::NoSuchName`].
    pub async fn mx(&self, domain: &str) -> Result<Vec<Mx>, LookupError> {
        match self.lookup(domain, RecordType::MX, "MX").await {
            Ok(answer) => Ok(mx_records(&answer)),
            Err(LookupError::NoData { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The A and AAAA records of `host`, IPv6 first, without duplicates.
    ///
    /// An answer of one family is enough. With none, a transient failure of either family wins
    /// over "no data", because the other family's records may exist.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let (v6, v4) =
            tokio::join!(self.lookup(host, RecordType::AAAA, "address"), self.lookup(host, RecordType::A, "address"));
        let mut found = Vec::new();
        for answer in [&v6, &v4].into_iter().flatten() {
            for record in answer.answers() {
                let address = match &record.data {
                    RData::A(a) => IpAddr::V4(a.0),
                    RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
                    _ => continue,
                };
                if !found.contains(&address) {
                    found.push(address);
                }
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        match (v6, v4) {
            // The guard is tried for both sides.
            (Err(error), _) | (_, Err(error)) if error.is_transient() => Err(error),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(_), Ok(_)) => Err(LookupError::NoData { name: host.to_owned(), kind: "address" }),
        }
    }

    /// The TXT records of `name`, each with its strings joined; none is [`LookupError::NoData`].
    pub async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, LookupError> {
        let answer = self.lookup(name, RecordType::TXT, "TXT").await?;
        let texts = answer.answers().iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(txt.txt_data.concat()),
            _ => None,
        });
        Ok(texts.collect())
    }

    async fn lookup(&self, name: &str, record: RecordType, kind: &'static str) -> Result<Lookup, LookupError> {
        let answer = self.flights.ask(&self.inner, absolute(name)?, record).await;
        answer.map_err(|source| LookupError::from_net(name, kind, source))
    }
}

/// With trust anchors, answers are validated (RFC 4035).
pub(crate) fn build(config: &Config, anchors: Option<Arc<TrustAnchors>>) -> Result<TokioResolver, BuildError> {
    let mut builder = match config.server {
        Some(server) => {
            let on_port = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
            let only = NameServerConfig::new(server.ip(), true, connections);
            let servers = ResolverConfig::from_name_servers(vec![only]);
            TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
        }
        None => TokioResolver::builder_tokio().map_err(BuildError::System)?,
    };
    let options = builder.options_mut();
    options.timeout = Duration::from_millis(config.timeout_ms.max(1));
    options.attempts = config.attempts.max(1);
    options.cache_size = config.cache_size;
    options.edns0 = true;
    options.try_tcp_on_error = true;
    options.max_active_requests = 512;
    // A name that just got its record is seen within a minute.
    options.negative_max_ttl = Some(Duration::from_secs(60));
    if config.server.is_some() || anchors.is_some() {
        // "The only one asked" leaves no room for /etc/hosts, and nobody signs that.
        options.use_hosts_file = ResolveHosts::Never;
    }
    if let Some(anchors) = anchors {
        builder = builder.with_trust_anchor(anchors);
    }
    // Explicit roots: hickory's platform verifier wants CA files even for plain UDP, and an
    // image on an empty base has none.
    builder.with_tls_config(tls_config()?).build().map_err(BuildError::Resolver)
}

/// Absolute, so that no search list of /etc/resolv.conf is tried.
pub(crate) fn absolute(name: &str) -> Result<Name, LookupError> {
    let mut absolute = Name::from_utf8(name).map_err(|_| LookupError::InvalidName { name: name.to_owned() })?;
    absolute.set_fqdn(true);
    Ok(absolute)
}

pub(crate) fn mx_records(answer: &Lookup) -> Vec<Mx> {
    answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::MX(mx) => {
                let host = mx.exchange.to_ascii().to_ascii_lowercase();
                Some(Mx { preference: mx.preference, host: host.trim_end_matches('.').to_owned() })
            }
            _ => None,
        })
        .collect()
}

fn tls_config() -> Result<rustls::ClientConfig, rustls::Error> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
