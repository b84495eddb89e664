use std::{fmt, str::FromStr};

/// Octets of text in one reply line; RFC 5321 §4.5.3.1.5 allows 512 with code and CRLF.
const MAX_TEXT: usize = 480;

/// An enhanced status code like `5.1.1` (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an enhanced status code")]
pub struct NotAnEnhancedCode;

impl FromStr for EnhancedCode {
    type Err = NotAnEnhancedCode;

    fn from_str(text: &str) -> Result<Self, NotAnEnhancedCode> {
        let number = |part: Option<&str>| {
            let part = part.filter(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))?;
            part.parse::<u16>().ok()
        };
        let mut parts = text.split('.');
        match (parts.next(), number(parts.next()), number(parts.next()), parts.next()) {
            (Some(class @ ("2" | "4" | "5")), Some(subject), Some(detail), None) => {
                Ok(Self { class: class.parse().map_err(|_| NotAnEnhancedCode)?, subject, detail })
            }
            _ => Err(NotAnEnhancedCode),
        }
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// A reply (RFC 5321 §4.2): read by the client, written by the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 559.
    pub code: u16,
    /// Repeated in front of every line (RFC 2034 §4).
    pub enhanced: Option<EnhancedCode>,
    /// At least one; without the codes, printable.
    pub lines: Vec<String>,
}

impl Reply {
    /// A reply of one line. Non-printable and non-ASCII characters of `text` become `?`
    /// (RFC 6531 §3.7.4 allows UTF-8 only where it was asked for), too long text is cut.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl AsRef<str>) -> Self {
        let (class, subject, detail) = enhanced;
        let enhanced = Some(EnhancedCode { class, subject, detail });
        Self { code, enhanced, lines: vec![printable(text.as_ref())] }
    }

    /// Without enhanced code: greeting, EHLO, 354 and 334 have none.
    pub fn basic(code: u16, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut lines: Vec<_> = lines.into_iter().map(|l| printable(l.as_ref())).collect();
        if lines.is_empty() {
            lines.push(String::new());
        }
        Self { code, enhanced: None, lines }
    }

    pub fn is_positive(&self) -> bool {
        (200..400).contains(&self.code)
    }

    /// 4yz: the same may succeed later.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5yz: must not be repeated in the same form.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// The lines joined by spaces, without codes.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// Appends the lines as they are sent, CRLF included.
    pub fn write(&self, out: &mut Vec<u8>) {
        for line in self.to_string().split('\n') {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The lines as they are sent, joined by `\n`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.lines.iter().enumerate() {
            let last = i + 1 == self.lines.len();
            write!(f, "{}{}", self.code, if last { ' ' } else { '-' })?;
            if let Some(enhanced) = self.enhanced {
                write!(f, "{enhanced} ")?;
            }
            write!(f, "{line}{}", if last { "" } else { "\n" })?;
        }
        Ok(())
    }
}

fn printable(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_with_codes_on_every_line() {
        let mut out = Vec::new();
        Reply::new(550, (5, 1, 1), "no such user").write(&mut out);
        assert_eq!(out, b"550 5.1.1 no such user\r\n");
        let multi = Reply { lines: vec!["a".into(), "b".into()], ..Reply::new(214, (2, 0, 0), "") };
        assert_eq!(multi.to_string(), "214-2.0.0 a\n214 2.0.0 b");
    }

    #[test]
    fn text_cannot_forge_a_second_reply() {
        let reply = Reply::new(550, (5, 7, 1), format!("x\r\n250 ok\u{e9}{}", "y".repeat(999)));
        let text = reply.to_string();
        assert!(text.starts_with("550 5.7.1 x??250 ok?yyy"));
        assert!(text.len() < 510 && !text.contains('\n'));
    }

    #[test]
    fn enhanced_codes_are_read_strictly() {
        assert_eq!("5.1.1".parse(), Ok(EnhancedCode { class: 5, subject: 1, detail: 1 }));
        for text in ["3.1.1", "5.1", "5.1.1.1", "5.1.1000", "5..1", "5.+1.1", ""] {
            assert!(text.parse::<EnhancedCode>().is_err(), "{text}");
        }
    }
}
