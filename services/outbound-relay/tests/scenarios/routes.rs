//! Where mail goes and leaves from: CNAME, internationalised domains, smarthosts, egress pools,
//! and peers that lack extensions.

use crate::support::{Peer, Script, Tls, delivery, site, told};
use outbound_relay::{EgressSource, Route, RouteTls, Tenant};
use proto::spool::Claimed;

fn route(domains: &[&str], host: String, tls: RouteTls) -> Route {
    let domains = domains.iter().map(|d| (*d).to_owned()).collect();
    Route { domains, tenant: None, hosts: vec![host], user: None, password: None, tls }
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_and_international_names() {
    let peer = Peer::start("127.0.0.1:0", Script::default()).await;
    let zone = [
        "alias.example.com. CNAME real.example.com.",
        "real.example.com. MX 10 mx.example.com.",
        "xn--bcher-kva.example.com. MX 10 mx.example.com.",
        "hostalias.example.com. CNAME mx.example.com.",
        "mx.example.com. A 127.0.0.1",
    ];
    let site = site(&zone, peer.address.port(), |_| ()).await;
    for (count, path) in ["a@alias.example.com", "b@bücher.example.com", "c@hostalias.example.com"].iter().enumerate()
    {
        site.submit(vec![delivery(path)]).await;
        let outcome = site.outcomes(count + 1).await.remove(count);
        assert_eq!(told(&outcome).0, "relayed", "{path}: {outcome:?}");
    }
    assert_eq!(peer.count("RCPT TO:<b@xn--bcher-kva.example.com>"), 1, "{:?}", peer.lines());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smarthost_with_credentials_takes_all_domains_over_one_connection() {
    let script = Script { tls: Tls::Works, offers: vec!["PIPELINING", "AUTH PLAIN"], ..Script::default() };
    let hub = Peer::start("127.0.0.1:0", script).await;
    let host = hub.address.to_string();
    let site = site(&[], 25, |c| {
        let credentials = (Some("user".to_owned()), Some("pass".to_owned()));
        c.routes =
            vec![Route { user: credentials.0, password: credentials.1, ..route(&["*"], host, RouteTls::Required) }];
        // After a success there might be two.
        c.per_destination = 1;
    })
    .await;
    for (count, path) in ["a@one.example", "b@two.example"].iter().enumerate() {
        site.submit(vec![delivery(path)]).await;
        assert_eq!(told(&site.outcomes(count + 1).await[count]).0, "relayed");
    }
    assert_eq!((hub.connections.load(std::sync::atomic::Ordering::SeqCst), hub.taken()), (1, 2));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_or_no_tls_for_them_return_no_mail() {
    for (tls, password) in [(Tls::Works, "wrong"), (Tls::No, "pass")] {
        let offers = vec!["PIPELINING", "AUTH PLAIN"];
        let hub = Peer::start("127.0.0.1:0", Script { tls, offers, ..Script::default() }).await;
        let host = hub.address.to_string();
        let site = site(&[], 25, |c| {
            let mut route = route(&["example.com"], host, RouteTls::Opportunistic);
            (route.user, route.password) = (Some("user".into()), Some(password.into()));
            c.routes = vec![route];
        })
        .await;
        site.submit(vec![delivery("bob@example.com")]).await;
        assert_eq!(told(&site.outcomes(1).await[0]).0, "deferred");
        assert_eq!(hub.count("MAIL"), 0);
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_leaves_from_its_pool() {
    let peer = Peer::start("127.0.0.1:0", Script::default()).await;
    let site = site(&[], peer.address.port(), |c| {
        let source = EgressSource { address: "127.0.0.77".parse().unwrap(), hostname: Some("out.shop.example".into()) };
        c.egress_pools.insert("shop".into(), vec![source]);
        c.tenants.insert("shop".into(), Tenant { egress_pool: Some("shop".into()), ..Tenant::default() });
    })
    .await;
    site.submit(vec![Claimed { tenant: "shop".into(), ..delivery("bob@[127.0.0.1]") }]).await;
    site.submit(vec![delivery("bob@[127.0.0.1]")]).await;
    site.outcomes(2).await;
    assert_eq!((peer.count("EHLO out.shop.example"), peer.count("EHLO mx.sender.com")), (1, 1));
    site.stop().await;
}

/// The second question since: what the first one brought is in use.
async fn asked_again(site: &crate::support::Site) {
    let asks = || site.mda.0.lock().unwrap().pool_asks;
    let before = asks();
    for _ in 0..3_000 {
        if asks() >= before + 2 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nobody asks for pools");
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_mda_keeps_are_used_from_one_moment_to_the_next() {
    let peer = Peer::start("127.0.0.1:0", Script::default()).await;
    let site = site(&[], peer.address.port(), |c| (c.egress_every, c.idle_seconds) = (1, 0)).await;
    let set = |address: &str, hostname: &str| {
        let source = proto::relay::EgressSource { address: address.into(), hostname: hostname.into() };
        let pool =
            proto::relay::EgressPool { name: "bulk".into(), sources: vec![source], tenants: vec!["shop".into()] };
        site.mda.0.lock().unwrap().pools = vec![pool];
    };
    let send = async |count: usize, tenant: &str| {
        site.submit(vec![Claimed { tenant: tenant.into(), ..delivery("bob@[127.0.0.1]") }]).await;
        told(&site.outcomes(count).await[count - 1])
    };
    set("127.0.0.78", "one.shop.example");
    asked_again(&site).await;
    assert_eq!(send(1, "shop").await.0, "relayed");
    set("127.0.0.79", "two.shop.example");
    asked_again(&site).await;
    assert_eq!(send(2, "shop").await.0, "relayed");
    assert_eq!((peer.count("EHLO one.shop.example"), peer.count("EHLO two.shop.example")), (1, 1));
    // An address that this host has not: its mail waits, rather than leave from another; that is
    // no fault of the destination, which others go on using.
    set("192.0.2.1", "three.shop.example");
    asked_again(&site).await;
    let (name, text) = send(3, "shop").await;
    assert_eq!((name, text.as_str()), ("deferred", "no address of the egress pool bulk is on this host"));
    assert_eq!(send(4, "").await.0, "relayed");
    site.mda.0.lock().unwrap().pools.clear();
    asked_again(&site).await;
    assert_eq!(send(5, "shop").await.0, "relayed");
    assert_eq!(peer.count("EHLO mx.sender.com"), 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_bit_content_for_a_seven_bit_peer() {
    let peer = Peer::start("127.0.0.1:0", Script { offers: vec!["PIPELINING"], ..Script::default() }).await;
    let site = site(&[], peer.address.port(), |_| ()).await;
    let content = "Subject: hi\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGr\u{fc}\u{df}e\r\n";
    let eight_bit = Claimed { eight_bit: true, ..delivery("bob@[127.0.0.1]") };
    site.submit_content(vec![eight_bit.clone()], content.as_bytes()).await;
    assert_eq!(told(&site.outcomes(1).await[0]).0, "relayed");
    let lines = peer.lines();
    assert!(lines.contains(&"Gr=C3=BC=C3=9Fe".to_owned()), "{lines:?}");
    assert!(lines.contains(&"Content-Transfer-Encoding: quoted-printable".to_owned()));
    // A header cannot be encoded by anybody but its author.
    site.submit_content(vec![eight_bit], "Subject: \u{fc}\r\n\r\nx\r\n".as_bytes()).await;
    let (name, text) = told(&site.outcomes(2).await[1]);
    assert_eq!(name, "bounced", "{text}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bdat_where_it_is_offered() {
    let offers = vec!["PIPELINING", "8BITMIME", "CHUNKING"];
    let peer = Peer::start("127.0.0.1:0", Script { offers, ..Script::default() }).await;
    let site = site(&[], peer.address.port(), |c| c.trace_header = false).await;
    let large = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(20_000));
    for (count, content) in [crate::support::CONTENT, large.as_str()].iter().enumerate() {
        site.submit_content(vec![delivery("bob@[127.0.0.1]")], content.as_bytes()).await;
        assert_eq!(told(&site.outcomes(count + 1).await[count]).0, "relayed");
    }
    let lines = peer.lines();
    assert_eq!((peer.count("DATA"), peer.taken()), (0, 2));
    assert_eq!(peer.count(&format!("BDAT {} LAST", crate::support::CONTENT.len())), 1);
    assert!(lines.contains(&".dot".to_owned()), "not stuffed: {lines:?}");
    assert_eq!(peer.count("0123456789"), 20_000);
    site.stop().await;
}
