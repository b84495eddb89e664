//! Header-like fields: cleaned of what could break out of them, folded at 76 columns.

/// A line of a field is folded before this column (RFC 5322 §2.1.1 recommends 78).
const FOLD_AT: usize = 76;
/// A word longer than this is cut in two: 998 is the limit of a line (RFC 5322 §2.1.1).
const WORD_LIMIT: usize = 900;
/// A value longer than this ends in an ellipsis; a peer's reply may have many lines.
const VALUE_LIMIT: usize = 4_000;

/// Appends `name: value` folded at white space, ended by CRLF.
///
/// Runs of white space and control characters, so also line ends, become one space: no value
/// can start a field of its own. Non-ASCII is kept; the caller decides the transfer encoding.
pub(crate) fn push(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push(':');
    let mut column = name.len() + 1;
    for word in words(value) {
        if column + 1 + word.len() > FOLD_AT && column > name.len() + 1 {
            out.push_str("\r\n");
            column = 0;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.len();
    }
    out.push_str("\r\n");
}

/// One line of plain text: words joined by single spaces.
pub(crate) fn one_line(value: &str) -> String {
    words(value).collect::<Vec<_>>().join(" ")
}

fn words(value: &str) -> impl Iterator<Item = &str> {
    clip(value, VALUE_LIMIT)
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .flat_map(split_long)
}

fn split_long(mut word: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if word.is_empty() {
            return None;
        }
        let head = clip(word, WORD_LIMIT);
        word = word.get(head.len()..).unwrap_or_default();
        Some(head)
    })
}

/// The longest prefix of at most `limit` octets that ends between characters.
fn clip(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or_default()
}

/// ASCII only, for fields of `message/delivery-status`: anything else becomes `?`.
pub(crate) fn ascii(value: &str) -> String {
    value.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// An address as a typed field value: `rfc822; bob@example.com`, or utf-8-addr-xtext with its
/// own type when it is not ASCII (RFC 6533 §3).
pub(crate) fn typed_address(address: &str) -> String {
    if address.is_ascii() {
        return format!("rfc822; {address}");
    }
    let mut encoded = String::from("utf-8; ");
    for c in address.chars() {
        if c.is_ascii() && c != '\\' {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        }
    }
    encoded
}

/// Decodes xtext (RFC 3461 §4): `+2B` is `+`. What is no xtext stays as it is.
pub(crate) fn xtext(encoded: &str) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'+').and_then(|h| std::str::from_utf8(h).ok());
        match hex.filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit())).and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(value: &str) -> String {
        let mut out = String::new();
        push(&mut out, "Diagnostic-Code", value);
        out
    }

    #[test]
    fn folds_at_white_space() {
        let folded = field(&"word ".repeat(60));
        assert!(folded.lines().count() > 3);
        assert!(folded.lines().all(|line| line.len() <= FOLD_AT), "{folded}");
        assert!(folded.lines().skip(1).all(|line| line.starts_with(' ')));
    }

    #[test]
    fn no_value_starts_a_field_of_its_own() {
        assert_eq!(field("smtp; 550 no\r\nBcc: x\n\ny\0z"), "Diagnostic-Code: smtp; 550 no Bcc: x y z\r\n");
        assert_eq!(field(""), "Diagnostic-Code:\r\n");
    }

    #[test]
    fn bounded() {
        let long = field(&"é".repeat(10_000));
        assert!(long.len() < 5_000);
        assert!(long.lines().all(|line| line.len() <= 998));
    }

    #[test]
    fn xtext_is_decoded() {
        assert_eq!(xtext("bob+2Bnews+40example.com"), "bob+news@example.com");
        for plain in ["", "a+", "a+4", "a+G0", "a+é", "++"] {
            assert_eq!(xtext(plain), plain);
        }
    }

    #[test]
    fn addresses_have_a_type() {
        assert_eq!(typed_address("bob@example.com"), "rfc822; bob@example.com");
        assert_eq!(typed_address("jörg@example.com"), "utf-8; j\\x{F6}rg@example.com");
    }
}
