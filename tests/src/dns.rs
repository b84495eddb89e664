//! A real name server on loopback, with the zones of a test.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hickory_proto::rr::{
    Name, RData, Record, RecordType, RrKey,
    rdata::{A, MX, SOA, TXT},
};
use hickory_server::{
    Server,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};

/// Answers until dropped.
pub struct NameServer {
    pub address: SocketAddr,
    zones: Vec<(Name, Arc<InMemoryZoneHandler>)>,
    _server: Server<Catalog>,
}

impl NameServer {
    /// Serves some zones (`com.`), empty at first, and knows nothing else.
    pub async fn start(origins: &[&str]) -> Self {
        let (address, udp, tcp) = one_port().await;
        Self::serve(address, udp, tcp, origins)
    }

    /// At an address of the caller's choice.
    pub async fn start_at(address: SocketAddr, origins: &[&str]) -> Self {
        let udp = tokio::net::UdpSocket::bind(address).await.unwrap();
        let tcp = tokio::net::TcpListener::bind(address).await.unwrap();
        Self::serve(address, udp, tcp, origins)
    }

    fn serve(address: SocketAddr, udp: tokio::net::UdpSocket, tcp: tokio::net::TcpListener, origins: &[&str]) -> Self {
        let mut catalog = Catalog::new();
        let mut zones = Vec::new();
        for origin in origins {
            let origin = Name::from_ascii(origin).unwrap();
            let mut zone: InMemoryZoneHandler =
                InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny, None);
            let soa = SOA::new(origin.clone(), origin.clone(), 1, 60, 60, 60, 60);
            zone.upsert_mut(Record::from_rdata(origin.clone(), 60, RData::SOA(soa)), 1);
            let zone = Arc::new(zone);
            catalog.upsert(origin.clone().into(), vec![zone.clone()]);
            zones.push((origin, zone));
        }
        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 4096);
        Self { address, zones, _server: server }
    }

    /// Adds a record: `name A 127.0.0.2`, `name MX 10 host`, `name TXT text to the end`.
    pub async fn add(&self, line: &str) {
        let (name, data) = parse(line);
        let (_, zone) = self.zones.iter().find(|(origin, _)| origin.zone_of(&name)).expect("a zone of ours");
        zone.upsert(Record::from_rdata(name, 60, data), 1).await;
    }

    /// Removes all addresses of a name.
    pub async fn remove(&self, name: &str) {
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        let (_, zone) = self.zones.iter().find(|(origin, _)| origin.zone_of(&name)).expect("a zone of ours");
        zone.records_mut().await.remove(&RrKey::new(name.into(), RecordType::A));
    }
}

/// A port that is free for both, which the first one that UDP gets need not be.
async fn one_port() -> (SocketAddr, tokio::net::UdpSocket, tokio::net::TcpListener) {
    for _ in 0..100 {
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = tokio::net::TcpListener::bind(address).await {
            return (address, udp, tcp);
        }
    }
    panic!("no free port for a name server");
}

fn parse(line: &str) -> (Name, RData) {
    let mut words = line.splitn(3, ' ');
    let (name, kind, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let absolute = |name: &str| Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).unwrap();
    let data = match kind {
        "A" => RData::A(A(rest.parse().unwrap())),
        "MX" => {
            let (preference, host) = rest.split_once(' ').unwrap();
            RData::MX(MX::new(preference.parse().unwrap(), absolute(host)))
        }
        // Character strings have at most 255 octets (RFC 1035 §3.3).
        "TXT" => {
            let strings = rest.as_bytes().chunks(255).map(|c| String::from_utf8_lossy(c).into_owned());
            RData::TXT(TXT::new(strings.collect()))
        }
        other => panic!("record type {other}"),
    };
    (absolute(name), data)
}
