//! A small HTTP/1.1 client: for the issuer and for other sites' consoles.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const MAX_ANSWER: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Trusts one CA's file, or the public ones.
pub fn tls(ca: Option<&Path>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            let named = || format!("CA file {}", file.display());
            for certificate in CertificateDer::pem_file_iter(file).with_context(named)? {
                roots.add(certificate.with_context(named)?)?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

pub struct Client {
    tls: TlsConnector,
}

impl Client {
    pub fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self { tls: tls(ca)? })
    }

    pub async fn get(&self, url: &str, bearer: Option<&str>) -> anyhow::Result<(StatusCode, Bytes)> {
        self.call(Method::GET, url, bearer, None).await
    }

    /// `application/x-www-form-urlencoded`.
    pub async fn post_form(&self, url: &str, form: String) -> anyhow::Result<(StatusCode, Bytes)> {
        self.call(Method::POST, url, None, Some(form)).await
    }

    async fn call(
        &self,
        method: Method,
        url: &str,
        bearer: Option<&str>,
        form: Option<String>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let uri: Uri = url.parse().with_context(|| url.to_owned())?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let mut request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or("/", |p| p.as_str()))
            .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
            .header(header::ACCEPT, "application/json");
        if let Some(token) = bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if form.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(Bytes::from(form.unwrap_or_default())))?;
        let exchange = async {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            if is_tls {
                exchange(self.tls.connect(ServerName::try_from(host.clone())?, tcp).await?, request).await
            } else {
                exchange(tcp, request).await
            }
        };
        tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")?
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
        anyhow::Ok((status, body.to_bytes()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// The body of a 200 as JSON.
pub fn json<T: serde::de::DeserializeOwned>((status, body): (StatusCode, Bytes)) -> anyhow::Result<T> {
    ensure!(status.is_success(), "answered {status}");
    Ok(serde_json::from_slice(&body)?)
}
