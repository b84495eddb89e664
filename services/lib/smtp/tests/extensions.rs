//! A transcript for each extension that EHLO offers.
#![allow(clippy::unwrap_used)]

mod world;

use smtp::server::{Config, Hold, is_binary};
use world::{World, config, mx, submission, world};

/// Three recipients, ready for content.
fn ready(parameters: &str) -> World {
    world(Config { max_message_size: 2000, ..config() }, true).play(&format!(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<a@client.example>{parameters}
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@mx.example>
        S: 250 2.1.5 Ok
    "
    ))
}

#[test]
fn ehlo_on_a_plain_mx() {
    mx().play(
        "
        S: 220 mx.example ESMTP Postroad
        C: EHLO client.example
        S: 250-mx.example
        S: 250-PIPELINING
        S: 250-SIZE 1000
        S: 250-STARTTLS
        S: 250-ENHANCEDSTATUSCODES
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-BINARYMIME
        S: 250 LIMITS MAILMAX=1000 RCPTMAX=3
    ",
    );
}

#[test]
fn ehlo_on_submission_over_tls() {
    let mechanisms = vec!["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN"];
    let offer = Config { mechanisms, max_hold: Some(86_400), priorities: true, ..config() };
    let mut bound = world(offer.clone(), true);
    bound.session.offer_channel_binding();
    bound.session.set_now(1_793_527_200);
    bound.play(
        "
        S: 220…
        C: EHLO client.example
        S: 250-mx.example
        S: 250-PIPELINING
        S: 250-SIZE 1000
        S: 250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN
        S: 250-ENHANCEDSTATUSCODES
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-BINARYMIME
        S: 250-REQUIRETLS
        S: 250-FUTURERELEASE 86400 2026-11-02T10:00:00Z
        S: 250-MT-PRIORITY
        S: 250 LIMITS MAILMAX=1000 RCPTMAX=3
    ",
    );
    // Without an exporter there is nothing to bind to.
    world(offer, true).play(
        "
        S: 220…
        C: EHLO client.example
        S: 250-mx.example
        S: 250-PIPELINING
        S: 250-SIZE 1000
        S: 250-AUTH SCRAM-SHA-256 PLAIN
        S: 250-ENHANCEDSTATUSCODES
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-DSN
        S: 250-CHUNKING
        S: 250-BINARYMIME
        S: 250-REQUIRETLS
        S: 250-FUTURERELEASE 86400 1970-01-02T00:00:00Z
        S: 250-MT-PRIORITY
        S: 250 LIMITS MAILMAX=1000 RCPTMAX=3
        C: AUTH SCRAM-SHA-256-PLUS
        S: 504 5.5.4…
    ",
    );
}

/// RFC 4422 Appendix A, only for who has shown a certificate that names somebody.
#[test]
fn external_is_for_clients_with_a_certificate() {
    let offer = Config { mechanisms: vec!["EXTERNAL", "PLAIN"], auth_required: true, ..config() };
    world(offer.clone(), true).play(
        "
        S: 220…
        C: EHLO client.example
        S: 250-mx.example
        S: 250-PIPELINING
        S: 250-SIZE 1000
        S: 250-AUTH PLAIN
        S* 250
        C: AUTH EXTERNAL =
        S: 504 5.5.4…
    ",
    );
    let mut certified = world(offer, true);
    certified.session.offer_external();
    certified.play(
        "
        S: 220…
        C: EHLO client.example
        S: 250-mx.example
        S: 250-PIPELINING
        S: 250-SIZE 1000
        S: 250-AUTH EXTERNAL PLAIN
        S* 250
        C: AUTH EXTERNAL Ym9i
        S: 535…
        C: AUTH EXTERNAL
        S: 334…
        C: *
        S: 501 5.7.0…
        C: AUTH EXTERNAL =
        S: 235 2.7.0…
        C: MAIL FROM:<alice@mx.example>
        S: 250…
    ",
    );
}

#[test]
fn a_message_comes_in_chunks() {
    // The octets of a chunk are no commands, and its dots are no end.
    let world = ready("").play(
        "
        C: BDAT 15
        C+ Subject: x
        C+ .
        S: 250 2.0.0 15 octets received
        C: NOOP
        S: 250 2.0.0 Ok
        C: BDAT 10 LAST
        C+ NOOP
        C+ QU
        S: 250 2.0.0 Ok: queued as QID
        C: BDAT 2 LAST
        C+
        S: 503 5.5.1 Send MAIL first
    ",
    );
    assert_eq!(world.messages, [b"Subject: x\r\n.\r\nNOOP\r\nQU\r\n".as_slice()]);
}

#[test]
fn chunks_are_pipelined_and_a_refused_transaction_refuses_them_all() {
    let mut world = ready("");
    world.send(b"BDAT 3\r\na\r\nBDAT 0\r\nBDAT 3 LAST\r\nb\r\n");
    let replies: Vec<_> = world.output.lines().map(|l| &l[..9]).collect();
    assert_eq!(replies, ["250 2.0.0", "250 2.0.0", "250 2.0.0"]);
    assert_eq!(world.messages, [b"a\r\nb\r\n"]);
    world.output.clear();
    world.send(
        b"MAIL FROM:<a@c.example>\r\nRCPT TO:<nobody@mx.example>\r\nBDAT 6\r\nDATA\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
    );
    let codes: Vec<_> = world.output.lines().map(|l| &l[..3]).collect();
    assert_eq!(codes, ["250", "550", "554", "503", "250"], "{}", world.output);
    assert_eq!(world.messages.len(), 1);
}

#[test]
fn chunks_and_data_do_not_mix() {
    ready("").play(
        "
        C: BDAT 2
        C+
        S: 250 2.0.0 2 octets received
        C: DATA
        S: 503 5.5.1…
        C: RCPT TO:<c@mx.example>
        S: 503 5.5.1 RCPT after BDAT
        C: MAIL FROM:<b@client.example>
        S: 503 5.5.1…
        C: RSET
        S: 250 2.0.0 Ok
        C: BDAT 2 LAST
        C+
        S: 503 5.5.1…
    ",
    );
}

#[test]
fn smuggling_in_chunks_is_refused() {
    for text in ["a\n.\nb", "a\r.\r\n", "a\r", "\0", "a\n"] {
        for split in 0..text.len() {
            let mut world = ready("");
            let (one, two) = text.split_at(split);
            world.send(format!("BDAT {}\r\n{one}BDAT {} LAST\r\n{two}NOOP\r\n", one.len(), two.len()).as_bytes());
            let codes: Vec<_> = world.output.lines().map(|l| &l[..3]).collect();
            // The first chunk may be fine, or be refused at once; then the second has no transaction.
            assert!(matches!(codes[..], ["250", "554", "250"] | ["554", "503", "250"]), "{text:?} {}", world.output);
            assert!(world.messages.is_empty());
        }
    }
}

#[test]
fn a_chunk_too_many_is_refused_at_its_end() {
    let mut world = ready("");
    world.send(b"BDAT 1990\r\n");
    world.send(&[b"x".repeat(988), b"\r\n".to_vec(), b"y".repeat(998), b"\r\n".to_vec()].concat());
    assert_eq!(world.output, "250 2.0.0 1990 octets received\r\n");
    world.output.clear();
    world.send(b"BDAT 100 LAST\r\n");
    world.send(&[b'z'; 99]);
    assert_eq!(world.output, "");
    world.send(b"zRSET\r\n");
    assert!(world.output.starts_with("552 5.3.4"), "{}", world.output);
    assert!(world.output.ends_with("250 2.0.0 Ok\r\n") && world.session.content_held() == 0);
    let mut world = ready("");
    world.send(b"BDAT 18446744073709551615 LAST\r\n");
    assert!(world.output.starts_with("421 4.3.4") && world.closed);
}

#[test]
fn chunks_refused_by_the_service() {
    let mut world = ready("");
    world.send(b"BDAT 10\r\n12345");
    assert!(world.session.content_held() > 0 && world.session.is_receiving());
    world.session.refuse_content(smtp::Reply::new(452, (4, 3, 1), "no room"));
    assert_eq!(world.session.content_held(), 0);
    world.send(b"67890BDAT 2 LAST\r\n\r\n");
    assert_eq!(world.output.lines().map(|l| &l[..3]).collect::<Vec<_>>(), ["452", "503"]);
}

#[test]
fn binary_content_needs_chunks_and_may_hold_anything() {
    let mut world = ready(" BODY=BINARYMIME").play(
        "
        C: DATA
        S: 503 5.5.1…
    ",
    );
    let content: Vec<u8> = (0..=255).chain(*b"\n.\n\r.\r").collect();
    world.send(&[b"BDAT 262 LAST\r\n", &content[..]].concat());
    assert_eq!(world.output, "250 2.0.0 Ok: queued as QID\r\n");
    assert_eq!(world.messages, [content]);
    assert!(is_binary([&world.messages[0][..]]) && world.mail.unwrap().binary);
}

#[test]
fn long_lines_are_refused_in_data_too() {
    let mut world = ready("").play(
        "
        C: DATA
        S: 354…
    ",
    );
    world.send(&[&[b'x'; 999][..], b"\r\n.\r\n"].concat());
    assert_eq!(world.output, "554 5.6.0 Line longer than 998 octets\r\n");
    assert_eq!(world.session.take_refusals(), ["long_line"]);
}

#[test]
fn requiretls_is_kept_and_needs_tls() {
    assert!(ready(" REQUIRETLS").mail.unwrap().require_tls);
    mx().play(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<a@client.example> REQUIRETLS
        S: 530 5.7.10 REQUIRETLS needs TLS…
        C: MAIL FROM:<a@client.example> REQUIRETLS=1
        S: 501 5.5.4…
    ",
    );
}

#[test]
fn messages_are_held_as_long_as_allowed() {
    let offer = Config { max_hold: Some(3600), ..config() };
    let mut held = world(offer, true);
    held.session.set_now(1_793_527_200);
    let held = held.play(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<a@client.example> HOLDFOR=3601
        S: 501 5.5.4 Messages are held for at most 3600 seconds
        C: MAIL FROM:<a@client.example> HOLDUNTIL=2026-11-01T11:00:01Z
        S: 501 5.5.4…
        C: MAIL FROM:<a@client.example> HOLDUNTIL=2026-11-01T11:00:00Z
        S: 250 2.1.0 Ok
        C: RSET
        S: 250…
        C: MAIL FROM:<a@client.example> HOLDFOR=60
        S: 250 2.1.0 Ok
    ",
    );
    assert_eq!(held.mail.unwrap().hold, Some(Hold::For(60)));
    assert_eq!((Hold::For(60).seconds(5), Hold::Until(7).seconds(5), Hold::Until(3).seconds(5)), (60, 2, 0));
    // Where it is not offered it is no parameter.
    mx().play(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<a@client.example> HOLDFOR=60
        S: 555 5.5.4…
    ",
    );
}

#[test]
fn priorities_where_they_are_offered() {
    let offered = world(Config { priorities: true, ..config() }, true).play(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<a@client.example> MT-PRIORITY=10
        S: 501 5.5.4…
        C: MAIL FROM:<a@client.example> MT-PRIORITY=-4
        S: 250 2.1.0 Ok
    ",
    );
    assert_eq!(offered.mail.unwrap().priority, Some(-4));
    mx().play(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<a@client.example> MT-PRIORITY=1
        S: 555 5.5.4…
    ",
    );
}

#[test]
fn dsn_parameters_are_kept() {
    let mail = ready(" RET=HDRS ENVID=QQ+2B314").mail.unwrap();
    assert_eq!((mail.ret.as_str(), mail.envid.as_str()), ("HDRS", "QQ+2B314"));
    ready("").play(
        "
        C: RCPT TO:<c@mx.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c@mx.example
        S: 250 2.1.5 Ok
        C: RCPT TO:<d@mx.example> NOTIFY=NEVER,FAILURE
        S: 501 5.5.4…
    ",
    );
}

#[test]
fn limits_are_what_was_said() {
    world(Config { max_transactions: 2, ..config() }, true).play(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<a@client.example>
        S: 250…
        C: RSET
        S: 250…
        C: MAIL FROM:<a@client.example>
        S: 250…
        C: RSET
        S: 250…
        C: MAIL FROM:<a@client.example>
        S: 421 4.7.0 Too many messages in one session
    ",
    );
}

#[test]
fn the_null_reverse_path_goes_to_one() {
    let mut world = mx().play(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<>
        S: 250…
        C: RCPT TO:<nobody@mx.example>
        S: 550 5.1.1…
        C: RCPT TO:<b@mx.example>
        S: 250 2.1.5…
        C: RCPT TO:<c@mx.example>
        S: 452 4.5.3 Null reverse-path: one recipient at a time
        C: DATA
        S: 354…
    ",
    );
    assert_eq!(world.session.take_refusals(), ["null_sender_to_many"]);
}

#[test]
fn who_talks_before_his_turn_is_cut_where_that_is_wanted() {
    let strict = || world(Config { refuse_early: true, ..config() }, false);
    strict().play(
        "
        S: 220…
        C: EHLO client.example
        C+ MAIL FROM:<a@client.example>
        S: 554 5.5.0 Wait for the reply before you go on
    ",
    );
    let world = strict().play(
        "
        S: 220…
        C: EHLO client.example
        S* 250
        C: MAIL FROM:<a@client.example>
        C+ RCPT TO:<b@mx.example>
        C+ DATA
        S: 250…
        S: 250…
        S: 354…
        C: text
        C+ .
        S: 250 2.0.0…
        C: MAIL FROM:<a@client.example>
        C+ RCPT TO:<b@mx.example>
        C+ DATA
        C+ Subject: too early
        S: 250…
        S: 250…
        S: 554 5.5.0…
    ",
    );
    assert!(world.closed && world.messages.len() == 1);
}

#[test]
fn vrfy_expn_and_help() {
    submission().play(
        "
        S: 220…
        C: VRFY alice
        S: 252 2.5.2 Cannot verify, try RCPT
        C: VRFY
        S: 501 5.5.4…
        C: EXPN everybody
        S: 502 5.7.0 Lists are not shown
        C: HELP
        S: 214-2.0.0 Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT
        S: 214-2.0.0 STARTTLS AUTH VRFY HELP
        S: 214 2.0.0 See RFC 5321, and RFC 6409 for submission
    ",
    );
}
