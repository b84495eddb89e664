//! A scripted MTA on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    No,
    /// Offered, and the handshake works.
    Works,
    /// Offered, but what follows is no TLS.
    Broken,
}

#[derive(Clone)]
pub struct Script {
    pub greeting: &'static str,
    pub tls: Tls,
    /// Reply to RCPT for addresses that contain the first string.
    pub rcpt: Vec<(&'static str, &'static str)>,
    pub final_dot: &'static str,
    /// Hangs up after so many messages, without a word.
    pub hangs_up_after: usize,
    /// Waits before the greeting.
    pub delay: Duration,
    /// Waits before the reply to DATA.
    pub data_delay: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            greeting: "220 mx.test ESMTP",
            tls: Tls::No,
            rcpt: Vec::new(),
            final_dot: "250 2.0.0 Ok: queued as PEER",
            hangs_up_after: usize::MAX,
            delay: Duration::ZERO,
            data_delay: Duration::ZERO,
        }
    }
}

pub struct Peer {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    pub async fn start(address: &str, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let peer = Self { address: listener.local_addr().unwrap(), connections: Arc::default(), lines: Arc::default() };
        let (connections, lines) = (peer.connections.clone(), peer.lines.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, script.clone(), lines.clone()));
            }
        });
        peer
    }

    /// Everything clients have said, content included.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn count(&self, prefix: &str) -> usize {
        self.lines().iter().filter(|l| l.starts_with(prefix)).count()
    }
}

async fn serve(stream: TcpStream, script: Script, lines: Arc<Mutex<Vec<String>>>) {
    tokio::time::sleep(script.delay).await;
    let mut stream = BufStream::new(stream);
    say(&mut stream, script.greeting).await;
    if talk(&mut stream, &script, &lines, script.tls).await != Some(true) {
        return;
    }
    let mut plain = stream.into_inner();
    if script.tls == Tls::Broken {
        let _ = plain.read(&mut [0; 100]).await;
        let _ = plain.write_all(b"this is no TLS\r\n").await;
        return;
    }
    let Ok(secured) = acceptor().accept(plain).await else { return };
    talk(&mut BufStream::new(secured), &script, &lines, Tls::No).await;
}

/// `Some(true)` when TLS shall begin.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    script: &Script,
    lines: &Mutex<Vec<String>>,
    tls: Tls,
) -> Option<bool> {
    let mut messages = 0;
    loop {
        let line = hear(stream, lines).await?;
        match line.split(' ').next()? {
            "EHLO" if tls == Tls::No => say(stream, "250-mx.test\r\n250-PIPELINING\r\n250 8BITMIME").await,
            "EHLO" => say(stream, "250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS").await,
            "STARTTLS" => {
                say(stream, "220 go ahead").await;
                return Some(true);
            }
            "RCPT" => {
                let reply = script.rcpt.iter().find(|(part, _)| line.contains(part)).map_or("250 2.1.5 Ok", |(_, r)| r);
                say(stream, reply).await;
            }
            "DATA" => {
                tokio::time::sleep(script.data_delay).await;
                say(stream, "354 go").await;
                while hear(stream, lines).await? != "." {}
                say(stream, script.final_dot).await;
                messages += 1;
                if messages >= script.hangs_up_after {
                    return None;
                }
            }
            "QUIT" => {
                say(stream, "221 bye").await;
                return None;
            }
            _ => say(stream, "250 2.0.0 Ok").await,
        }
    }
}

async fn hear<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    lines: &Mutex<Vec<String>>,
) -> Option<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok().filter(|n| *n > 0)?;
    let line = String::from_utf8_lossy(&line).strip_suffix("\r\n")?.to_owned();
    lines.lock().unwrap().push(line.clone());
    Some(line)
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>, text: &str) {
    let _ = stream.write_all(format!("{text}\r\n").as_bytes()).await;
    let _ = stream.flush().await;
}

fn acceptor() -> tokio_rustls::TlsAcceptor {
    let own = rcgen::generate_simple_self_signed(vec!["other.name".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}
