//! Content-Type and Content-Disposition (RFC 2045 §5.1, RFC 2183), read leniently.
//!
//! Parameters stay as they came, RFC 2231 continuations included: IMAP hands them to the client.

/// At most this many parameters of one field are kept.
const MAX_PARAMETERS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// In lower case.
    pub name: String,
    /// Without quotes.
    pub value: Vec<u8>,
}

/// `type/subtype` in lower case, with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    pub kind: String,
    pub subtype: String,
    pub parameters: Vec<Parameter>,
}

impl MediaType {
    pub fn new(kind: &str, subtype: &str) -> Self {
        Self { kind: kind.to_owned(), subtype: subtype.to_owned(), parameters: Vec::new() }
    }

    /// What a part without Content-Type is (RFC 2045 §5.2).
    pub fn plain_text() -> Self {
        let charset = Parameter { name: "charset".to_owned(), value: b"us-ascii".to_vec() };
        Self { parameters: vec![charset], ..Self::new("text", "plain") }
    }

    /// Reads an unfolded value; `None` when it names no type and subtype.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut lexer = Lexer { text: value, at: 0 };
        let kind = lexer.token();
        if !lexer.eat(b'/') {
            return None;
        }
        let subtype = lexer.token();
        if kind.is_empty() || subtype.is_empty() {
            return None;
        }
        Some(Self { kind, subtype, parameters: lexer.parameters() })
    }

    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind == kind && self.subtype == subtype
    }

    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|p| p.name == name).map(|p| p.value.as_slice())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disposition {
    /// In lower case: `attachment`, `inline`.
    pub kind: String,
    pub parameters: Vec<Parameter>,
}

impl Disposition {
    /// Reads an unfolded value; `None` when it is empty.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut lexer = Lexer { text: value, at: 0 };
        let kind = lexer.token();
        (!kind.is_empty()).then(|| Self { kind, parameters: lexer.parameters() })
    }
}

/// The words of a comma-separated list (Content-Language, RFC 3282), at most 32.
pub(crate) fn language_tags(value: &[u8]) -> Vec<Vec<u8>> {
    let tags = value.split(|b| *b == b',').map(|tag| tag.trim_ascii().to_vec());
    tags.filter(|tag| !tag.is_empty()).take(32).collect()
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, wanted: u8) -> bool {
        self.blanks();
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Skips blanks and comments.
    fn blanks(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => self.at += 1,
                byte if byte.is_ascii_whitespace() || depth > 0 => {}
                _ => return,
            }
            self.at += 1;
        }
        self.at = self.at.min(self.text.len());
    }

    fn token(&mut self) -> String {
        self.blanks();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let special = |b: &u8| b.is_ascii_whitespace() || b.is_ascii_control() || b"()<>@,;:\\\"/[]?=".contains(b);
        let len = rest.iter().position(special).unwrap_or(rest.len());
        self.at += len;
        String::from_utf8_lossy(&rest[..len]).to_ascii_lowercase()
    }

    /// `; name=value` until the end, skipping what is not of that form.
    fn parameters(&mut self) -> Vec<Parameter> {
        let mut out = Vec::new();
        while self.at < self.text.len() && out.len() < MAX_PARAMETERS {
            let Some(semicolon) = memchr::memchr(b';', &self.text[self.at..]) else { break };
            self.at += semicolon + 1;
            let name = self.token();
            if name.is_empty() || !self.eat(b'=') {
                continue;
            }
            self.blanks();
            let value = if self.peek() == Some(b'"') { self.quoted() } else { self.bare() };
            out.push(Parameter { name, value });
        }
        out
    }

    fn quoted(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    if let Some(next) = self.peek() {
                        self.at += 1;
                        out.push(next);
                    }
                }
                byte => out.push(byte),
            }
        }
        out
    }

    /// A value without quotes: up to the semicolon or a comment, although the grammar allows only
    /// a token. File names with blanks and boundaries with `=` do come this way.
    fn bare(&mut self) -> Vec<u8> {
        let rest = &self.text[self.at..];
        let mut len = memchr::memchr(b';', rest).unwrap_or(rest.len());
        if let Some(comment) = memchr::memmem::find(&rest[..len], b" (") {
            len = comment;
        }
        self.at += len;
        rest[..len].trim_ascii().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_type_and_parameters() {
        let m = MediaType::parse(b"Text/HTML; Charset=\"utf-8\"; format = flowed (a; comment) ;x=\"a\\\"b\"")
            .expect("valid");
        assert!(m.is("text", "html"));
        assert_eq!(m.parameter("charset"), Some(&b"utf-8"[..]));
        assert_eq!(m.parameter("format"), Some(&b"flowed"[..]));
        assert_eq!(m.parameter("x"), Some(&b"a\"b"[..]));
    }

    #[test]
    fn lenient_where_mail_is() {
        let m = MediaType::parse(b"application/pdf; name=my file.pdf; boundary==_x=1;;=; foo").expect("valid");
        assert_eq!(m.parameter("name"), Some(&b"my file.pdf"[..]));
        assert_eq!(m.parameter("boundary"), Some(&b"=_x=1"[..]));
        for text in ["", "text", "text/", "/plain", ";", "(", "\"", "text\\"] {
            assert_eq!(MediaType::parse(text.as_bytes()), None, "{text}");
        }
        assert!(MediaType::parse(b"a/b; c=\"").is_some());
        assert!(MediaType::parse(b"a/b; c=\"\\").is_some());
    }

    #[test]
    fn disposition() {
        let d = Disposition::parse(b"attachment; filename*0=\"a\"; filename*1=b").expect("valid");
        assert_eq!((d.kind.as_str(), d.parameters.len()), ("attachment", 2));
        assert_eq!(Disposition::parse(b" ; x=y"), None);
    }

    #[test]
    fn parameters_are_bounded() {
        let text = format!("a/b{}", "; x=y".repeat(1000));
        assert_eq!(MediaType::parse(text.as_bytes()).expect("valid").parameters.len(), MAX_PARAMETERS);
    }
}
