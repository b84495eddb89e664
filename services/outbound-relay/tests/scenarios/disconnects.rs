//! A peer that hangs up: no duplicate while its answer is known, an honest retry where not.

use std::sync::atomic::Ordering;

use crate::support::{HangsUp, Peer, Script, delivery, site, told};

const ZONE: [&str; 2] = ["example.com. MX 10 mx.example.com.", "mx.example.com. A 127.0.0.1"];

async fn peer(hangs_up: HangsUp) -> Peer {
    Peer::start("127.0.0.1:0", Script { hangs_up, ..Script::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_final_dot() {
    let peer = peer(HangsUp::BeforeDot).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    site.submit(vec![delivery("bob@example.com")]).await;
    assert_eq!(told(&site.outcomes(1).await[0]).0, "deferred");
    assert_eq!((peer.taken(), peer.connections.load(Ordering::SeqCst)), (0, 1));
    // The next attempt brings it, once.
    peer.change(|s| s.hangs_up = HangsUp::Never);
    site.submit(vec![delivery("bob@example.com")]).await;
    assert_eq!(told(&site.outcomes(2).await[1]).0, "relayed");
    assert_eq!(peer.taken(), 1);
    site.stop().await;
}

/// Whether the peer took it, nobody knows: RFC 5321 §4.5.4.1 wants another attempt.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_final_dot_without_an_answer() {
    let peer = peer(HangsUp::AfterDot).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    site.submit(vec![delivery("bob@example.com")]).await;
    let outcome = site.outcomes(1).await.remove(0);
    assert_eq!(told(&outcome), ("deferred", "mx.example.com: connection closed by the peer".into()));
    // Not again over another connection within the same attempt: that would be a sure duplicate
    // should the peer have taken it.
    assert_eq!((peer.count("DATA"), peer.connections.load(Ordering::SeqCst)), (1, 1));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_answer() {
    let peer = peer(HangsUp::AfterAnswer).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    site.submit(vec![delivery("bob@example.com"), delivery("carol@example.com")]).await;
    for outcome in site.outcomes(2).await {
        assert_eq!(told(&outcome).0, "relayed");
    }
    // Every further message needs a connection of its own; none is sent twice.
    for count in 3..=6 {
        site.submit(vec![delivery("bob@example.com")]).await;
        assert_eq!(told(&site.outcomes(count).await[count - 1]).0, "relayed");
    }
    assert_eq!((peer.taken(), peer.connections.load(Ordering::SeqCst)), (5, 5));
    site.stop().await;
}
