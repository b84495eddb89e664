//! The IMAP URLs that CATENATE takes (RFC 5092, RFC 4469 §3): messages and parts on this server.

use crate::{FetchItem, Names, Section, cursor::Cursor, parse_fetch::fetch_items};

/// `/INBOX;UIDVALIDITY=1/;UID=20/;SECTION=1.2/;PARTIAL=0.1024`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageUrl {
    /// `None`: the selected one.
    pub mailbox: Option<String>,
    pub uid_validity: Option<u32>,
    pub uid: u32,
    /// Without \\Seen; the partial is in it.
    pub section: Section,
}

impl MessageUrl {
    /// `None` for what is no URL of a message of ours: other servers and URLAUTH are not.
    pub fn parse(url: &str) -> Option<Self> {
        let (mailbox, rest) = match url.strip_prefix('/') {
            None => (None, url.strip_prefix(";")?),
            Some(path) => {
                let (mailbox, rest) = path.split_once("/;")?;
                (Some(mailbox), rest)
            }
        };
        let (mut uid_validity, mut name) = (None, None);
        if let Some(mailbox) = mailbox {
            let (plain, validity) = match cut_word(mailbox, ";UIDVALIDITY=") {
                Some((plain, number)) => (plain, Some(number.parse().ok()?)),
                None => (mailbox, None),
            };
            uid_validity = validity;
            let decoded = decode(plain)?;
            let is_inbox = decoded.eq_ignore_ascii_case("INBOX");
            name = Some(if is_inbox { "INBOX".to_owned() } else { decoded });
        }
        let (mut uid, mut section, mut partial) = (None, String::new(), String::new());
        for (at, word) in rest.split("/;").enumerate() {
            let (key, value) = word.split_once('=')?;
            match key.to_ascii_uppercase().as_str() {
                "UID" if at == 0 => uid = Some(value.parse().ok().filter(|n| *n > 0)?),
                "SECTION" if at > 0 && section.is_empty() => section = decode(value)?,
                "PARTIAL" if at > 0 && partial.is_empty() => {
                    let (first, count) = value.split_once('.').unwrap_or((value, "4294967295"));
                    partial = format!("<{first}.{count}>");
                }
                _ => return None,
            }
        }
        Some(Self { mailbox: name, uid_validity, uid: uid?, section: read_section(&section, &partial)? })
    }
}

fn read_section(section: &str, partial: &str) -> Option<Section> {
    let text = format!("BODY.PEEK[{section}]{partial}");
    let mut cursor = Cursor::new(text.as_bytes(), Names::Utf8);
    let items = fetch_items(&mut cursor).ok()?;
    cursor.end().ok()?;
    match items.into_iter().next() {
        Some(FetchItem::Section(section)) => Some(section),
        _ => None,
    }
}

/// Before and after a word that may be in any case.
fn cut_word<'t>(text: &'t str, word: &str) -> Option<(&'t str, &'t str)> {
    let at = text.to_ascii_uppercase().find(word)?;
    Some((text.get(..at)?, text.get(at + word.len()..)?))
}

/// Percent-encoded UTF-8 (RFC 5092 §3).
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            out.push(*first);
        }
    }
    String::from_utf8(out).ok().filter(|t| !t.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_messages_and_parts() {
        let url =
            MessageUrl::parse("/Entw%C3%BCrfe;uidvalidity=7/;UID=20/;section=1.MIME/;PARTIAL=3.5").expect("valid");
        assert_eq!((url.mailbox.as_deref(), url.uid_validity, url.uid), (Some("Entwürfe"), Some(7), 20));
        assert_eq!((url.section.path.as_slice(), url.section.partial), (&[1][..], Some((3, 5))));
        assert_eq!(MessageUrl::parse(";UID=1").map(|u| u.mailbox), Some(None));
        assert_eq!(
            MessageUrl::parse("/inbox/;UID=1/;SECTION=HEADER.FIELDS%20(To)").and_then(|u| u.mailbox).as_deref(),
            Some("INBOX")
        );
        assert!(MessageUrl::parse("/a/b/;UID=1/;PARTIAL=9").is_some_and(|u| u.mailbox.as_deref() == Some("a/b")));
    }

    #[test]
    fn what_is_none_of_them() {
        for wrong in [
            "",
            "/",
            "/INBOX",
            "imap://host/INBOX/;UID=1",
            "/INBOX/;UID=0",
            "/INBOX/;UID=x",
            "/INBOX/;SECTION=1",
            "/INBOX/;UID=1/;SECTION=NO",
            "/INBOX/;UID=1/;SECTION=1]<0.1>",
            "/INBOX/;UID=1/;PARTIAL=0.0",
            "/INBOX/;UID=1;URLAUTH=anonymous",
            "/INBOX/;UID=1/;EXPIRE=2030-01-01T00:00:00Z",
            "/a%0d%0ab/;UID=1",
            "/a%f/;UID=1",
            "/a%\u{fc}x/;UID=1",
            "/x;UIDVALIDITY=a/;UID=1",
        ] {
            assert_eq!(MessageUrl::parse(wrong), None, "{wrong}");
        }
    }
}
