use super::*;

const MESSAGE: &[u8] = b"From: Alice <alice@sender.com>\r\nTo: bob@example.com\r\nSubject: hi\r\n\r\nbody\r\n";

fn failed() -> RecipientReport {
    RecipientReport {
        original_recipient: Some("rfc822;Bob+40example.com".into()),
        final_recipient: "bob@example.com".into(),
        action: Action::Failed,
        status: "5.1.1".into(),
        remote_mta: Some("mx.example.com".into()),
        diagnostic: Some("550 5.1.1 no such user".into()),
        last_attempt: Some("Tue, 1 Jul 2025 10:00:05 +0000".into()),
        will_retry_until: None,
    }
}

fn report(recipients: &[RecipientReport], returned: Returned<'_>) -> String {
    let report = Report {
        reporting_mta: "mx.sender.com".into(),
        to: "alice@sender.com".into(),
        message_id: "1@mx.sender.com".into(),
        date: "Tue, 1 Jul 2025 10:00:06 +0000".into(),
        boundary: "b0undary".into(),
        arrival_date: "Tue, 1 Jul 2025 10:00:00 +0000".into(),
        envelope_id: Some("QQ+2B314159".into()),
        recipients: recipients.to_vec(),
        returned,
    };
    String::from_utf8(report.to_bytes()).expect("UTF-8")
}

/// The parts between the boundaries, header section and body of each.
fn parts(message: &str) -> Vec<(String, String)> {
    let (head, _) = message.split_once("\r\n\r\n").expect("header section");
    let (_, rest) = head.split_once("boundary=\"").expect("boundary");
    let boundary = rest.split('"').next().expect("quoted");
    let mut sections = message.split(&format!("\r\n--{boundary}")).skip(1).collect::<Vec<_>>();
    assert_eq!(sections.pop(), Some("--\r\n"));
    sections
        .into_iter()
        .map(|section| {
            let section = section.strip_prefix("\r\n").expect("line end after the boundary");
            let (head, body) = section.split_once("\r\n\r\n").expect("part header");
            (head.to_owned(), body.to_owned())
        })
        .collect()
}

#[test]
fn a_failed_recipient() {
    let message = report(&[failed()], Returned::Header(MESSAGE));
    let (head, _) = message.split_once("\r\n\r\n").expect("header section");
    assert_eq!(
        head.lines().collect::<Vec<_>>(),
        [
            "From: Mail Delivery System <MAILER-DAEMON@mx.sender.com>",
            "To: <alice@sender.com>",
            "Subject: Your message could not be delivered",
            "Date: Tue, 1 Jul 2025 10:00:06 +0000",
            "Message-ID: <1@mx.sender.com>",
            "Auto-Submitted: auto-replied",
            "MIME-Version: 1.0",
            "Content-Type: multipart/report; report-type=delivery-status;",
            " boundary=\"b0undary\"",
        ]
    );
    let parts = parts(&message);
    assert_eq!(parts.len(), 3);
    assert!(parts[0].0.contains("text/plain; charset=us-ascii"));
    assert!(parts[0].1.contains("<bob@example.com>"), "{}", parts[0].1);
    assert!(parts[0].1.contains("host mx.example.com said: 550 5.1.1 no such"), "{}", parts[0].1);
    assert!(parts[1].0.ends_with("Content-Type: message/delivery-status"));
    assert_eq!(
        parts[1].1,
        "Original-Envelope-Id: QQ+314159\r\n\
         Reporting-MTA: dns; mx.sender.com\r\n\
         Arrival-Date: Tue, 1 Jul 2025 10:00:00 +0000\r\n\
         \r\n\
         Original-Recipient: rfc822; Bob@example.com\r\n\
         Final-Recipient: rfc822; bob@example.com\r\n\
         Action: failed\r\n\
         Status: 5.1.1\r\n\
         Remote-MTA: dns; mx.example.com\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\
         Last-Attempt-Date: Tue, 1 Jul 2025 10:00:05 +0000\r\n"
    );
    assert!(parts[2].0.ends_with("Content-Type: text/rfc822-headers"));
    assert_eq!(parts[2].1, "From: Alice <alice@sender.com>\r\nTo: bob@example.com\r\nSubject: hi\r\n");
}

#[test]
fn a_delayed_recipient_says_until_when() {
    let delayed = RecipientReport {
        action: Action::Delayed,
        status: "4.4.1".into(),
        remote_mta: None,
        original_recipient: None,
        diagnostic: Some("no host of example.com could be reached".into()),
        will_retry_until: Some("Sun, 6 Jul 2025 10:00:00 +0000".into()),
        ..failed()
    };
    let message = report(&[delayed], Returned::Header(MESSAGE));
    assert!(message.contains("Subject: Delivery of your message is delayed\r\n"));
    assert!(message.contains("\r\nAction: delayed\r\n"));
    assert!(message.contains("\r\nWill-Retry-Until: Sun, 6 Jul 2025 10:00:00 +0000\r\n"));
    assert!(message.contains("\r\nDiagnostic-Code: x-postroad; no host of example.com"));
    assert!(message.contains("\r\n  Reason: no host of example.com") && !message.contains("Remote-MTA"));
}

#[test]
fn the_full_message_when_asked_for() {
    let message = report(&[failed()], Returned::Message(MESSAGE));
    let parts = parts(&message);
    assert!(parts[2].0.ends_with("Content-Type: message/rfc822"));
    assert_eq!(parts[2].1.as_bytes(), MESSAGE);
}

#[test]
fn eight_bit_content_is_declared_on_the_part_and_the_whole() {
    let content = "Subject: grüße\r\n\r\nbody\r\n";
    let message = report(&[failed()], Returned::Message(content.as_bytes()));
    assert_eq!(message.matches("Content-Transfer-Encoding: 8bit\r\n").count(), 2);
    assert!(message.ends_with("\r\nSubject: grüße\r\n\r\nbody\r\n\r\n--b0undary--\r\n"));
}

#[test]
fn content_cannot_end_a_part() {
    let content = b"Subject: x\r\n\r\n--b0undary--\r\n--b0undary.1\r\n";
    let message = report(&[failed()], Returned::Message(content));
    assert!(message.contains("boundary=\"b0undary.2\""));
    assert_eq!(parts(&message).len(), 3);
}

#[test]
fn hostile_texts_add_no_fields_and_no_long_lines() {
    let words = "x".repeat(3_000);
    let hostile = RecipientReport {
        original_recipient: Some("rfc822;b@example.com\r\nX-Evil: 1+0D+0AX-Evil: 0".into()),
        final_recipient: "b\r\nX-Evil: 2@example.com".into(),
        diagnostic: Some(words),
        remote_mta: Some("mx\r\n\r\nX-Evil: 3".into()),
        status: "5.0.0\r\nX-Evil: 4".into(),
        ..failed()
    };
    let message = report(&[hostile], Returned::Header(MESSAGE));
    assert!(!message.contains("\nX-Evil"), "{message}");
    assert!(message.lines().all(|line| line.len() <= 998));
}

#[test]
fn utf8_addresses_stay_ascii_in_the_status_part() {
    let recipient =
        RecipientReport { final_recipient: "jörg@example.com".into(), original_recipient: None, ..failed() };
    let message = report(&[recipient], Returned::Header(MESSAGE));
    assert!(message.contains("Final-Recipient: utf-8; j\\x{F6}rg@example.com\r\n"));
    let parts = parts(&message);
    assert!(parts[1].1.is_ascii());
    assert!(parts[0].0.contains("charset=utf-8"));
}

#[test]
fn each_recipient_has_a_group() {
    let other = RecipientReport { final_recipient: "carol@example.com".into(), ..failed() };
    let message = report(&[failed(), other], Returned::Header(MESSAGE));
    assert_eq!(parts(&message)[1].1.split("\r\n\r\n").count(), 3);
}
