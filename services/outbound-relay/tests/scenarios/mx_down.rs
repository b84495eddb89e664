//! Hosts that are down: the next MX is tried, and with all of them down the mail waits.

use std::sync::atomic::Ordering;

use crate::support::{Peer, Script, delivery, site, told};

const ZONE: [&str; 4] = [
    "example.com. MX 10 first.example.com.",
    "example.com. MX 20 second.example.com.",
    "first.example.com. A 127.0.0.9",
    "second.example.com. A 127.0.0.3",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_first_is_down() {
    let second = Peer::start("127.0.0.3:0", Script::default()).await;
    let site = site(&ZONE, second.address.port(), |c| c.per_destination = 1).await;
    for count in 1..=3 {
        site.submit(vec![delivery("bob@example.com")]).await;
        let (name, text) = told(&site.outcomes(count).await[count - 1]);
        assert_eq!((name, text.starts_with("second.example.com: 250")), ("relayed", true), "{text}");
    }
    // One connection for all three, or the dead host would be tried for each.
    assert_eq!(second.connections.load(Ordering::SeqCst), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_down_and_come_back() {
    let probe = Peer::start("127.0.0.3:0", Script::default()).await;
    let port = probe.address.port();
    // The peer lives on another address of the same port; ours refuses connections.
    let zone = ["example.com. MX 10 first.example.com.", "first.example.com. A 127.0.0.9"];
    let site = site(&zone, port, |c| c.back_off_first = 10).await;
    site.submit(vec![delivery("bob@example.com")]).await;
    let (name, text) = told(&site.outcomes(1).await[0]);
    assert_eq!(name, "deferred");
    assert!(text.contains("connect to 127.0.0.9") && text.contains("refused"), "{text}");
    // It is known not to answer: the next message is not even tried.
    site.submit(vec![delivery("carol@example.com")]).await;
    for _ in 0..500 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if !site.mda.0.lock().unwrap().given_back.is_empty() {
            break;
        }
    }
    assert_eq!(site.mda.0.lock().unwrap().given_back.len(), 1);
    // Until it is back.
    let peer = Peer::start(&format!("127.0.0.9:{port}"), Script::default()).await;
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    site.hand_out_again().await;
    assert_eq!(told(&site.outcomes(2).await[1]).0, "relayed");
    assert_eq!(peer.taken(), 1);
    site.stop().await;
}
