use super::*;

const HEADER: &[u8] =
    b"From: a@else.org\r\nTo: Bob <bob@example.com>\r\nSubject: lunch\r\nMessage-ID: <1@else.org>\r\nReferences: <0@else.org>\r\n\r\n";

fn why(header: &str, from: &str) -> Option<&'static str> {
    let header = format!("To: bob@example.com\r\n{header}\r\n");
    why_not(&Reply::default(), header.as_bytes(), from, &["bob@example.com"])
}

#[test]
fn who_is_answered() {
    assert_eq!(why("", "a@else.org"), None);
    assert_eq!(why("Auto-Submitted: no\r\n", "a@else.org"), None);
    for (header, from) in [
        ("", ""),
        ("", "Bob@Example.com"),
        ("", "MAILER-DAEMON@else.org"),
        ("", "owner-list@else.org"),
        ("", "list-request@else.org"),
        ("List-Id: <x.else.org>\r\n", "a@else.org"),
        ("List-Unsubscribe: <mailto:x>\r\n", "a@else.org"),
        ("Auto-Submitted: auto-replied\r\n", "a@else.org"),
        ("Auto-Submitted: auto-generated; x=y\r\n", "a@else.org"),
        ("Precedence: bulk\r\n", "a@else.org"),
    ] {
        assert!(why(header, from).is_some(), "{header:?} from {from:?}");
    }
    assert!(why_not(&Reply::default(), b"To: list@else.org\r\n\r\n", "a@else.org", &["bob@example.com"]).is_some());
    let reply = Reply { addresses: vec!["robert@example.org".into()], ..Reply::default() };
    assert_eq!(why_not(&reply, b"Cc: Robert@Example.org\r\n\r\n", "a@else.org", &["bob@example.com"]), None);
}

fn written(reply: &Reply) -> String {
    let respond = Respond {
        address: "bob@example.com",
        to: "a@else.org",
        date: "Sun, 1 Nov 2026 10:00:00 +0000",
        message_id: "r1@mx",
        header: HEADER,
    };
    String::from_utf8(reply.to_message(&respond)).expect("UTF-8")
}

#[test]
fn the_answer_of_rfc_3834() {
    let text = written(&Reply { reason: "away\nback soon".into(), ..Reply::default() });
    for line in [
        "From: <bob@example.com>\r\n",
        "To: <a@else.org>\r\n",
        "Subject: Auto: lunch\r\n",
        "In-Reply-To: <1@else.org>\r\n",
        "References: <0@else.org>\r\n <1@else.org>\r\n",
        "Auto-Submitted: auto-replied\r\n",
        "\r\n\r\naway\r\nback soon\r\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
}

#[test]
fn no_text_adds_a_field() {
    let reply = Reply { subject: Some("x\r\nBcc: y@z".into()), reason: "é".into(), ..Reply::default() };
    let text = written(&reply);
    assert!(text.contains("Subject: x Bcc: y@z\r\n") && text.contains("8bit"), "{text}");
    let long = Reply { subject: Some("ü".repeat(3_000)), reason: "a".repeat(5_000), ..Reply::default() };
    assert!(written(&long).lines().all(|line| line.len() <= 998));
    let mime = "Content-Type: text/html\r\nBcc: y@z\r\n\r\n<b>x</b>\r\n";
    let text = written(&Reply { mime: true, reason: mime.into(), ..Reply::default() });
    assert!(!text.contains("Bcc") && text.ends_with("Content-Type: text/html\r\n\r\n<b>x</b>\r\n"), "{text}");
}

#[test]
fn subjects_in_other_scripts_are_encoded_words() {
    let subject = "Abwesend: grüße aus dem Süden, bis nächste Woche, liebe Leute, und noch viel mehr";
    let text = written(&Reply { subject: Some(subject.into()), ..Reply::default() });
    let header = text.as_bytes();
    assert!(text.is_ascii() && text.lines().all(|l| l.len() <= 78), "{text}");
    assert_eq!(message::decode_words(message::field(header, "Subject").expect("there")), subject);
}

#[test]
fn handles_tell_answers_apart() {
    let one = Reply { reason: "a".into(), ..Reply::default() };
    let two = Reply { reason: "b".into(), ..Reply::default() };
    assert_ne!(one.key(), two.key());
    let handled = |reason: &str| Reply { handle: Some("h".into()), reason: reason.into(), ..Reply::default() };
    assert_eq!(handled("a").key(), handled("b").key());
}
