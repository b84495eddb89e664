//! The pods behind a name: who is connected, and whose turn it is.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http2::SendRequest;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    body::Body,
    codegen::http::{
        Uri,
        uri::{Authority, Scheme},
    },
};

use super::{
    Answer, Call, Peers,
    connection::{self, Opened},
    reach, tls,
};

/// How often names are looked up again: pods come and go.
const RESOLVE_EVERY: Duration = Duration::from_secs(2);
/// Between two attempts to connect.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("no pod can be reached")]
    Nobody,
    #[error("the connection to a pod broke")]
    Broken(#[from] hyper::Error),
}

/// Pods that DNS names, kept up to date as long as a clone lives.
#[derive(Clone)]
pub(super) struct Pods {
    known: watch::Receiver<HashMap<SocketAddr, Pod>>,
    turn: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Pod {
    Connecting,
    /// The last attempt failed; another one follows.
    Failed,
    Connected(Connected),
}

#[derive(Clone)]
struct Connected {
    sender: SendRequest<Body>,
    origin: (Scheme, Authority),
    /// Calls whose answer has not begun.
    waiting: Arc<AtomicUsize>,
    /// A call was turned away: the pod ends, and only finishes what it has begun.
    leaving: Arc<Notify>,
}

impl Pods {
    pub(super) fn follow(peers: Peers) -> Self {
        let (publish, known) = watch::channel(HashMap::new());
        tokio::spawn(follow(peers, Arc::new(publish)));
        Self { known, turn: Arc::default() }
    }

    /// One attempt, at one pod. Waits for a pod as long as there is hope for one.
    pub(super) async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let mut pod = self.next().await.ok_or(CallError::Nobody)?;
        let _waiting = Counted::new(&pod.waiting);
        let (mut head, body) = call.into_parts();
        let mut uri = head.uri.into_parts();
        (uri.scheme, uri.authority) = (Some(pod.origin.0), Some(pod.origin.1));
        // Scheme, authority and path are there.
        head.uri = Uri::from_parts(uri).unwrap_or_default();
        let answer = pod.sender.send_request(Call::from_parts(head, body)).await;
        if answer.is_err() && pod.sender.is_closed() {
            pod.leaving.notify_one();
        }
        Ok(answer?.map(Body::new))
    }

    async fn next(&self) -> Option<Connected> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut known = self.known.clone();
        let hopeless =
            |pods: &HashMap<SocketAddr, Pod>| !pods.is_empty() && pods.values().all(|pod| matches!(pod, Pod::Failed));
        let pods = known.wait_for(|pods| hopeless(pods) || pods.values().any(Pod::is_open)).await.ok()?;
        choose(&pods, turn)
    }
}

impl Pod {
    fn is_open(&self) -> bool {
        self.connected().is_some()
    }

    fn connected(&self) -> Option<&Connected> {
        match self {
            Self::Connected(pod) if !pod.sender.is_closed() => Some(pod),
            _ => None,
        }
    }
}

/// Of the pod whose turn it is and the one after it, the one that fewer calls wait for: in turn while
/// all are equally fast, and a slow one gets less.
fn choose(pods: &HashMap<SocketAddr, Pod>, turn: usize) -> Option<Connected> {
    let open: Vec<&Connected> = pods.values().filter_map(Pod::connected).collect();
    let at = |turn: usize| open.get(turn.checked_rem(open.len())?).copied();
    let waiting = |pod: &&Connected| pod.waiting.load(Ordering::Relaxed);
    [at(turn), at(turn.wrapping_add(1))].into_iter().flatten().min_by_key(waiting).cloned()
}

/// One more, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Publish = Arc<watch::Sender<HashMap<SocketAddr, Pod>>>;

/// Keeps a connection to each pod that DNS names and that accepts connections. A pod on a node that
/// died stays in DNS for most of a minute, so DNS alone is not enough.
async fn follow(peers: Peers, publish: Publish) {
    let mut security = tls::installed();
    let mut kept: HashMap<SocketAddr, AbortOnDropHandle<()>> = HashMap::new();
    let mut reach = reach::Reach::default();
    loop {
        if let Some(named) = resolve(&peers).await {
            let now = reach.filter(named).await;
            // With a renewed certificate all connections are made anew; calls that run end on the old ones.
            let renewed = security.as_mut().is_some_and(|s| s.has_changed().unwrap_or(false));
            let loaded = security.as_mut().map(|s| s.borrow_and_update().clone());
            kept.retain(|address, _| now.contains_key(address) && !renewed);
            publish.send_if_modified(|pods| {
                let before = pods.len();
                pods.retain(|address, _| now.contains_key(address));
                pods.len() != before
            });
            for (address, host) in now {
                kept.entry(address).or_insert_with(|| {
                    let keeping = keep(address, host, loaded.clone(), publish.clone());
                    AbortOnDropHandle::new(tokio::spawn(keeping))
                });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RESOLVE_EVERY) => (),
            () = publish.closed() => return,
        }
    }
}

/// Connects, and again when the connection has ended.
async fn keep(address: SocketAddr, host: String, security: Option<Arc<tls::Loaded>>, publish: Publish) {
    let put = |pod: Pod| publish.send_modify(|pods| drop(pods.insert(address, pod)));
    publish.send_if_modified(|pods| {
        let is_new = !pods.contains_key(&address);
        pods.entry(address).or_insert(Pod::Connecting);
        is_new
    });
    loop {
        match connection::open(address, &host, security.clone()).await {
            Ok(Opened { sender, origin, ended }) => {
                let leaving = Arc::new(Notify::new());
                put(Pod::Connected(Connected { sender, origin, waiting: Arc::default(), leaving: leaving.clone() }));
                tokio::select! {
                    _ = ended => (),
                    () = leaving.notified() => (),
                }
                put(Pod::Connecting);
            }
            Err(e) => {
                tracing::debug!(%address, error = %format!("{e:#}"), "pod cannot be reached");
                put(Pod::Failed);
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        }
    }
}

/// The pods and the host each was found by. Nothing when no name could be looked up: the pods
/// known so far stay.
async fn resolve(peers: &Peers) -> Option<HashMap<SocketAddr, String>> {
    let mut found = HashMap::new();
    for peer in &peers.0 {
        let host = peer.rsplit_once(':').map_or(peer.as_str(), |(host, _)| host);
        match tokio::net::lookup_host(peer.as_str()).await {
            Ok(addresses) => found.extend(addresses.map(|a| (a, host.trim_matches(['[', ']']).to_owned()))),
            Err(e) => tracing::debug!(peer, error = %e, "name of a peer not found"),
        }
    }
    (!found.is_empty()).then_some(found)
}
