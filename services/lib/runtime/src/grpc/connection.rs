//! One HTTP/2 connection to one pod.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use tonic::{
    body::Body,
    codegen::http::uri::{Authority, Scheme},
};

use super::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW, corked::Corked, tls::Loaded};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A pod that is silent for both together is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The sending side, where it leads, and what ends with the connection: when the peer has closed
/// it, or when no sender and no call is left.
pub(super) struct Opened {
    pub sender: SendRequest<Body>,
    pub origin: (Scheme, Authority),
    pub ended: JoinHandle<()>,
}

/// `host` is the name that the pod was found by, and that its certificate has.
pub(super) async fn open(address: SocketAddr, host: &str, security: Option<Arc<Loaded>>) -> anyhow::Result<Opened> {
    let opening = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        match &security {
            Some(loaded) => greet(loaded.connect(host, tcp).await.context("TLS handshake")?).await,
            None => greet(tcp).await,
        }
    };
    let (sender, ended) = tokio::time::timeout(CONNECT_TIMEOUT, opening).await.context("no answer in time")??;
    let scheme = if security.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    Ok(Opened { sender, origin: (scheme, address.to_string().parse()?), ended })
}

async fn greet<T>(stream: T) -> anyhow::Result<(SendRequest<Body>, JoinHandle<()>)>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(Corked::new(stream)))
        .await?;
    let ended = tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "connection to a pod ended");
        }
    });
    Ok((sender, ended))
}
