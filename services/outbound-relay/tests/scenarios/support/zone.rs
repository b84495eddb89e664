//! A name server on loopback, with or without signatures.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hickory_proto::{
    dnssec::{Algorithm, DnssecSigner, PublicKeyBuf, SigningKey as _, crypto::EcdsaSigningKey, rdata::DNSKEY},
    rr::{
        Name, RData, Record,
        rdata::{A, CNAME, MX, SOA, TLSA, TXT},
    },
};
use hickory_server::{
    Server,
    dnssec::NxProofKind,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};

/// `name MX preference host`, `name A address`, `name CNAME name`, `name TXT text` and
/// `name TLSA usage selector matching hex`. The zone is example.com, or the root when signed.
pub async fn serve(records: &[&str], is_signed: bool) -> (SocketAddr, Server<Catalog>) {
    let (address, server, _) = zone(records, is_signed).await;
    (address, server)
}

/// Signed, with the file of its trust anchor.
pub async fn signed(records: &[&str]) -> (SocketAddr, Server<Catalog>, PathBuf) {
    let (address, server, anchor) = zone(records, true).await;
    let file = std::env::temp_dir().join(format!("relay-anchor-{}", uuid::Uuid::new_v4()));
    std::fs::write(&file, anchor).unwrap();
    (address, server, file)
}

async fn zone(records: &[&str], is_signed: bool) -> (SocketAddr, Server<Catalog>, String) {
    let origin = Name::from_ascii(if is_signed { "." } else { "example.com." }).unwrap();
    let proof = is_signed.then_some(NxProofKind::Nsec);
    let mut zone: InMemoryZoneHandler =
        InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny, proof);
    let soa = RData::SOA(SOA::new(origin.clone(), origin.clone(), 1, 60, 60, 60, 60));
    zone.upsert_mut(Record::from_rdata(origin.clone(), 60, soa), 1);
    for record in records {
        let words: Vec<&str> = record.splitn(3, ' ').collect();
        let [name, kind, rest] = words[..] else { panic!("{record}") };
        let name = Name::from_ascii(name).unwrap();
        zone.upsert_mut(Record::from_rdata(name, 60, data(kind, rest)), 1);
    }
    let mut anchor = String::new();
    if is_signed {
        let der = EcdsaSigningKey::generate_pkcs8(Algorithm::ECDSAP256SHA256).unwrap();
        let key = EcdsaSigningKey::from_pkcs8(&der, Algorithm::ECDSAP256SHA256).unwrap();
        let public: PublicKeyBuf = key.to_public_key().unwrap();
        let dnskey = DNSKEY::from_key(&public);
        anchor = format!(". 60 IN DNSKEY {dnskey}\n");
        zone.add_zone_signing_key_mut(DnssecSigner::new(
            dnskey,
            Box::new(key),
            origin.clone(),
            Duration::from_secs(86_400),
        ))
        .unwrap();
        zone.secure_zone_mut().unwrap();
    }
    let mut catalog = Catalog::new();
    catalog.upsert(origin.into(), vec![Arc::new(zone)]);
    let mut server = Server::new(catalog);
    let (address, udp, tcp) = one_port().await;
    server.register_socket(udp);
    server.register_listener(tcp, Duration::from_secs(5), 4096);
    (address, server, anchor)
}

/// A port that is free for both, which the first one that UDP gets need not be.
async fn one_port() -> (SocketAddr, tokio::net::UdpSocket, tokio::net::TcpListener) {
    loop {
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = tokio::net::TcpListener::bind(address).await {
            return (address, udp, tcp);
        }
    }
}

fn data(kind: &str, rest: &str) -> RData {
    let words: Vec<&str> = rest.split(' ').collect();
    match (kind, &words[..]) {
        ("MX", [preference, host]) => RData::MX(MX::new(preference.parse().unwrap(), Name::from_ascii(host).unwrap())),
        ("A", [address]) => RData::A(A(address.parse().unwrap())),
        ("CNAME", [name]) => RData::CNAME(CNAME(Name::from_ascii(name).unwrap())),
        ("TXT", _) => RData::TXT(TXT::new(vec![rest.to_owned()])),
        ("TLSA", [usage, selector, matching, hex]) => {
            let octets =
                hex.as_bytes().chunks(2).map(|h| u8::from_str_radix(std::str::from_utf8(h).unwrap(), 16).unwrap());
            let number = |text: &str| text.parse::<u8>().unwrap();
            RData::TLSA(TLSA::new(
                number(usage).into(),
                number(selector).into(),
                number(matching).into(),
                octets.collect(),
            ))
        }
        _ => panic!("{kind} {rest}"),
    }
}
