//! Decoding for people and for SEARCH: encoded words (RFC 2047), transfer encodings (RFC 2045 §6)
//! and the charsets that need no table. What cannot be decoded stays readable, with `�` for the rest.

use std::borrow::Cow;

use crate::header::unfold;

/// A header value with its encoded words decoded, unfolded.
pub fn decode_words(value: &[u8]) -> String {
    let text = unfold(value);
    let mut out = String::new();
    let mut rest: &[u8] = &text;
    let mut after_word = false;
    while let Some(at) = memchr::memmem::find(rest, b"=?") {
        let (before, tail) = rest.split_at(at);
        // Blanks between two encoded words are not there (RFC 2047 §6.2).
        let Some((decoded, len)) = encoded_word(tail) else {
            out.push_str(&charset_to_utf8(before, b"utf-8"));
            out.push_str("=?");
            rest = &tail[2..];
            after_word = false;
            continue;
        };
        if !(after_word && before.iter().all(u8::is_ascii_whitespace)) {
            out.push_str(&charset_to_utf8(before, b"utf-8"));
        }
        out.push_str(&decoded);
        after_word = true;
        rest = &tail[len..];
    }
    out.push_str(&charset_to_utf8(rest, b"utf-8"));
    out
}

/// Decodes the `=?charset?encoding?text?=` that `text` begins with; also its length.
fn encoded_word(text: &[u8]) -> Option<(String, usize)> {
    let inner = text.strip_prefix(b"=?")?;
    let charset_len = memchr::memchr(b'?', inner)?;
    let charset = inner[..charset_len].split(|b| *b == b'*').next()?;
    let encoding = *inner.get(charset_len + 1)?;
    if inner.get(charset_len + 2) != Some(&b'?') || charset.is_empty() {
        return None;
    }
    let payload = &inner[charset_len + 3..];
    let len = memchr::memmem::find(payload, b"?=")?;
    let payload = &payload[..len];
    if payload.iter().any(u8::is_ascii_whitespace) && !encoding.eq_ignore_ascii_case(&b'q') {
        return None;
    }
    let bytes = match encoding.to_ascii_lowercase() {
        b'b' => decode_base64(payload),
        b'q' => {
            let spaced: Vec<u8> = payload.iter().map(|b| if *b == b'_' { b' ' } else { *b }).collect();
            decode_quoted_printable(&spaced)
        }
        _ => return None,
    };
    Some((charset_to_utf8(&bytes, charset).into_owned(), 2 + charset_len + 3 + len + 2))
}

/// The octets behind a Content-Transfer-Encoding. An unknown one is taken as none.
pub fn decode_transfer<'a>(body: &'a [u8], encoding: Option<&[u8]>) -> Cow<'a, [u8]> {
    match encoding {
        Some(e) if e.eq_ignore_ascii_case(b"base64") => Cow::Owned(decode_base64(body)),
        Some(e) if e.eq_ignore_ascii_case(b"quoted-printable") => Cow::Owned(decode_quoted_printable(body)),
        _ => Cow::Borrowed(body),
    }
}

/// Text in UTF-8, from any charset that browsers know too; others as far as they are UTF-8.
/// What is labelled Latin-1 is read as Windows-1252, which it really is.
pub fn charset_to_utf8<'a>(text: &'a [u8], charset: &[u8]) -> Cow<'a, str> {
    let is_ascii = charset.eq_ignore_ascii_case(b"us-ascii") || charset.eq_ignore_ascii_case(b"ascii");
    match std::str::from_utf8(text) {
        // What calls itself ASCII and is not, is UTF-8 these days, if it can be.
        Ok(text) if is_ascii => Cow::Borrowed(text),
        _ => encoding(charset).unwrap_or(encoding_rs::UTF_8).decode_without_bom_handling(text).0,
    }
}

/// Whether SEARCH may name it (RFC 9051 §6.4.4, BADCHARSET).
pub fn knows_charset(charset: &[u8]) -> bool {
    encoding(charset).is_some()
}

fn encoding(charset: &[u8]) -> Option<&'static encoding_rs::Encoding> {
    encoding_rs::Encoding::for_label_no_replacement(charset)
}

/// Lenient: skips what is not of the alphabet, stops at the padding.
fn decode_base64(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in text {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                // Padding ends a group; some senders join several padded texts.
                (bits, count) = (0, 0);
                continue;
            }
            _ => continue,
        };
        bits = (bits << 6 | u32::from(six)) & 0x00ff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

fn decode_quoted_printable(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'=' {
            out.push(*first);
            continue;
        }
        if let Some(after) = tail.strip_prefix(b"\r\n").or_else(|| tail.strip_prefix(b"\n")) {
            rest = after;
            continue;
        }
        match (tail.first().and_then(|b| hex(*b)), tail.get(1).and_then(|b| hex(*b))) {
            (Some(high), Some(low)) => {
                out.push(high << 4 | low);
                rest = &tail[2..];
            }
            _ => out.push(b'='),
        }
    }
    out
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words() {
        assert_eq!(decode_words(b"=?utf-8?Q?J=C3=B6rg_X?= <j@x>"), "Jörg X <j@x>");
        assert_eq!(decode_words(b"a =?ISO-8859-1*de?b?5A==?=\r\n =?utf-8?q?b?= c"), "a äb c");
        assert_eq!(decode_words(b"=?x =?utf-8?q?a b?= =?"), "=?x a b =?");
        for text in ["=?", "=?a", "=?a?", "=?a?b", "=?a?b?", "=?a?b?c", "=?a?x?c?=", "=??b?c?="] {
            assert_eq!(decode_words(text.as_bytes()), text);
        }
    }

    #[test]
    fn transfer_encodings() {
        assert_eq!(decode_transfer(b"aGVs\r\nbG8=", Some(b"BASE64")).as_ref(), b"hello");
        assert_eq!(decode_transfer(b"a=3Db=\r\nc=zz=", Some(b"Quoted-Printable")).as_ref(), b"a=bc=zz=");
        assert_eq!(decode_transfer(b"a=3D", Some(b"8bit")).as_ref(), b"a=3D");
    }

    #[test]
    fn charsets() {
        assert_eq!(charset_to_utf8(b"\xe4\x80", b"ISO-8859-1"), "ä€");
        assert_eq!(charset_to_utf8(b"\xa4", b"iso-8859-15"), "€");
        assert_eq!(charset_to_utf8(b"\xff", b"KOI8-R"), "Ъ");
        assert_eq!(charset_to_utf8(b"\x1b$B8+$k\x1b(B", b"iso-2022-jp"), "見る");
        assert_eq!(charset_to_utf8(b"\xff", b"x-nobody"), "\u{fffd}");
        assert_eq!(charset_to_utf8("ä".as_bytes(), b"us-ascii"), "ä");
        assert!(knows_charset(b"US-ASCII") && !knows_charset(b"x-nobody"));
    }
}
