//! An ingress on loopback, with an `mda` and an `auth-checker` made for the test.

#![allow(clippy::unwrap_used, dead_code)] // each test file uses a part

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use proto::{
    auth::{self, auth_server::AuthServer, verify_response::Action},
    directory::{self, authenticate_response::Step, directory_server::DirectoryServer, resolution::Kind, target::To},
    spool::{self, spool_server::SpoolServer},
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use smtp_ingress::{Config, Ingress, Role};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What the services behind the ingress know and do.
#[derive(Default)]
pub struct World {
    pub database_down: AtomicBool,
    pub checker_down: AtomicBool,
    pub logins_throttled: AtomicBool,
    /// Accepts that are committed but answered with an error.
    pub lost_answers: AtomicU32,
    pub accept_calls: AtomicU32,
    /// What verdicts were asked about, without its header.
    pub verified_bodies: Mutex<Vec<String>>,
    /// What the journey was told of transactions that came to nothing.
    pub refused: Mutex<Vec<spool::Refused>>,
    /// Committed messages in order; a retry changes nothing.
    pub accepted: Mutex<Vec<(spool::Envelope, String)>>,
    /// Holds Accept back until it is set.
    pub slow_accept: AtomicBool,
}

impl World {
    fn database(&self) -> Result<(), Status> {
        if self.database_down.load(Ordering::SeqCst) { Err(Status::unavailable("database")) } else { Ok(()) }
    }

    pub fn messages(&self) -> Vec<(spool::Envelope, String)> {
        self.accepted.lock().unwrap().clone()
    }
}

fn alice() -> directory::Account {
    directory::Account { account_id: 1, address: "alice@mx.example".into(), tenant_id: 1, ..Default::default() }
}

pub struct Fake(Arc<World>);

#[tonic::async_trait]
impl directory::directory_server::Directory for Fake {
    type AuthenticateStream = tokio_stream::wrappers::ReceiverStream<Result<directory::AuthenticateResponse, Status>>;

    async fn resolve(
        &self,
        request: Request<directory::ResolveRequest>,
    ) -> Result<Response<directory::ResolveResponse>, Status> {
        self.0.database()?;
        let resolve = |recipient: &String| {
            let (local, domain) = recipient.split_once('@').unwrap();
            let kind = match (local, domain) {
                ("nobody", "mx.example") => Kind::Unknown,
                ("disabled", "mx.example") => Kind::Disabled,
                ("full", "mx.example") => Kind::OverQuota,
                (_, "mx.example") => Kind::Local,
                _ => Kind::Remote,
            };
            let targets = match kind {
                Kind::Local if local == "alias" => {
                    vec![directory::Target { to: Some(To::Remote("bob@elsewhere.example".into())) }]
                }
                Kind::Local => vec![directory::Target { to: Some(To::AccountId(7)) }],
                _ => Vec::new(),
            };
            directory::Resolution { kind: kind.into(), targets, ..Default::default() }
        };
        let resolutions = request.get_ref().recipients.iter().map(resolve).collect();
        Ok(Response::new(directory::ResolveResponse { resolutions }))
    }

    async fn authenticate(
        &self,
        request: Request<Streaming<directory::AuthenticateRequest>>,
    ) -> Result<Response<Self::AuthenticateStream>, Status> {
        self.0.database()?;
        if self.0.logins_throttled.load(Ordering::SeqCst) {
            return Err(Status::resource_exhausted("too many failed logins"));
        }
        let (answers, stream) = tokio::sync::mpsc::channel(1);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            let first = requests.message().await.unwrap().unwrap();
            let initial = first.has_response.then_some(&first.response[..]);
            let mechanism = first.mechanism.parse().unwrap();
            let (mut server, mut step) = sasl::Server::start_bound(mechanism, initial, &first.channel_binding);
            loop {
                if let sasl::Step::FindVerifier { .. } = step {
                    step = server.verifier(sasl::scram::Verifier::derive("secret", b"salt", 100), "server");
                }
                let answer = match step {
                    sasl::Step::Proven => Step::Success(alice()),
                    sasl::Step::Challenge(challenge) => Step::Challenge(challenge.into()),
                    sasl::Step::Verify(l) if l.authcid == "alice@mx.example" && l.password == "secret" => {
                        Step::Success(alice())
                    }
                    _ => Step::Failure("no".into()),
                };
                let ends = !matches!(answer, Step::Challenge(_));
                let _ = answers.send(Ok(directory::AuthenticateResponse { step: Some(answer) })).await;
                if ends {
                    return;
                }
                let Ok(Some(next)) = requests.message().await else { return };
                step = server.step(&next.response);
            }
        });
        Ok(Response::new(stream.into()))
    }

    async fn may_send_as(
        &self,
        request: Request<directory::MaySendAsRequest>,
    ) -> Result<Response<directory::MaySendAsResponse>, Status> {
        self.0.database()?;
        let request = request.into_inner();
        let allowed = request.account_id == 1 && request.address == "alice@mx.example";
        Ok(Response::new(directory::MaySendAsResponse { allowed }))
    }

    async fn dkim_keys(
        &self,
        _: Request<directory::DkimKeysRequest>,
    ) -> Result<Response<directory::DkimKeysResponse>, Status> {
        Err(Status::unimplemented("not for the ingress"))
    }
}

#[tonic::async_trait]
impl spool::spool_server::Spool for Fake {
    type ContentStream = tokio_stream::Empty<Result<spool::ContentResponse, Status>>;

    async fn accept(
        &self,
        request: Request<Streaming<spool::AcceptRequest>>,
    ) -> Result<Response<spool::AcceptResponse>, Status> {
        self.0.accept_calls.fetch_add(1, Ordering::SeqCst);
        let mut requests = request.into_inner();
        let (mut envelope, mut content) = (None, Vec::new());
        while let Some(next) = requests.message().await? {
            envelope = envelope.or(next.envelope);
            content.extend_from_slice(&next.content);
        }
        while self.0.slow_accept.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.0.database()?;
        let envelope: spool::Envelope = envelope.ok_or_else(|| Status::invalid_argument("no envelope"))?;
        let mut accepted = self.0.accepted.lock().unwrap();
        if !accepted.iter().any(|(e, _)| e.queue_id == envelope.queue_id) {
            accepted.push((envelope, String::from_utf8_lossy(&content).into_owned()));
        }
        if self.0.lost_answers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(spool::AcceptResponse {}))
    }

    async fn claim(&self, _: Request<spool::ClaimRequest>) -> Result<Response<spool::ClaimResponse>, Status> {
        Err(Status::unimplemented("not for the ingress"))
    }

    async fn renew(&self, _: Request<spool::RenewRequest>) -> Result<Response<spool::RenewResponse>, Status> {
        Err(Status::unimplemented("not for the ingress"))
    }

    async fn content(&self, _: Request<spool::ContentRequest>) -> Result<Response<Self::ContentStream>, Status> {
        Err(Status::unimplemented("not for the ingress"))
    }

    async fn give_back(&self, _: Request<spool::GiveBackRequest>) -> Result<Response<spool::GiveBackResponse>, Status> {
        Err(Status::unimplemented("not for the ingress"))
    }

    async fn refuse(&self, request: Request<spool::RefuseRequest>) -> Result<Response<spool::RefuseResponse>, Status> {
        self.0.refused.lock().unwrap().extend(request.into_inner().refused);
        Ok(Response::new(spool::RefuseResponse {}))
    }

    async fn settle(&self, _: Request<spool::SettleRequest>) -> Result<Response<spool::SettleResponse>, Status> {
        Err(Status::unimplemented("not for the ingress"))
    }
}

#[tonic::async_trait]
impl auth::auth_server::Auth for Fake {
    /// The content's `X-Verdict:` decides.
    async fn verify(
        &self,
        request: Request<Streaming<auth::VerifyRequest>>,
    ) -> Result<Response<auth::VerifyResponse>, Status> {
        if self.0.checker_down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("checker"));
        }
        let mut requests = request.into_inner();
        let mut content = Vec::new();
        let mut parameters = None;
        while let Some(next) = requests.message().await? {
            parameters = parameters.or(next.parameters);
            content.extend_from_slice(&next.content);
        }
        let parameters = parameters.ok_or_else(|| Status::invalid_argument("no parameters"))?;
        let body = message::split(&content);
        self.0.verified_bodies.lock().unwrap().push(String::from_utf8_lossy(&content[body..]).into_owned());
        let action = match message::field(&content, "X-Verdict") {
            Some(b"reject") => Action::Reject,
            Some(b"quarantine") => Action::Quarantine,
            Some(b"defer") => Action::Defer,
            _ => Action::Accept,
        };
        Ok(Response::new(auth::VerifyResponse {
            action: action.into(),
            reason: "sender.example says so (DMARC)".into(),
            authentication_results: format!("Authentication-Results: {}; spf=pass\r\n", parameters.authserv_id),
            spf: "pass".into(),
            dkim: "none".into(),
            dmarc: "pass".into(),
            arc: "none".into(),
            from_domain: "sender.example".into(),
            ..Default::default()
        }))
    }

    async fn sign(
        &self,
        request: Request<Streaming<auth::SignRequest>>,
    ) -> Result<Response<auth::SignResponse>, Status> {
        if self.0.checker_down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("checker"));
        }
        let mut requests = request.into_inner();
        let mut domain = String::new();
        while let Some(next) = requests.message().await? {
            domain.push_str(&next.domain);
        }
        Ok(Response::new(auth::SignResponse { header: format!("DKIM-Signature: d={domain}\r\n") }))
    }
}

pub struct Site {
    pub world: Arc<World>,
    pub shutdown: CancellationToken,
    pub serving: tokio::task::JoinHandle<()>,
    addresses: Vec<(Role, SocketAddr)>,
    root: CertificateDer<'static>,
    directory: PathBuf,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Site {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let world = Arc::new(World::default());
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = inside.local_addr().unwrap();
        let fake = || Fake(world.clone());
        let routes = tonic::service::Routes::new(DirectoryServer::new(fake()))
            .add_service(SpoolServer::new(fake()).max_decoding_message_size(proto::MAX_GRPC_MESSAGE))
            .add_service(AuthServer::new(fake()));
        let shutdown = CancellationToken::new();
        tokio::spawn(runtime::grpc::serve(inside, routes, CancellationToken::new()));

        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let directory = std::env::temp_dir().join(format!("postroad-ingress-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let made = rcgen::generate_simple_self_signed(["mx.example".to_owned()]).unwrap();
        std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();

        let any: Option<SocketAddr> = "127.0.0.1:0".parse().ok();
        let mut config = Config {
            hostname: "mx.example".into(),
            mx_listen: any,
            submission_listen: any,
            submissions_listen: any,
            mda: peers.into(),
            auth_checker: peers.into(),
            resolve_cache_seconds: 0,
            ..Config::default()
        };
        config.listener.tls_cert = Some(directory.join("cert.pem"));
        config.listener.tls_key = Some(directory.join("key.pem"));
        change(&mut config);
        let mut service = runtime::Service::detached("smtp-ingress");
        service.shutdown = shutdown.clone();
        let ingress = Ingress::bind(config, &service).unwrap();
        let addresses = [Role::Mx, Role::Submission, Role::Submissions]
            .into_iter()
            .filter_map(|role| ingress.address(role).map(|a| (role, a)))
            .collect();
        let serving = tokio::spawn(ingress.serve(service));
        let root = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap();
        Self { world, shutdown, serving, addresses, root, directory }
    }

    pub fn address(&self, role: Role) -> SocketAddr {
        self.addresses.iter().find(|(r, _)| *r == role).unwrap().1
    }

    pub async fn connect(&self, role: Role) -> Client {
        let tcp = TcpStream::connect(self.address(role)).await.unwrap();
        let client = Client { stream: Wire::Plain(tcp), binding: None, root: self.root.clone() };
        if role == Role::Submissions { client.encrypted().await } else { client }
    }

    /// Plays a script: `C:` is sent, `S:` must come, `T:` is a TLS handshake. `C+` lines are
    /// sent together with the line before; `S* 250` is a whole reply of several lines; `…` at a line's end stands for any text.
    pub async fn play(&self, role: Role, script: &str) -> Client {
        self.connect(role).await.play(script).await
    }
}

pub enum Wire {
    Plain(TcpStream),
    Other(Box<dyn Both>),
}

pub trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

pub struct Client {
    stream: Wire,
    /// tls-exporter of the connection (RFC 9266).
    pub binding: Option<[u8; 32]>,
    root: CertificateDer<'static>,
}

impl Client {
    fn wire(&mut self) -> &mut dyn Both {
        match &mut self.stream {
            Wire::Plain(tcp) => tcp,
            Wire::Other(other) => other,
        }
    }

    pub async fn encrypted(self) -> Self {
        let Wire::Plain(tcp) = self.stream else { panic!("TLS in TLS") };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("mx.example").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let exported = tls.get_ref().1.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
        Self { stream: Wire::Other(Box::new(tls)), binding: exported.ok(), root: self.root }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.wire().write_all(bytes).await.unwrap();
        self.wire().flush().await.unwrap();
    }

    /// The next line without its CRLF; `None` at the end of the connection.
    pub async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let byte = tokio::time::timeout(Duration::from_secs(60), self.wire().read_u8()).await;
            match byte.unwrap_or_else(|_| panic!("no reply, only {:?}", String::from_utf8_lossy(&line))) {
                Ok(byte) => line.push(byte),
                Err(_) => return None,
            }
        }
        Some(String::from_utf8(line).unwrap().trim_end().to_owned())
    }

    pub async fn play(mut self, script: &str) -> Self {
        let mut lines = script.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
        while let Some(line) = lines.next() {
            if let Some(expected) = line.strip_prefix("S: ") {
                let got = self.line().await.unwrap_or_else(|| panic!("closed, expected {expected}"));
                match expected.strip_suffix('…') {
                    Some(start) => assert!(got.starts_with(start), "got {got}, expected {expected}"),
                    None => assert_eq!(got, expected),
                }
            } else if let Some(last) = line.strip_prefix("S* ") {
                // A whole reply of several lines.
                while !self.line().await.expect("a reply").starts_with(&format!("{last} ")) {}
            } else if line == "T:" {
                self = self.encrypted().await;
            } else {
                let mut text = format!("{}\r\n", line.strip_prefix("C: ").unwrap_or_else(|| panic!("{line}")));
                while let Some(more) = lines.peek().and_then(|l| l.strip_prefix("C+")) {
                    text.push_str(more.trim_start());
                    text.push_str("\r\n");
                    lines.next();
                }
                self.send(text.as_bytes()).await;
            }
        }
        self
    }
}
