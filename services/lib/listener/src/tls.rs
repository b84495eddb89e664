//! Certificates by SNI (RFC 6066 §3), reloaded when their files change.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    crypto::CryptoProvider,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::{CertificateFiles, Stream, identity};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Why certificates could not be loaded. All permanent until the files change.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls_cert and tls_key must be given together")]
    HalfPair,
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{path} contains no certificate")]
    NoCertificate { path: PathBuf },
    #[error("{cert} and {key} do not fit together")]
    Mismatch {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
    #[error("client certificates cannot be checked")]
    Clients(#[from] rustls::server::VerifierBuilderError),
}

/// What was negotiated, in the words of a `Received:` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The IANA name, like `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The name the client asked for.
    pub sni: Option<String>,
    /// What SASL binds to (RFC 9266, tls-exporter); TLS 1.3 only, where it is always safe.
    pub channel_binding: Option<[u8; 32]>,
    /// The mail addresses that the client's certificate vouches for; only with [`Tls::asking_clients`].
    pub client_addresses: Vec<String>,
}

/// The server's side of TLS: cheap to clone, always with the newest certificates.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
    handshakes: Family<Version, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.certificates.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Loads the pairs, the first being the fallback, and watches the files as long as the
    /// value or a clone of it lives. Must be called inside a tokio runtime.
    pub fn load(files: Vec<CertificateFiles>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let stamp = stamp(&files);
        let keys = load_all(&files, &provider)?;
        let certificates =
            Arc::new(Certificates { files, provider: provider.clone(), keys: ArcSwap::from_pointee(keys) });
        tokio::spawn(watch(Arc::downgrade(&certificates), stamp));
        Self::with(certificates, None, Family::default())
    }

    /// The same certificates, and a client is asked for one of its own from the CAs in `file` (PEM).
    /// It need not have one, but a wrong one ends its handshake.
    pub fn asking_clients(&self, file: &Path) -> Result<Self, TlsError> {
        let unreadable = |source| TlsError::Read { path: file.to_owned(), source };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
            roots.add(certificate.map_err(unreadable)?)?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoCertificate { path: file.to_owned() });
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), self.certificates.provider.clone())
                .allow_unauthenticated()
                .build()?;
        Self::with(self.certificates.clone(), Some(verifier), self.handshakes.clone())
    }

    fn with(
        certificates: Arc<Certificates>,
        clients: Option<Arc<dyn ClientCertVerifier>>,
        handshakes: Family<Version, Counter>,
    ) -> Result<Self, TlsError> {
        let builder = ServerConfig::builder_with_provider(certificates.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(certificates.clone());
        // Sessions are resumed from what the client keeps, so that they cost us no memory (RFC 5077).
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { acceptor, certificates, handshakes })
    }

    /// Counts handshakes of this value and its clones, with and without STARTTLS.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("tls_handshakes", "TLS sessions begun, by version", self.handshakes.clone());
    }

    /// Reads the files again. On an error the certificates in use stay.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.certificates.reload()
    }

    /// The server's side of a handshake, within 30 s.
    pub(crate) async fn handshake(&self, tcp: TcpStream) -> io::Result<(Stream, TlsInfo)> {
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(tcp))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake took too long"))??;
        let (_, connection) = stream.get_ref();
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        self.handshakes.get_or_create(&Version { version }).inc();
        let cipher = connection.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("unknown");
        let is_bindable = connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let exported = connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
        let info = TlsInfo {
            channel_binding: exported.ok().filter(|_| is_bindable),
            version,
            cipher: cipher.replacen("TLS13_", "TLS_", 1),
            sni: connection.server_name().map(str::to_owned),
            client_addresses: connection
                .peer_certificates()
                .and_then(<[_]>::first)
                .map_or_else(Vec::new, |certificate| identity::addresses(certificate)),
        };
        Ok((Stream::Tls(Box::new(stream)), info))
    }
}

struct Certificates {
    files: Vec<CertificateFiles>,
    provider: Arc<CryptoProvider>,
    /// In the order of `files`, never empty.
    keys: ArcSwap<Vec<Arc<CertifiedKey>>>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificates {
    fn reload(&self) -> Result<(), TlsError> {
        self.keys.store(Arc::new(load_all(&self.files, &self.provider)?));
        Ok(())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys.load();
        let asked = if keys.len() > 1 { hello.server_name().and_then(|n| ServerName::try_from(n).ok()) } else { None };
        let named = asked.and_then(|name| keys.iter().find(|key| is_for(key, &name)));
        named.or(keys.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Some(certificate) = key.cert.first() else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

fn load_all(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    files.iter().map(|pair| load_pair(pair, provider).map(Arc::new)).collect()
}

fn load_pair(pair: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&pair.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable(&pair.cert))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: pair.cert.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(unreadable(&pair.key))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Mismatch {
        cert: pair.cert.clone(),
        key: pair.key.clone(),
        source,
    })
}

type Stamp = Vec<Option<(SystemTime, u64)>>;

/// Follows symbolic links, by which Kubernetes swaps a Secret's files.
fn stamp(files: &[CertificateFiles]) -> Stamp {
    let of = |path: &Path| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
    files.iter().flat_map(|pair| [of(&pair.cert), of(&pair.key)]).collect()
}

/// Polls, because a Secret's mount has no dependable change notification.
async fn watch(certificates: Weak<Certificates>, mut seen: Stamp) {
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let Some(certificates) = certificates.upgrade() else { return };
        let now = stamp(&certificates.files);
        if now == seen {
            continue;
        }
        seen = now;
        match certificates.reload() {
            Ok(()) => info!("certificates reloaded"),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "changed certificate is unusable, the old one stays");
            }
        }
    }
}
