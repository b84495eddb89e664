//! A greylisting peer (RFC 6647): refused at first, taken later, by the same host name.

use crate::support::{Peer, Script, delivery, site, told};
use proto::spool::outcome::Result as End;

const ZONE: [&str; 2] = ["example.com. MX 10 mx.example.com.", "mx.example.com. A 127.0.0.1"];

#[tokio::test(flavor = "multi_thread")]
async fn refused_first_taken_next_time() {
    let script = Script { greylist: Some("450 4.7.1 greylisted, come back"), ..Script::default() };
    let peer = Peer::start("127.0.0.1:0", script).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    site.submit(vec![delivery("bob@example.com")]).await;
    let first = site.outcomes(1).await.remove(0);
    assert_eq!(told(&first), ("deferred", "mx.example.com: 450 4.7.1 greylisted, come back".into()));
    let Some(End::Deferred(deferred)) = first.result else { panic!("{first:?}") };
    let in_ms = deferred.next_attempt_ms - chrono::Utc::now().timestamp_millis();
    assert!((45_000..=66_000).contains(&in_ms), "{in_ms}");

    // A destination that answers is no destination in trouble: others are tried at once.
    site.submit(vec![delivery("bob@example.com")]).await;
    assert_eq!(told(&site.outcomes(2).await[1]).0, "relayed");
    assert_eq!((peer.taken(), peer.count("DATA")), (1, 2));
    site.stop().await;
}
