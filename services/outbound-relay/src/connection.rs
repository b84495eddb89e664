//! One connection to a peer: executes what the SMTP client machine asks for.

use std::{io, net::SocketAddr, pin::Pin, task::Poll, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use rustls_pki_types::ServerName;
use smtp::client::{Action, Capabilities, Client, Credentials, Envelope, Failure, Outcome, StartTls};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::security::Start;

const HANDSHAKE: Duration = Duration::from_secs(60);
/// RFC 5321 §4.5.3.2.5: a block of data.
const WRITE: Duration = Duration::from_secs(180);
/// The next chunk of content, from our own side.
const CONTENT: Duration = Duration::from_secs(60);
/// The answer to RSET.
const SETTLE: Duration = Duration::from_secs(10);
/// Encoded content is written in pieces of about this size.
const PIECE: usize = 64 * 1024;

/// What a peer said before it stopped taking content.
const LAST_WORDS: Duration = Duration::from_secs(2);

enum Step {
    Written(io::Result<usize>),
    Read(io::Result<usize>),
}

/// Whatever comes first: octets to read, or room to write.
async fn step(socket: &mut dyn Socket, bytes: &[u8], buffer: &mut [u8]) -> Step {
    std::future::poll_fn(|cx| {
        let mut read = ReadBuf::new(buffer);
        if let Poll::Ready(done) = Pin::new(&mut *socket).poll_read(cx, &mut read) {
            return Poll::Ready(Step::Read(done.map(|()| read.filled().len())));
        }
        Pin::new(&mut *socket).poll_write(cx, bytes).map(Step::Written)
    })
    .await
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

pub(crate) struct Connection {
    /// `None` while TLS is negotiated, and for ever when that failed.
    socket: Option<Box<dyn Socket>>,
    plain: Option<TcpStream>,
    client: Client,
    pub host: String,
    pub address: SocketAddr,
    /// Protocol and cipher, e.g. `TLSv1_3 TLS13_AES_256_GCM_SHA384`.
    pub tls: Option<String>,
    /// Transactions begun.
    pub transactions: u32,
    /// The longest wait for an answer, when it is less than the machine's.
    patience: Duration,
    /// The machine waits for a transaction; it must not be asked without doing what it says.
    is_ready: bool,
    /// The latest transaction's final dot may have reached the peer.
    pub is_dot_sent: bool,
}

/// Where the machine stopped.
enum Event {
    Idle,
    SendContent,
    Finished(Vec<Outcome>),
    Failed(Failure),
    Closed,
}

/// Why a transaction ended without any word about its recipients.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Aborted {
    /// The connection was in no state to begin with; nothing was sent.
    #[error("connection is no longer usable")]
    Unusable,
    #[error("content could not be read: {0}")]
    Content(String),
    /// Invariant 4.
    #[error("the lease ran out during the attempt")]
    LeaseLost,
}

/// How to begin.
pub(crate) struct Opening<'a> {
    /// Name of the host, for certificates and the journey.
    pub host: String,
    pub address: SocketAddr,
    /// Our name.
    pub hello: &'a str,
    pub start: Start,
    pub tls: &'a TlsConnector,
    pub credentials: Option<&'a Credentials>,
    pub chunking: bool,
    /// For the greeting.
    pub patience: Duration,
}

impl Connection {
    /// Greets and negotiates; afterwards the connection is ready for mail.
    pub async fn open(stream: TcpStream, opening: Opening<'_>) -> Result<Self, Failure> {
        let start_tls = match opening.start {
            Start::Never => StartTls::Never,
            Start::Opportunistic => StartTls::Opportunistic,
            Start::Required => StartTls::Required,
        };
        let mut client = Client::new(opening.hello, start_tls);
        if let Some(credentials) = opening.credentials {
            client = client.with_credentials(credentials);
        }
        if !opening.chunking {
            client = client.without_chunking();
        }
        let mut connection = Self {
            socket: None,
            plain: Some(stream),
            client,
            host: opening.host,
            address: opening.address,
            tls: None,
            transactions: 0,
            patience: opening.patience,
            is_ready: false,
            is_dot_sent: false,
        };
        match connection.drive(Some(opening.tls)).await {
            Event::Idle => {
                connection.is_ready = true;
                connection.patience = Duration::MAX;
                Ok(connection)
            }
            Event::Failed(failure) => Err(failure),
            Event::SendContent | Event::Finished(_) | Event::Closed => Err(Failure::Closed),
        }
    }

    /// As in metrics: few words.
    pub fn tls_version(&self) -> Option<&'static str> {
        let tls = self.tls.as_ref()?;
        Some(if tls.starts_with("TLSv1_3") { "TLSv1.3" } else { "TLSv1.2" })
    }

    /// What the server offers.
    pub fn capabilities(&self) -> &Capabilities {
        self.client.capabilities()
    }

    /// One transaction. `may_finish` is asked before the final dot; without its yes the
    /// connection is dropped, and the peer forgets the message (RFC 5321 §4.1.1.4).
    /// The outcomes are in the envelope's order.
    pub async fn deliver<E: std::fmt::Display>(
        &mut self,
        envelope: Envelope,
        header: &[u8],
        mut content: impl Stream<Item = Result<Bytes, E>> + Unpin,
        may_finish: impl Fn() -> bool,
    ) -> Result<Vec<Outcome>, Aborted> {
        self.transactions += 1;
        self.is_dot_sent = false;
        if !std::mem::take(&mut self.is_ready) {
            return Err(Aborted::Unusable);
        }
        self.client.send(envelope);
        loop {
            match self.drive(None).await {
                Event::SendContent => {
                    if let Err(aborted) = self.send_content(header, &mut content, &may_finish).await {
                        self.client.fail(Failure::Io(aborted.to_string()));
                        self.close();
                        return Err(aborted);
                    }
                }
                Event::Finished(outcomes) => return Ok(outcomes),
                Event::Idle | Event::Failed(_) | Event::Closed => return Err(Aborted::Unusable),
            }
        }
    }

    async fn send_content<E: std::fmt::Display>(
        &mut self,
        header: &[u8],
        content: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
        may_finish: &impl Fn() -> bool,
    ) -> Result<(), Aborted> {
        let mut out = Vec::with_capacity(2 * PIECE);
        let mut is_part_sent = false;
        self.client.encode(header, &mut out);
        loop {
            let chunk = match timeout(CONTENT, content.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) => break,
                Ok(Some(Err(e))) => return Err(Aborted::Content(e.to_string())),
                Err(_) => return Err(Aborted::Content("timed out".to_owned())),
            };
            for piece in chunk.chunks(PIECE) {
                self.client.encode(piece, &mut out);
                if out.len() >= PIECE {
                    is_part_sent = true;
                    if !self.write_content(&out).await {
                        // The machine knows; its outcomes come from there.
                        return Ok(());
                    }
                    out.clear();
                }
            }
        }
        // A slow peer may have taken longer than the lease: nothing but the end is left to send
        // when it is looked at.
        if is_part_sent && !out.is_empty() {
            if !self.write_content(&out).await {
                return Ok(());
            }
            out.clear();
        }
        if !may_finish() {
            return Err(Aborted::LeaseLost);
        }
        self.client.end_of_content(&mut out);
        self.is_dot_sent = true;
        self.write_content(&out).await;
        Ok(())
    }

    /// Writes, and meanwhile reads: a server that has seen enough says so (552) and may stop
    /// reading. False when there is nothing to go on with, which the machine has been told.
    async fn write_content(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        let mut buffer = [0u8; 4096];
        while !rest.is_empty() {
            let socket = match self.socket() {
                Ok(socket) => socket,
                Err(e) => {
                    self.client.fail(failure(&e));
                    return false;
                }
            };
            match timeout(WRITE, step(socket, rest, &mut buffer)).await {
                Ok(Step::Written(Ok(n))) if n > 0 => rest = rest.get(n..).unwrap_or_default(),
                Ok(Step::Read(Ok(n))) if n > 0 => {
                    self.client.receive(buffer.get(..n).unwrap_or_default());
                    if !self.client.is_sending() {
                        return false;
                    }
                }
                Ok(Step::Written(Err(e))) => {
                    // Perhaps it said why before it went.
                    self.read(LAST_WORDS).await;
                    self.client.fail(failure(&e));
                    return false;
                }
                Ok(Step::Written(Ok(_)) | Step::Read(Ok(_))) => {
                    self.client.fail(Failure::Closed);
                    return false;
                }
                Ok(Step::Read(Err(e))) => {
                    self.client.fail(failure(&e));
                    return false;
                }
                Err(_) => {
                    self.client.fail(Failure::Timeout);
                    return false;
                }
            }
        }
        match self.socket() {
            Ok(socket) => timeout(WRITE, socket.flush()).await.is_ok_and(|flushed| flushed.is_ok()),
            Err(_) => false,
        }
    }

    /// Whether another transaction can begin, once the peer has answered what is still open.
    pub async fn is_ready(&mut self) -> bool {
        if !self.is_ready {
            self.is_ready = matches!(timeout(SETTLE, self.drive(None)).await, Ok(Event::Idle));
        }
        self.is_ready
    }

    /// Says goodbye; bounded, because nobody needs the answer.
    pub async fn quit(mut self) {
        if self.is_ready {
            self.client.quit();
            let _ = timeout(Duration::from_secs(5), self.drive(None)).await;
        }
        self.close();
    }

    pub fn dialogue(&self) -> Vec<String> {
        self.client.transcript().lines().map(std::borrow::Cow::into_owned).collect()
    }

    async fn drive(&mut self, tls: Option<&TlsConnector>) -> Event {
        loop {
            match self.client.next() {
                Action::Write(bytes) => {
                    self.write(&bytes).await;
                }
                Action::Read(patience) => self.read(patience.min(self.patience)).await,
                Action::StartTls => match self.start_tls(tls).await {
                    Ok(()) => self.client.tls_started(),
                    Err(e) => self.client.fail(Failure::Tls(e.to_string())),
                },
                Action::Idle => return Event::Idle,
                Action::SendContent => return Event::SendContent,
                Action::Finished(outcomes) => return Event::Finished(outcomes),
                Action::Failed(failure) => {
                    self.close();
                    return Event::Failed(failure);
                }
                Action::Close => {
                    self.close();
                    return Event::Closed;
                }
            }
        }
    }

    fn socket(&mut self) -> io::Result<&mut dyn Socket> {
        match (&mut self.socket, &mut self.plain) {
            (Some(tls), _) => Ok(tls.as_mut()),
            (None, Some(plain)) => Ok(plain),
            (None, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// False when the connection is lost, which the machine has been told.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = async {
            let socket = self.socket()?;
            timeout(WRITE, async {
                socket.write_all(bytes).await?;
                socket.flush().await
            })
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        }
        .await;
        match written {
            Ok(()) => true,
            Err(e) => {
                self.client.fail(failure(&e));
                false
            }
        }
    }

    async fn read(&mut self, patience: Duration) {
        let mut buffer = [0u8; 4096];
        let read = match self.socket() {
            Ok(socket) => timeout(patience, socket.read(&mut buffer)).await,
            Err(e) => Ok(Err(e)),
        };
        match read {
            Err(_) => self.client.fail(Failure::Timeout),
            Ok(Err(e)) => self.client.fail(failure(&e)),
            Ok(Ok(0)) => self.client.fail(Failure::Closed),
            Ok(Ok(n)) => self.client.receive(buffer.get(..n).unwrap_or_default()),
        }
    }

    async fn start_tls(&mut self, tls: Option<&TlsConnector>) -> io::Result<()> {
        let connector = tls.ok_or(io::ErrorKind::Unsupported)?;
        let plain = self.plain.take().ok_or(io::ErrorKind::NotConnected)?;
        let name = match ServerName::try_from(self.host.clone()) {
            Ok(name) => name,
            Err(_) => ServerName::from(self.address.ip()),
        };
        let secured = timeout(HANDSHAKE, connector.connect(name, plain))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (_, session) = secured.get_ref();
        let version = session.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default();
        let cipher = session.negotiated_cipher_suite().map(|c| format!("{:?}", c.suite())).unwrap_or_default();
        self.tls = Some(format!("{version} {cipher}"));
        self.socket = Some(Box::new(secured));
        Ok(())
    }

    fn close(&mut self) {
        self.socket = None;
        self.plain = None;
    }
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => Failure::Timeout,
        io::ErrorKind::UnexpectedEof => Failure::Closed,
        _ => Failure::Io(error.to_string()),
    }
}
