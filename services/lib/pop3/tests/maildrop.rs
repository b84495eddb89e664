//! What a session does with its maildrop: list, read, mark, quit (RFC 1939 §5 and §6).

mod player;

use player::server;
use pop3::Refusal;

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
