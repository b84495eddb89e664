//! A tarpit: slow replies are waited for, silence is not waited for for ever, and neither holds
//! back others.

use std::time::Duration;

use crate::support::{Peer, Script, delivery, site, told};

#[tokio::test(flavor = "multi_thread")]
async fn slow_replies_are_waited_for() {
    let slow = Peer::start("127.0.0.1:0", Script { tarpit: Duration::from_secs(3), ..Script::default() }).await;
    let port = slow.address.port();
    let fast = Peer::start(&format!("127.0.0.3:{port}"), Script::default()).await;
    let site = site(&[], port, |_| ()).await;
    site.submit(vec![delivery("bob@[127.0.0.1]")]).await;
    for _ in 0..20 {
        site.submit(vec![delivery("bob@[127.0.0.3]")]).await;
    }
    for outcome in &site.outcomes(20).await[..20] {
        assert_eq!(outcome.event.as_ref().unwrap().recipient, "bob@[127.0.0.3]", "nobody waits for the slow one");
    }
    assert_eq!(fast.taken(), 20);
    for outcome in site.outcomes(21).await {
        assert_eq!(told(&outcome).0, "relayed");
    }
    assert_eq!(slow.taken(), 1);
    site.stop().await;
}

/// Nothing comes from it: one connection tries, the rest goes back to Postgres and waits there.
#[tokio::test(flavor = "multi_thread")]
async fn silence_sends_its_mail_back_to_wait() {
    let silent = Peer::start("127.0.0.1:0", Script { delay: Duration::from_secs(600), ..Script::default() }).await;
    let port = silent.address.port();
    let site = site(&[], port, |c| c.greeting_seconds = 1).await;
    for _ in 0..50 {
        site.submit(vec![delivery("bob@[127.0.0.1]")]).await;
    }
    let outcomes = site.outcomes(1).await;
    assert_eq!(told(&outcomes[0]), ("deferred", "127.0.0.1: timed out".into()));
    for _ in 0..1_000 {
        {
            let state = site.mda.0.lock().unwrap();
            if state.outcomes.len() + state.given_back.len() >= 50 {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (tried, back) = {
        let state = site.mda.0.lock().unwrap();
        (state.outcomes.len(), state.given_back.clone())
    };
    // Three began at once (slow start); no attempt was counted for the others.
    assert!(tried <= 3 && back.len() == 50 - tried, "{tried} tried, {} given back", back.len());
    assert!(back.iter().all(|words| words == "timed out"), "{back:?}");
    site.stop().await;
}
