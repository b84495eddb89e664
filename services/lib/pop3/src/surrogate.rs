//! Header fields for clients that have not said UTF8 (RFC 6856 §7): UTF-8 becomes encoded words.
//!
//! RFC 6858 says how: an address that is not ASCII becomes a group without members that names it,
//! a parameter gets RFC 2231's form, everything else is encoded where it stands.

use std::{borrow::Cow, fmt::Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// Octets of text in one encoded word, so that it stays below 75 (RFC 2047 §2).
const WORD: usize = 42;

/// Fields with addresses (RFC 5322 §3.6.2, §3.6.3, §3.6.6), in lower case, without `resent-`.
const ADDRESSES: [&str; 8] =
    ["from", "sender", "reply-to", "to", "cc", "bcc", "return-path", "disposition-notification-to"];

/// `header`, with the fields that are UTF-8 in ASCII. Octets that are no UTF-8 stay: nobody knows
/// what they mean.
pub fn surrogate(header: &[u8]) -> Cow<'_, [u8]> {
    if header.is_ascii() {
        return Cow::Borrowed(header);
    }
    let mut out = Vec::with_capacity(header.len() * 2);
    for field in fields(header) {
        match std::str::from_utf8(field) {
            Ok(text) if !text.is_ascii() => out.extend_from_slice(convert(text).as_bytes()),
            _ => out.extend_from_slice(field),
        }
    }
    Cow::Owned(out)
}

/// Each with its folded lines.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let ends = memchr::memchr_iter(b'\n', rest).map(|lf| lf + 1);
        let end = ends.into_iter().find(|end| !matches!(rest.get(*end), Some(b' ' | b'\t'))).unwrap_or(rest.len());
        let (field, tail) = rest.split_at(end);
        rest = tail;
        (!field.is_empty()).then_some(field)
    })
}

fn convert(field: &str) -> String {
    let Some((name, value)) = field.split_once(':') else { return encode(field) + "\r\n" };
    // A name is ASCII (RFC 5322 §3.6.8); one that is not is no field.
    if !name.is_ascii() {
        return format!("X-Removed: {}\r\n", encode(field.trim_end()));
    }
    let lower = name.trim_end().to_ascii_lowercase();
    if lower.starts_with("content-") && value.contains(';') {
        return format!("{name}:{}", parameters(value));
    }
    let is_addresses = ADDRESSES.contains(&lower.strip_prefix("resent-").unwrap_or(&lower));
    format!("{name}:{}", words(value, is_addresses))
}

/// Runs of words that are not ASCII are encoded with the blanks between them.
fn words(value: &str, is_addresses: bool) -> String {
    let mut out = String::with_capacity(value.len() * 2);
    let mut run = String::new();
    let mut blanks = "";
    for (word, after) in split(value, is_addresses) {
        let is_address = is_addresses && word.contains('@') && !word.starts_with('"');
        let text = if is_addresses { word.trim_matches('"') } else { word };
        if word.is_ascii() || is_address {
            finish(&mut out, &mut run, blanks);
            out.push_str(&if word.is_ascii() { word.to_owned() } else { no_address(word) });
            out.push_str(after);
        } else {
            if !run.is_empty() {
                run.push(' ');
            }
            run.push_str(text);
        }
        blanks = after;
    }
    finish(&mut out, &mut run, blanks);
    out
}

fn finish(out: &mut String, run: &mut String, blanks: &str) {
    if !run.is_empty() {
        out.push_str(&encode(run));
        out.push_str(blanks);
        run.clear();
    }
}

/// `<jörg@x>,` as a group that has nobody in it: no answer can go astray.
fn no_address(word: &str) -> String {
    let (word, comma) = word.strip_suffix(',').map_or((word, ""), |w| (w, ","));
    format!("{} :;{comma}", encode(word.trim_matches(['<', '>'])))
}

/// Words and the blanks after them; a quoted string is one word where it has a meaning.
fn split(value: &str, quotes: bool) -> impl Iterator<Item = (&str, &str)> {
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut rest = value;
    std::iter::from_fn(move || {
        let mut quoted = false;
        let end = rest
            .char_indices()
            .find(|(_, c)| {
                quoted ^= quotes && *c == '"';
                !quoted && is_blank(*c)
            })
            .map_or(rest.len(), |(at, _)| at);
        let after = rest.get(end..)?;
        let next = after.find(|c| !is_blank(c)).unwrap_or(after.len());
        let (word, blanks) = (rest.get(..end)?, after.get(..next)?);
        rest = after.get(next..)?;
        (!word.is_empty() || !blanks.is_empty()).then_some((word, blanks))
    })
}

/// RFC 2047 §4.1, folded after each word.
fn encode(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = (0..=WORD.min(rest.len())).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (now, later) = rest.split_at(end);
        if !out.is_empty() {
            out.push_str("\r\n ");
        }
        let _ = write!(out, "=?utf-8?B?{}?=", BASE64_STANDARD.encode(now));
        rest = later;
    }
    out
}

/// `; name="välue"` as `; name*=utf-8''v%C3%A4lue` (RFC 2231 §4).
fn parameters(value: &str) -> String {
    let mut quoted = false;
    let parts = value.trim_end().split(|c: char| {
        quoted ^= c == '"';
        !quoted && c == ';'
    });
    let convert = |part: &str| match part.split_once('=') {
        _ if part.is_ascii() => part.to_owned(),
        Some((name, value)) if name.is_ascii() => {
            let value = value.trim().trim_matches('"');
            let mut out = format!("{}*=utf-8''", name.trim_end_matches('*'));
            for b in value.bytes() {
                let _ = match b {
                    b'-' | b'.' | b'_' => write!(out, "{}", char::from(b)),
                    b if b.is_ascii_alphanumeric() => write!(out, "{}", char::from(b)),
                    b => write!(out, "%{b:02X}"),
                };
            }
            out
        }
        _ => encode(part),
    };
    parts.map(convert).collect::<Vec<_>>().join(";") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(header: &str) -> String {
        let out = surrogate(header.as_bytes()).into_owned();
        assert!(out.is_ascii());
        String::from_utf8(out).expect("is ASCII")
    }

    #[test]
    fn ascii_stays_as_it_is_and_so_does_what_nobody_can_read() {
        let ascii = b"From: a@x\r\nSubject: one\r\n two\r\n\r\n";
        assert!(matches!(surrogate(ascii), Cow::Borrowed(_)));
        let latin = b"From: a@x\r\nSubject: Gr\xfc\xdfe\r\n\r\n";
        assert_eq!(&*surrogate(latin), latin);
    }

    #[test]
    fn words_are_encoded_where_they_stand() {
        assert_eq!(
            converted("From: a@x\r\nSubject: hello Jörg Müller\r\n dear\r\n\r\n"),
            "From: a@x\r\nSubject: hello =?utf-8?B?SsO2cmcgTcO8bGxlcg==?=\r\n dear\r\n\r\n"
        );
        assert_eq!(
            converted("From: \"Jörg M\" <j@x>, b@x\r\n\r\n"),
            "From: =?utf-8?B?SsO2cmcgTQ==?= <j@x>, b@x\r\n\r\n"
        );
    }

    #[test]
    fn an_address_becomes_a_group_without_members() {
        assert_eq!(
            converted("To: Bob <bob@x>, Jö <jö@x>, a@x\r\n\r\n"),
            "To: Bob <bob@x>, =?utf-8?B?SsO2?= =?utf-8?B?asO2QHg=?= :;, a@x\r\n\r\n"
        );
    }

    #[test]
    fn parameters_and_long_texts() {
        assert_eq!(
            converted("Content-Disposition: attachment; filename=\"ü;1.pdf\"; size=1\r\n\r\n"),
            "Content-Disposition: attachment; filename*=utf-8''%C3%BC%3B1.pdf; size=1\r\n\r\n"
        );
        let long = converted(&format!("Subject: {}\r\n\r\n", "ü".repeat(500)));
        assert!(long.lines().all(|line| line.len() <= 85), "{long}");
        assert!(long.ends_with("=\r\n\r\n"));
    }

    #[test]
    fn any_octets_are_taken() {
        for text in
            ["ü", "ü\r\n", ":ü\r\n", "a:\"ü", "To: <ü@", "Content-Type: a;ü", "Content-Type: a;ü=ü\r\n\r\n", "\r\nü"]
        {
            assert!(surrogate(text.as_bytes()).is_ascii());
        }
    }
}
