//! Sessions as the RFCs print them. `…` at the end of an `S:` line stands for anything.
#![allow(clippy::unwrap_used)]

use pop3::{Answer, Config, Effect, Message, Refusal, Session, Transfer};

/// What the service behind the protocol would be.
struct Backend {
    messages: Vec<&'static str>,
    expunged: Vec<u32>,
    /// What the database says to everything, when it is not well.
    refusal: Option<Refusal>,
    tls_up: bool,
}

struct Player {
    session: Session,
    backend: Backend,
    out: Vec<u8>,
    closed: bool,
}

fn config() -> Config {
    Config {
        hostname: "mx.example".into(),
        starttls: true,
        plaintext_login: true,
        mechanisms: vec!["PLAIN".into(), "LOGIN".into()],
    }
}

fn server(messages: &[&'static str]) -> Player {
    with(config(), messages)
}

fn with(config: Config, messages: &[&'static str]) -> Player {
    Player {
        session: Session::new(config, false),
        backend: Backend { messages: messages.to_vec(), expunged: Vec::new(), refusal: None, tls_up: false },
        out: Vec::new(),
        closed: false,
    }
}

impl Player {
    fn logged_in(mut self) -> Self {
        self.play(
            "
            S: +OK …
            C: USER mrose
            S: +OK …
            C: PASS secret
            S: +OK …
        ",
        );
        self
    }

    fn opened(&self) -> Answer {
        let message = |(i, text): (usize, &&str)| Message {
            uid: 10 + i as u32,
            size: text.len() as u64,
            uidl: format!("7.{}", 10 + i),
        };
        Answer::Opened(self.backend.messages.iter().enumerate().map(message).collect())
    }

    fn run(&mut self) {
        while let Some(effect) = self.session.next_effect() {
            let answer = match effect {
                Effect::Reply { ok, text, .. } => {
                    assert_eq!(ok, !text.starts_with(b"-ERR"));
                    self.out.extend_from_slice(&text);
                    continue;
                }
                Effect::StartTls => {
                    self.backend.tls_up = true;
                    self.session.tls_started();
                    continue;
                }
                Effect::CancelExchange => continue,
                Effect::Close => {
                    self.closed = true;
                    continue;
                }
                Effect::Authenticate { .. } | Effect::Expunge(_) | Effect::Retrieve { .. }
                    if self.backend.refusal.is_some() =>
                {
                    Answer::Refused(self.backend.refusal.unwrap())
                }
                Effect::Authenticate { mechanism, initial_response } => match (&*mechanism, initial_response) {
                    ("PLAIN", Some(plain)) if plain == b"\0mrose\0secret" => self.opened(),
                    ("PLAIN", None) => Answer::Challenge(Vec::new()),
                    ("LOGIN", None) => Answer::Challenge(b"Username:".to_vec()),
                    _ => Answer::Refused(Refusal::Credentials),
                },
                Effect::Respond(response) => match &*response {
                    b"mrose" => Answer::Challenge(b"Password:".to_vec()),
                    b"secret" | b"\0mrose\0secret" => self.opened(),
                    _ => Answer::Refused(Refusal::Credentials),
                },
                Effect::Retrieve { uid, size, lines } => {
                    self.out.extend_from_slice(Session::transfer_begins(size, lines).as_bytes());
                    let mut transfer = Transfer::new(lines);
                    transfer.push(self.backend.messages[uid as usize - 10].as_bytes(), &mut self.out);
                    transfer.finish(&mut self.out);
                    Answer::Sent
                }
                Effect::Expunge(uids) => {
                    self.backend.expunged = uids;
                    Answer::Expunged
                }
            };
            self.session.answer(answer);
        }
    }

    /// Consecutive `C:` lines arrive in one segment: that is pipelining.
    fn play(&mut self, transcript: &str) -> &mut Self {
        let mut pending = String::new();
        for line in transcript.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if let Some(sent) = line.strip_prefix("C:") {
                pending.push_str(sent.strip_prefix(' ').unwrap_or(sent));
                pending.push_str("\r\n");
                continue;
            }
            if !pending.is_empty() {
                self.run();
                self.session.receive(std::mem::take(&mut pending).as_bytes());
            }
            self.run();
            if line == "(closed)" {
                assert!(
                    self.closed && self.out.is_empty(),
                    "still open; out: {:?}",
                    String::from_utf8_lossy(&self.out)
                );
                continue;
            }
            let expected = line.strip_prefix("S:").unwrap_or_else(|| panic!("neither C: nor S: {line}"));
            let expected = expected.strip_prefix(' ').unwrap_or(expected);
            let end =
                self.out.iter().position(|b| *b == b'\n').unwrap_or_else(|| panic!("silence, where S: {expected}"));
            let got: Vec<u8> = self.out.drain(..=end).collect();
            let got = String::from_utf8_lossy(&got);
            let got = got.strip_suffix("\r\n").expect("a reply ends with CRLF");
            match expected.strip_suffix('…') {
                Some(prefix) => assert!(got.starts_with(prefix), "S: {got}, where S: {expected}"),
                // The transcript's line lost its last space: that of an empty challenge.
                None => assert_eq!(got.trim_end(), expected),
            }
        }
        if !pending.is_empty() {
            self.run();
            self.session.receive(pending.as_bytes());
        }
        assert!(self.out.is_empty(), "unexpected: {:?}", String::from_utf8_lossy(&self.out));
        self
    }
}

const FIRST: &str = "Subject: one\r\n\r\nHello\r\n.\r\nworld\r\n";
const SECOND: &str = "Subject: two\r\n\r\nx\r\n";

#[test]
fn the_example_of_rfc_1939_section_10() {
    let mut p = server(&[FIRST, SECOND]);
    p.play(
        "
        S: +OK mx.example POP3 server ready
        C: USER mrose
        S: +OK …
        C: PASS secret
        S: +OK 2 messages (52 octets)
        C: STAT
        S: +OK 2 52
        C: LIST
        S: +OK 2 messages (52 octets)
        S: 1 33
        S: 2 19
        S: .
        C: RETR 1
        S: +OK 33 octets
        S: Subject: one
        S:
        S: Hello
        S: ..
        S: world
        S: .
        C: DELE 1
        S: +OK message 1 …
        C: RETR 2
        S: +OK 19 octets
        S: Subject: two
        S:
        S: x
        S: .
        C: DELE 2
        S: +OK message 2 …
        C: QUIT
        S: +OK signing off (0 messages left)
        (closed)
    ",
    );
    assert_eq!(p.backend.expunged, [10, 11]);
}

#[test]
fn deleted_messages_keep_their_number_until_quit() {
    let mut p = server(&[FIRST, SECOND]).logged_in();
    p.play(
        "
        C: DELE 1
        S: +OK …
        C: DELE 1
        S: -ERR message is already marked as deleted
        C: RETR 1
        S: -ERR message is marked as deleted
        C: STAT
        S: +OK 1 19
        C: LIST
        S: +OK 1 messages (19 octets)
        S: 2 19
        S: .
        C: LIST 2
        S: +OK 2 19
        C: LIST 1
        S: -ERR …
        C: UIDL
        S: +OK …
        S: 2 7.11
        S: .
        C: UIDL 2
        S: +OK 2 7.11
        C: UIDL 3
        S: -ERR no such message
        C: RSET
        S: +OK 2 messages (52 octets)
        C: NOOP
        S: +OK …
        C: QUIT
        S: +OK signing off (2 messages left)
        (closed)
    ",
    );
    assert!(p.backend.expunged.is_empty());
}

#[test]
fn nothing_is_deleted_without_quit() {
    let mut p = server(&[FIRST]).logged_in();
    p.play(
        "
        C: DELE 1
        S: +OK …
    ",
    );
    p.session.shut_down();
    p.play(
        "
        S: -ERR [SYS/TEMP] session ended by the server, connect again
        (closed)
    ",
    );
    assert!(p.backend.expunged.is_empty());
}

#[test]
fn quit_says_when_the_deletions_failed() {
    let mut p = server(&[FIRST]).logged_in();
    p.play(
        "
        C: DELE 1
        S: +OK …
    ",
    );
    p.backend.refusal = Some(Refusal::Temporary);
    p.play(
        "
        C: QUIT
        S: -ERR [SYS/TEMP] …
        (closed)
    ",
    );
}

#[test]
fn top_cuts_the_body() {
    server(&[FIRST]).logged_in().play(
        "
        C: TOP 1 0
        S: +OK …
        S: Subject: one
        S:
        S: .
        C: TOP 1 2
        S: +OK …
        S: Subject: one
        S:
        S: Hello
        S: ..
        S: .
        C: TOP 1
        S: -ERR wrong arguments
        C: TOP 2 0
        S: -ERR no such message
    ",
    );
}

#[test]
fn an_empty_maildrop() {
    server(&[]).logged_in().play(
        "
        C: STAT
        S: +OK 0 0
        C: LIST
        S: +OK 0 messages (0 octets)
        S: .
        C: UIDL
        S: +OK …
        S: .
        C: RETR 1
        S: -ERR no such message
    ",
    );
}

#[test]
fn capabilities_tell_what_can_be_used_now() {
    let strict = Config { plaintext_login: false, ..config() };
    let mut p = with(strict, &[]);
    p.play(
        "
        S: +OK …
        C: CAPA
        S: +OK …
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: EXPIRE NEVER
        S: LOGIN-DELAY 0
        S: UTF8
        S: LANG
        S: STLS
        S: IMPLEMENTATION Postroad
        S: .
        C: USER mrose
        S: -ERR passwords are taken under TLS only, use STLS
        C: PASS secret
        S: -ERR passwords are taken under TLS only, use STLS
        C: AUTH PLAIN AG1yb3NlAHNlY3JldA==
        S: -ERR passwords are taken under TLS only, use STLS
        C: STLS
        S: +OK begin TLS
        C: CAPA
        S: +OK …
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: EXPIRE NEVER
        S: LOGIN-DELAY 0
        S: UTF8
        S: LANG
        S: USER
        S: SASL PLAIN LOGIN
        S: IMPLEMENTATION Postroad
        S: .
        C: STLS
        S: -ERR TLS is already active
        C: AUTH PLAIN AG1yb3NlAHNlY3JldA==
        S: +OK 0 messages (0 octets)
        C: STLS
        S: -ERR STLS comes before the login
    ",
    );
    assert!(p.backend.tls_up);
}

/// RFC 2595 §4, and the injection of commands that it prevents.
#[test]
fn stls_discards_what_was_pipelined_in_clear() {
    server(&[]).play(
        "
        S: +OK …
        C: USER eve
        S: +OK …
        C: STLS
        C: USER eve
        C: NOOP
        S: +OK begin TLS
        C: PASS secret
        S: -ERR USER first
    ",
    );
}

#[test]
fn auth_with_and_without_an_initial_response() {
    server(&[]).play(
        "
        S: +OK …
        C: AUTH
        S: +OK …
        S: PLAIN
        S: LOGIN
        S: .
        C: AUTH GSSAPI
        S: -ERR unknown mechanism
        C: AUTH PLAIN
        S: +
        C: *
        S: -ERR authentication cancelled
        C: AUTH PLAIN
        S: +
        C: not base64!
        S: -ERR invalid base64
        C: AUTH LOGIN
        S: + VXNlcm5hbWU6
        C: bXJvc2U=
        S: + UGFzc3dvcmQ6
        C: c2VjcmV0
        S: +OK 0 messages (0 octets)
        C: AUTH PLAIN
        S: -ERR already logged in
    ",
    );
}

#[test]
fn the_third_wrong_password_closes() {
    server(&[]).play(
        "
        S: +OK …
        C: PASS secret
        S: -ERR USER first
        C: STAT
        S: -ERR log in first
        C: USER mrose
        C: PASS wrong
        C: PASS secret
        S: +OK …
        S: -ERR [AUTH] user name or password is wrong
        S: -ERR USER first
        C: AUTH PLAIN AGEAYg==
        S: -ERR [AUTH] …
        C: USER a
        S: +OK …
        C: PASS b
        S: -ERR [AUTH] …
        (closed)
    ",
    );
}

#[test]
fn login_failures_carry_their_response_code() {
    for (refusal, reply) in [
        (Refusal::InUse, "S: -ERR [IN-USE] …"),
        (Refusal::Temporary, "S: -ERR [SYS/TEMP] …"),
        (Refusal::Permanent, "S: -ERR [SYS/PERM] …"),
    ] {
        let mut p = server(&[]);
        p.backend.refusal = Some(refusal);
        p.play(&format!("S: +OK …\nC: USER mrose\nC: PASS secret\nS: +OK …\n{reply}"));
        // The same connection may try again.
        p.backend.refusal = None;
        p.play(
            "
            C: USER mrose
            S: +OK …
            C: PASS secret
            S: +OK …
        ",
        );
    }
}

#[test]
fn a_transfer_that_cannot_begin_is_an_error_and_the_session_goes_on() {
    let mut p = server(&[FIRST]).logged_in();
    p.backend.refusal = Some(Refusal::Gone);
    p.play(
        "
        C: RETR 1
        C: NOOP
        S: -ERR message is no longer there
        S: +OK …
    ",
    );
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    server(&[SECOND]).play(
        "
        S: +OK …
        C: USER mrose
        C: PASS secret
        C: STAT
        C: RETR 1
        C: QUIT
        C: NOOP
        S: +OK …
        S: +OK 1 messages (19 octets)
        S: +OK 1 19
        S: +OK 19 octets
        S: Subject: two
        S:
        S: x
        S: .
        S: +OK signing off (1 messages left)
        (closed)
    ",
    );
}

#[test]
fn lines_are_bounded_and_the_session_survives_them() {
    let mut p = server(&[]);
    let long =
        format!("S: +OK …\nC: NOOP {}\nC: CAPA x\nS: -ERR line too long\nS: -ERR wrong arguments", "x".repeat(300));
    p.play(&long);
    // The same in single bytes, without a line end for a long while.
    for _ in 0..100_000 {
        p.session.receive(b"y");
        p.run();
    }
    p.play(
        "
        S: -ERR line too long
        C: tail of it
        C: NOOP
        S: -ERR log in first
    ",
    );
    // AUTH may be longer (RFC 5034 §4), but not endless.
    p.play(&format!("C: AUTH PLAIN {}\nS: -ERR [AUTH] …", "AAAA".repeat(1000)));
    p.play(&format!("C: AUTH PLAIN {}\nS: -ERR line too long", "AAAA".repeat(4000)));
    p.play(&format!(
        "C: AUTH PLAIN\nS: +\nC: {}\nS: -ERR line too long\nC: NOOP\nS: -ERR log in first",
        "AAAA".repeat(4000)
    ));
}

#[test]
fn too_many_errors_close() {
    let mut p = server(&[]);
    p.play("S: +OK …");
    for _ in 0..20 {
        p.play(
            "
            C: EHLO x
            S: -ERR unknown command
        ",
        );
    }
    p.play("(closed)");
}

/// RFC 6856 §2 and §3.
#[test]
fn utf8_and_languages() {
    let mut p = server(&[FIRST]);
    p.play(
        "
        S: +OK …
        C: LANG
        S: +OK …
        S: en English
        S: i-default English
        S: .
        C: LANG EN-gb
        S: +OK en …
        C: LANG *
        S: +OK i-default …
        C: LANG uga
        S: -ERR language is not known
        C: LANG e\u{fc}
        S: -ERR wrong arguments
        C: UTF8 x
        S: -ERR wrong arguments
    ",
    );
    assert!(!p.session.is_utf8());
    p.play(
        "
        C: UTF8
        S: +OK …
        C: USER mrose
        S: +OK …
        C: PASS secret
        S: +OK …
        C: UTF8
        S: -ERR UTF8 comes before the login
        C: LANG en
        S: +OK en …
    ",
    );
    assert!(p.session.is_utf8());
}

/// RFC 5802 §6: without something to bind to there is no -PLUS.
#[test]
fn plus_mechanisms_need_a_channel_to_bind_to() {
    let mechanisms = vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()];
    let list = |bound: bool| {
        let mut p = with(Config { mechanisms: mechanisms.clone(), ..config() }, &[]);
        if bound {
            p.session.offer_channel_binding();
        }
        p
    };
    list(false).play(
        "
        S: +OK …
        C: AUTH
        S: +OK …
        S: SCRAM-SHA-256
        S: .
        C: AUTH SCRAM-SHA-256-PLUS
        S: -ERR unknown mechanism
    ",
    );
    list(true).play(
        "
        S: +OK …
        C: AUTH
        S: +OK …
        S: SCRAM-SHA-256-PLUS
        S: SCRAM-SHA-256
        S: .
    ",
    );
}
