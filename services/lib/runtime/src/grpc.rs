//! Calls between services: balanced over pods, traced, always with a deadline.

mod calls;
mod connection;
mod corked;
mod pods;
mod reach;
mod retry;
mod tls;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use corked::Corked;
use futures::{TryStreamExt as _, future::BoxFuture};
use pods::Pods;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    body::Body,
    service::{Interceptor, Routes, interceptor::InterceptedService},
    transport::Server,
};
use tower::Service;

pub use calls::register;
pub use tls::{TlsFiles, install as install_tls};

/// What one stream and one connection may have in flight; bounds memory, not speed.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A frame is a system call and a wake at both ends; larger ones leave the processor's cache before they are read.
const FRAME: u32 = 64 << 10;

/// `host:port`, or several with commas. Each host may stand for many pods (a headless Service).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Peers(Vec<String>);

impl TryFrom<String> for Peers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let peers: Vec<String> = text.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect();
        let valid =
            |p: &String| p.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if peers.is_empty() || !peers.iter().all(valid) {
            return Err("expected host:port, or several separated by commas".into());
        }
        Ok(Self(peers))
    }
}

impl From<SocketAddr> for Peers {
    fn from(address: SocketAddr) -> Self {
        Self(vec![address.to_string()])
    }
}

/// What generated clients are built on: `SpoolClient::new(channel.clone())`.
pub type Channel = InterceptedService<Deadline, Traced>;

/// A channel to all pods behind `peers`. A call fails after `deadline`, also when no pod is there.
/// Streamed answers may go on after it.
pub fn channel(peers: &Peers, deadline: Duration) -> Channel {
    InterceptedService::new(Deadline { pods: Pods::follow(peers.clone()), deadline }, Traced)
}

#[derive(Clone)]
pub struct Traced;

impl Interceptor for Traced {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        crate::telemetry::inject(request.metadata_mut());
        Ok(request)
    }
}

/// Bounds the time to the answer's head.
#[derive(Clone)]
pub struct Deadline {
    pods: Pods,
    deadline: Duration,
}

type Call = tonic::codegen::http::Request<Body>;
type Answer = tonic::codegen::http::Response<Body>;

impl Service<Call> for Deadline {
    type Response = Answer;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answer, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Waiting for a pod counts against the deadline, so it happens in `call`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let (pods, deadline) = (self.pods.clone(), self.deadline);
        Box::pin(async move {
            let (started, path) = (std::time::Instant::now(), call.uri().path().to_owned());
            let answer = match tokio::time::timeout(deadline, retry::call(&pods, call)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => {
                    tracing::info!(path, error = %chain(&e), "call failed");
                    Status::unavailable("no service answered").into_http()
                }
                Err(_) => Status::unavailable("no answer in time").into_http(),
            };
            calls::client_ended(&path, calls::code(&answer), started);
            Ok(answer)
        })
    }
}

/// Serves until shutdown; running calls are finished, streams see `shutdown` themselves.
pub async fn serve(
    listener: tokio::net::TcpListener,
    routes: Routes,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let router = Server::builder()
        .layer(tower::layer::layer_fn(|inner| calls::Counted(Whole(inner))))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .add_routes(routes);
    let shutdown = shutdown.cancelled_owned();
    match tls::installed() {
        Some(security) => {
            let incoming = tls::incoming(listener, security).map_ok(Corked::new);
            router.serve_with_incoming_shutdown(incoming, shutdown).await?;
        }
        None => {
            let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming.map_ok(Corked::new), shutdown).await?;
        }
    }
    Ok(())
}

/// A request body that breaks off is an error to the handler. tonic takes a cancelled call for
/// one whose stream has ended, and half a message would be stored (Invariants 1 and 10).
struct Unbroken(Body);

impl http_body::Body for Unbroken {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(|_| Status::aborted("stream broke off"))
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.0)
    }
}

/// Puts [`Unbroken`] around every request.
#[derive(Clone)]
struct Whole<S>(S);

impl<S: Service<Call>> Service<Call> for Whole<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> S::Future {
        self.0.call(call.map(|body| Body::new(Unbroken(body))))
    }
}

/// With its causes: the outermost says no more than "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// After a failure, in the same session: a pod that goes away must not cost anybody a 451.
const AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];

/// Makes a call that may run twice and is too large to be kept by the channel; trouble that may
/// pass is tried again.
pub async fn again<T, F: Future<Output = Result<T, Status>>>(call: impl FnMut() -> F) -> Result<T, Status> {
    again_after(&AGAIN, call).await
}

/// The same for who has pauses of its own.
pub async fn again_after<T, F: Future<Output = Result<T, Status>>>(
    pauses: &[Duration],
    mut call: impl FnMut() -> F,
) -> Result<T, Status> {
    for pause in pauses {
        match call().await {
            Err(status) if is_transient(&status) => tokio::time::sleep(*pause).await,
            answer => return answer,
        }
    }
    call().await
}

/// Whether the trouble may pass: then SMTP says 4xx, IMAP `[UNAVAILABLE]`, POP3 `[SYS/TEMP]`.
pub fn is_transient(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn peers_are_host_and_port() {
        assert_eq!(Peers::try_from("a:1, [::1]:2".to_owned()), Ok(Peers(vec!["a:1".into(), "[::1]:2".into()])));
        for wrong in ["", "a", "a:", ":1", "a:x", "a:1,b"] {
            assert!(Peers::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    /// Tells how the request stream of Sign ended.
    struct Reader(tokio::sync::mpsc::UnboundedSender<Result<(), Code>>);

    #[tonic::async_trait]
    impl proto::auth::auth_server::Auth for Reader {
        async fn verify(
            &self,
            _: Request<tonic::Streaming<proto::auth::VerifyRequest>>,
        ) -> Result<tonic::Response<proto::auth::VerifyResponse>, Status> {
            Err(Status::unimplemented("not asked here"))
        }

        async fn sign(
            &self,
            request: Request<tonic::Streaming<proto::auth::SignRequest>>,
        ) -> Result<tonic::Response<proto::auth::SignResponse>, Status> {
            let (mut stream, told) = (request.into_inner(), self.0.clone());
            // The handler itself is dropped with the call; what it reads is what counts.
            tokio::spawn(async move {
                let end = loop {
                    match stream.message().await {
                        Ok(Some(_)) => (),
                        Ok(None) => break Ok(()),
                        Err(status) => break Err(status.code()),
                    }
                };
                let _ = told.send(end);
            });
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_request_stream_that_breaks_off_does_not_look_complete() {
        use futures::StreamExt as _;
        let (told, mut ends) = tokio::sync::mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let peers = listener.local_addr().expect("bound").into();
        let routes = Routes::new(proto::auth::auth_server::AuthServer::new(Reader(told)));
        tokio::spawn(serve(listener, routes, CancellationToken::new()));
        let mut client = proto::auth::auth_client::AuthClient::new(channel(&peers, Duration::from_secs(9)));
        let half = || futures::stream::iter([proto::auth::SignRequest::default()]);
        let cancelled = client.sign(half().chain(futures::stream::pending()));
        assert!(tokio::time::timeout(Duration::from_secs(3), cancelled).await.is_err());
        assert!(matches!(ends.recv().await, Some(Err(_))), "cancelled");
        assert!(tokio::time::timeout(Duration::from_secs(3), client.sign(half())).await.is_err());
        assert_eq!(ends.recv().await, Some(Ok(())), "complete");
    }

    #[tokio::test]
    async fn a_call_that_met_a_dying_pod_is_made_again_on_another() {
        let (told, _ends) = tokio::sync::mpsc::unbounded_channel();
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let dying = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let peers = [&alive, &dying].map(|l| l.local_addr().expect("bound").to_string()).join(",");
        let routes = Routes::new(proto::auth::auth_server::AuthServer::new(Reader(told)));
        tokio::spawn(serve(alive, routes, CancellationToken::new()));
        // Accepts, so that it is thought to be there, and says nothing.
        tokio::spawn(async move { while dying.accept().await.is_ok() {} });
        let peers = Peers::try_from(peers).expect("valid");
        let mut client = proto::auth::auth_client::AuthClient::new(channel(&peers, Duration::from_secs(9)));
        for _ in 0..100 {
            let one = futures::stream::iter([proto::auth::VerifyRequest::default()]);
            let status = client.verify(one).await.expect_err("a refusal is an answer");
            assert_eq!(status.code(), Code::Unimplemented, "{status}");
        }
    }

    /// Calls on a connection: after the preface, HEADERS frames (RFC 9113 §3.4, §4.1, §6.2).
    fn calls_in(octets: &[u8]) -> usize {
        let (mut rest, mut calls) = (octets.get(24..).unwrap_or_default(), 0);
        while let [a, b, c, kind, ..] = *rest {
            calls += usize::from(kind == 1);
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            rest = rest.get(9 + length..).unwrap_or_default();
        }
        calls
    }

    /// Takes the request, then breaks the connection: a pod that was killed.
    async fn broken_after_reading(listener: tokio::net::TcpListener, broken: std::sync::Arc<AtomicUsize>) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let broken = broken.clone();
            tokio::spawn(async move {
                use tokio::io::AsyncReadExt as _;
                let mut taken = Vec::new();
                // A connection without a call stays; a call is not whole with its first read.
                while let Ok(Ok(1..)) = tokio::time::timeout(
                    Duration::from_millis(if calls_in(&taken) > 0 { 200 } else { 60_000 }),
                    stream.read_buf(&mut taken),
                )
                .await
                {}
                broken.fetch_add(calls_in(&taken), Ordering::SeqCst);
            });
        }
    }

    #[tokio::test]
    async fn only_what_may_run_twice_is_sent_again_after_it_was_sent() {
        let broken = std::sync::Arc::new(AtomicUsize::new(0));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let peers = listener.local_addr().expect("bound").into();
        tokio::spawn(broken_after_reading(listener, broken.clone()));
        let channel = channel(&peers, Duration::from_secs(20));
        let mut directory = proto::directory::directory_client::DirectoryClient::new(channel.clone());
        let status = directory.resolve(proto::directory::ResolveRequest::default()).await.expect_err("nobody answers");
        assert!(is_transient(&status), "{status}");
        assert_eq!(broken.swap(0, Ordering::SeqCst), 5, "the first and one after each pause");
        let mut spool = proto::spool::spool_client::SpoolClient::new(channel);
        spool.claim(proto::spool::ClaimRequest::default()).await.expect_err("nobody answers");
        assert_eq!(broken.load(Ordering::SeqCst), 1, "a claim is made once");
    }

    #[tokio::test]
    async fn pods_have_their_turns_and_whoever_comes_back_is_found() {
        let mut told = Vec::new();
        let mut listeners = Vec::new();
        for _ in 0..2 {
            listeners.push(tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback"));
        }
        let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().expect("bound")).collect();
        let peers = Peers::try_from(format!("{},{}", addresses[0], addresses[1])).expect("valid");
        let serving = |listener| {
            let (teller, ends) = tokio::sync::mpsc::unbounded_channel();
            let routes = Routes::new(proto::auth::auth_server::AuthServer::new(Reader(teller)));
            let shutdown = CancellationToken::new();
            tokio::spawn(serve(listener, routes, shutdown.clone()));
            (shutdown, ends)
        };
        let mut shutdowns = Vec::new();
        for listener in listeners {
            let (shutdown, ends) = serving(listener);
            shutdowns.push(shutdown);
            told.push(ends);
        }
        let client = proto::auth::auth_client::AuthClient::new(channel(&peers, Duration::from_secs(60)));
        // Sign never answers here; what it was sent is told.
        let ask = || {
            let mut client = client.clone();
            tokio::spawn(async move {
                let one = futures::stream::iter([proto::auth::SignRequest::default()]);
                client.sign(one).await.map(drop)
            })
        };
        let patience = Duration::from_secs(20);
        let mut counts = [0, 0];
        // Both are connected once both have been asked.
        while counts.contains(&0) {
            let asked = ask();
            let [first, second] = &mut told[..] else { unreachable!() };
            tokio::select! {
                _ = first.recv() => counts[0] += 1,
                _ = second.recv() => counts[1] += 1,
                () = tokio::time::sleep(patience) => panic!("nobody was asked"),
            }
            asked.abort();
        }
        // One leaves: it finishes what it has begun, and takes no more; all that follows is the other's.
        let asked: Vec<_> = (0..20).map(|_| ask()).collect();
        tokio::time::timeout(patience, async {
            let mut left = 20;
            while left > 0 {
                let [first, second] = &mut told[..] else { unreachable!() };
                tokio::select! {
                    _ = first.recv() => counts[0] += 1,
                    _ = second.recv() => counts[1] += 1,
                }
                left -= 1;
            }
        })
        .await
        .expect("all arrive");
        assert!(counts.iter().all(|n| *n >= 5), "{counts:?}");
        shutdowns[0].cancel();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let more: Vec<_> = (0..10).map(|_| ask()).collect();
        for _ in 0..10 {
            tokio::time::timeout(patience, told[1].recv())
                .await
                .expect("the other one")
                .expect("serving")
                .expect("whole");
        }
        assert!(told[0].try_recv().is_err(), "nothing new");
        // Comes back at the same address while its calls of before still wait.
        let again = loop {
            match tokio::net::TcpListener::bind(addresses[0]).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let (_shutdown, mut ends) = serving(again);
        let mut last = Vec::new();
        let found = async {
            loop {
                last.push(ask());
                if let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(50), ends.recv()).await {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, found).await.expect("the one that came back is asked");
        asked.iter().chain(&more).chain(&last).for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn nobody_there_is_told_soon() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let peers = closed.local_addr().expect("bound").into();
        drop(closed);
        let mut client = proto::spool::spool_client::SpoolClient::new(channel(&peers, Duration::from_secs(600)));
        let refused = client.renew(proto::spool::RenewRequest::default());
        let refused = tokio::time::timeout(Duration::from_secs(60), refused).await.expect("long before the deadline");
        assert_eq!(refused.expect_err("nobody listens").code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn a_call_without_a_pod_fails_by_its_deadline() {
        let nobody = Peers::try_from("host.invalid:1".to_owned()).expect("valid");
        let mut client = proto::spool::spool_client::SpoolClient::new(channel(&nobody, Duration::from_millis(50)));
        let status = client.renew(proto::spool::RenewRequest::default()).await.expect_err("nobody answers");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(is_transient(&status));
    }
}
