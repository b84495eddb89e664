//! The client as transcripts. `C:` is what it must send, `S:` what the server answers.
#![allow(clippy::unwrap_used)]

use smtp::client::{Action, Client, Envelope, Failure, Outcome, Recipient, Stage, StartTls};

fn envelope(recipients: &[&str]) -> Envelope {
    let recipient = |path: &&str| Recipient { forward_path: (*path).into(), ..Default::default() };
    Envelope {
        reverse_path: "alice@sender.example".into(),
        recipients: recipients.iter().map(recipient).collect(),
        size: 7,
        ..Default::default()
    }
}

/// Plays `script` and returns what the client reported. `T:` lines are TLS handshakes.
fn play(mut client: Client, envelopes: Vec<Envelope>, script: &str) -> (Client, Vec<Vec<Outcome>>, Option<Failure>) {
    let mut envelopes = envelopes.into_iter();
    let mut script = script.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
    let (mut finished, mut failure) = (Vec::new(), None);
    let expect = |bytes: &[u8], script: &mut dyn Iterator<Item = &str>| {
        for line in String::from_utf8(bytes.to_vec()).unwrap().split_terminator("\r\n") {
            assert_eq!(script.next().unwrap(), format!("C: {line}"));
        }
    };
    for _ in 0..200 {
        match client.next() {
            Action::Write(bytes) => expect(&bytes, &mut script),
            Action::Read(_) => match script.next() {
                Some(line) => client.receive(
                    format!(
                        "{}\r\n",
                        line.strip_prefix("S: ").unwrap_or_else(|| panic!("client reads, script has {line}"))
                    )
                    .as_bytes(),
                ),
                None => client.fail(Failure::Closed),
            },
            Action::StartTls => {
                assert_eq!(script.next(), Some("T: handshake"));
                client.tls_started();
            }
            Action::Idle => match envelopes.next() {
                Some(envelope) => client.send(envelope),
                None => client.quit(),
            },
            Action::SendContent => {
                let mut out = Vec::new();
                client.encode(b"a\r\n.", &mut out);
                client.encode(b".\r\n", &mut out);
                client.end_of_content(&mut out);
                expect(&out, &mut script);
            }
            Action::Finished(outcomes) => finished.push(outcomes),
            Action::Failed(f) => failure = Some(f),
            Action::Close => {
                assert_eq!(script.next(), None, "script goes on");
                return (client, finished, failure);
            }
        }
    }
    panic!("the client runs in circles");
}

fn client() -> Client {
    Client::new("mx.sender.example", StartTls::Opportunistic)
}

#[test]
fn pipelined_with_every_extension_over_tls() {
    let mut mail = envelope(&["b@x.example", "nobody@x.example"]);
    mail.eight_bit = true;
    (mail.ret, mail.envid) = ("HDRS".into(), "QQ+2B".into());
    mail.recipients[0].notify = "SUCCESS,DELAY".into();
    mail.recipients[0].orcpt = "rfc822;b@x.example".into();
    let (client, finished, failure) = play(
        client(),
        vec![mail],
        "
        S: 220 mx.x.example ESMTP
        C: EHLO mx.sender.example
        S: 250-mx.x.example
        S: 250 STARTTLS
        C: STARTTLS
        S: 220 2.0.0 go
        T: handshake
        C: EHLO mx.sender.example
        S: 250-mx.x.example
        S: 250-PIPELINING
        S: 250-SIZE 1000
        S: 250-8BITMIME
        S: 250 DSN
        C: MAIL FROM:<alice@sender.example> SIZE=7 BODY=8BITMIME RET=HDRS ENVID=QQ+2B
        C: RCPT TO:<b@x.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@x.example
        C: RCPT TO:<nobody@x.example>
        C: DATA
        S: 250 2.1.0 ok
        S: 250 2.1.5 ok
        S: 550 5.1.1 no such user
        S: 354 go on
        C: a
        C: ...
        C: .
        S: 250 2.0.0 queued as 7
        C: QUIT
        S: 221 2.0.0 bye
    ",
    );
    assert_eq!(failure, None);
    assert!(client.is_encrypted());
    assert!(finished[0][0].is_accepted());
    assert!(finished[0][1].is_permanent());
    assert!(matches!(&finished[0][1], Outcome::Refused { stage: Stage::Rcpt, reply } if reply.code == 550));
    let transcript: Vec<_> = client.transcript().lines().collect();
    assert!(transcript.contains(&"C: [content of 7 octets]".into()) && !transcript.contains(&"C: a".into()));
}

#[test]
fn plain_old_server_one_command_at_a_time_two_messages() {
    let (_, finished, failure) = play(
        client(),
        vec![envelope(&["a@x.example", "b@x.example"]), envelope(&["c@x.example"])],
        "
        S: 220 old
        C: EHLO mx.sender.example
        S: 502 what?
        C: HELO mx.sender.example
        S: 250 old
        C: MAIL FROM:<alice@sender.example>
        S: 250 ok
        C: RCPT TO:<a@x.example>
        S: 451 4.2.0 greylisted
        C: RCPT TO:<b@x.example>
        S: 450 later
        C: RSET
        S: 250 ok
        C: MAIL FROM:<alice@sender.example>
        S: 250 ok
        C: RCPT TO:<c@x.example>
        S: 250 ok
        C: DATA
        S: 354 go
        C: a
        C: ...
        C: .
        S: 554 5.7.1 spam
        C: QUIT
        S: 221 bye
    ",
    );
    assert_eq!(failure, None);
    assert!(finished[0].iter().all(|o| !o.is_accepted() && !o.is_permanent()));
    assert!(matches!(&finished[1][0], Outcome::Refused { stage: Stage::Content, reply } if reply.is_permanent()));
}

#[test]
fn mail_refused_while_pipelining() {
    let (_, finished, _) = play(
        client(),
        vec![envelope(&["a@x.example", "b@x.example"])],
        "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 PIPELINING
        C: MAIL FROM:<alice@sender.example>
        C: RCPT TO:<a@x.example>
        C: RCPT TO:<b@x.example>
        C: DATA
        S: 550 5.7.1 not you
        S: 503 5.5.1 need MAIL
        S: 503 5.5.1 need MAIL
        S: 503 5.5.1 need RCPT
        C: RSET
        S: 250 ok
        C: QUIT
        S: 221 bye
    ",
    );
    assert!(finished[0].iter().all(|o| matches!(o, Outcome::Refused { stage: Stage::Mail, .. })));
}

const PIPELINING: &str = "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 PIPELINING
        C: MAIL FROM:<alice@sender.example>
        C: RCPT TO:<a@x.example>
        C: DATA
        S: 250 2.1.0 ok
    ";

/// RFC 2920 §3.1: a server that wants content for nobody gets an empty one, and its answer,
/// whatever it is, says nothing.
#[test]
fn a_server_that_waits_for_content_without_recipients() {
    for answer in ["554 5.5.1 no valid recipients", "250 2.0.0 thanks for nothing"] {
        let script = format!(
            "{PIPELINING}
        S: 550 5.1.1 nobody
        S: 354 go
        C: .
        S: {answer}
        C: MAIL FROM:<alice@sender.example>
        C: RCPT TO:<b@x.example>
        C: DATA
        S: 250 2.1.0 ok
        S: 250 2.1.5 ok
        S: 354 go
        C: a
        C: ...
        C: .
        S: 250 2.0.0 taken
        C: QUIT
        S: 221 bye"
        );
        let mails = vec![envelope(&["a@x.example"]), envelope(&["b@x.example"])];
        let (_, finished, failure) = play(client(), mails, &script);
        assert_eq!(failure, None);
        assert!(matches!(&finished[0][0], Outcome::Refused { stage: Stage::Rcpt, reply } if reply.code == 550));
        assert!(finished[1][0].is_accepted());
    }
}

#[test]
fn data_refused_in_the_group_is_refused_for_whom_was_accepted() {
    let script = format!("{PIPELINING} S: 250 2.1.5 ok\nS: 451 4.3.0 later\nC: RSET\nS: 250 ok\nC: QUIT\nS: 221 bye");
    let (_, finished, _) = play(client(), vec![envelope(&["a@x.example"])], &script);
    assert!(matches!(&finished[0][0], Outcome::Refused { stage: Stage::Data, reply } if reply.code == 451));
    let script = format!("{PIPELINING} S: 250 2.1.5 ok\nS: 421 4.3.2 going");
    let (_, finished, _) = play(client(), vec![envelope(&["a@x.example"])], &script);
    assert!(matches!(&finished[0][0], Outcome::Refused { stage: Stage::Data, reply } if reply.code == 421));
}

#[test]
fn lost_after_the_final_dot_is_no_acceptance() {
    let (_, finished, failure) = play(
        client(),
        vec![envelope(&["a@x.example", "b@x.example"])],
        "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250 x
        C: MAIL FROM:<alice@sender.example>
        S: 250 ok
        C: RCPT TO:<a@x.example>
        S: 550 5.1.1 no
        C: RCPT TO:<b@x.example>
        S: 250 ok
        C: DATA
        S: 354 go
        C: a
        C: ...
        C: .
    ",
    );
    assert_eq!(failure, None);
    assert!(finished[0][0].is_permanent(), "a refusal given before stays");
    assert_eq!(finished[0][1], Outcome::Failed(Failure::Closed));
    assert!(!finished[0][1].is_permanent());
}

#[test]
fn a_421_ends_the_connection_with_its_reply() {
    let (_, finished, _) = play(
        client(),
        vec![envelope(&["a@x.example"])],
        "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250 x
        C: MAIL FROM:<alice@sender.example>
        S: 421 4.3.2 going down
    ",
    );
    assert_eq!(finished[0][0].reply().unwrap().to_string(), "421 4.3.2 going down");
    let (_, _, failure) = play(
        client(),
        vec![],
        "
        S: 554 5.7.1 go away
    ",
    );
    assert!(failure.unwrap().is_permanent());
}

#[test]
fn required_tls_is_not_talked_away() {
    let required = || Client::new("mx.sender.example", StartTls::Required);
    let (_, _, failure) = play(
        required(),
        vec![],
        "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250 x
    ",
    );
    assert_eq!(failure, Some(Failure::NoTls));
    let (_, _, failure) = play(
        required(),
        vec![],
        "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 STARTTLS
        C: STARTTLS
        S: 454 4.7.0 not now
    ",
    );
    assert!(matches!(failure, Some(Failure::Refused { stage: Stage::StartTls, .. })));
}

#[test]
fn plain_text_behind_starttls_is_an_injection() {
    let mut client = client();
    client.receive(b"220 x\r\n");
    assert!(matches!(client.next(), Action::Write(_)));
    client.receive(b"250-x\r\n250 STARTTLS\r\n");
    assert_eq!(client.next(), Action::Write(b"STARTTLS\r\n".to_vec()));
    client.receive(b"220 go\r\n250-evil\r\n");
    assert_eq!(client.next(), Action::Failed(Failure::Injection));
    assert_eq!(client.next(), Action::Close);
}

#[test]
fn unsendable_messages_end_without_a_command() {
    let mut large = envelope(&["a@x.example"]);
    large.size = 11;
    let utf8 = envelope(&["jörg@x.example"]);
    let evil = envelope(&["a@x.example>\r\nRCPT TO:<b@x.example"]);
    let (_, finished, _) = play(
        client(),
        vec![large, utf8, evil],
        "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 SIZE 10
        C: QUIT
        S: 221 bye
    ",
    );
    let expected = [Failure::TooLarge { limit: 10 }, Failure::NeedsSmtputf8, Failure::UnsendableAddress];
    for (outcomes, failure) in finished.into_iter().zip(expected) {
        assert_eq!(outcomes, [Outcome::Failed(failure)]);
    }
}

#[test]
fn garbage_never_panics() {
    let mut seed = 7u64;
    for _ in 0..2000 {
        let mut client = client();
        for _ in 0..30 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let answers: [&[u8]; 10] = [
                b"250 ok\r\n",
                b"220 x\r\n",
                b"354 go\r\n",
                b"250-x\r\n",
                b"550 5.1.1 no\r\n",
                b"\r\n",
                b"421 x\r\n",
                b"250 STARTTLS\r\n",
                b"\xff\0",
                b"250-PIPELINING\r\n",
            ];
            match client.next() {
                Action::Idle => client.send(envelope(&["a@x.example", "b@x.example"])),
                Action::StartTls => client.tls_started(),
                Action::SendContent => client.end_of_content(&mut Vec::new()),
                Action::Finished(outcomes) => assert_eq!(outcomes.len(), 2),
                Action::Close => break,
                _ => client.receive(answers[(seed >> 33) as usize % answers.len()]),
            }
        }
    }
}

#[test]
fn bdat_where_it_is_offered() {
    let opening = "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250-PIPELINING
        S: 250 CHUNKING
        C: MAIL FROM:<alice@sender.example>
        C: RCPT TO:<b@x.example>
        S: 250 ok
        S: 250 ok
        C: BDAT 7 LAST
        C: a
        C: ..
        ";
    let script = format!("{opening}S: 250 2.0.0 taken\n C: QUIT\n S: 221 bye");
    let (_, finished, _) = play(client(), vec![envelope(&["b@x.example"])], &script);
    assert!(finished[0][0].is_accepted());
    let script = format!("{opening}S: 552 5.3.4 too big\n C: QUIT\n S: 221 bye");
    let (_, finished, _) = play(client(), vec![envelope(&["b@x.example"])], &script);
    assert!(finished[0][0].is_permanent());
}

#[test]
fn a_refused_chunk_ends_the_connection() {
    let mut client = client();
    client.next();
    client.receive(b"220 x\r\n250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    client.next();
    client.send(envelope(&["b@x.example"]));
    client.next();
    client.receive(b"250 ok\r\n250 ok\r\n");
    assert_eq!(client.next(), Action::SendContent);
    let mut out = Vec::new();
    for _ in 0..3 {
        client.encode(&[b'x'; 70_000], &mut out);
    }
    assert!(out.starts_with(b"BDAT 70000\r\nxxx"));
    client.receive(b"250 one\r\n");
    assert!(client.is_sending());
    client.receive(b"552 5.3.4 enough\r\n");
    assert!(!client.is_sending());
    let Action::Finished(outcomes) = client.next() else { panic!() };
    assert!(outcomes[0].is_permanent());
    assert_eq!(client.next(), Action::Close);
}

#[test]
fn credentials_go_over_tls_only_and_into_no_transcript() {
    let credentials = smtp::client::Credentials { user: "u".into(), password: "p".into() };
    let script = "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 STARTTLS
        C: STARTTLS
        S: 220 go
        T: handshake
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 AUTH LOGIN
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: dQ==
        S: 334 UGFzc3dvcmQ6
        C: cA==
        S: 235 welcome
        C: QUIT
        S: 221 bye";
    let (client, _, failure) = play(client().with_credentials(&credentials), vec![], script);
    assert_eq!(failure, None);
    assert!(client.transcript().lines().all(|l| !l.contains("dQ==") && !l.contains("cA==")));
    let clear = "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 AUTH PLAIN";
    let (_, _, failure) = play(self::client().with_credentials(&credentials), vec![], clear);
    assert_eq!(failure, Some(Failure::NoAuth));
}

#[test]
fn requiretls_is_asked_of_servers_that_have_it_only() {
    let mail = || Envelope { require_tls: true, ..envelope(&["b@x.example"]) };
    let script = "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 STARTTLS
        C: STARTTLS
        S: 220 go
        T: handshake
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 REQUIRETLS
        C: MAIL FROM:<alice@sender.example> REQUIRETLS
        S: 550 no
        C: RSET
        S: 250 ok
        C: QUIT
        S: 221 bye";
    play(client(), vec![mail()], script);
    let without = "
        S: 220 x
        C: EHLO mx.sender.example
        S: 250-x
        S: 250 REQUIRETLS
        C: QUIT
        S: 221 bye";
    let (_, finished, _) = play(client(), vec![mail()], without);
    assert_eq!(finished[0][0], Outcome::Failed(Failure::NeedsRequireTls));
}
