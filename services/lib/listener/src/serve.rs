use std::{
    hash::{Hash as _, Hasher as _},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    ListenerConfig, Metrics, ProxyHeader, Stream, Tls, TlsInfo,
    limits::{Limits, Slot},
    parse_proxy_header,
};

const PROXY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// One port of a service.
#[derive(Debug, Clone)]
pub struct Port {
    pub address: SocketAddr,
    /// Encrypted from the first octet (RFC 8314); `None` for ports that begin in plain text.
    pub implicit_tls: Option<Tls>,
    /// What a client over the limit reads before it is cut, like `421 4.7.0 too many connections\r\n`.
    /// Not sent on implicit TLS, where a handshake would cost more than the session.
    pub refusal: &'static [u8],
}

/// A client that has passed limits, PROXY header and implicit TLS.
#[derive(Debug)]
pub struct Connection {
    pub stream: Stream,
    /// The client itself, also behind a load balancer.
    pub peer: SocketAddr,
    /// The address the client connected to.
    pub local: SocketAddr,
    /// Set on ports with implicit TLS.
    pub tls: Option<TlsInfo>,
    /// Cancelled when the service stops: finish the running transaction and say goodbye.
    pub shutdown: CancellationToken,
}

/// A bound port that does not accept yet.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    door: Arc<Door>,
    drain: Option<Duration>,
}

#[derive(Debug)]
struct Door {
    implicit_tls: Option<Tls>,
    refusal: &'static [u8],
    proxy_from: Vec<IpNet>,
    limits: Arc<Limits>,
    metrics: Metrics,
    /// Over so many milliseconds sessions hear of a shutdown.
    spread: u64,
}

impl Listener {
    /// Binds with SO_REUSEADDR and SO_REUSEPORT, so that several processes share a port.
    pub fn bind(port: Port, config: &ListenerConfig) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(port.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if port.address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {}: {e}", port.address));
        socket.bind(&port.address.into()).map_err(named)?;
        socket.listen(1024).map_err(named)?;
        let door = Door {
            implicit_tls: port.implicit_tls,
            refusal: port.refusal,
            proxy_from: config.proxy_from.clone(),
            limits: Limits::new(
                config.max_connections,
                config.max_connections_per_address,
                config.max_connections_per_network,
            ),
            metrics: Metrics::default(),
            spread: u64::from(config.goodbye_spread_seconds) * 1_000,
        };
        Ok(Self { tcp: TcpListener::from_std(socket.into())?, door: Arc::new(door), drain: None })
    }

    /// Counts into `metrics`, which ports may share.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        if let Some(door) = Arc::get_mut(&mut self.door) {
            door.metrics = metrics;
        }
        self
    }

    /// Cuts sessions that still run this long after shutdown. Without it they have until the
    /// process ends (`runtime.drain_seconds`).
    #[must_use]
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.drain = Some(drain);
        self
    }

    /// The bound address, with the real port when port 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until `shutdown`, one task a session; then waits for the sessions, which see the
    /// same token. A session's panic ends that session alone.
    pub async fn serve<H, F>(self, shutdown: CancellationToken, handler: H)
    where
        H: Fn(Connection) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = sessions.join_next(), if !sessions.is_empty() => report(ended),
                accepted = self.tcp.accept() => match accepted {
                    Ok((tcp, peer)) => self.enter(&mut sessions, tcp, peer, &shutdown, &handler),
                    Err(e) if is_about_one_connection(&e) => debug!(error = %e, "connection gone before accept"),
                    Err(e) => {
                        warn!(error = %e, "cannot accept, pausing");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // Closing the socket would reset who is already in its queue: those hear a goodbye too.
        let queued = std::future::poll_fn(|cx| {
            let mut queued = Vec::new();
            while let std::task::Poll::Ready(Ok(accepted)) = self.tcp.poll_accept(cx) {
                queued.push(accepted);
            }
            std::task::Poll::Ready(queued)
        })
        .await;
        for (tcp, peer) in queued {
            self.enter(&mut sessions, tcp, peer, &shutdown, &handler);
        }
        drop(self.tcp);
        let all = async {
            while let Some(ended) = sessions.join_next().await {
                report(ended);
            }
        };
        let Some(drain) = self.drain else { return all.await };
        if tokio::time::timeout(drain, all).await.is_err() {
            warn!(sessions = sessions.len(), "sessions cut after the drain time");
            sessions.shutdown().await;
        }
    }

    fn enter<H, F>(
        &self,
        sessions: &mut JoinSet<()>,
        tcp: TcpStream,
        peer: SocketAddr,
        shutdown: &CancellationToken,
        handler: &H,
    ) where
        H: Fn(Connection) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(slot) = self.door.limits.enter() else { return self.door.refuse(&tcp) };
        let (door, shutdown, handler) = (self.door.clone(), shutdown.clone(), handler.clone());
        sessions.spawn(async move {
            if door.spread == 0 {
                // Boxed, so that the handshake's room is not kept for the session's life.
                let admitted = Box::pin(door.admit(tcp, peer, slot, shutdown)).await;
                let Some((connection, _slot)) = admitted else { return };
                let _active = Active::new(&door.metrics);
                return handler(connection).await;
            }
            let own = CancellationToken::new();
            let admitted = Box::pin(door.admit(tcp, peer, slot, own.clone())).await;
            let Some((connection, _slot)) = admitted else { return };
            let _active = Active::new(&door.metrics);
            let turn = turn(connection.peer, door.spread);
            let goodbye = async {
                shutdown.cancelled().await;
                tokio::time::sleep(turn).await;
                own.cancel();
                std::future::pending().await
            };
            tokio::select! { () = handler(connection) => (), () = goodbye => () }
        });
    }
}

impl Door {
    /// `None` when the client was turned away.
    async fn admit(
        &self,
        mut tcp: TcpStream,
        peer: SocketAddr,
        mut slot: Slot,
        shutdown: CancellationToken,
    ) -> Option<(Connection, Slot)> {
        let ready = async {
            tcp.set_nodelay(true)?;
            let socket = (canonical(peer), canonical(tcp.local_addr()?));
            let (peer, local) = self.real_addresses(&mut tcp, socket).await?;
            if !slot.assign(peer.ip()) {
                self.refuse(&tcp);
                return Ok(None);
            }
            let (stream, tls) = match &self.implicit_tls {
                None => (Stream::Plain(tcp), None),
                Some(tls) => {
                    let (stream, info) = tls.handshake(tcp).await?;
                    (stream, Some(info))
                }
            };
            Ok(Some(Connection { stream, peer, local, tls, shutdown }))
        };
        let outcome: io::Result<_> = ready.await;
        match outcome {
            Ok(connection) => connection.map(|c| (c, slot)),
            Err(e) => {
                self.metrics.failed.inc();
                info!(client.address = %peer.ip(), error = %e, "connection failed before its session");
                None
            }
        }
    }

    async fn real_addresses(
        &self,
        tcp: &mut TcpStream,
        socket: (SocketAddr, SocketAddr),
    ) -> io::Result<(SocketAddr, SocketAddr)> {
        let from: IpAddr = socket.0.ip();
        if !self.proxy_from.iter().any(|network| network.contains(&from)) {
            return Ok(socket);
        }
        let header = tokio::time::timeout(PROXY_TIMEOUT, read_proxy_header(tcp))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no PROXY header came"))??;
        Ok(header.addresses.map_or(socket, |(peer, local)| (canonical(peer), canonical(local))))
    }

    /// Best effort and at once: a refused client must not hold anything.
    fn refuse(&self, tcp: &TcpStream) {
        self.metrics.refused.inc();
        if self.implicit_tls.is_none() {
            let _ = tcp.try_write(self.refusal);
        }
    }
}

/// Takes the header and not one octet more from the socket.
async fn read_proxy_header(tcp: &mut TcpStream) -> io::Result<ProxyHeader> {
    let mut taken = Vec::with_capacity(256);
    let mut chunk = [0u8; 256];
    loop {
        let seen = tcp.peek(&mut chunk).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = taken.len();
        taken.extend_from_slice(chunk.get(..seen).unwrap_or_default());
        let header = parse_proxy_header(&taken).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        // An incomplete header owns all that was seen.
        let consume = header.map_or(seen, |h| h.length.saturating_sub(before));
        tcp.read_exact(chunk.get_mut(..consume).unwrap_or_default()).await?;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

/// IPv4 clients of a dual-stack socket appear as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// accept(2): these concern the connection that was about to be accepted, not the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        error!(error = %e, "session panicked");
    }
}

/// When a session hears of the shutdown: by its client's address and port, so clients are spread.
fn turn(peer: SocketAddr, spread: u64) -> Duration {
    let mut hasher = std::hash::DefaultHasher::new();
    peer.hash(&mut hasher);
    Duration::from_millis(hasher.finish() % spread.max(1))
}

/// Counts a running session, also when it panics.
struct Active(prometheus_client::metrics::gauge::Gauge);

impl Active {
    fn new(metrics: &Metrics) -> Self {
        metrics.accepted.inc();
        metrics.active.inc();
        Self(metrics.active.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}
