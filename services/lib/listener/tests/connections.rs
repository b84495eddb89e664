//! The listener on real sockets of loopback.
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use listener::{CertificateFiles, Connection, Listener, ListenerConfig, Metrics, Port, Tls};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

const REFUSAL: &[u8] = b"421 4.7.0 too many connections\r\n";

fn bind(tls: Option<Tls>, config: &ListenerConfig) -> (Listener, SocketAddr) {
    let port = Port { address: "127.0.0.1:0".parse().unwrap(), implicit_tls: tls, refusal: REFUSAL };
    let listener = Listener::bind(port, config).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Says who is connected and how, then echoes until the peer or the shutdown ends it.
async fn tell(mut connection: Connection) {
    let tls = connection.tls.map_or("plain", |t| t.version);
    connection.stream.write_all(format!("{} {tls}\r\n", connection.peer.ip()).as_bytes()).await.unwrap();
    connection.stream.flush().await.unwrap();
    let mut buffer = [0; 64];
    loop {
        tokio::select! {
            () = connection.shutdown.cancelled() => {
                connection.stream.write_all(b"bye\r\n").await.unwrap();
                connection.stream.flush().await.unwrap();
                return;
            }
            read = connection.stream.read(&mut buffer) => match read {
                Ok(n) if n > 0 => connection.stream.write_all(&buffer[..n]).await.unwrap(),
                _ => return,
            }
        }
    }
}

async fn line(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut out = Vec::new();
    while !out.ends_with(b"\r\n") {
        match tokio::time::timeout(Duration::from_secs(60), stream.read_u8()).await.expect("a line") {
            Ok(byte) => out.push(byte),
            Err(_) => return format!("closed after {:?}", String::from_utf8_lossy(&out)),
        }
    }
    String::from_utf8(out).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn proxy_headers_from_trusted_networks_name_the_client() {
    let config = ListenerConfig { proxy_from: vec!["127.0.0.0/8".parse().unwrap()], ..Default::default() };
    let (listener, address) = bind(None, &config);
    tokio::spawn(listener.serve(CancellationToken::new(), tell));

    let mut client = TcpStream::connect(address).await.unwrap();
    for part in ["PROX", "Y TCP4 192.0.2.7 127.0.0.1", " 5 25\r", "\nEHLO"] {
        client.write_all(part.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(line(&mut client).await, "192.0.2.7 plain");
    client.write_all(b" x\r\n").await.unwrap();
    assert_eq!(line(&mut client).await, "EHLO x", "what follows the header is the client's");

    let mut v2 = TcpStream::connect(address).await.unwrap();
    v2.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00").await.unwrap();
    assert_eq!(line(&mut v2).await, "127.0.0.1 plain", "LOCAL keeps the socket's address");

    let mut bare = TcpStream::connect(address).await.unwrap();
    bare.write_all(b"EHLO client.example\r\n").await.unwrap();
    assert!(line(&mut bare).await.starts_with("closed"), "a header is required");
}

#[tokio::test]
async fn strangers_cannot_claim_an_address() {
    let config = ListenerConfig { proxy_from: vec!["192.0.2.0/24".parse().unwrap()], ..Default::default() };
    let (listener, address) = bind(None, &config);
    tokio::spawn(listener.serve(CancellationToken::new(), tell));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"PROXY TCP4 198.51.100.1 127.0.0.1 5 25\r\n").await.unwrap();
    assert_eq!(line(&mut client).await, "127.0.0.1 plain");
}

#[tokio::test]
async fn limits_refuse_with_the_protocols_line() {
    let config = ListenerConfig { max_connections: 3, max_connections_per_address: 2, ..Default::default() };
    let (listener, address) = bind(None, &config);
    let metrics = Metrics::default();
    tokio::spawn(listener.with_metrics(metrics.clone()).serve(CancellationToken::new(), tell));
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(line(&mut client).await, "127.0.0.1 plain");
        clients.push(client);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    assert_eq!(line(&mut third).await, "421 4.7.0 too many connections");
    assert!(line(&mut third).await.starts_with("closed"));
    drop(clients.pop());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut fourth = TcpStream::connect(address).await.unwrap();
    assert_eq!(line(&mut fourth).await, "127.0.0.1 plain", "a place came back");
    assert_eq!((metrics.accepted.get(), metrics.refused.get(), metrics.active.get()), (3, 1, 2));
}

#[tokio::test]
async fn several_listeners_share_a_port() {
    let (first, address) = bind(None, &ListenerConfig::default());
    let port = Port { address, implicit_tls: None, refusal: REFUSAL };
    let second = Listener::bind(port, &ListenerConfig::default()).unwrap();
    assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
}

#[tokio::test]
async fn shutdown_waits_for_sessions_up_to_the_drain_time() {
    let (listener, address) = bind(None, &ListenerConfig::default());
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(listener.serve(shutdown.clone(), tell));
    let mut client = TcpStream::connect(address).await.unwrap();
    line(&mut client).await;
    shutdown.cancel();
    assert_eq!(line(&mut client).await, "bye");
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("drained").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "no more accepts");

    let (listener, address) = bind(None, &ListenerConfig::default());
    let shutdown = CancellationToken::new();
    let server =
        tokio::spawn(listener.with_drain(Duration::ZERO).serve(shutdown.clone(), |_connection| std::future::pending()));
    let _client = TcpStream::connect(address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("cut").unwrap();
}

#[tokio::test]
async fn a_panicking_session_takes_nobody_along() {
    let (listener, address) = bind(None, &ListenerConfig::default());
    tokio::spawn(listener.serve(CancellationToken::new(), |mut connection| async move {
        assert_ne!(connection.stream.read_u8().await.unwrap(), b'!', "asked to panic");
        connection.stream.write_all(b"fine\r\n").await.unwrap();
    }));
    TcpStream::connect(address).await.unwrap().write_all(b"!").await.unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b".").await.unwrap();
    assert_eq!(line(&mut client).await, "fine");
}

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("postroad-listener-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes a self-signed pair for `name`; returns the files and the certificate in DER.
fn pair(dir: &Path, file: &str, name: &str) -> (CertificateFiles, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let files = CertificateFiles { cert: dir.join(format!("{file}.pem")), key: dir.join(format!("{file}.key")) };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap())
}

/// Connects with TLS trusting `roots`, asking for `name`.
async fn connect(
    tcp: TcpStream,
    roots: &[CertificateDer<'static>],
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(name.to_owned()).unwrap(), tcp)
        .await
}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_reloaded() {
    let dir = TempDir::new("sni");
    let (first, first_der) = pair(&dir.0, "first", "mx.example");
    let (second, second_der) = pair(&dir.0, "second", "mail.other");
    let config = ListenerConfig {
        tls_cert: Some(first.cert.clone()),
        tls_key: Some(first.key.clone()),
        more_certificates: vec![second],
        ..Default::default()
    };
    let tls = config.tls().unwrap().unwrap();
    let (listener, address) = bind(Some(tls.clone()), &config);
    tokio::spawn(listener.serve(CancellationToken::new(), tell));
    let dial = || async { TcpStream::connect(address).await.unwrap() };

    for (name, der) in [("mx.example", &first_der), ("mail.other", &second_der)] {
        let mut client = connect(dial().await, std::slice::from_ref(der), name).await.unwrap();
        assert_eq!(line(&mut client).await, "127.0.0.1 TLSv1.3");
    }
    let unknown = connect(dial().await, &[first_der.clone(), second_der], "who.example").await;
    let unknown = unknown.unwrap_err().to_string();
    assert!(unknown.contains("mx.example"), "the first is the fallback: {unknown}");

    std::fs::write(&first.cert, "broken").unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("first.pem"));
    connect(dial().await, &[first_der], "mx.example").await.expect("the old certificate stays");

    let (_, renewed) = pair(&dir.0, "first", "mx.example");
    tls.reload().unwrap();
    connect(dial().await, &[renewed], "mx.example").await.expect("the new one is in use");
}

#[tokio::test]
async fn starttls_upgrades_a_running_stream() {
    let dir = TempDir::new("starttls");
    let (files, der) = pair(&dir.0, "first", "mx.example");
    let tls = Tls::load(vec![files]).unwrap();
    let (listener, address) = bind(None, &ListenerConfig::default());
    tokio::spawn(listener.serve(CancellationToken::new(), move |mut connection| {
        let tls = tls.clone();
        async move {
            connection.stream.write_all(b"220 go\r\n").await.unwrap();
            let (mut stream, info) = connection.stream.starttls(&tls).await.unwrap();
            stream.write_all(format!("{info:?}\r\n").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    }));
    let mut tcp = TcpStream::connect(address).await.unwrap();
    assert_eq!(line(&mut tcp).await, "220 go");
    let mut client = connect(tcp, &[der], "mx.example").await.unwrap();
    let info = line(&mut client).await;
    assert!(info.contains("TLSv1.3") && info.contains("TLS_AES") && info.contains("mx.example"), "{info}");
}

#[test]
fn configuration_errors_name_the_file() {
    let half = ListenerConfig { tls_cert: Some("x.pem".into()), ..Default::default() };
    assert_eq!(half.tls().unwrap_err().to_string(), "tls_cert and tls_key must be given together");
    let missing =
        ListenerConfig { tls_key: Some("/nowhere.key".into()), tls_cert: Some("/nowhere.pem".into()), ..half };
    assert!(missing.tls().unwrap_err().to_string().contains("/nowhere.pem"));
}

#[tokio::test]
async fn goodbyes_are_spread_over_time() {
    let config = ListenerConfig { goodbye_spread_seconds: 10, ..Default::default() };
    let (listener, address) = bind(None, &config);
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(listener.serve(shutdown.clone(), |mut connection: Connection| async move {
        connection.stream.write_all(b"hello\r\n").await.unwrap();
        connection.shutdown.cancelled().await;
        connection.stream.write_all(b"bye\r\n").await.unwrap();
    }));
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(line(&mut client).await, "hello");
        clients.push(client);
    }
    shutdown.cancel();
    let start = std::time::Instant::now();
    let mut heard = Vec::new();
    for client in clients {
        heard.push(tokio::spawn(async move {
            let mut client = client;
            assert_eq!(line(&mut client).await, "bye");
            start.elapsed().as_millis()
        }));
    }
    let mut times = Vec::new();
    for one in heard {
        times.push(one.await.unwrap());
    }
    server.await.unwrap();
    let early = times.iter().filter(|t| **t < 5_000).count();
    assert!((5..=35).contains(&early), "{early} of 40 in the first half: {times:?}");
}
