//! The server's side of SMTP.

use std::sync::Arc;

use bytes::BytesMut;
use smtp::{
    Reply,
    server::{Command, Config, Effect, Session, is_binary},
};

use super::generator::Generator;

const MAX_MESSAGE: u64 = 4_000;

/// What came of a dialogue.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    replies: Vec<u8>,
    messages: Vec<Vec<u8>>,
    is_closed: bool,
}

fn config(submits: bool) -> Config {
    let mechanisms = if submits { vec!["SCRAM-SHA-256", "PLAIN", "LOGIN"] } else { Vec::new() };
    // Without STARTTLS: what stands behind that in the same read is thrown away, by intent.
    Config {
        mechanisms,
        max_message_size: MAX_MESSAGE,
        max_errors: 50,
        max_recipients: 5,
        max_hold: Some(100),
        priorities: submits,
        ..Config::default()
    }
}

/// A server that says yes to most, by a rule of its own and not by chance.
fn play(config: Config, pieces: &[&[u8]]) -> Outcome {
    let mut session = Session::new(Arc::new(config), true);
    let mut outcome = Outcome { replies: Vec::new(), messages: Vec::new(), is_closed: false };
    let mut input = BytesMut::new();
    // What is expected to be asked for next, not more: a real caller reads as told.
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match session.next(&mut input) {
                Effect::Read => break,
                Effect::Write(bytes) => outcome.replies.extend(bytes),
                Effect::StartTls => session.tls_started(),
                Effect::Authenticate { mechanism, initial } => match initial {
                    Some(_) if mechanism == "PLAIN" => session.auth_succeeded(),
                    _ => session.auth_challenge(b"more"),
                },
                Effect::AuthResponse(response) if response.len() > 10 => session.auth_succeeded(),
                Effect::AuthResponse(_) => session.auth_failed(Reply::new(535, (5, 7, 8), "no")),
                Effect::AuthAborted => {}
                Effect::Sender(mail) if mail.size == Some(1) => {
                    session.sender_refused(Reply::new(550, (5, 7, 1), "no"))
                }
                Effect::Sender(_) => session.sender_accepted(),
                Effect::Recipient(rcpt) if rcpt.address.is_none() => {
                    session.recipient_refused(Reply::new(550, (5, 1, 1), "no"));
                }
                Effect::Recipient(_) => session.recipient_accepted(),
                Effect::Message(content) => {
                    let content = content.concat();
                    assert!(content.len() as u64 <= MAX_MESSAGE, "the limit holds");
                    outcome.messages.push(content);
                    session.committed("QID");
                }
                Effect::Close => {
                    outcome.is_closed = true;
                    return outcome;
                }
            }
        }
        assert!(
            session.content_held() < 4 * usize::try_from(MAX_MESSAGE).unwrap_or_default() + 8192,
            "memory is bounded"
        );
        assert!(input.len() <= 12_288, "input is bounded");
        session.take_refusals();
    }
    outcome
}

/// However the octets arrive, the outcome is one.
pub fn session(generator: &mut Generator, input: &[u8]) {
    let submits = generator.below(2) == 0;
    // In pieces of some kilobytes, as a socket gives them, and in small ones.
    let large: Vec<&[u8]> = input.chunks(4_096).collect();
    let whole = play(config(submits), &large);
    let pieces = generator.pieces(input);
    assert_eq!(whole, play(config(submits), &pieces));
    let text = String::from_utf8(whole.replies).expect("replies are ASCII");
    assert!(text.is_ascii() && text.split_terminator("\r\n").all(|l| l.len() < 520 && !l.contains(['\r', '\n'])));
    assert_eq!(text.matches("queued as QID").count(), whole.messages.len(), "a 250 for a message, each");
}

const OPENING: &[u8] = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n";

/// An oracle that searches the text as a whole agrees on what the message is, whatever stands in it.
pub fn end_of_data(generator: &mut Generator, _: &[u8]) {
    let content = generator.octets_of(b"\r\n.\r\n.ab\0", 60);
    let dialogue = [OPENING, b"DATA\r\n", &content, b"\r\n.\r\nNOOP\r\n"].concat();
    let pieces = generator.pieces(&dialogue);
    let outcome = play(config(false), &pieces);
    // The end: a line of a single dot, and only CRLF makes lines.
    let stream = [&b"\r\n"[..], &content, b"\r\n.\r\n"].concat();
    let end = stream.windows(5).position(|w| w == b"\r\n.\r\n").expect("it ends");
    let text = &stream[2.min(end + 2)..(end + 2).max(2)];
    let is_fine = !is_binary([text]) && !text.contains(&0);
    if is_fine {
        let lines = text.split(|b| *b == b'\n').map(|line| line.strip_prefix(b".").unwrap_or(line));
        let plain = lines.collect::<Vec<_>>().join(&b'\n');
        assert_eq!(outcome.messages.first(), Some(&plain), "{}", content.escape_ascii());
    } else {
        let replies = String::from_utf8_lossy(&outcome.replies).into_owned();
        assert!(replies.contains("\r\n554 5.6.0 "), "{} {replies}", content.escape_ascii());
        assert!(outcome.messages.is_empty(), "{}", content.escape_ascii());
    }
}

/// Chunks arrive as they are, or not at all.
pub fn chunks(generator: &mut Generator, _: &[u8]) {
    let binary = generator.below(2) == 0;
    let content = generator.octets_of(b"\r\n\r\n.\0abc", 80);
    let mail: &[u8] =
        if binary { b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n" } else { b"MAIL FROM:<a@b.example>\r\n" };
    let mut dialogue = [b"EHLO x\r\n", mail, b"RCPT TO:<c@d.example>\r\n"].concat();
    for chunk in generator.pieces(&content) {
        dialogue.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        dialogue.extend_from_slice(chunk);
    }
    dialogue.extend_from_slice(b"BDAT 0 LAST\r\nNOOP\r\n");
    let pieces = generator.pieces(&dialogue);
    let outcome = play(config(false), &pieces);
    let is_fine = binary || !is_binary([&content[..]]);
    assert_eq!(outcome.messages, if is_fine { vec![content] } else { Vec::new() });
    assert!(outcome.replies.ends_with(b"250 2.0.0 Ok\r\n"), "commands go on behind the chunks");
}

pub fn commands(_: &mut Generator, input: &[u8]) {
    for line in input.split(|b| *b == b'\n').take(200) {
        let _ = Command::parse(line);
        let _ = Command::parse(&[b"MAIL FROM:<a@b.example> ", line].concat());
        let _ = Command::parse(&[b"RCPT TO:", line].concat());
        if let Ok(text) = std::str::from_utf8(line) {
            let _ = text.parse::<smtp::EnhancedCode>();
            if let Ok(address) = text.parse::<address::Address>() {
                let again = address.to_string().parse::<address::Address>();
                assert_eq!(again.as_ref(), Ok(&address), "an address is written as it is read");
            }
        }
    }
}
