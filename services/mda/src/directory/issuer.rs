//! The OpenID Connect issuer whose tokens are taken: where its keys are, and when to look again.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
};
use tonic::Status;

use super::token::{Expected, Keys, TokenError};

/// Keys are looked at again after this time, and at once when a token has an unknown one, but
/// not more often than the second says.
const FRESH: Duration = Duration::from_secs(600);
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_SET: usize = 1 << 20;

/// Keys below `oidc`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What tokens have as `iss`.
    pub issuer: String,
    /// What tokens have as `aud`, or among it.
    pub audience: String,
    /// The claim that holds the account's address.
    #[serde(default = "email")]
    pub account_claim: String,
    /// A file with the issuer's keys (JWK set). This or `jwks_url`.
    pub jwks_file: Option<PathBuf>,
    /// Where the issuer publishes them: `jwks_uri` of its discovery document.
    pub jwks_url: Option<String>,
    /// PEM file of a CA that `jwks_url`'s certificate is from; the public ones when absent.
    pub ca_file: Option<PathBuf>,
}

fn email() -> String {
    "email".into()
}

impl Config {
    pub fn validate(&self) -> Result<(), String> {
        match (&self.jwks_file, &self.jwks_url) {
            (Some(_), None) => Ok(()),
            (None, Some(url)) => match url.parse::<Uri>() {
                Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => Ok(()),
                _ => Err(format!("configuration key \"oidc.jwks_url\" = {url:?}: expected https://host/path")),
            },
            _ => Err("configuration keys \"oidc.jwks_file\", \"oidc.jwks_url\": expected one of them".into()),
        }
    }
}

#[derive(Clone)]
pub struct Issuer {
    config: Arc<Config>,
    cache: Arc<Mutex<Option<Known>>>,
}

struct Known {
    keys: Arc<Keys>,
    since: Instant,
}

impl Issuer {
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config), cache: Arc::default() }
    }

    /// The address that a token speaks for; `None` when it is no good. An error means that nobody
    /// could tell, because the issuer's keys are out of reach.
    pub async fn check(&self, token: &str) -> Result<Option<String>, Status> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let c = &self.config;
        let expected = Expected { issuer: &c.issuer, audience: &c.audience, claim: &c.account_claim, now };
        let mut outcome = self.keys(FRESH).await?.verify(token, &expected);
        if outcome == Err(TokenError::UnknownKey) {
            outcome = self.keys(AT_MOST_EVERY).await?.verify(token, &expected);
        }
        Ok(outcome.inspect_err(|why| tracing::info!(error = %why, "token refused")).ok())
    }

    async fn keys(&self, fresh: Duration) -> Result<Arc<Keys>, Status> {
        let mut cache = self.cache.lock().await;
        if let Some(known) = cache.as_ref().filter(|k| k.since.elapsed() < fresh) {
            return Ok(known.keys.clone());
        }
        match tokio::time::timeout(PATIENCE, self.load()).await.unwrap_or_else(|_| Err(anyhow::anyhow!("too slow"))) {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *cache = Some(Known { keys: keys.clone(), since: Instant::now() });
                Ok(keys)
            }
            // What was good a while ago is better than nobody logging in.
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the issuer's keys cannot be read");
                cache.as_ref().map(|known| known.keys.clone()).ok_or_else(|| Status::unavailable("no keys"))
            }
        }
    }

    async fn load(&self) -> anyhow::Result<Keys> {
        let json = match (&self.config.jwks_file, &self.config.jwks_url) {
            (Some(file), _) => tokio::fs::read(file).await?,
            (None, Some(url)) => fetch(&url.parse()?, self.config.ca_file.as_deref()).await?,
            (None, None) => anyhow::bail!("no source"),
        };
        Ok(Keys::read(&json)?)
    }
}

async fn fetch(uri: &Uri, ca: Option<&std::path::Path>) -> anyhow::Result<Vec<u8>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let is_tls = uri.scheme_str() == Some("https");
    let tcp = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }))).await?;
    if !is_tls {
        return get(tcp, uri).await;
    }
    let mut roots = rustls::RootCertStore::empty();
    match ca {
        Some(file) => {
            use rustls::pki_types::{CertificateDer, pem::PemObject as _};
            for certificate in CertificateDer::pem_file_iter(file)? {
                roots.add(certificate?)?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host)?;
    get(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?, uri).await
}

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, uri: &Uri) -> anyhow::Result<Vec<u8>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
    let request = Request::get(path).header(header::HOST, authority).header(header::ACCEPT, "application/json");
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new())?).await?;
    anyhow::ensure!(answer.status().is_success(), "the issuer answered {}", answer.status());
    let body = Limited::new(answer.into_body(), MAX_SET).collect().await.map_err(anyhow::Error::from_boxed)?;
    driver.abort();
    Ok(body.to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn config(url: Option<String>) -> Config {
        Config {
            issuer: "https://id.example".into(),
            audience: "mail".into(),
            account_claim: email(),
            jwks_file: None,
            jwks_url: url,
            ca_file: None,
        }
    }

    /// Answers with each of the bodies in turn, then not at all.
    async fn publisher(bodies: Vec<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for body in bodies {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /keys HTTP/1.1\r\n"));
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn keys_come_from_the_url_and_stay_when_it_is_away() {
        let url = publisher(vec!["{\"keys\":[]}", "no json"]).await;
        let issuer = Issuer::new(config(Some(url)));
        assert!(issuer.keys(FRESH).await.is_ok());
        // Too old twice: the publisher answers nonsense, then is gone; what was known still holds.
        assert!(issuer.keys(Duration::ZERO).await.is_ok());
        assert!(issuer.keys(Duration::ZERO).await.is_ok());
        assert_eq!(issuer.check("a.b.c").await.unwrap(), None);
    }

    #[tokio::test]
    async fn without_keys_nobody_can_tell() {
        let issuer = Issuer::new(config(Some("http://127.0.0.1:1/keys".into())));
        assert_eq!(issuer.check("a.b.c").await.unwrap_err().code(), tonic::Code::Unavailable);
    }

    #[test]
    fn one_source_is_wanted() {
        assert!(config(None).validate().is_err_and(|e| e.contains("oidc.jwks_file")));
        assert!(config(Some("ftp://x/".into())).validate().is_err_and(|e| e.contains("oidc.jwks_url")));
        assert_eq!(config(Some("https://id.example/keys".into())).validate(), Ok(()));
    }
}
