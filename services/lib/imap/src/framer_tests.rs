use super::*;
use crate::AppendItem;

/// Everything the framer finds in `input`, fed in pieces of `step` octets; messages are accepted.
fn found(input: &[u8], step: usize) -> Vec<Framed> {
    let mut framer = Framer::default();
    let mut out: Vec<Framed> = Vec::new();
    for piece in input.chunks(step) {
        framer.feed(piece);
        loop {
            match framer.poll() {
                Framed::NeedMore => break,
                Framed::Data(more) => match out.last_mut() {
                    Some(Framed::Data(data)) => data.extend(more),
                    _ => out.push(Framed::Data(more)),
                },
                Framed::Fatal => {
                    out.push(Framed::Fatal);
                    return out;
                }
                event => {
                    if matches!(event, Framed::Append { .. } | Framed::AppendNext { .. }) {
                        framer.accept();
                    }
                    out.push(event);
                }
            }
        }
    }
    out
}

fn command(text: &str) -> Framed {
    Framed::Command(text.as_bytes().to_vec())
}

#[test]
fn commands_and_literals_in_any_pieces() {
    let input = b"a NOOP\r\nb LOGIN {5}\r\nalice {6+}\r\n1\r\n}\"3\r\nc NOOP\n";
    for step in [1, 2, 3, 7, 1000] {
        assert_eq!(
            found(input, step),
            [command("a NOOP"), Framed::Continue, command("b LOGIN {5}\r\nalice {6+}\r\n1\r\n}\"3"), command("c NOOP")],
            "{step}"
        );
    }
    assert_eq!(found(b"a LOGIN {0+}\r\n {0}\r\n\r\n", 3), [Framed::Continue, command("a LOGIN {0+}\r\n {0}\r\n")]);
}

#[test]
fn a_message_is_handed_on() {
    let head = AppendHead {
        tag: "a".into(),
        mailbox: "Sent".into(),
        replaces: None,
        pieces: vec![AppendPiece::Message(AppendItem {
            flags: crate::Flags { system: crate::Flags::SEEN, keywords: vec![] },
            internal_date_ms: Some(0),
            utf8: false,
        })],
    };
    let input = b"a APPEND {4+}\r\nSent (\\Seen) \"01-Jan-1970 00:00:00 +0000\" {7}\r\nx: \r\n{9\r\nb NOOP\r\n";
    for step in [1, 5, 1000] {
        assert_eq!(
            found(input, step),
            [
                Framed::Append { head: head.clone(), size: 7, sync: true },
                Framed::Data(b"x: \r\n{9".to_vec()),
                Framed::AppendEnd(Ok(vec![])),
                command("b NOOP")
            ]
        );
    }
    let more = found(b"a APPEND x ~{1+}\r\nA nonsense {3+}\r\nabc\r\nb NOOP\r\n", 4);
    assert!(matches!(more[0], Framed::Append { size: 1, sync: false, .. }));
    assert!(matches!(&more[2..], [Framed::AppendEnd(Err(_)), Framed::Command(c)] if c == b"b NOOP"));
}

#[test]
fn several_messages_in_one_append() {
    let input = b"a UID REPLACE 7 x UTF8 (~{1+}\r\nA) (\\Seen) {1+}\r\nB UTF8 (~{2}\r\nCC)\r\nb NOOP\r\n";
    for step in [1, 6, 1000] {
        let all = found(input, step);
        let Framed::Append { head, .. } = &all[0] else { panic!("{all:?}") };
        let item = |pieces: &[AppendPiece]| match pieces {
            [AppendPiece::Message(item)] => item.clone(),
            other => panic!("{other:?}"),
        };
        assert!(head.replaces.as_ref().is_some_and(|(_, uid)| *uid) && item(&head.pieces).utf8);
        assert!(matches!(&all[2], Framed::AppendNext { pieces, sync: false, .. } if item(pieces).flags.system == 1));
        assert!(matches!(&all[4], Framed::AppendNext { pieces, size: 2, sync: true } if item(pieces).utf8));
        assert_eq!(&all[6..], [Framed::AppendEnd(Ok(vec![])), command("b NOOP")]);
    }
    let unclosed = found(b"a APPEND x UTF8 (~{1+}\r\nA\r\nb NOOP\r\n", 9);
    assert!(matches!(&unclosed[2..], [Framed::AppendEnd(Err(_)), Framed::Command(_)]), "{unclosed:?}");
}

#[test]
fn a_catenated_message_has_several_literals() {
    let input = b"a APPEND x CATENATE (URL \"/u\" TEXT {1+}\r\nA URL v TEXT ~{2}\r\nBB URL w) {1+}\r\nC\r\nb NOOP\r\n";
    for step in [1, 8, 1000] {
        let all = found(input, step);
        assert!(matches!(&all[0], Framed::Append { head, .. } if head.pieces.len() == 2));
        assert!(
            matches!(&all[2], Framed::AppendNext { pieces, size: 2, sync: true } if pieces == &[AppendPiece::Url("v".into())])
        );
        assert!(matches!(&all[4], Framed::AppendNext { pieces, size: 1, .. } if pieces.len() == 2), "{all:?}");
        assert_eq!(&all[6..], [Framed::AppendEnd(Ok(vec![])), command("b NOOP")]);
    }
    let mut framer = Framer::default();
    assert!(framer.is_between());
    framer.feed(b"a APPEND x CATENATE (TEXT {1+}\r\n");
    assert!(!framer.is_between());
}

#[test]
fn a_refused_message_is_passed_over() {
    let mut framer = Framer::default();
    framer.feed(b"a APPEND x {5+}\r\nhel");
    assert!(matches!(framer.poll(), Framed::Append { .. }));
    assert!(framer.refuse());
    assert_eq!(framer.poll(), Framed::NeedMore);
    framer.feed(b"lo\r\nb NOOP\r\n");
    assert_eq!(framer.poll(), command("b NOOP"));
    framer.feed(b"c APPEND x {2147483648}\r\n");
    assert!(matches!(framer.poll(), Framed::Append { size: 2_147_483_648, sync: true, .. }));
    assert!(framer.refuse(), "the client waits and sends nothing");
    framer.feed(b"d NOOP\r\n");
    assert_eq!(framer.poll(), command("d NOOP"));
    framer.feed(b"e APPEND x {2147483648+}\r\n");
    assert!(matches!(framer.poll(), Framed::Append { .. }));
    assert!(!framer.refuse(), "nobody reads 2 GB for nothing");
}

#[test]
fn large_literals_are_refused_before_they_come() {
    let too_large = |tag: &str| Framed::TooLarge { tag: Some(tag.to_owned()) };
    assert_eq!(found(b"a LOGIN {2147483648}\r\nb NOOP\r\n", 9), [too_large("a"), command("b NOOP")]);
    assert_eq!(found(b"a LOGIN {99999999999999999999999}\r\nb NOOP\r\n", 9), [too_large("a"), command("b NOOP")]);
    assert_eq!(found(b"a LOGIN {99999999999999999999999+}\r\n", 9), [Framed::Fatal]);
    let mut input = b"a LOGIN {70000+}\r\n".to_vec();
    input.extend([b'x'; 70_000]);
    input.extend(b" more {2+}\r\nxy\r\nb NOOP\r\n");
    assert_eq!(found(&input, 1000), [too_large("a"), command("b NOOP")]);
}

#[test]
fn many_literals_are_bounded_together() {
    let mut input = b"a SEARCH".to_vec();
    for _ in 0..5 {
        input.extend(b" TEXT {60000}\r\n");
        input.extend([b'x'; 60_000]);
    }
    let all = found(&input, 4096);
    assert!(all.contains(&Framed::TooLarge { tag: Some("a".to_owned()) }));
}

#[test]
fn long_lines_are_refused() {
    let mut input = b"a NOOP ".to_vec();
    input.extend(vec![b'x'; MAX_COMMAND * 3]);
    input.extend(b"\r\nb NOOP\r\n");
    for step in [1000, 10_000_000] {
        assert_eq!(found(&input, step), [Framed::TooLarge { tag: Some("a".to_owned()) }, command("b NOOP")]);
    }
}

#[test]
fn lines_outside_of_commands() {
    let mut framer = Framer::default();
    framer.feed(b"DONE\r\nabc");
    assert_eq!(framer.poll_line(), Ok(Some(b"DONE".to_vec())));
    assert_eq!(framer.poll_line(), Ok(None));
    framer.discard();
    framer.feed(b"\r\n");
    assert_eq!(framer.poll_line(), Ok(Some(Vec::new())));
    framer.feed(&vec![b'x'; MAX_COMMAND + 1]);
    assert_eq!(framer.poll_line(), Err(LineTooLong));
}

#[test]
fn garbage_never_panics() {
    let words: [&[u8]; 16] = [
        b"a ",
        b"LOGIN ",
        b"APPEND ",
        b"x ",
        b"{3}\r\n",
        b"{3+}\r\n",
        b"\r\n",
        b"\n",
        b"\"",
        b"(\\Seen) ",
        b"~{2+}\r\n",
        b"}",
        b"{",
        b"\xff\x00",
        b"{99999999999999}\r\n",
        b"abc",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..3000 {
        let mut input = Vec::new();
        for _ in 0..40 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            input.extend_from_slice(words[(state % 16) as usize]);
        }
        let _ = found(&input, round % 7 + 1);
    }
}
