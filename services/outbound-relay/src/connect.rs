//! Finds a host that talks to us, in the order of the MX records (RFC 5321 §5.1).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use smtp::client::Failure;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    Relay,
    connection::Connection,
    decision::{Decision, Kind},
    route::{self, Host},
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
}

/// A connection that is ready for mail to `domain`.
///
/// Refusals in the greeting and connection trouble lead to the next address; when all fail, a
/// transient answer of any beats the permanent ones, because that host may take it later.
pub(crate) async fn connect(relay: &Relay, domain: &str) -> Result<Connection, NoHost> {
    let entropy = uuid::Uuid::new_v4().as_u64_pair().0;
    let hosts = route::hosts(&relay.resolver, domain, &relay.config.hostname, entropy)
        .await
        .map_err(|decision| NoHost { host: None, decision })?;

    let started = Instant::now();
    let mut tried = 0;
    let mut worst: Option<NoHost> = None;
    for host in hosts {
        let (name, addresses) = match host {
            Host::Address(address) => (address.to_string(), vec![address]),
            Host::Name(name) => match relay.resolver.addresses(&name).await {
                Ok(addresses) => (name, addresses),
                Err(e) => {
                    worst = Some(worse(worst, NoHost { host: Some(name), decision: route::of_lookup(&e) }));
                    continue;
                }
            },
        };
        for address in usable(addresses, relay.config.source_address) {
            if tried >= MAX_ADDRESSES || started.elapsed() > BUDGET {
                break;
            }
            tried += 1;
            match open(relay, &name, SocketAddr::new(address, relay.config.relay_port)).await {
                Ok(connection) => return Ok(connection),
                Err(decision) => worst = Some(worse(worst, NoHost { host: Some(name.clone()), decision })),
            }
        }
    }
    Err(worst.unwrap_or_else(|| NoHost {
        host: None,
        decision: Decision::transient("4.4.1", format!("no address of {domain} can be reached from here")),
    }))
}

/// The later of two failures, unless only the earlier is transient.
fn worse(earlier: Option<NoHost>, later: NoHost) -> NoHost {
    match earlier {
        Some(earlier) if earlier.decision.kind == Kind::Transient && later.decision.kind == Kind::Permanent => earlier,
        _ => later,
    }
}

/// Addresses of the family that we can leave from.
fn usable(addresses: Vec<IpAddr>, source: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let fits = move |address: &IpAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    addresses.into_iter().filter(fits).take(MAX_ADDRESSES_OF_HOST)
}

/// With TLS if the peer can, else again in clear: opportunistic TLS never costs a delivery.
async fn open(relay: &Relay, host: &str, address: SocketAddr) -> Result<Connection, Decision> {
    for tls in [Some(&relay.tls), None] {
        let stream = tcp(relay, address).await.map_err(|words| Decision::transient("4.4.1", words))?;
        match Connection::open(stream, host.to_owned(), address, &relay.config.hostname, tls).await {
            Ok(connection) => return Ok(connection),
            Err(failure @ (Failure::Tls(_) | Failure::Injection)) if tls.is_some() => {
                tracing::info!(error = %failure, "no TLS with this host, trying in clear");
            }
            Err(failure) => return Err(Decision::of_failure(&failure)),
        }
    }
    Err(Decision::of_failure(&Failure::Closed))
}

async fn tcp(relay: &Relay, address: SocketAddr) -> Result<TcpStream, String> {
    let connecting = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = relay.config.source_address {
            socket.bind(SocketAddr::new(source, 0))?;
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
        NoHost { host: None, decision }
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
        let from = |source: Option<&str>| {
            usable(both.clone(), source.map(|s| s.parse().expect("address"))).map(|a| a.is_ipv4()).collect::<Vec<_>>()
        };
        assert_eq!(from(None), [false, true]);
        assert_eq!(from(Some("127.0.0.2")), [true]);
        assert_eq!(from(Some("::1")), [false]);
    }
}
