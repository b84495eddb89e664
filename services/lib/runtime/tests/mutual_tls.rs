//! Calls between services with certificates: who has none of ours gets nothing, and renewed
//! files are used without a restart.

#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, path::Path, time::Duration};

use proto::auth::{
    SignRequest, SignResponse, VerifyRequest, VerifyResponse,
    auth_client::AuthClient,
    auth_server::{Auth, AuthServer},
};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use runtime::grpc::{Peers, TlsFiles, channel, install_tls, serve};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status, Streaming,
    service::Routes,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

struct Answers;

#[tonic::async_trait]
impl Auth for Answers {
    async fn verify(&self, _: Request<Streaming<VerifyRequest>>) -> Result<Response<VerifyResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn sign(&self, _: Request<Streaming<SignRequest>>) -> Result<Response<SignResponse>, Status> {
        Ok(Response::new(SignResponse::default()))
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn write(&self, folder: &Path) {
        let (cert, key) = self.issue();
        for (name, text) in [("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &self.0.pem())] {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
}

async fn call(client: &mut AuthClient<runtime::grpc::Channel>) -> Result<(), Code> {
    client.sign(futures::stream::iter([SignRequest::default()])).await.map(drop).map_err(|s| s.code())
}

/// One try with a connection of its own.
async fn stranger(address: SocketAddr, scheme: &str, tls: Option<ClientTlsConfig>) -> bool {
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).unwrap();
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).unwrap();
    }
    let Ok(channel) = endpoint.connect().await else { return false };
    AuthClient::new(channel).sign(futures::stream::iter([SignRequest::default()])).await.is_ok()
}

#[tokio::test]
async fn only_our_own_get_an_answer_and_renewal_needs_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(), Authority::new());
    ours.write(folder.path());
    let file = |name: &str| folder.path().join(name);
    let files = TlsFiles { ca: file("ca.crt"), cert: file("tls.crt"), key: file("tls.key"), server_name: None };
    install_tls(&files).unwrap();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Routes::new(AuthServer::new(Answers)), CancellationToken::new()));
    let by_name = Peers::try_from(format!("localhost:{}", address.port())).unwrap();
    let mut client = AuthClient::new(channel(&by_name, Duration::from_secs(5)));
    assert_eq!(call(&mut client).await, Ok(()));
    assert_eq!(call(&mut AuthClient::new(channel(&address.into(), Duration::from_secs(5)))).await, Ok(()));

    let trust = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ours.0.pem())).domain_name("localhost");
    let identity = |authority: &Authority| {
        let (cert, key) = authority.issue();
        trust().identity(Identity::from_pem(cert, key))
    };
    assert!(stranger(address, "https", Some(identity(&ours))).await, "with a certificate of our CA");
    assert!(!stranger(address, "http", None).await, "in plain text");
    assert!(!stranger(address, "https", Some(trust())).await, "without a certificate");
    assert!(!stranger(address, "https", Some(identity(&other))).await, "with a certificate of another CA");

    // Another CA altogether: old callers are out, and our own client follows.
    tokio::time::sleep(Duration::from_secs(1)).await;
    other.write(folder.path());
    let start = std::time::Instant::now();
    while stranger(address, "https", Some(identity(&ours))).await {
        assert!(start.elapsed() < Duration::from_secs(60), "the old certificate is still used");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let start = std::time::Instant::now();
    while call(&mut client).await != Ok(()) {
        assert!(start.elapsed() < Duration::from_secs(60), "our own client does not follow");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
