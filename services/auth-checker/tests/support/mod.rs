//! The service on loopback, with a name server and a directory made for the test.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use auth_checker::{Config, DnsFailure};
use base64::Engine as _;
use hickory_proto::rr::{
    Name, RData, Record,
    rdata::{A, MX, PTR, SOA, TXT},
};
use hickory_server::{
    Server,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use proto::{
    auth::{
        SignRequest, VerifyParameters, VerifyRequest, VerifyResponse, auth_client::AuthClient, verify_response::Action,
    },
    directory::{self as pb, directory_server},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

/// A signing key and the TXT record that publishes it.
pub struct Key {
    pub private: pb::DkimKey,
    pub record: String,
}

pub fn rsa(selector: &str) -> Key {
    use aws_lc_rs::{
        encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
        rsa::{KeyPair, KeySize},
        signature::KeyPair as _,
    };
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    key(selector, "rsa", private.as_ref(), public.as_ref())
}

pub fn ed25519(selector: &str) -> Key {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    let private = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).unwrap();
    key(selector, "ed25519", private.as_ref(), pair.public_key().as_ref())
}

fn key(selector: &str, algorithm: &str, private: &[u8], public: &[u8]) -> Key {
    let base64 = base64::engine::general_purpose::STANDARD.encode(public);
    Key {
        private: pb::DkimKey {
            selector: selector.into(),
            algorithm: algorithm.into(),
            private_key: private.to_vec().into(),
        },
        record: format!("v=DKIM1; k={algorithm}; p={base64}"),
    }
}

/// Serves the zones of `records`, each named by its last two labels, and refuses all else. What is
/// no address, no `MX 10 host` and no `PTR name` is text.
pub async fn name_server(records: &[(&str, &str)]) -> (SocketAddr, Server<Catalog>) {
    let mut zones: HashMap<String, InMemoryZoneHandler> = HashMap::new();
    for (name, text) in records {
        let labels: Vec<&str> = name.split('.').collect();
        let origin = labels[labels.len() - 2..].join(".");
        let origin_name = Name::from_ascii(format!("{origin}.")).unwrap();
        let zone = zones.entry(origin).or_insert_with(|| {
            let mut zone: InMemoryZoneHandler =
                InMemoryZoneHandler::empty(origin_name.clone(), ZoneType::Primary, AxfrPolicy::Deny, None);
            let soa = SOA::new(origin_name.clone(), origin_name.clone(), 1, 60, 60, 60, 60);
            zone.upsert_mut(Record::from_rdata(origin_name.clone(), 60, RData::SOA(soa)), 1);
            zone
        });
        let absolute = |name: &str| Name::from_ascii(format!("{name}.")).unwrap();
        let data = match text.parse::<std::net::Ipv4Addr>() {
            Ok(address) => RData::A(A(address)),
            Err(_) if text.starts_with("MX ") => {
                let (preference, host) = text[3..].split_once(' ').unwrap();
                RData::MX(MX::new(preference.parse().unwrap(), absolute(host)))
            }
            Err(_) if text.starts_with("PTR ") => RData::PTR(PTR(absolute(&text[4..]))),
            Err(_) => {
                let strings = text.as_bytes().chunks(255).map(|c| String::from_utf8(c.to_vec()).unwrap()).collect();
                RData::TXT(TXT::new(strings))
            }
        };
        zone.upsert_mut(Record::from_rdata(Name::from_ascii(format!("{name}.")).unwrap(), 60, data), 1);
    }
    let mut catalog = Catalog::new();
    for (origin, zone) in zones {
        catalog.upsert(Name::from_ascii(format!("{origin}.")).unwrap().into(), vec![Arc::new(zone)]);
    }
    let mut server = Server::new(catalog);
    let (address, udp, tcp) = one_port().await;
    server.register_socket(udp);
    server.register_listener(tcp, Duration::from_secs(5), 4096);
    (address, server)
}

/// Free for both, which the first one that UDP gets need not be.
async fn one_port() -> (SocketAddr, tokio::net::UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (address, udp, tcp);
        }
    }
    panic!("no free port for a name server");
}

/// Knows the keys of some domains.
struct Directory(Vec<(String, Vec<pb::DkimKey>)>);

#[tonic::async_trait]
impl directory_server::Directory for Directory {
    type AuthenticateStream = tokio_stream::Empty<Result<pb::AuthenticateResponse, Status>>;

    async fn resolve(&self, _: Request<pb::ResolveRequest>) -> Result<Response<pb::ResolveResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn authenticate(
        &self,
        _: Request<Streaming<pb::AuthenticateRequest>>,
    ) -> Result<Response<Self::AuthenticateStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn may_send_as(&self, _: Request<pb::MaySendAsRequest>) -> Result<Response<pb::MaySendAsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn dkim_keys(&self, request: Request<pb::DkimKeysRequest>) -> Result<Response<pb::DkimKeysResponse>, Status> {
        let wanted = &request.get_ref().domain;
        let keys = self.0.iter().find(|(domain, _)| domain == wanted).map(|(_, keys)| keys.clone()).unwrap_or_default();
        Ok(Response::new(pb::DkimKeysResponse { keys }))
    }
}

pub struct Checker {
    client: AuthClient<tonic::transport::Channel>,
    _name_server: Option<Server<Catalog>>,
}

pub async fn checker(records: &[(&str, &str)], domain: &str, keys: &[&Key]) -> Checker {
    checker_of(records, &[(domain, keys)], Config::default()).await
}

pub async fn checker_of(records: &[(&str, &str)], domains: &[(&str, &[&Key])], config: Config) -> Checker {
    let (dns, server) = name_server(records).await;
    let keys = |keys: &[&Key]| keys.iter().map(|k| k.private.clone()).collect();
    let directory = Directory(domains.iter().map(|(domain, k)| ((*domain).to_owned(), keys(k))).collect());
    Checker { client: start(dns, config, Some(directory)).await, _name_server: Some(server) }
}

/// Asks a name server that does not answer.
pub async fn checker_without_dns(dns_failure: DnsFailure) -> Checker {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    tokio::spawn(async move {
        let _keep = silent;
        std::future::pending::<()>().await;
    });
    let config = Config { dns_failure, ..Config::default() };
    Checker { client: start(address, config, None).await, _name_server: None }
}

async fn start(
    dns: SocketAddr,
    mut config: Config,
    directory: Option<Directory>,
) -> AuthClient<tonic::transport::Channel> {
    let service = runtime::Service::detached("auth-checker");
    // Only who has a name server that never answers wants to know that soon.
    let timeout_ms = if directory.is_some() { 10_000 } else { 200 };
    config.dns = dns::Config { server: Some(dns), timeout_ms, attempts: 1, ..dns::Config::default() };
    if let Some(directory) = directory {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        config.mda = listener.local_addr().unwrap().into();
        let routes = tonic::service::Routes::new(directory_server::DirectoryServer::new(directory));
        tokio::spawn(runtime::grpc::serve(listener, routes, service.shutdown.clone()));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(auth_checker::serve(listener, config, service));
    AuthClient::connect(format!("http://{address}")).await.unwrap()
}

impl Checker {
    pub async fn verify(&self, peer: &str, helo: &str, reverse_path: &str, message: &str) -> VerifyResponse {
        let parameters = VerifyParameters {
            peer: peer.into(),
            helo: helo.into(),
            reverse_path: reverse_path.into(),
            authserv_id: "mx.example.com".into(),
            ..VerifyParameters::default()
        };
        self.verify_as(parameters, message).await
    }

    /// Verified by `domain`, which forwards it: the message with the seal, and what was found out.
    pub async fn forward(
        &self,
        domain: &str,
        peer: &str,
        reverse_path: &str,
        message: &str,
    ) -> (String, VerifyResponse) {
        let parameters = VerifyParameters {
            peer: peer.into(),
            helo: "mx.sender.com".into(),
            reverse_path: reverse_path.into(),
            authserv_id: format!("mx.{domain}"),
            seal_domain: domain.into(),
            ..VerifyParameters::default()
        };
        let verdict = self.verify_as(parameters, message).await;
        (format!("{}{message}", verdict.arc_set), verdict)
    }

    pub async fn verify_as(&self, parameters: VerifyParameters, message: &str) -> VerifyResponse {
        let mut requests = vec![VerifyRequest { parameters: Some(parameters), content: Default::default() }];
        // Small chunks: their borders must not matter.
        for chunk in message.as_bytes().chunks(100) {
            requests.push(VerifyRequest { parameters: None, content: chunk.to_vec().into() });
        }
        self.client.clone().verify(tokio_stream::iter(requests)).await.unwrap().into_inner()
    }

    pub async fn sign(&self, domain: &str, message: &str) -> String {
        let request = SignRequest { domain: domain.into(), content: message.as_bytes().to_vec().into() };
        self.client.clone().sign(tokio_stream::iter([request])).await.unwrap().into_inner().header
    }
}

pub fn action(response: &VerifyResponse) -> Action {
    Action::try_from(response.action).unwrap()
}

/// Signed by `domain`, whoever the author is: as a mailing list or a provider does.
pub fn sign_as(domain: &str, key: &Key, message: &str) -> String {
    use mail_auth::{
        common::{
            crypto::{RsaKey, Sha256},
            headers::HeaderWriter as _,
        },
        dkim::DkimSigner,
    };
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.private.private_key.as_ref()));
    let signer = DkimSigner::from_key(RsaKey::<Sha256>::from_key_der(der).unwrap());
    let signer = signer.domain(domain).selector(&key.private.selector).headers(["From", "Subject"]);
    signer.sign(message.as_bytes()).unwrap().to_header() + message
}
