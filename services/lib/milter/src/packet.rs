//! Packets: a length of four octets, a command, its data.

use bytes::{Buf as _, BytesMut};

/// Octets of an answer. Sendmail's own limit is 64 kB of text; a header field is smaller.
const MAX_ANSWER: usize = 128 * 1024;

/// Why a filter is not listened to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("answer is too long")]
    TooLong,
    #[error("answer does not follow the protocol")]
    Malformed,
    #[error("filter wants what was not offered")]
    NotOffered,
    #[error("filter adds too many fields")]
    TooMuch,
}

/// A header field to add; its value has CRLF before each folded line, and none at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub value: String,
}

/// A no in the filter's words: `550 5.7.1 text`, 4yz or 5yz.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub code: u16,
    /// Of the same class as the code.
    pub enhanced: Option<(u8, u16, u16)>,
    pub text: String,
}

/// What a filter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// SMFIR_CONTINUE, and the end of the negotiation.
    Continue,
    /// SMFIR_ACCEPT: the filter wants to hear no more.
    Accept,
    /// SMFIR_SKIP: no more of the body.
    Skip,
    /// SMFIR_PROGRESS: be patient.
    Progress,
    /// SMFIR_REJECT.
    Reject,
    /// SMFIR_TEMPFAIL, SMFIR_SHUTDOWN, SMFIR_CONN_FAIL.
    TryLater,
    /// SMFIR_REPLYCODE.
    Reply(Rejection),
    /// SMFIR_DISCARD: take it and throw it away.
    Discard,
    /// SMFIR_ADDHEADER and SMFIR_INSHEADER.
    Add(Field),
    /// SMFIR_QUARANTINE, with the reason.
    Quarantine(String),
    /// SMFIC_OPTNEG: version, actions, steps that are not wanted.
    Options { version: u32, actions: u32, protocol: u32 },
}

/// Writes a packet.
pub fn write(out: &mut Vec<u8>, command: u8, data: &[&[u8]]) {
    let length = 1 + data.iter().map(|part| part.len()).sum::<usize>();
    // All that we write is bounded far below 4 GB.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.push(command);
    data.iter().for_each(|part| out.extend_from_slice(part));
}

/// The next answer in `input`; `None` when it is not complete.
pub fn read(input: &mut BytesMut) -> Result<Option<Answer>, Broken> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Broken::TooLong)?;
    match length {
        0 => return Err(Broken::Malformed),
        1..=MAX_ANSWER if rest.len() < length => return Ok(None),
        1..=MAX_ANSWER => {}
        _ => return Err(Broken::TooLong),
    }
    input.advance(4);
    let packet = input.split_to(length);
    let (command, data) = packet.split_first().ok_or(Broken::Malformed)?;
    parse(*command, data).map(Some)
}

fn parse(command: u8, data: &[u8]) -> Result<Answer, Broken> {
    Ok(match command {
        b'a' => Answer::Accept,
        b'c' => Answer::Continue,
        b'd' => Answer::Discard,
        b'f' | b't' | b'4' => Answer::TryLater,
        b'p' => Answer::Progress,
        b'r' => Answer::Reject,
        b's' => Answer::Skip,
        b'y' => Answer::Reply(rejection(data).ok_or(Broken::Malformed)?),
        b'h' => Answer::Add(field(data)?),
        // Where the filter wants it does not matter: it stands above what the client sent.
        b'i' => Answer::Add(field(data.get(4..).ok_or(Broken::Malformed)?)?),
        b'q' => {
            let text = data.strip_suffix(b"\0").unwrap_or(data);
            Answer::Quarantine(String::from_utf8_lossy(text).into_owned())
        }
        b'O' => {
            let (version, actions) = (number(data, 0)?, number(data, 4)?);
            Answer::Options { version, actions, protocol: number(data, 8)? }
        }
        // ADDRCPT, DELRCPT, CHGHEADER, CHGFROM, REPLBODY, …
        b'+' | b'2' | b'-' | b'm' | b'e' | b'b' | b'l' => return Err(Broken::NotOffered),
        _ => return Err(Broken::Malformed),
    })
}

fn number(data: &[u8], at: usize) -> Result<u32, Broken> {
    let octets = data.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Broken::Malformed)?;
    Ok(u32::from_be_bytes(*octets))
}

/// `550 5.7.1 text`, several lines become one; the enhanced code may be missing.
fn rejection(data: &[u8]) -> Option<Rejection> {
    let text = String::from_utf8_lossy(data.strip_suffix(b"\0").unwrap_or(data)).into_owned();
    let code = text.get(..3).filter(|c| c.bytes().all(|b| b.is_ascii_digit()))?.parse::<u16>().ok()?;
    if !(400..600).contains(&code) {
        return None;
    }
    let line = |line: &str| line.get(3..).unwrap_or_default().trim_start_matches(['-', ' ']).trim_end().to_owned();
    let mut lines = text.lines().map(line).map(|line| match line.split_once(' ') {
        Some((first, rest)) => enhanced(first, code).map_or((None, line.clone()), |e| (Some(e), rest.to_owned())),
        None => (None, line),
    });
    let (enhanced, mut text) = lines.next()?;
    lines.for_each(|(_, more)| {
        text.push(' ');
        text.push_str(&more);
    });
    Some(Rejection { code, enhanced, text })
}

fn enhanced(text: &str, code: u16) -> Option<(u8, u16, u16)> {
    let mut parts = text.split('.').map(|part| part.parse::<u16>().ok().filter(|n| *n < 1000));
    match (parts.next()??, parts.next()??, parts.next()??, parts.next()) {
        (class, subject, detail, None) if class == code / 100 => Some((u8::try_from(class).ok()?, subject, detail)),
        _ => None,
    }
}

/// `name NUL value NUL`. Whatever line ends the filter uses, only folding remains (RFC 5322 §2.2.3):
/// an added field is never two, nor the end of the header.
fn field(data: &[u8]) -> Result<Field, Broken> {
    let mut parts = data.split(|b| *b == 0);
    let (Some(name), Some(value), Some([])) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Broken::Malformed);
    };
    let is_name = !name.is_empty() && name.iter().all(|b| b.is_ascii_graphic() && *b != b':');
    let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
        return Err(Broken::Malformed);
    };
    if !is_name || parts.next().is_some() {
        return Err(Broken::Malformed);
    }
    let lines = value.split(['\r', '\n']).map(str::trim_end).filter(|line| !line.is_empty());
    let mut folded = String::with_capacity(value.len());
    for (number, line) in lines.enumerate() {
        let line: String = line.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
        match number {
            0 => folded.push_str(line.trim_start()),
            _ if line.starts_with([' ', '\t']) => folded.extend(["\r\n", line.as_str()]),
            _ => folded.extend(["\r\n\t", line.as_str()]),
        }
    }
    Ok(Field { name: name.to_owned(), value: folded })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(command: u8, data: &[u8]) -> Result<Option<Answer>, Broken> {
        let mut packet = Vec::new();
        write(&mut packet, command, &[data]);
        let mut input = BytesMut::new();
        for (n, octet) in packet.iter().enumerate() {
            input.extend_from_slice(&[*octet]);
            if n + 1 < packet.len() {
                assert_eq!(read(&mut input), Ok(None), "{n} octets of {}", packet.len());
            }
        }
        let answer = read(&mut input);
        assert!(answer.is_err() || input.is_empty());
        answer
    }

    #[test]
    fn replies_in_the_filters_words() {
        let reply =
            |code, enhanced, text: &str| Ok(Some(Answer::Reply(Rejection { code, enhanced, text: text.into() })));
        assert_eq!(answer(b'y', b"550 5.7.1 not here\0"), reply(550, Some((5, 7, 1)), "not here"));
        assert_eq!(answer(b'y', b"451 wait a bit"), reply(451, None, "wait a bit"));
        assert_eq!(answer(b'y', b"554 4.7.1 odd\0"), reply(554, None, "4.7.1 odd"));
        assert_eq!(answer(b'y', b"550-5.7.1 one\r\n550 5.7.1 two\0"), reply(550, Some((5, 7, 1)), "one two"));
        assert_eq!(answer(b'y', b"550\0"), reply(550, None, ""));
        for bad in [&b"250 fine\0"[..], b"55", b"abc\0", "55\u{e4}".as_bytes(), b""] {
            assert_eq!(answer(b'y', bad), Err(Broken::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn an_added_field_is_one_field() {
        let value = |data: &[u8]| match answer(b'h', data) {
            Ok(Some(Answer::Add(field))) => field.value,
            other => panic!("{other:?}"),
        };
        assert_eq!(value(b"X-A\0 b\0"), "b");
        assert_eq!(value(b"X-A\0one\n two\r\n\tthree\0"), "one\r\n two\r\n\tthree");
        assert_eq!(value(b"X-A\0one\nBcc: eve@x\n\n.\r\n\0"), "one\r\n\tBcc: eve@x\r\n\t.");
        assert_eq!(value(b"X-A\0\0"), "");
        assert_eq!(
            answer(b'i', b"\0\0\0\x01X\0y\0"),
            Ok(Some(Answer::Add(Field { name: "X".into(), value: "y".into() })))
        );
        for bad in [&b"X A\0b\0"[..], b"X:\0b\0", b"\0b\0", b"X\0b", b"X", b"X\0b\0c\0", b"X\0\xff\0", b"X\r\n\0y\0"] {
            assert_eq!(answer(b'h', bad), Err(Broken::Malformed), "{bad:?}");
        }
        assert_eq!(answer(b'i', b"\0\0"), Err(Broken::Malformed));
    }

    #[test]
    fn what_is_not_offered_or_not_known_ends_it() {
        for command in [b'+', b'-', b'm', b'e', b'b'] {
            assert_eq!(answer(command, b"x\0"), Err(Broken::NotOffered));
        }
        assert_eq!(answer(b'?', b""), Err(Broken::Malformed));
        assert_eq!(answer(b'O', b"\0\0\0\x06"), Err(Broken::Malformed));
        assert_eq!(read(&mut BytesMut::from(&b"\0\0\0\0"[..])), Err(Broken::Malformed));
        assert_eq!(read(&mut BytesMut::from(&b"\xff\xff\xff\xff"[..])), Err(Broken::TooLong));
    }
}
