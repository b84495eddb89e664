//! The server as transcripts; [`world`] tells how to read them.
#![allow(clippy::unwrap_used)]

mod world;

use smtp::{
    Reply,
    server::{Config, Effect},
};
use world::{config, mx, submission, world};

const TRANSACTION: &str = "
    S: 220 mx.example ESMTP…
    C: EHLO client.example
    S* 250
    C: MAIL FROM:<a@client.example>
    S: 250 2.1.0 Ok
    C: RCPT TO:<b@mx.example>
    S: 250 2.1.5 Ok
    C: DATA
    S: 354 End data with <CR><LF>.<CR><LF>
";

#[test]
fn a_message_comes_in() {
    let world = mx().play(&format!(
        "{TRANSACTION}
        C: Subject: x
        C+
        C+ ..dot
        C+ .
        S: 250 2.0.0 Ok: queued as QID
        C: QUIT
        S: 221 2.0.0 mx.example closing connection
    "
    ));
    assert!(world.closed);
    assert_eq!(world.messages, [b"Subject: x\r\n\r\n.dot\r\n"]);
    let transcript: Vec<_> = world.session.transcript().lines().collect();
    assert_eq!(transcript[0], "S: 220 mx.example ESMTP Postroad");
    assert!(transcript.contains(&"C: MAIL FROM:<a@client.example>".into()));
    assert!(transcript.contains(&"C: [content of 20 octets]".into()), "{transcript:?}");
    assert!(!transcript.iter().any(|l| l.contains("Subject")));
}

#[test]
fn everything_pipelined_is_answered_in_order_and_in_one_piece() {
    let mut world = mx();
    world.run();
    world.output.clear();
    world.input.extend_from_slice(
        b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<nobody@mx.example>\r\nRCPT TO:<b@mx.example>\r\nDATA\r\n",
    );
    let mut writes = 0;
    loop {
        match world.session.next(&mut world.input) {
            Effect::Sender(_) => world.session.sender_accepted(),
            Effect::Recipient(r) if r.address.as_ref().unwrap().local_part() == "nobody" => {
                world.session.recipient_refused(Reply::new(550, (5, 1, 1), "unknown"));
            }
            Effect::Recipient(_) => world.session.recipient_accepted(),
            Effect::Write(bytes) => {
                writes += 1;
                world.output = String::from_utf8(bytes).unwrap();
            }
            Effect::Read => break,
            effect => panic!("{effect:?}"),
        }
    }
    let codes: Vec<_> = world.output.lines().filter(|l| !l.starts_with("250-")).map(|l| &l[..3]).collect();
    assert_eq!((writes, codes), (1, vec!["250", "250", "550", "250", "354"]));
    world.output.clear();
    world.send(b"x\r\n.\r\nMAIL FROM:<>\r\nQUIT\r\n");
    assert_eq!(world.output.lines().map(|l| &l[..3]).collect::<Vec<_>>(), ["250", "250", "221"]);
}

#[test]
fn commands_out_of_order() {
    mx().play(
        "
        S: 220…
        C: MAIL FROM:<a@c.example>
        S: 503 5.5.1 Send EHLO first
        C: HELO c.example
        S: 250 mx.example
        C: RCPT TO:<b@mx.example>
        S: 503 5.5.1…
        C: DATA
        S: 503 5.5.1…
        C: MAIL FROM:<>
        S: 250 2.1.0…
        C: MAIL FROM:<>
        S: 503 5.5.1 Nested MAIL command
        C: DATA
        S: 554 5.5.1 No valid recipients
        S: 421 4.7.0 Too many errors
    ",
    );
}

#[test]
fn limits_and_small_commands() {
    mx().play(
        "
        S: 220…
        C: HELO c.example
        S: 250…
        C: NOOP
        S: 250 2.0.0 Ok
        C: VRFY bob
        S: 252 2.5.2…
        C: HELP
        S* 214
        C: MAIL FROM:<a@c.example> SIZE=1001
        S: 552 5.3.4…
        C: MAIL FROM:<evil@c.example>
        S: 550 5.7.1 not you
        C: MAIL FROM:<a@c.example> SIZE=1000 BODY=8BITMIME RET=FULL ENVID=x
        S: 250 2.1.0…
        C: RCPT TO:<nobody@mx.example>
        S: 550 5.1.1 unknown
        C: RCPT TO:<1@mx.example> NOTIFY=NEVER ORCPT=rfc822;1@mx.example
        S: 250 2.1.5…
        C: RCPT TO:<postmaster>
        S: 250 2.1.5…
        C: RCPT TO:<3@mx.example>
        S: 250 2.1.5…
        C: RCPT TO:<4@mx.example>
        S: 452 4.5.3…
        C: RSET
        S: 250 2.0.0 Ok
        C: DATA
        S: 503 5.5.1…
        C: EXPN list
        S: 502 5.7.0…
        C: TURN
        S: 502 5.5.1…
        S: 421 4.7.0 Too many errors
    ",
    );
}

#[test]
fn temporary_trouble_is_not_held_against_the_client() {
    let mut world = mx();
    world.database = false;
    world.play(
        "
        S: 220…
        C: HELO c.example
        S: 250…
        C: MAIL FROM:<a@c.example>
        S: 250…
        C: RCPT TO:<1@mx.example>
        C+ RCPT TO:<2@mx.example>
        C+ RCPT TO:<3@mx.example>
        C+ RCPT TO:<4@mx.example>
        C+ RCPT TO:<5@mx.example>
        C+ RCPT TO:<6@mx.example>
        S: 451 4.3.0 later
        S: 451 4.3.0 later
        S: 451 4.3.0 later
        S: 451 4.3.0 later
        S: 451 4.3.0 later
        S: 451 4.3.0 later
        C: DATA
        S: 554 5.5.1…
    ",
    );
}

#[test]
fn only_a_commit_produces_a_250() {
    let mut world = mx().play(TRANSACTION);
    world.input.extend_from_slice(b"x\r\n.\r\n");
    assert_eq!(world.session.next(&mut world.input), Effect::Message(vec![b"x\r\n".as_slice().into()]));
    assert_eq!(world.session.next(&mut world.input), Effect::Read, "nothing is said before the commit");
    // Reports that nobody asked for are no commit either.
    world.session.sender_accepted();
    world.session.recipient_accepted();
    world.session.auth_succeeded();
    assert_eq!(world.session.next(&mut world.input), Effect::Read);
    world.session.message_refused(Reply::new(451, (4, 3, 0), "database unavailable"));
    assert_eq!(world.session.next(&mut world.input), Effect::Write(b"451 4.3.0 database unavailable\r\n".to_vec()));
    assert!(!world.session.in_transaction());
}

#[test]
fn smuggled_commands_stay_text_and_the_message_is_refused() {
    for fake in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\n\0.\r\n"] {
        let mut world = mx().play(TRANSACTION);
        world.send(
            format!("one{fake}MAIL FROM:<evil@c.example>\r\nRCPT TO:<b@mx.example>\r\nDATA\r\ntwo\r\n.\r\n").as_bytes(),
        );
        assert!(world.output.starts_with("554 5.6.0 "), "{fake:?}: {}", world.output);
        assert_eq!(world.output.lines().count(), 1, "{fake:?}: {}", world.output);
        assert!(world.messages.is_empty());
    }
}

#[test]
fn bare_line_ends_in_commands_are_no_commands() {
    for bytes in [b"HELO a\nMAIL FROM:<>\r\n".as_slice(), b"HELO a\rMAIL FROM:<>\r\n", b"HELO\0 a\r\n"] {
        let mut world = mx();
        world.run();
        world.output.clear();
        world.send(bytes);
        assert!(world.output.starts_with("500 5.5.2"), "{}", world.output);
        assert!(!world.output.contains("250"), "{}", world.output);
    }
}

#[test]
fn too_much_content_is_refused_at_its_end_and_not_kept() {
    let mut world = mx().play(TRANSACTION);
    for _ in 0..100 {
        world.send(&[&[b'x'; 98][..], b"\r\n"].concat());
        assert!(world.session.content_held() < 4096);
    }
    assert_eq!(world.output, "");
    world.send(b"\r\n.\r\nNOOP\r\n");
    assert_eq!(world.output.lines().map(|l| &l[..9]).collect::<Vec<_>>(), ["552 5.3.4", "250 2.0.0"]);
    assert!(world.messages.is_empty());
}

#[test]
fn content_refused_by_the_service_is_read_to_its_end() {
    let mut world = mx().play(TRANSACTION);
    world.send(b"some\r\n");
    world.session.refuse_content(Reply::new(452, (4, 3, 1), "no room"));
    assert_eq!(world.session.content_held(), 0);
    world.send(b"more\r\n.\r\n");
    assert_eq!(world.output, "452 4.3.1 no room\r\n");
    assert!(world.messages.is_empty());
}

#[test]
fn starttls_discards_what_was_pipelined_and_forgets_the_greeting() {
    mx().play(
        "
        S: 220…
        C: EHLO c.example
        S* 250
        C: STARTTLS
        C+ MAIL FROM:<injected@c.example>
        C+ EHLO injected.example
        S: 220 2.0.0 Ready to start TLS
        C: MAIL FROM:<a@c.example>
        S: 503 5.5.1 Send EHLO first
        C: STARTTLS
        S: 503 5.5.1 TLS not available
    ",
    );
}

#[test]
fn submission_wants_tls_then_a_login() {
    let world = submission().play(
        "
        S: 220…
        C: EHLO mua.example
        S* 250
        C: MAIL FROM:<alice@mx.example>
        S: 530 5.7.0 Must issue a STARTTLS command first
        C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
        S: 538 5.7.11…
        C: STARTTLS
        S: 220…
        C: EHLO mua.example
        S* 250
        C: MAIL FROM:<alice@mx.example>
        S: 530 5.7.0 Authentication required
        C: AUTH PLAIN AGFsaWNlAHdyb25n
        S: 535 5.7.8 wrong
        C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
        S: 235 2.7.0…
        C: MAIL FROM:<alice@mx.example>
        S: 250…
    ",
    );
    assert!(world.session.is_authenticated());
    let transcript = world.session.transcript().lines().collect::<Vec<_>>().join("\n");
    assert!(transcript.contains("C: AUTH PLAIN\n") && !transcript.contains("AGFs"), "{transcript}");
}

#[test]
fn challenges_are_relayed() {
    let encrypted = |errors| {
        world(Config { mechanisms: vec!["PLAIN", "LOGIN"], auth_required: true, max_errors: errors, ..config() }, true)
    };
    let login = encrypted(9).play(
        "
        S: 220…
        C: HELO x
        S: 250 mx.example
        C: AUTH LOGIN
        S: 503 5.5.1…
        C: EHLO x
        S* 250
        C: AUTH GSSAPI
        S: 504 5.5.4…
        C: AUTH PLAIN !!!
        S: 501 5.5.2…
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: *
        S: 501 5.7.0…
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: YWxpY2U=
        S: 334 UGFzc3dvcmQ6
        C: c2VjcmV0
        S: 235 2.7.0…
        C: AUTH LOGIN
        S: 503 5.5.1…
    ",
    );
    let transcript = login.session.transcript().lines().collect::<Vec<_>>().join("\n");
    assert!(!transcript.contains("c2VjcmV0") && transcript.contains("C: ***"));
    encrypted(9).play(
        "
        S: 220…
        C: EHLO x
        S* 250
        C: AUTH PLAIN
        S: 334
        C: AGFsaWNlAHNlY3JldA==
        S: 235 2.7.0…
    "
        .replace("S: 334\n", "S: 334 …\n")
        .as_str(),
    );
}

#[test]
fn an_mx_offers_no_login() {
    world(config(), true).play(
        "
        S: 220…
        C: HELO x
        S: 250…
        C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
        S: 502 5.5.1…
    ",
    );
}

#[test]
fn international_addresses_need_smtputf8() {
    mx().play(
        "
        S: 220…
        C: HELO x
        S: 250…
        C: MAIL FROM:<jörg@c.example>
        S: 550 5.6.7…
        C: MAIL FROM:<a@c.example>
        S: 250…
        C: RCPT TO:<jörg@mx.example>
        S: 553 5.6.7…
        C: RSET
        S: 250…
        C: MAIL FROM:<jörg@c.example> SMTPUTF8
        S: 250…
        C: RCPT TO:<jörg@mx.example>
        S: 250…
    ",
    );
}

#[test]
fn long_lines_are_skipped() {
    let mut world = mx();
    world.run();
    world.output.clear();
    for _ in 0..100 {
        world.send(&[b'A'; 1000]);
        assert!(world.input.len() < 4096, "input stays bounded");
    }
    world.send(b"\r\nNOOP\r\n");
    assert_eq!(world.output, "500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n");
}

#[test]
fn a_session_can_be_ended_at_any_time() {
    let mut world = mx().play(TRANSACTION);
    assert!(world.session.in_transaction() && world.session.is_receiving());
    world.session.end(&Reply::new(421, (4, 3, 2), "shutting down"));
    world.run();
    assert_eq!(world.output, "421 4.3.2 shutting down\r\n");
    assert!(world.closed);
}

#[test]
fn garbage_never_panics_and_never_grows() {
    let words: [&[u8]; 24] = [
        b"EHLO x",
        b"HELO y",
        b"MAIL FROM:<a@b.example>",
        b"RCPT TO:<c@d.example>",
        b"DATA",
        b"\r\n",
        b"\n",
        b"\r",
        b".",
        b"\r\n.\r\n",
        b"AUTH PLAIN",
        b"AUTH LOGIN ",
        b"=",
        b"*",
        b"STARTTLS",
        b"RSET",
        b"NOOP",
        b"\0",
        b"\xff\xfe",
        b" ",
        b"<",
        b"\"",
        b"BODY=8BITMIME",
        b"AGFsaWNlAHNlY3JldA==",
    ];
    let mut seed = 42u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for round in 0..3000 {
        let lenient = Config { max_errors: 1000, mechanisms: vec!["PLAIN", "LOGIN"], ..config() };
        let mut world = world(lenient, round % 2 == 0);
        for _ in 0..60 {
            let word = words[random() % words.len()];
            world.send(word);
            if random() % 3 == 0 {
                world.send(b"\r\n");
            }
            assert!(world.input.len() <= 12_288 && world.session.content_held() < 8192);
        }
    }
}
