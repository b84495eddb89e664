//! Finds a host that talks to us as securely as it must, in the order of the MX records
//! (RFC 5321 §5.1) or of a route.

use std::{
    net::{IpAddr, SocketAddr},
    sync::PoisonError,
    time::Duration,
};

use smtp::client::{Credentials, Failure};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    Relay,
    connection::{Connection, Opening},
    decision::{Decision, Kind},
    lane::Lane,
    policy::EgressSource,
    route::{self, Host, Hosts},
    security::{self, OfDomain, Security, Start},
    tls::Seen,
};

/// Addresses tried in one attempt, of all hosts together.
const MAX_ADDRESSES: usize = 12;
/// Addresses tried of one host.
const MAX_ADDRESSES_OF_HOST: usize = 4;
/// No further address is tried after this long.
const BUDGET: Duration = Duration::from_secs(300);

/// No host took us. `host` is the one whose answer decided.
#[derive(Debug)]
pub(crate) struct NoHost {
    pub host: Option<String>,
    pub decision: Decision,
    /// The trouble is on our side: it says nothing about the destination.
    pub is_ours: bool,
}

impl NoHost {
    fn nowhere(decision: Decision) -> Self {
        Self { host: None, decision, is_ours: false }
    }
}

/// A connection that is ready for mail of `lane`.
///
/// Refusals in the greeting and connection trouble lead to the next address; when all fail, a
/// transient answer of any beats the permanent ones, because that host may take it later.
pub(crate) async fn connect(relay: &Relay, lane: &Lane) -> Result<Connection, NoHost> {
    let entropy = uuid::Uuid::new_v4().as_u64_pair().0;
    let sources = sources(relay, lane, entropy)?;
    let hosts = route::hosts(relay, lane, entropy).await.map_err(NoHost::nowhere)?;
    let of_domain = match hosts.route {
        None if !hosts.is_literal => {
            Some(security::of_domain(relay, &lane.destination).await.map_err(NoHost::nowhere)?)
        }
        _ => None,
    };

    let started = Instant::now();
    let mut tried = 0;
    let mut worst: Option<NoHost> = None;
    for host in &hosts.hosts {
        let failed = |decision| NoHost { host: Some(host.name()), decision, is_ours: false };
        let addresses = match addresses(relay, host).await {
            Ok(addresses) => addresses,
            Err(decision) => {
                worst = Some(worse(worst, failed(decision)));
                continue;
            }
        };
        let security = match of_host(relay, lane, &hosts, of_domain.as_ref(), host).await {
            Ok(security) => security,
            Err(decision) => {
                worst = Some(worse(worst, failed(decision)));
                continue;
            }
        };
        for (address, source) in pairs(addresses, &sources) {
            if tried >= MAX_ADDRESSES || started.elapsed() > BUDGET {
                break;
            }
            tried += 1;
            let target = Target { host: host.name(), address: SocketAddr::new(address, host.port), source };
            match open(relay, &target, &security, hosts.credentials.as_ref()).await {
                Ok(connection) => return Ok(connection),
                Err(decision) => worst = Some(worse(worst, failed(decision))),
            }
        }
    }
    Err(worst.unwrap_or_else(|| {
        let words = format!("no address of {} can be reached from here", lane.destination);
        NoHost::nowhere(Decision::transient("4.4.1", words))
    }))
}

async fn addresses(relay: &Relay, host: &Host) -> Result<Vec<IpAddr>, Decision> {
    match host.address() {
        Some(address) => Ok(vec![address]),
        None => relay.resolver.addresses(&host.name()).await.map_err(|e| route::of_lookup(&e)),
    }
}

async fn of_host(
    relay: &Relay,
    lane: &Lane,
    hosts: &Hosts,
    of_domain: Option<&OfDomain>,
    host: &Host,
) -> Result<Security, Decision> {
    let security = match (hosts.route, of_domain) {
        (Some(tls), _) => Security::of_route(tls, hosts.credentials.is_some()),
        (None, Some(domain)) => domain.of_host(relay, &host.name(), host.port).await?,
        (None, None) => Security::opportunistic(),
    };
    security.permits(lane)?;
    Ok(security)
}

/// The later of two failures, unless only the earlier is transient.
fn worse(earlier: Option<NoHost>, later: NoHost) -> NoHost {
    match earlier {
        Some(earlier) if earlier.decision.kind == Kind::Transient && later.decision.kind == Kind::Permanent => earlier,
        _ => later,
    }
}

/// Where to connect from: a pool's addresses in turn. A pool without any here sends no mail from
/// elsewhere instead.
fn sources(relay: &Relay, lane: &Lane, entropy: u64) -> Result<Vec<EgressSource>, NoHost> {
    let mut sources = match (&lane.pool, relay.config.source_address) {
        (Some(pool), _) => relay.egress.current().sources(pool),
        (None, Some(address)) => vec![EgressSource { address, hostname: None }],
        (None, None) => Vec::new(),
    };
    if let Some(pool) = lane.pool.as_ref().filter(|_| sources.is_empty()) {
        let words = format!("no address of the egress pool {pool} is on this host");
        tracing::warn!(pool, "no address of an egress pool is here, its mail waits");
        return Err(NoHost { is_ours: true, ..NoHost::nowhere(Decision::transient("4.3.5", words)) });
    }
    if let Some(turn) = usize::try_from(entropy >> 32).ok().and_then(|n| n.checked_rem(sources.len())) {
        sources.rotate_left(turn);
    }
    Ok(sources)
}

/// Addresses with a source of their family; those we cannot reach are left out.
fn pairs(addresses: Vec<IpAddr>, sources: &[EgressSource]) -> Vec<(IpAddr, Option<EgressSource>)> {
    let pair = |address: IpAddr| {
        if sources.is_empty() {
            return Some((address, None));
        }
        let source = sources.iter().find(|s| s.address.is_ipv4() == address.is_ipv4())?;
        Some((address, Some(source.clone())))
    };
    addresses.into_iter().filter_map(pair).take(MAX_ADDRESSES_OF_HOST).collect()
}

struct Target {
    host: String,
    address: SocketAddr,
    source: Option<EgressSource>,
}

/// With TLS if the peer can, else again in clear when no policy speaks against it: opportunistic
/// TLS never costs a delivery.
async fn open(
    relay: &Relay,
    target: &Target,
    security: &Security,
    credentials: Option<&Credentials>,
) -> Result<Connection, Decision> {
    let hello = target.source.as_ref().and_then(|s| s.hostname.as_deref()).unwrap_or(&relay.config.hostname);
    let mut start = security.start;
    loop {
        let seen = Seen::default();
        let tls = relay
            .tls
            .connector(&security.demand, &seen)
            .map_err(|e| Decision::transient("4.7.5", format!("TLS cannot be set up: {e}")))?;
        let stream = tcp(relay, target).await.map_err(|words| Decision::transient("4.4.1", words))?;
        let opening = Opening {
            host: target.host.clone(),
            address: target.address,
            hello,
            start,
            tls: &tls,
            credentials,
            chunking: relay.config.chunking,
            patience: Duration::from_secs(relay.config.greeting_seconds),
        };
        let opened = Connection::open(stream, opening).await;
        if start == security.start {
            report(relay, target, security, &seen, &opened);
        }
        match opened {
            Ok(connection) => return Ok(connection),
            Err(failure @ (Failure::Tls(_) | Failure::Injection)) if start == Start::Opportunistic => {
                tracing::info!(error = %failure, "no TLS with this host, trying in clear");
                start = Start::Never;
            }
            Err(failure) => return Err(Decision::of_failure(&failure)),
        }
    }
}

/// What the domain wants to know about this session (RFC 8460 §4.3).
fn report(relay: &Relay, target: &Target, security: &Security, seen: &Seen, opened: &Result<Connection, Failure>) {
    let Some(subject) = &security.subject else { return };
    let certificate = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    let (result, words) = match (opened, certificate) {
        (Ok(connection), _) if connection.tls.is_none() => ("starttls-not-supported", String::new()),
        (Ok(_), None) => return relay.tls_results.succeeded(subject),
        (Ok(_), Some(result)) => (result, String::new()),
        (Err(Failure::NoTls), _) => ("starttls-not-supported", String::new()),
        (Err(failure @ (Failure::Tls(_) | Failure::Injection)), result) => {
            (result.unwrap_or("validation-failure"), failure.to_string())
        }
        // No session was established: nothing to say about its security.
        (Err(_), _) => return,
    };
    relay.tls_results.failed(subject, result, &target.host, &target.address.ip().to_string(), &words);
}

async fn tcp(relay: &Relay, target: &Target) -> Result<TcpStream, String> {
    let address = target.address;
    let connecting = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = &target.source {
            socket.bind(SocketAddr::new(source.address, 0))?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    match timeout(relay.config.connect_timeout(), connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(format!("connect to {address}: {e}")),
        Err(_) => Err(format!("connect to {address}: timed out")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(decision: Decision) -> NoHost {
        NoHost::nowhere(decision)
    }

    #[test]
    fn a_host_that_may_recover_beats_one_that_refuses() {
        let transient = || failed(Decision::transient("4.4.1", "later"));
        let permanent = || failed(Decision::permanent("5.0.0", "never"));
        let kind = |a, b| worse(Some(a), b).decision.kind;
        assert_eq!(kind(transient(), permanent()), Kind::Transient);
        assert_eq!(kind(permanent(), transient()), Kind::Transient);
        assert_eq!(kind(permanent(), permanent()), Kind::Permanent);
        assert_eq!(worse(None, permanent()).decision.kind, Kind::Permanent);
    }

    #[test]
    fn the_source_address_decides_the_family() {
        let both: Vec<IpAddr> = ["2001:db8::1", "192.0.2.1"].iter().map(|a| a.parse().expect("address")).collect();
        let from = |sources: &[&str]| {
            let source = |a: &&str| EgressSource { address: a.parse().expect("address"), hostname: None };
            let sources: Vec<_> = sources.iter().map(source).collect();
            pairs(both.clone(), &sources).into_iter().map(|(a, _)| a.is_ipv4()).collect::<Vec<_>>()
        };
        assert_eq!(from(&[]), [false, true]);
        assert_eq!(from(&["127.0.0.2"]), [true]);
        assert_eq!(from(&["::1"]), [false]);
        assert_eq!(from(&["127.0.0.2", "::1"]), [false, true]);
    }
}
