//! 4xx and 5xx for some recipients of one transaction: each has its own fate.

use crate::support::{Peer, Script, delivery, detail, site, told};

const ZONE: [&str; 2] = ["example.com. MX 10 mx.example.com.", "mx.example.com. A 127.0.0.1"];

#[tokio::test(flavor = "multi_thread")]
async fn every_recipient_has_its_own_fate() {
    let script = Script {
        rcpt: vec![("full@", "452 4.2.2 mailbox full"), ("late@", "450 4.2.1 busy"), ("nobody@", "550 5.1.1 unknown")],
        ..Script::default()
    };
    let peer = Peer::start("127.0.0.1:0", script).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    let paths = ["bob@example.com", "full@example.com", "carol@example.com", "late@example.com", "nobody@example.com"];
    site.submit(paths.iter().map(|p| delivery(p)).collect()).await;
    let outcomes = site.outcomes(5).await;
    let fate = |path: &str| {
        let outcome = outcomes.iter().find(|o| o.event.as_ref().unwrap().recipient == path).unwrap();
        told(outcome)
    };
    assert_eq!(fate("bob@example.com").0, "relayed");
    assert_eq!(fate("carol@example.com").0, "relayed");
    assert_eq!(fate("full@example.com"), ("deferred", "mx.example.com: 452 4.2.2 mailbox full".into()));
    assert_eq!(fate("late@example.com"), ("deferred", "mx.example.com: 450 4.2.1 busy".into()));
    assert_eq!(fate("nobody@example.com"), ("bounced", "mx.example.com: 550 5.1.1 unknown".into()));
    // One transaction for all of them, and one report, about the one that failed.
    assert_eq!((peer.count("MAIL"), peer.count("DATA"), peer.taken()), (1, 1, 1));
    let accepted = site.mda.0.lock().unwrap().accepted.clone();
    assert_eq!(accepted.len(), 1);
    let report = String::from_utf8(accepted[0].1.clone()).unwrap();
    assert!(report.contains("Final-Recipient: rfc822; nobody@example.com") && !report.contains("full@"));
    let bounced = outcomes.iter().find(|o| told(o).0 == "bounced").unwrap();
    assert_eq!(detail(bounced)["report"], format!("sent as {}", accepted[0].0.queue_id));
    site.stop().await;
}
