//! Before the maildrop: capabilities, STLS, logins, languages, and what is no command.

mod player;

use player::{config, server, with};
use pop3::{Config, Refusal};

const FIRST: &str = "Subject: one\r\n\r\nHello\r\n.\r\nworld\r\n";

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
