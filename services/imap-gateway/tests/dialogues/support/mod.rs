//! The gateway against an mda of a few lines that keeps everything in memory.

mod fake;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use imap_gateway::Config;
use proto::{directory::directory_server::DirectoryServer, mailboxes::mailboxes_server::MailboxesServer};
use runtime::Service;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use fake::Fake;

pub struct System {
    pub fake: Fake,
    address: SocketAddr,
    pub gateway: Service,
    /// Ends the mda with the system.
    _mda: DropGuard,
}

impl System {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let fake = Fake::default();
        let mda = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mda_address = mda.local_addr().expect("bound");
        let address = free_port().await;
        let mut config = Config {
            imap_listen: address,
            mda: mda_address.into(),
            allow_cleartext_login: true,
            call_seconds: 10,
            ..Config::default()
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let routes = tonic::service::Routes::new(MailboxesServer::new(fake.clone()))
            .add_service(DirectoryServer::new(fake.clone()));
        tokio::spawn(runtime::grpc::serve(mda, routes, stop.clone()));
        let gateway = Service::detached("imap-gateway");
        tokio::spawn(imap_gateway::run(config, gateway.clone()));
        Self { fake, address, gateway, _mda: stop.drop_guard() }
    }

    pub async fn connect(&self) -> Client {
        for _ in 0..100 {
            if let Ok(stream) = TcpStream::connect(self.address).await {
                let mut client = Client { stream: Box::new(stream), input: Vec::new() };
                let greeting = client.line().await;
                assert!(greeting.starts_with("* OK [CAPABILITY IMAP4rev1"), "{greeting}");
                return client;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the gateway does not listen");
    }

    /// Logged in as bob, with INBOX selected.
    pub async fn selected(&self) -> Client {
        let mut client = self.connect().await;
        client.play("C: l LOGIN bob secret\nS: l OK …").await;
        client.send("s SELECT INBOX").await;
        client.until("s OK").await;
        client
    }

    /// Plays a dialogue with a client that has INBOX selected.
    pub async fn play(&self, script: &str) {
        self.selected().await.play(script).await;
    }
}

/// On an address of its own: nobody else is given the port before it is bound.
async fn free_port() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let own = Ipv4Addr::new(127, 0, 1, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((own, 0)).await.and_then(|l| l.local_addr()).expect("a port")
}

pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

pub struct Client {
    stream: Box<dyn Socket>,
    input: Vec<u8>,
}

impl Client {
    /// The client's side of STARTTLS, trusting one certificate.
    pub async fn start_tls(self, certificate: CertificateDer<'static>) -> Self {
        assert!(self.input.is_empty(), "plain text after STARTTLS");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("imap.example").expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, self.stream).await.expect("handshake");
        Self { stream: Box::new(stream), input: Vec::new() }
    }

    pub async fn send(&mut self, line: &str) {
        self.raw(format!("{line}\r\n").as_bytes()).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("connected");
    }

    /// `closed` at the end.
    pub async fn line(&mut self) -> String {
        loop {
            if let Some(lf) = self.input.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=lf).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            if !self.more().await {
                return "closed".to_owned();
            }
        }
    }

    async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.input);
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("an answer in time").is_ok_and(|n| n > 0)
    }

    pub async fn exactly(&mut self, len: usize) -> Vec<u8> {
        while self.input.len() < len {
            assert!(self.more().await, "closed");
        }
        self.input.drain(..len).collect()
    }

    /// All lines up to the one that begins so.
    pub async fn until(&mut self, end: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await;
            assert_ne!(line, "closed", "after {lines:?}, expecting {end}");
            let is_last = line.starts_with(end);
            lines.push(line);
            if is_last {
                return lines;
            }
        }
    }

    /// `C:` lines are sent, `S:` lines expected; `…` stands for any text.
    pub async fn play(&mut self, script: &str) {
        for step in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if let Some(line) = step.strip_prefix("C:") {
                self.send(line.strip_prefix(' ').unwrap_or(line)).await;
            } else if let Some(expected) = step.strip_prefix("S:") {
                let line = self.line().await;
                assert!(
                    fits(expected.trim_start(), line.trim_end()),
                    "expected {expected}\ngot       {line}\nin {script}"
                );
            } else {
                panic!("neither C: nor S: in {step}");
            }
        }
    }
}

/// `…` stands for any text.
fn fits(pattern: &str, line: &str) -> bool {
    let Some((first, others)) = pattern.split_once('…') else { return pattern == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = others.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
