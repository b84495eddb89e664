//! A scripted MTA on loopback.

use std::{
    collections::HashSet,
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

#[derive(Clone, Default)]
pub enum Tls {
    #[default]
    No,
    /// Offered, and the handshake works, with a certificate that nobody trusts.
    Works,
    /// Offered, but what follows is no TLS.
    Broken,
    /// Offered with this.
    With(Arc<rustls::ServerConfig>),
}

/// When a peer hangs up without a word.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum HangsUp {
    #[default]
    Never,
    /// When it has the first line of content.
    BeforeDot,
    /// When it has the final dot, before its answer.
    AfterDot,
    /// With its answer to the final dot.
    AfterAnswer,
}

#[derive(Clone)]
pub struct Script {
    pub greeting: &'static str,
    pub tls: Tls,
    /// Extensions besides STARTTLS.
    pub offers: Vec<&'static str>,
    pub mail: &'static str,
    /// Reply to RCPT for addresses that contain the first string.
    pub rcpt: Vec<(&'static str, &'static str)>,
    /// The first RCPT for an address is refused so.
    pub greylist: Option<&'static str>,
    pub data: &'static str,
    pub final_dot: &'static str,
    pub hangs_up: HangsUp,
    /// Hangs up after so many messages, without a word.
    pub hangs_up_after: usize,
    /// Refuses after so many octets of content, and reads no further.
    pub enough: Option<(usize, &'static str)>,
    /// Waits before the greeting.
    pub delay: Duration,
    /// Waits before the reply to DATA.
    pub data_delay: Duration,
    /// Waits before every reply.
    pub tarpit: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            greeting: "220 mx.test ESMTP",
            tls: Tls::No,
            offers: vec!["PIPELINING", "8BITMIME"],
            mail: "250 2.1.0 Ok",
            rcpt: Vec::new(),
            greylist: None,
            data: "354 go",
            final_dot: "250 2.0.0 Ok: queued as PEER",
            hangs_up: HangsUp::Never,
            hangs_up_after: usize::MAX,
            enough: None,
            delay: Duration::ZERO,
            data_delay: Duration::ZERO,
            tarpit: Duration::ZERO,
        }
    }
}

#[derive(Clone, Default)]
struct Memory {
    lines: Arc<Mutex<Vec<String>>>,
    /// Messages answered 250.
    taken: Arc<AtomicUsize>,
    seen: Arc<Mutex<HashSet<String>>>,
}

pub struct Peer {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    memory: Memory,
    script: Arc<Mutex<Script>>,
}

impl Peer {
    pub async fn start(address: &str, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            memory: Memory::default(),
            script: Arc::new(Mutex::new(script)),
        };
        let (connections, memory, script) = (peer.connections.clone(), peer.memory.clone(), peer.script.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let script = script.lock().unwrap().clone();
                tokio::spawn(serve(stream, script, memory.clone()));
            }
        });
        peer
    }

    /// How the next connections are served.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    /// Everything clients have said, content included.
    pub fn lines(&self) -> Vec<String> {
        self.memory.lines.lock().unwrap().clone()
    }

    pub fn count(&self, prefix: &str) -> usize {
        self.lines().iter().filter(|l| l.starts_with(prefix)).count()
    }

    /// Messages it answered 250, whether or not the client has heard it.
    pub fn taken(&self) -> usize {
        self.memory.taken.load(Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, script: Script, memory: Memory) {
    tokio::time::sleep(script.delay).await;
    let mut stream = BufStream::new(stream);
    say(&mut stream, &script, script.greeting).await;
    if talk(&mut stream, &script, &memory, false).await != Some(true) {
        return;
    }
    let mut plain = stream.into_inner();
    let config = match &script.tls {
        Tls::With(config) => config.clone(),
        Tls::Works => super::tls::untrusted(),
        Tls::Broken | Tls::No => {
            let _ = plain.read(&mut [0; 100]).await;
            let _ = plain.write_all(b"this is no TLS\r\n").await;
            return;
        }
    };
    let Ok(secured) = tokio_rustls::TlsAcceptor::from(config).accept(plain).await else { return };
    talk(&mut BufStream::new(secured), &script, &memory, true).await;
}

/// `Some(true)` when TLS shall begin.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    script: &Script,
    memory: &Memory,
    is_secure: bool,
) -> Option<bool> {
    let (mut messages, mut recipients) = (0, 0);
    loop {
        let line = hear(stream, memory).await?;
        match line.split(' ').next()? {
            "EHLO" => {
                let mut offers = script.offers.clone();
                if !is_secure && !matches!(script.tls, Tls::No) {
                    offers.push("STARTTLS");
                }
                let mut lines: Vec<String> = vec!["mx.test".to_owned()];
                lines.extend(offers.into_iter().map(str::to_owned));
                let last = lines.len() - 1;
                let lines: Vec<String> = lines
                    .iter()
                    .enumerate()
                    .map(|(n, l)| format!("250{}{l}", if n == last { ' ' } else { '-' }))
                    .collect();
                say(stream, script, &lines.join("\r\n")).await;
            }
            "STARTTLS" => {
                say(stream, script, "220 go ahead").await;
                return Some(true);
            }
            "AUTH" if line == "AUTH PLAIN AHVzZXIAcGFzcw==" => say(stream, script, "235 2.7.0 welcome").await,
            "AUTH" => say(stream, script, "535 5.7.8 wrong").await,
            "MAIL" => {
                recipients = 0;
                say(stream, script, script.mail).await;
            }
            "RCPT" => {
                let scripted = script.rcpt.iter().find(|(part, _)| line.contains(part)).map(|(_, r)| *r);
                let grey = script.greylist.filter(|_| memory.seen.lock().unwrap().insert(line.clone()));
                let answer = scripted.or(grey).unwrap_or("250 2.1.5 Ok");
                recipients += usize::from(answer.starts_with('2'));
                say(stream, script, answer).await;
            }
            // As every server does: DATA came with the commands before it.
            "DATA" if recipients == 0 => say(stream, script, "554 5.5.1 no valid recipients").await,
            "DATA" => {
                tokio::time::sleep(script.data_delay).await;
                say(stream, script, script.data).await;
                if !script.data.starts_with("354") {
                    continue;
                }
                if !content(stream, script, memory).await? {
                    return None;
                }
                messages += 1;
            }
            "BDAT" => {
                let mut words = line.split(' ').skip(1);
                let mut chunk = vec![0; words.next()?.parse().ok()?];
                stream.read_exact(&mut chunk).await.ok()?;
                let text = String::from_utf8_lossy(&chunk).into_owned();
                memory.lines.lock().unwrap().extend(text.lines().map(str::to_owned));
                let is_last = words.next() == Some("LAST");
                say(stream, script, if is_last { script.final_dot } else { "250 2.0.0 chunk" }).await;
                if is_last && script.final_dot.starts_with('2') {
                    memory.taken.fetch_add(1, Ordering::SeqCst);
                }
            }
            "QUIT" => {
                say(stream, script, "221 bye").await;
                return None;
            }
            _ => say(stream, script, "250 2.0.0 Ok").await,
        }
        if messages >= script.hangs_up_after {
            return None;
        }
    }
}

/// False when the connection shall end.
async fn content<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    script: &Script,
    memory: &Memory,
) -> Option<bool> {
    let mut octets = 0;
    loop {
        let line = hear(stream, memory).await?;
        octets += line.len();
        if script.hangs_up == HangsUp::BeforeDot {
            return Some(false);
        }
        if let Some((limit, reply)) = script.enough
            && octets > limit
        {
            say(stream, script, reply).await;
            tokio::time::sleep(Duration::from_secs(600)).await;
            return Some(false);
        }
        if line == "." {
            break;
        }
    }
    if script.hangs_up == HangsUp::AfterDot {
        return Some(false);
    }
    if script.final_dot.starts_with('2') {
        memory.taken.fetch_add(1, Ordering::SeqCst);
    }
    say(stream, script, script.final_dot).await;
    Some(script.hangs_up != HangsUp::AfterAnswer)
}

async fn hear<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>, memory: &Memory) -> Option<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok().filter(|n| *n > 0)?;
    let line = String::from_utf8_lossy(&line).strip_suffix("\r\n")?.to_owned();
    memory.lines.lock().unwrap().push(line.clone());
    Some(line)
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<S>, script: &Script, text: &str) {
    tokio::time::sleep(script.tarpit).await;
    let _ = stream.write_all(format!("{text}\r\n").as_bytes()).await;
    let _ = stream.flush().await;
}
