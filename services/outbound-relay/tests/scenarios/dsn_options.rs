//! DSN (RFC 3461): parameters passed on or acted upon, delays and successes reported, and no
//! report about a report.

use crate::support::{Peer, Script, delivery, detail, site, told};
use proto::spool::Claimed;

const ZONE: [&str; 2] = ["example.com. MX 10 mx.example.com.", "mx.example.com. A 127.0.0.1"];
const HOUR: i64 = 3_600_000;

fn asked(notify: &str) -> Claimed {
    Claimed {
        notify: notify.into(),
        orcpt: "rfc822;Bob+40example.com".into(),
        envid: "QQ314159".into(),
        ret: "HDRS".into(),
        ..delivery("bob@example.com")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passed_on_to_a_peer_that_has_it() {
    let peer = Peer::start("127.0.0.1:0", Script { offers: vec!["PIPELINING", "DSN"], ..Script::default() }).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    site.submit(vec![asked("SUCCESS,FAILURE")]).await;
    assert_eq!(told(&site.outcomes(1).await[0]).0, "relayed");
    assert_eq!(peer.count("MAIL FROM:<alice@sender.com> RET=HDRS ENVID=QQ314159"), 1);
    assert_eq!(peer.count("RCPT TO:<bob@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob+40example.com"), 1);
    // The peer reports from here on (RFC 3461 §5.2.1).
    assert!(site.mda.0.lock().unwrap().accepted.is_empty());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn success_is_reported_for_a_peer_that_has_not() {
    let peer = Peer::start("127.0.0.1:0", Script::default()).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    site.submit(vec![asked("SUCCESS"), Claimed { notify: "FAILURE".into(), ..delivery("carol@example.com") }]).await;
    let outcomes = site.outcomes(2).await;
    let (envelope, content) = site.mda.0.lock().unwrap().accepted.pop().unwrap();
    assert_eq!(envelope.reverse_path, "");
    let content = String::from_utf8(content).unwrap();
    for line in [
        "Original-Envelope-Id: QQ314159",
        "Original-Recipient: rfc822; Bob@example.com",
        "Final-Recipient: rfc822; bob@example.com",
        "Action: relayed",
        "Status: 2.0.0",
    ] {
        assert!(content.contains(&format!("\r\n{line}\r\n")), "{line} in {content}");
    }
    assert!(!content.contains("carol@"));
    let reported = outcomes.iter().filter(|o| !detail(o)["report"].is_null()).count();
    assert_eq!(reported, 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_reported_once() {
    let peer = Peer::start("127.0.0.1:0", Script { mail: "451 4.3.2 closed today", ..Script::default() }).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    let since = |hours: i64| chrono::Utc::now().timestamp_millis() - hours * HOUR;
    site.submit(vec![Claimed { accepted_at_ms: since(3), ..delivery("bob@example.com") }]).await;
    site.outcomes(1).await;
    assert!(site.mda.0.lock().unwrap().accepted.is_empty(), "after three hours");

    site.submit(vec![Claimed { accepted_at_ms: since(5), ..asked("") }]).await;
    let outcome = site.outcomes(2).await.remove(1);
    let (_, content) = site.mda.0.lock().unwrap().accepted.pop().unwrap();
    let content = String::from_utf8(content).unwrap();
    for line in ["Action: delayed", "Status: 4.3.2", "Diagnostic-Code: smtp; 451 4.3.2 closed today"] {
        assert!(content.contains(&format!("\r\n{line}\r\n")), "{line} in {content}");
    }
    assert!(content.contains("\r\nWill-Retry-Until: "));
    let Some(proto::spool::outcome::Result::Deferred(deferred)) = outcome.result else { panic!() };
    assert!(deferred.delay_reported);

    let told_already = Claimed { delay_reported: true, ..delivery("bob@example.com") };
    let not_asked_for = Claimed { notify: "FAILURE".into(), ..delivery("bob@example.com") };
    for claimed in [told_already, not_asked_for] {
        let count = site.mda.0.lock().unwrap().outcomes.len() + 1;
        site.submit(vec![Claimed { accepted_at_ms: since(9), ..claimed }]).await;
        site.outcomes(count).await;
        assert!(site.mda.0.lock().unwrap().accepted.is_empty());
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_message_or_its_header() {
    let script = Script { rcpt: vec![("@", "550 5.1.1 unknown")], ..Script::default() };
    let peer = Peer::start("127.0.0.1:0", script).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    for (ret, part) in [("FULL", "Content-Type: message/rfc822\r\n"), ("HDRS", "Content-Type: text/rfc822-headers\r\n")]
    {
        let count = site.mda.0.lock().unwrap().outcomes.len() + 1;
        site.submit(vec![Claimed { ret: ret.into(), ..delivery("bob@example.com") }]).await;
        site.outcomes(count).await;
        let (_, content) = site.mda.0.lock().unwrap().accepted.pop().unwrap();
        let content = String::from_utf8(content).unwrap();
        assert!(content.contains(part), "{ret}: {content}");
        assert_eq!(content.contains("..dot") || content.contains("\r\nbody\r\n"), ret == "FULL");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounce_of_a_bounce_is_recorded_and_goes_nowhere() {
    let script = Script { rcpt: vec![("@", "550 5.1.1 unknown")], ..Script::default() };
    let peer = Peer::start("127.0.0.1:0", script).await;
    let site = site(&ZONE, peer.address.port(), |_| ()).await;
    site.submit(vec![Claimed { reverse_path: String::new(), ..delivery("bob@example.com") }]).await;
    let outcome = site.outcomes(1).await.remove(0);
    assert_eq!(told(&outcome), ("bounced", "mx.example.com: 550 5.1.1 unknown".into()));
    assert_eq!(detail(&outcome)["report"], "none: null reverse-path");
    assert!(site.mda.0.lock().unwrap().accepted.is_empty());
    site.stop().await;
}
