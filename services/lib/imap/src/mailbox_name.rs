//! Modified UTF-7 (RFC 3501 §5.1.3): how IMAP4rev1 writes mailbox names.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/// A name as IMAP4rev1 writes it; always printable ASCII.
pub fn encode_utf7(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut shifted: Vec<u16> = Vec::new();
    for c in name.chars() {
        if (' '..='~').contains(&c) {
            flush(&mut shifted, &mut out);
            out.push(c);
            if c == '&' {
                out.push('-');
            }
        } else {
            shifted.extend_from_slice(c.encode_utf16(&mut [0; 2]));
        }
    }
    flush(&mut shifted, &mut out);
    out
}

fn flush(units: &mut Vec<u16>, out: &mut String) {
    if units.is_empty() {
        return;
    }
    out.push('&');
    let (mut bits, mut count) = (0u32, 0);
    for unit in units.drain(..) {
        bits = bits << 16 | u32::from(unit);
        count += 16;
        while count >= 6 {
            count -= 6;
            out.push(char::from(ALPHABET[(bits >> count) as usize & 63]));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        out.push(char::from(ALPHABET[(bits << (6 - count)) as usize & 63]));
    }
    out.push('-');
}

/// The name that modified UTF-7 stands for; `None` when it is not well formed.
pub fn decode_utf7(text: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'&' {
            if !first.is_ascii() {
                return None;
            }
            out.push(char::from(*first));
            continue;
        }
        let len = memchr::memchr(b'-', tail)?;
        if len == 0 {
            out.push('&');
        } else {
            out.push_str(&decode_shifted(&tail[..len])?);
        }
        rest = &tail[len + 1..];
    }
    Some(out)
}

fn decode_shifted(text: &[u8]) -> Option<String> {
    let mut units = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for b in text {
        let six = u32::try_from(ALPHABET.iter().position(|a| a == b)?).ok()?;
        bits = bits << 6 | six;
        count += 6;
        if count >= 16 {
            count -= 16;
            units.push(u16::try_from(bits >> count & 0xffff).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    // What is left is padding: less than a digit, and zero.
    if count >= 6 || bits != 0 {
        return None;
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for (name, wire) in [
            ("Entwürfe", "Entw&APw-rfe"),
            ("~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
            ("A & B", "A &- B"),
            ("📧", "&2D3c5w-"),
            ("", ""),
            ("ab\u{7f}", "ab&AH8-"),
        ] {
            assert_eq!(encode_utf7(name), wire);
            assert_eq!(decode_utf7(wire.as_bytes()).as_deref(), Some(name));
        }
    }

    #[test]
    fn refuses_what_is_not_well_formed() {
        for text in ["&", "&A-", "&AA-", "a&b", "&2D0-", "&!-", "&AP/-", "\u{e4}"] {
            assert_eq!(decode_utf7(text.as_bytes()), None, "{text}");
        }
    }
}
