//! Mail from other servers.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::atomic::Ordering, time::Duration};

use smtp_ingress::Role;
use support::Site;

/// Up to 354.
const ENVELOPE: &str = "
    S: 220 mx.example ESMTP…
    C: EHLO client.example
    S* 250
    C: MAIL FROM:<a@sender.example> BODY=8BITMIME RET=HDRS ENVID=e1
    C+ RCPT TO:<b@mx.example> NOTIFY=FAILURE
    C+ DATA
    S: 250 2.1.0…
    S: 250 2.1.5…
    S: 354…
";

async fn envelope(site: &Site) -> support::Client {
    site.play(Role::Mx, ENVELOPE).await
}

#[tokio::test]
async fn a_message_is_committed_with_its_trace_fields() {
    let site = Site::start().await;
    envelope(&site)
        .await
        .play(
            "
        C: Authentication-Results: mx.example; dkim=pass (forged)
        C+ Authentication-Results: other.example; dkim=pass
        C+ From: <a@sender.example>
        C+ Subject: hi
        C+
        C+ ..dot and ü
        C+ .
        S: 250 2.0.0 Ok: queued as…
        C: QUIT
        S: 221…
    ",
        )
        .await;
    let [(envelope, content)] = site.world.messages().try_into().unwrap();
    assert_eq!(envelope.reverse_path, "a@sender.example");
    assert_eq!(envelope.recipients[0].forward_path, "b@mx.example");
    assert_eq!(
        (envelope.recipients[0].notify.as_str(), envelope.ret.as_str(), envelope.envid.as_str()),
        ("FAILURE", "HDRS", "e1")
    );
    assert!(envelope.eight_bit && !envelope.junk && envelope.account_id == 0);
    let (trace, rest) = content.split_once("Authentication-Results: mx.example; spf=pass\r\n").unwrap();
    assert!(
        trace.starts_with("Received: from client.example ([127.0.0.1])\r\n\tby mx.example (Postroad) with ESMTP id ")
    );
    assert!(trace.contains(&envelope.queue_id) && trace.contains("for <b@mx.example>; "));
    assert_eq!(
        rest,
        "Authentication-Results: other.example; dkim=pass\r\nFrom: <a@sender.example>\r\nSubject: hi\r\n\r\n.dot and ü\r\n"
    );
    let names: Vec<_> = envelope.events.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["received", "verdict"]);
    let dialogue = &envelope.events[0].dialogue;
    assert!(dialogue.iter().any(|l| l.starts_with("C: MAIL FROM:<a@sender.example>")), "{dialogue:?}");
    assert!(!dialogue.iter().any(|l| l.contains("Subject")), "{dialogue:?}");
}

#[tokio::test]
async fn recipients_are_the_directorys_decision() {
    let site = Site::start().await;
    site.play(
        Role::Mx,
        "
        S: 220…
        C: HELO client.example
        S: 250…
        C: MAIL FROM:<>
        S: 250…
        C: RCPT TO:<nobody@mx.example>
        S: 550 5.1.1…
        C: RCPT TO:<someone@elsewhere.example>
        S: 550 5.7.1 Relaying denied
        C: RCPT TO:<disabled@mx.example>
        S: 550 5.2.1…
        C: RCPT TO:<full@mx.example>
        S: 452 4.2.2…
        C: RCPT TO:<postmaster>
        S: 250 2.1.5…
        C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
        S: 502 5.5.1…
    ",
    )
    .await;
}

#[tokio::test]
async fn no_250_while_the_database_is_down() {
    let site = Site::start().await;
    let client = envelope(&site).await;
    site.world.database_down.store(true, Ordering::SeqCst);
    let client = client
        .play(
            "
        C: Subject: x
        C+ .
        S: 451 4.3.0…
        C: MAIL FROM:<a@sender.example>
        S: 250…
        C: RCPT TO:<b@mx.example>
        S: 451 4.3.0…
        C: RSET
        S: 250…
    ",
        )
        .await;
    assert!(site.world.messages().is_empty());
    site.world.database_down.store(false, Ordering::SeqCst);
    client
        .play(
            "
        C: MAIL FROM:<a@sender.example>
        S: 250…
        C: RCPT TO:<b@mx.example>
        S: 250…
        C: DATA
        S: 354…
        C: Subject: x
        C+ .
        S: 250 2.0.0…
    ",
        )
        .await;
    assert_eq!(site.world.messages().len(), 1);
}

#[tokio::test]
async fn lost_answers_are_asked_for_again_and_commit_once() {
    let site = Site::start().await;
    site.world.lost_answers.store(5, Ordering::SeqCst);
    envelope(&site)
        .await
        .play(
            "
        C: Subject: x
        C+ .
        S: 250 2.0.0…
    ",
        )
        .await;
    assert_eq!(site.world.accept_calls.load(Ordering::SeqCst), 6);
    assert_eq!(site.world.messages().len(), 1);
}

#[tokio::test]
async fn verdicts_decide_inside_the_session() {
    let site = Site::start().await;
    envelope(&site)
        .await
        .play(
            "
        C: X-Verdict: reject
        C+ .
        S: 550 5.7.1 sender.example says so (DMARC)
    ",
        )
        .await;
    envelope(&site)
        .await
        .play(
            "
        C: X-Verdict: defer
        C+ .
        S: 451 4.7.1…
    ",
        )
        .await;
    assert!(site.world.messages().is_empty());
    envelope(&site)
        .await
        .play(
            "
        C: X-Verdict: quarantine
        C+ .
        S: 250 2.0.0…
    ",
        )
        .await;
    assert!(site.world.messages()[0].0.junk);
    site.world.checker_down.store(true, Ordering::SeqCst);
    envelope(&site)
        .await
        .play(
            "
        C: Subject: x
        C+ .
        S: 451 4.3.0…
    ",
        )
        .await;
    assert_eq!(site.world.messages().len(), 1);
}

#[tokio::test]
async fn a_verdict_needs_the_body_only_for_a_signature_or_a_seal() {
    let site = Site::start().await;
    let signature = "DKIM-Signature: v=1; d=sender.example";
    for (recipient, field, body) in
        [("b", "Subject: x", ""), ("b", signature, "Hello\r\n"), ("alias", "Subject: x", "Hello\r\n")]
    {
        let envelope = ENVELOPE.replace("<b@", &format!("<{recipient}@"));
        let message = format!("\nC: {field}\nC+ \nC+ Hello\nC+ .\nS: 250 2.0.0…\n");
        site.play(Role::Mx, &envelope).await.play(&message).await;
        assert_eq!(site.world.verified_bodies.lock().unwrap().pop().as_deref(), Some(body), "{recipient} {field}");
    }
    assert!(site.world.messages().iter().all(|(_, text)| text.ends_with("\r\n\r\nHello\r\n")));
}

#[tokio::test]
async fn smuggling_is_refused() {
    let site = Site::start().await;
    for fake in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n"] {
        let mut client = envelope(&site).await;
        let text = format!(
            "Subject: x{fake}MAIL FROM:<evil@sender.example>\r\nRCPT TO:<b@mx.example>\r\nDATA\r\nevil\r\n.\r\n"
        );
        client.send(text.as_bytes()).await;
        client
            .play(
                "
            S: 554 5.6.0…
            C: QUIT
            S: 221…
        ",
            )
            .await;
    }
    assert!(site.world.messages().is_empty());
}

#[tokio::test]
async fn malformed_messages_and_loops_are_refused() {
    let site = Site::start().await;
    let mut looping = envelope(&site).await;
    looping.send("Received: by x\r\n".repeat(51).as_bytes()).await;
    looping
        .play(
            "
        C: Subject: x
        C+ .
        S: 554 5.4.6…
    ",
        )
        .await;
    let mut folded = envelope(&site).await;
    folded.send(b" ; dmarc=pass\r\n\r\n.\r\n").await;
    folded.play("S: 554 5.6.0…").await;
    assert!(site.world.messages().is_empty());
}

#[tokio::test]
async fn starttls_discards_what_was_pipelined() {
    let site = Site::start().await;
    let mut client = site
        .play(
            Role::Mx,
            "
        S: 220…
        C: HELO client.example
        S: 250…
    ",
        )
        .await;
    client.send(b"STARTTLS\r\nMAIL FROM:<injected@sender.example>\r\nRCPT TO:<b@mx.example>\r\n").await;
    client
        .play(
            "
        S: 220 2.0.0…
        T:
        C: RCPT TO:<b@mx.example>
        S: 503 5.5.1…
        C: MAIL FROM:<a@sender.example>
        S: 503 5.5.1 Send EHLO first
        C: HELO client.example
        S: 250…
        C: MAIL FROM:<a@sender.example>
        S: 250…
        C: RCPT TO:<b@mx.example>
        S: 250…
        C: DATA
        S: 354…
        C: Subject: x
        C+ .
        S: 250 2.0.0…
    ",
        )
        .await;
    let (envelope, content) = site.world.messages().remove(0);
    assert_eq!(envelope.reverse_path, "a@sender.example");
    assert!(content.contains("(using TLSv1.3 with cipher TLS_"), "{content}");
}

#[tokio::test]
async fn sizes_and_memory_are_bounded() {
    let site = Site::with(|config| {
        config.max_message_size = 300_000;
        config.max_bytes_in_flight = 1_200_000;
    })
    .await;
    site.play(
        Role::Mx,
        "
        S: 220…
        C: HELO client.example
        S: 250…
        C: MAIL FROM:<a@sender.example> SIZE=300001
        S: 552 5.3.4…
    ",
    )
    .await;
    let mut large = envelope(&site).await;
    large.send(&b"0123456789\r\n".repeat(40_000)).await;
    large
        .play(
            "
        C: .
        S: 552 5.3.4…
    ",
        )
        .await;
    // Two that fit alone and not together.
    let mut first = envelope(&site).await;
    first.send(&b"0123456789\r\n".repeat(24_000)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut second = envelope(&site).await;
    second.send(&b"0123456789\r\n".repeat(24_000)).await;
    second
        .play(
            "
        C: .
        S: 452 4.3.1…
    ",
        )
        .await;
    first
        .play(
            "
        C: .
        S: 250 2.0.0…
    ",
        )
        .await;
    assert_eq!(site.world.messages().len(), 1);
}

#[tokio::test]
async fn a_large_message_arrives_byte_for_byte() {
    let site = Site::start().await;
    let mut client = envelope(&site).await;
    let line = "x".repeat(76);
    let body = format!("Subject: big\r\n\r\n{}", format!("{line}\r\n").repeat(70_000));
    client.send(body.as_bytes()).await;
    client
        .play(
            "
        C: .
        S: 250 2.0.0…
    ",
        )
        .await;
    assert!(site.world.messages()[0].1.ends_with(&body));
}

#[tokio::test]
async fn shutdown_finishes_transactions_and_says_goodbye() {
    let mut site = Site::start().await;
    let idle = site.play(Role::Mx, "S: 220…").await;
    let busy = envelope(&site).await;
    site.shutdown.cancel();
    let mut idle = idle.play("S: 421 4.3.2…").await;
    assert_eq!(idle.line().await, None);
    let mut busy = busy
        .play(
            "
        C: Subject: x
        C+ .
        S: 250 2.0.0…
        S: 421 4.3.2…
    ",
        )
        .await;
    assert_eq!(busy.line().await, None);
    drop((idle, busy));
    assert_eq!(site.world.messages().len(), 1);
    tokio::time::timeout(Duration::from_secs(60), &mut site.serving).await.expect("drained").unwrap();
}

#[tokio::test]
async fn a_250_waits_for_the_commit() {
    let site = Site::start().await;
    site.world.slow_accept.store(true, Ordering::SeqCst);
    let mut client = envelope(&site).await;
    client.send(b"Subject: x\r\n.\r\n").await;
    assert!(tokio::time::timeout(Duration::from_millis(300), client.line()).await.is_err(), "nothing is said before");
    site.world.slow_accept.store(false, Ordering::SeqCst);
    client.play("S: 250 2.0.0…").await;
    assert_eq!(site.world.messages().len(), 1);
}

#[tokio::test]
async fn silent_clients_are_sent_away() {
    let site = Site::with(|config| config.command_seconds = 1).await;
    let mut client = site
        .play(
            Role::Mx,
            "
        S: 220…
        S: 421 4.4.2 Timeout
    ",
        )
        .await;
    assert_eq!(client.line().await, None);
}
