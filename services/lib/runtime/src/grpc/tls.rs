//! Mutual TLS between services: caller and called both show a certificate of our own CA.
//!
//! The files are looked at again every few seconds, because a Secret's mount has no dependable
//! notification: a renewed certificate is used without a restart.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use futures::Stream;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server::TlsStream};

const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once; bounds what strangers can make us hold.
const HANDSHAKES: usize = 1024;

/// Keys below `runtime.grpc_tls`. Without the section calls are in plain text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM file with the CAs that callers and services must have their certificate from. Two of
    /// them while one CA is replaced by another.
    pub ca: PathBuf,
    /// PEM file with our certificate chain, our own first.
    pub cert: PathBuf,
    /// PEM file with the private key of `cert`.
    pub key: PathBuf,
    /// The name that a service's certificate must have. The host that was dialled when absent.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// One state of the files.
pub(super) struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    server_name: Option<String>,
}

static INSTALLED: OnceLock<watch::Receiver<Arc<Loaded>>> = OnceLock::new();

/// From now on all calls of this process, made and answered, are mutual TLS. Once a process,
/// inside tokio: the files are watched.
pub fn install(files: &TlsFiles) -> anyhow::Result<()> {
    let seen = stamp(files);
    let (publish, receiver) = watch::channel(Arc::new(load(files)?));
    anyhow::ensure!(INSTALLED.set(receiver).is_ok(), "TLS between services is set up already");
    tokio::spawn(follow(files.clone(), seen, publish));
    Ok(())
}

/// What holds now and follows changes; `None` means plain text.
pub(super) fn installed() -> Option<watch::Receiver<Arc<Loaded>>> {
    INSTALLED.get().cloned()
}

impl Loaded {
    /// The handshake with `host`, whose certificate must have that name.
    pub(super) async fn connect(&self, host: &str, tcp: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        TlsConnector::from(self.client.clone()).connect(name, tcp).await
    }
}

async fn follow(files: TlsFiles, mut seen: Vec<Option<(SystemTime, u64)>>, publish: watch::Sender<Arc<Loaded>>) {
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let now = stamp(&files);
        if now == seen {
            continue;
        }
        seen = now;
        match load(&files) {
            Ok(loaded) => {
                publish.send_replace(Arc::new(loaded));
                tracing::info!("certificates for calls between services reloaded");
            }
            Err(e) => tracing::warn!(error = %format!("{e:#}"), "changed certificate is unusable, the old one stays"),
        }
    }
}

/// Follows symbolic links, by which Kubernetes swaps a Secret's files.
fn stamp(files: &TlsFiles) -> Vec<Option<(SystemTime, u64)>> {
    let of = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
    [&files.ca, &files.cert, &files.key].map(of).into()
}

fn load(files: &TlsFiles) -> anyhow::Result<Loaded> {
    let read = |key: &str, path: &Path| {
        let named = || format!("configuration key \"runtime.grpc_tls.{key}\" = {:?}", path.display().to_string());
        std::fs::read(path).with_context(named)
    };
    let (ca, cert, key) = (read("ca", &files.ca)?, read("cert", &files.cert)?, read("key", &files.key)?);
    let mut roots = RootCertStore::empty();
    for one in certificates(&ca).context("configuration key \"runtime.grpc_tls.ca\"")? {
        roots.add(one).context("configuration key \"runtime.grpc_tls.ca\"")?;
    }
    let chain = certificates(&cert).context("configuration key \"runtime.grpc_tls.cert\"")?;
    let private = PrivateKeyDer::from_pem_slice(&key).context("configuration key \"runtime.grpc_tls.key\"")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = Arc::new(roots);
    let callers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let misfit = "configuration keys \"runtime.grpc_tls.cert\" and \"runtime.grpc_tls.key\" do not fit together";
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(callers)
        .with_single_cert(chain.clone(), private.clone_key())
        .context(misfit)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private)
        .context(misfit)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Loaded { server: Arc::new(server), client: Arc::new(client), server_name: files.server_name.clone() })
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!all.is_empty(), "the file contains no certificate");
    Ok(all)
}

/// Connections that have passed the handshake; slow ones hold nobody up.
pub(super) fn incoming(
    listener: TcpListener,
    loaded: watch::Receiver<Arc<Loaded>>,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let (ready, mut passed) = mpsc::channel(64);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // The server has ended.
                () = ready.closed() => return,
            };
            let Ok((tcp, _)) = accepted else {
                // Out of file descriptors, mostly.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let acceptor = TlsAcceptor::from(loaded.borrow().server.clone());
            let ready = ready.clone();
            tokio::spawn(async move {
                let _ = tcp.set_nodelay(true);
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
                    Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                    Ok(Err(e)) => tracing::debug!(error = %e, "a caller failed the TLS handshake"),
                    Err(_) => tracing::debug!("a caller was too slow for the TLS handshake"),
                }
                drop(slot);
            });
        }
    });
    futures::stream::poll_fn(move |cx| passed.poll_recv(cx))
}
