//! Mail from our users' programs.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use smtp_ingress::Role;
use support::{Client, Site};

fn plain(user: &str, password: &str) -> String {
    BASE64.encode(sasl::plain_initial_response("", user, password))
}

async fn logged_in(site: &Site) -> Client {
    site.play(
        Role::Submissions,
        &format!(
            "
        S: 220…
        C: EHLO laptop.example
        S* 250
        C: AUTH PLAIN {}
        S: 235 2.7.0…
    ",
            plain("alice@mx.example", "secret")
        ),
    )
    .await
}

#[tokio::test]
async fn a_submitted_message_is_repaired_signed_and_relayed() {
    let site = Site::start().await;
    logged_in(&site)
        .await
        .play(
            "
        C: MAIL FROM:<alice@mx.example>
        S: 250 2.1.0…
        C: RCPT TO:<bob@elsewhere.example>
        S: 250 2.1.5…
        C: RCPT TO:<carol@mx.example>
        S: 250 2.1.5…
        C: DATA
        S: 354…
        C: From: Alice <alice@mx.example>
        C+ Bcc: carol@mx.example
        C+ Subject: hi
        C+
        C+ text
        C+ .
        S: 250 2.0.0…
    ",
        )
        .await;
    let (envelope, content) = site.world.messages().remove(0);
    assert_eq!(envelope.account_id, 1);
    assert_eq!(
        envelope.recipients[0].targets[0].to,
        Some(proto::spool::target::To::Remote("bob@elsewhere.example".into()))
    );
    assert_eq!(envelope.recipients[1].targets[0].to, Some(proto::spool::target::To::AccountId(7)));
    assert!(content.starts_with("Received: from laptop.example ([127.0.0.1])\r\n\t(using TLSv1.3"), "{content}");
    assert!(content.contains("with ESMTPSA id ") && !content.contains("for <"));
    assert!(content.contains("\r\nDKIM-Signature: d=mx.example\r\nDate: "));
    assert!(content.contains(&format!("\r\nMessage-ID: <{}@mx.example>\r\n", envelope.queue_id)));
    assert!(content.ends_with("\r\nFrom: Alice <alice@mx.example>\r\nSubject: hi\r\n\r\ntext\r\n"), "{content}");
    let dialogue = &envelope.events[0].dialogue;
    assert!(dialogue.iter().any(|line| line == "C: AUTH PLAIN"), "{dialogue:?}");
    assert!(!dialogue.iter().any(|line| line.contains(&plain("alice@mx.example", "secret"))), "{dialogue:?}");
}

#[tokio::test]
async fn addresses_of_others_are_refused() {
    let site = Site::start().await;
    logged_in(&site)
        .await
        .play(
            "
        C: MAIL FROM:<bob@mx.example>
        S: 550 5.7.1…
        C: MAIL FROM:<alice@mx.example>
        S: 250…
        C: RCPT TO:<bob@elsewhere.example>
        S: 250…
        C: DATA
        S: 354…
        C: From: The Boss <ceo@mx.example>
        C+
        C+ .
        S: 550 5.7.1 From:…
        C: MAIL FROM:<alice@mx.example>
        S: 250…
        C: RCPT TO:<bob@elsewhere.example>
        S: 250…
        C: DATA
        S: 354…
        C: Subject: no from
        C+
        C+ .
        S: 554 5.6.0…
    ",
        )
        .await;
    assert!(site.world.messages().is_empty());
}

#[tokio::test]
async fn a_login_needs_tls_and_the_right_password() {
    let site = Site::start().await;
    site.play(
        Role::Submission,
        &format!(
            "
        S: 220…
        C: HELO laptop.example
        S: 250…
        C: MAIL FROM:<alice@mx.example>
        S: 530 5.7.0 Must issue a STARTTLS command first
        C: AUTH PLAIN {right}
        S: 538 5.7.11…
        C: STARTTLS
        S: 220…
        T:
        C: EHLO laptop.example
        S* 250
        C: AUTH PLAIN {wrong}
        S: 535 5.7.8…
        C: MAIL FROM:<alice@mx.example>
        S: 530 5.7.0…
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: *
        S: 501 5.7.0…
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: {user}
        S: 334 UGFzc3dvcmQ6
        C: {password}
        S: 235 2.7.0…
        C: MAIL FROM:<alice@mx.example>
        S: 250…
    ",
            right = plain("alice@mx.example", "secret"),
            wrong = plain("alice@mx.example", "wrong"),
            user = BASE64.encode("alice@mx.example"),
            password = BASE64.encode("secret"),
        ),
    )
    .await;
}

#[tokio::test]
async fn trouble_inside_is_temporary() {
    let site = Site::start().await;
    let client = logged_in(&site).await;
    site.world.checker_down.store(true, Ordering::SeqCst);
    let client = client
        .play(
            "
        C: MAIL FROM:<alice@mx.example>
        S: 250…
        C: RCPT TO:<bob@elsewhere.example>
        S: 250…
        C: DATA
        S: 354…
        C: From: alice@mx.example
        C+
        C+ .
        S: 451 4.3.0…
    ",
        )
        .await;
    site.world.database_down.store(true, Ordering::SeqCst);
    client
        .play(
            "
        C: MAIL FROM:<alice@mx.example>
        S: 451 4.3.0…
    ",
        )
        .await;
    site.play(
        Role::Submission,
        &format!(
            "
        S: 220…
        C: EHLO laptop.example
        S* 250
        C: STARTTLS
        S: 220…
        T:
        C: EHLO laptop.example
        S* 250
        C: AUTH PLAIN {}
        S: 454 4.7.0…
    ",
            plain("alice@mx.example", "secret")
        ),
    )
    .await;
    assert!(site.world.messages().is_empty());
}
