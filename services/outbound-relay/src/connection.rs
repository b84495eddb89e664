//! One connection to a peer: executes what the SMTP client machine asks for.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use rustls_pki_types::ServerName;
use smtp::client::{Action, Client, Envelope, Failure, Outcome, StartTls};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

const HANDSHAKE: Duration = Duration::from_secs(60);
/// RFC 5321 §4.5.3.2.5: a block of data.
const WRITE: Duration = Duration::from_secs(180);
/// The next chunk of content, from our own side.
const CONTENT: Duration = Duration::from_secs(60);
/// The answer to RSET.
const SETTLE: Duration = Duration::from_secs(10);
/// Encoded content is written in pieces of about this size.
const PIECE: usize = 64 * 1024;

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

impl Connection {
    /// Greets and negotiates; afterwards the connection is ready for mail.
    pub async fn open(
        stream: TcpStream,
        host: String,
        address: SocketAddr,
        hello: &str,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, Failure> {
        let start_tls = if tls.is_some() { StartTls::Opportunistic } else { StartTls::Never };
        let mut connection = Self {
            socket: None,
            plain: Some(stream),
            client: Client::new(hello, start_tls),
            host,
            address,
            tls: None,
            transactions: 0,
            is_ready: false,
            is_dot_sent: false,
        };
        match connection.drive(tls).await {
            Event::Idle => {
                connection.is_ready = true;
                Ok(connection)
            }
            Event::Failed(failure) => Err(failure),
            Event::SendContent | Event::Finished(_) | Event::Closed => Err(Failure::Closed),
        }
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
                    if !self.write(&out).await {
                        // The machine knows; its outcomes come from there.
                        return Ok(());
                    }
                    out.clear();
                }
            }
        }
        if !may_finish() {
            return Err(Aborted::LeaseLost);
        }
        self.client.end_of_content(&mut out);
        self.is_dot_sent = true;
        self.write(&out).await;
        Ok(())
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
                Action::Read(patience) => self.read(patience).await,
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
