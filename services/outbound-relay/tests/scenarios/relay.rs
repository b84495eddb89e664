//! The relay against scripted peers.

use std::{sync::atomic::Ordering, time::Duration};

use crate::support::{Peer, Script, Tls, delivery, detail, site, told};
use proto::spool::{Claimed, outcome::Result as End, target::To};

const ONE_MX: [&str; 2] = ["example.com. MX 10 mx.example.com.", "mx.example.com. A 127.0.0.1"];

async fn peer(script: Script) -> Peer {
    Peer::start("127.0.0.1:0", script).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_for_all_recipients_of_a_message() {
    let peer = peer(Script::default()).await;
    let site = site(&ONE_MX, peer.address.port(), |_| ()).await;
    site.submit(vec![delivery("bob@example.com"), delivery("carol@EXAMPLE.com")]).await;
    let outcomes = site.outcomes(2).await;
    for outcome in &outcomes {
        assert_eq!(told(outcome), ("relayed", "mx.example.com: 250 2.0.0 Ok: queued as PEER".into()));
    }
    let detail = detail(&outcomes[0]);
    let dialogue: Vec<&str> = outcomes[0].event.as_ref().unwrap().dialogue.iter().map(String::as_str).collect();
    assert_eq!(dialogue[..2], ["S: 220 mx.test ESMTP", "C: EHLO mx.sender.com"]);
    assert!(dialogue.contains(&"C: RCPT TO:<bob@example.com>") && dialogue.contains(&"C: ."), "{dialogue:?}");
    assert_eq!(detail["peer"], format!("mx.example.com [127.0.0.1]:{}", peer.address.port()));

    assert_eq!((peer.count("MAIL FROM:<alice@sender.com>"), peer.count("RCPT"), peer.count("DATA")), (1, 2, 1));
    let lines = peer.lines();
    let start = lines.iter().position(|l| l == "DATA").unwrap() + 1;
    let mut content = &lines[start..];
    // Without a tracer there is no trace to tell.
    if content[0].starts_with("Postroad-Trace: 00-0af7651916cd43dd8448eb211c80319c-") {
        content = &content[1..];
    }
    assert_eq!(content[..6], ["From: alice@sender.com", "Subject: hi", "", "body", "..dot", "."]);
    assert!(site.stream_is_empty().await);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_host_is_tried_when_one_is_away_or_busy() {
    let busy = peer(Script { greeting: "421 4.3.2 too busy", ..Script::default() }).await;
    let port = busy.address.port();
    let good = Peer::start(&format!("127.0.0.3:{port}"), Script::default()).await;
    let records = [
        "example.com. MX 10 dead.example.com.",
        "example.com. MX 20 busy.example.com.",
        "example.com. MX 30 good.example.com.",
        "dead.example.com. A 127.0.0.9",
        "busy.example.com. A 127.0.0.1",
        "good.example.com. A 127.0.0.3",
    ];
    let site = site(&records, port, |_| ()).await;
    site.submit(vec![delivery("bob@example.com")]).await;
    assert_eq!(told(&site.outcomes(1).await[0]).0, "relayed");
    assert_eq!((busy.connections.load(Ordering::SeqCst), good.count("DATA")), (1, 1));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_recipient_bounces_alone() {
    let peer = peer(Script { rcpt: vec![("nobody@", "550 5.1.1 no such user")], ..Script::default() }).await;
    let site = site(&ONE_MX, peer.address.port(), |_| ()).await;
    let orcpt = Claimed { orcpt: "rfc822;No+2Bbody@example.com".into(), ..delivery("nobody@example.com") };
    let queue_id = site.submit(vec![delivery("bob@example.com"), orcpt]).await;
    let mut told: Vec<_> = site.outcomes(2).await.iter().map(told).collect();
    told.sort();
    assert_eq!(told[0], ("bounced", "mx.example.com: 550 5.1.1 no such user".into()));
    assert_eq!(told[1].0, "relayed");

    let (envelope, content) = site.mda.0.lock().unwrap().accepted.pop().unwrap();
    assert_eq!((envelope.reverse_path.as_str(), envelope.recipients.len()), ("", 1));
    assert_eq!(envelope.recipients[0].forward_path, "alice@sender.com");
    assert_eq!(envelope.recipients[0].targets[0].to, Some(To::AccountId(7)));
    // The same failure is the same message, whatever crashed between.
    let original: address::QueueId = queue_id.parse().unwrap();
    let expected = uuid::Uuid::new_v8(dsn::report_id(&original.to_bytes(), &[1]));
    assert_eq!(envelope.queue_id, address::QueueId::from_bytes(expected.into_bytes()).to_string());
    let content = String::from_utf8(content).unwrap();
    for line in [
        "To: <alice@sender.com>",
        "Reporting-MTA: dns; mx.sender.com",
        "Original-Recipient: rfc822; No+body@example.com",
        "Final-Recipient: rfc822; nobody@example.com",
        "Status: 5.1.1",
        "Remote-MTA: dns; mx.example.com",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user",
        "Content-Type: text/rfc822-headers",
        "Subject: hi",
    ] {
        assert!(content.contains(&format!("\r\n{line}\r\n")), "{line} in {content}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_who_did_not_ask_or_cannot_be() {
    let peer = peer(Script { final_dot: "554 5.7.1 spam", ..Script::default() }).await;
    let site = site(&ONE_MX, peer.address.port(), |_| ()).await;
    site.submit(vec![Claimed { reverse_path: String::new(), ..delivery("a@example.com") }]).await;
    site.submit(vec![Claimed { notify: "NEVER".into(), ..delivery("b@example.com") }]).await;
    for outcome in site.outcomes(2).await {
        assert_eq!(told(&outcome).0, "bounced");
    }
    assert!(site.mda.0.lock().unwrap().accepted.is_empty());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_defers_until_the_lifetime_ends() {
    let peer = peer(Script { rcpt: vec![("@", "450 4.2.0 greylisted")], ..Script::default() }).await;
    let site = site(&ONE_MX, peer.address.port(), |_| ()).await;
    let before = chrono::Utc::now().timestamp_millis();
    site.submit(vec![delivery("bob@example.com")]).await;
    let outcome = site.outcomes(1).await.remove(0);
    assert_eq!(told(&outcome), ("deferred", "mx.example.com: 450 4.2.0 greylisted".into()));
    let Some(End::Deferred(deferred)) = &outcome.result else { panic!() };
    let delay = deferred.next_attempt_ms - before;
    assert!((54_000..76_000).contains(&delay), "{delay}");

    let six_days_ago = before - 6 * 86_400_000;
    site.submit(vec![Claimed { accepted_at_ms: six_days_ago, attempt: 70, ..delivery("old@example.com") }]).await;
    let (name, text) = told(&site.outcomes(2).await[1]);
    assert_eq!(name, "bounced");
    assert!(text.contains("450 4.2.0 greylisted"), "{text}");
    let (_, content) = site.mda.0.lock().unwrap().accepted.pop().unwrap();
    assert!(String::from_utf8(content).unwrap().contains("\r\nStatus: 4.4.7\r\n"));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dns_says_decides() {
    let port = peer(Script::default()).await.address.port();
    let records = [
        "null.example.com. MX 0 .",
        "own.example.com. MX 10 mx.sender.com.",
        "lost.example.com. MX 10 no.example.com.",
    ];
    let site = site(&records, port, |_| ()).await;
    for (domain, wanted, words) in [
        ("null.example.com", "bounced", "accepts no mail"),
        ("missing.example.com", "bounced", "does not exist"),
        ("own.example.com", "bounced", "loops back"),
        ("lost.example.com", "bounced", "does not exist"),
        // Not the zone of the name server: refused, and so unknown.
        ("example.org", "deferred", "refused"),
    ] {
        let count = site.mda.0.lock().unwrap().outcomes.len() + 1;
        site.submit(vec![delivery(&format!("bob@{domain}"))]).await;
        let (name, text) = told(&site.outcomes(count).await[count - 1]);
        assert_eq!(name, wanted, "{domain}: {text}");
        assert!(text.contains(words), "{domain}: {text}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_when_it_works_and_clear_when_not() {
    for (works, connections) in [(true, 1), (false, 2)] {
        let tls = if works { Tls::Works } else { Tls::Broken };
        let peer = peer(Script { tls, ..Script::default() }).await;
        let site = site(&[], peer.address.port(), |_| ()).await;
        // An address literal needs no DNS.
        site.submit(vec![delivery("bob@[127.0.0.1]")]).await;
        let outcome = site.outcomes(1).await.remove(0);
        assert_eq!(told(&outcome).0, "relayed", "{outcome:?}");
        let used = detail(&outcome)["tls"].as_str().map(|t| t.starts_with("TLSv1_3 "));
        assert_eq!(used, works.then_some(true));
        assert_eq!(peer.connections.load(Ordering::SeqCst), connections);
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again_and_replaced_when_it_died() {
    let peer = peer(Script { hangs_up_after: 3, ..Script::default() }).await;
    let site = site(&ONE_MX, peer.address.port(), |c| c.per_destination = 1).await;
    for count in 1..=5 {
        site.submit(vec![delivery("bob@example.com")]).await;
        assert_eq!(told(&site.outcomes(count).await[count - 1]).0, "relayed");
    }
    assert_eq!(peer.connections.load(Ordering::SeqCst), 2);
    assert_eq!(peer.count("DATA"), 5);
    site.stop().await;
    assert_eq!(peer.count("QUIT"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_destination_holds_nobody_else() {
    let slow = peer(Script { delay: Duration::from_secs(20), ..Script::default() }).await;
    let port = slow.address.port();
    let fast = Peer::start(&format!("127.0.0.3:{port}"), Script::default()).await;
    let site = site(&[], port, |c| c.per_destination = 2).await;
    for _ in 0..20 {
        site.submit(vec![delivery("bob@[127.0.0.1]")]).await;
    }
    for _ in 0..50 {
        site.submit(vec![delivery("bob@[127.0.0.3]")]).await;
    }
    site.outcomes(50).await;
    assert_eq!((fast.count("DATA"), slow.count("DATA")), (50, 0));
    assert!(slow.connections.load(Ordering::SeqCst) <= 2 && fast.connections.load(Ordering::SeqCst) <= 2);
    site.outcomes(70).await;
    assert_eq!(slow.count("DATA"), 20);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_contents_come_with_their_claim_others_are_fetched() {
    let peer = peer(Script::default()).await;
    let of = |limit: u32, memory: usize| {
        site(&ONE_MX, peer.address.port(), move |c| (c.content_with_claim, c.content_memory) = (limit, memory))
    };
    for (limit, memory, calls) in [(1_000, 10 << 20, 0), (10, 10 << 20, 1), (0, 10 << 20, 1), (1_000, 0, 1)] {
        let site = of(limit, memory).await;
        // Two recipients: one transaction, one content.
        site.submit(vec![delivery("bob@example.com"), delivery("carol@example.com")]).await;
        for outcome in site.outcomes(2).await {
            assert_eq!(told(&outcome).0, "relayed");
        }
        assert_eq!(site.mda.0.lock().unwrap().content_calls, calls, "{limit} {memory}");
        site.stop().await;
    }
    assert_eq!((peer.taken(), peer.count("Subject: hi"), peer.count("..dot")), (4, 4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_no_final_dot() {
    let peer = peer(Script { data_delay: Duration::from_secs(4), ..Script::default() }).await;
    let site = site(&ONE_MX, peer.address.port(), |c| c.lease_seconds = 3).await;
    site.mda.0.lock().unwrap().refuses_renew = true;
    site.submit(vec![delivery("bob@example.com")]).await;
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    assert_eq!((peer.count("DATA"), peer.count("body")), (1, 0));
    assert!(!peer.lines().contains(&".".to_owned()));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_peer_took_is_settled_when_mda_is_back() {
    let peer = peer(Script::default()).await;
    let site = site(&ONE_MX, peer.address.port(), |_| ()).await;
    site.mda.0.lock().unwrap().fails_settle = 3;
    site.submit(vec![delivery("bob@example.com")]).await;
    assert_eq!(told(&site.outcomes(1).await[0]).0, "relayed");
    assert_eq!(peer.count("DATA"), 1);
    site.stop().await;
}
