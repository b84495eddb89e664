//! The resolver against a real name server on loopback.
#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dns::{Config, LookupError, Resolver, mx::Mx};
use hickory_proto::rr::{
    Name, RData, Record,
    rdata::{A, AAAA, MX, SOA, TXT},
};
use hickory_server::{
    Server,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};

async fn name_server(origin: &str, records: Vec<(&str, RData)>) -> (SocketAddr, Server<Catalog>) {
    let origin = Name::from_ascii(origin).unwrap();
    let mut zone: InMemoryZoneHandler =
        InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny, None);
    let soa = RData::SOA(SOA::new(origin.clone(), origin.clone(), 1, 60, 60, 60, 60));
    zone.upsert_mut(Record::from_rdata(origin.clone(), 60, soa), 1);
    for (name, data) in records {
        zone.upsert_mut(Record::from_rdata(Name::from_ascii(name).unwrap(), 60, data), 1);
    }
    let mut catalog = Catalog::new();
    catalog.upsert(origin.into(), vec![Arc::new(zone)]);
    let mut server = Server::new(catalog);
    // One port for both, which somebody may have for the other already.
    loop {
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        let Ok(tcp) = tokio::net::TcpListener::bind(address).await else { continue };
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 4096);
        return (address, server);
    }
}

fn resolver(server: SocketAddr, timeout_ms: u64) -> Resolver {
    Resolver::new(&Config { server: Some(server), timeout_ms, attempts: 1, ..Config::default() }).unwrap()
}

#[tokio::test]
async fn records_no_data_and_no_such_name() {
    let (address, _server) = name_server(
        "example.com.",
        vec![
            ("example.com.", RData::MX(MX::new(10, Name::from_ascii("MX.example.com.").unwrap()))),
            ("mx.example.com.", RData::A(A::new(192, 0, 2, 1))),
            ("mx.example.com.", RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
            ("v4.example.com.", RData::A(A::new(192, 0, 2, 2))),
            ("null.example.com.", RData::MX(MX::new(0, Name::root()))),
            ("txt.example.com.", RData::TXT(TXT::new(vec!["a".into(), "b".into()]))),
        ],
    )
    .await;
    let resolver = resolver(address, 10_000);

    assert_eq!(resolver.mx("example.com").await.unwrap(), [Mx { preference: 10, host: "mx.example.com".into() }]);
    assert_eq!(resolver.mx("null.example.com").await.unwrap(), [Mx { preference: 0, host: String::new() }]);
    assert_eq!(resolver.mx("v4.example.com").await.unwrap(), []);
    assert!(matches!(resolver.mx("nothing.example.com").await, Err(LookupError::NoSuchName { .. })));
    assert!(matches!(resolver.mx("a..b").await, Err(LookupError::InvalidName { .. })));

    assert_eq!(resolver.txt("txt.example.com").await.unwrap(), [b"ab".to_vec()]);

    let both = resolver.addresses("mx.example.com").await.unwrap();
    assert_eq!(both, ["2001:db8::1".parse::<std::net::IpAddr>().unwrap(), "192.0.2.1".parse().unwrap()]);
    assert_eq!(resolver.addresses("v4.example.com").await.unwrap().len(), 1);
    assert!(matches!(resolver.addresses("null.example.com").await, Err(LookupError::NoData { .. })));
    let missing = resolver.addresses("nothing.example.com").await.unwrap_err();
    assert!(matches!(missing, LookupError::NoSuchName { .. }) && !missing.is_transient());
}

#[tokio::test]
async fn a_server_that_refuses_or_is_dead_is_transient() {
    let (address, _server) = name_server("example.com.", vec![]).await;
    // Not its zone: REFUSED.
    let refused = resolver(address, 10_000).mx("example.org").await.unwrap_err();
    assert!(matches!(refused, LookupError::Refused { .. }) && refused.is_transient());

    // Bound, but silent.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = resolver(silent.local_addr().unwrap(), 300);
    assert!(resolver.mx("example.com").await.unwrap_err().is_transient());
    assert!(resolver.addresses("example.com").await.unwrap_err().is_transient());
}
