use crate::Reply;

/// RFC 5321 §4.5.3.1.5 says 512; some servers explain themselves at length.
const MAX_LINE: usize = 4096;
const MAX_LINES: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("reply does not begin with a code")]
    NoCode,
    #[error("lines of one reply have different codes")]
    MixedCodes,
    #[error("reply is too long")]
    TooLong,
}

/// Collects lines into replies (RFC 5321 §4.2.1).
#[derive(Debug, Default)]
pub struct ReplyParser {
    buffer: Vec<u8>,
    partial: Option<Reply>,
}

impl ReplyParser {
    pub fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Octets received behind the last complete reply.
    pub fn has_rest(&self) -> bool {
        !self.buffer.is_empty() || self.partial.is_some()
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next complete reply; `None` while it is incomplete.
    pub fn take(&mut self) -> Result<Option<Reply>, ReplyError> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer) else {
                return if self.buffer.len() > MAX_LINE { Err(ReplyError::TooLong) } else { Ok(None) };
            };
            if end > MAX_LINE {
                return Err(ReplyError::TooLong);
            }
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if let Some(reply) = self.line(line.trim_ascii_end())? {
                return Ok(Some(reply));
            }
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let (code, rest) = line.split_at_checked(3).ok_or(ReplyError::NoCode)?;
        let code = match code {
            [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] => std::str::from_utf8(code).ok().and_then(|c| c.parse().ok()),
            _ => None,
        };
        let code: u16 = code.ok_or(ReplyError::NoCode)?;
        let (more, text) = match rest {
            [] => (false, rest),
            [b' ', text @ ..] => (false, text),
            [b'-', text @ ..] => (true, text),
            _ => return Err(ReplyError::NoCode),
        };
        let text: String =
            String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        // RFC 2034 §4: the enhanced code stands at the beginning of every line.
        let (first, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let (enhanced, text) = match first.parse() {
            Ok(enhanced) => (Some(enhanced), rest.to_owned()),
            Err(_) => (None, text),
        };
        let reply = self.partial.get_or_insert_with(|| Reply { code, enhanced, lines: Vec::new() });
        if reply.code != code {
            return Err(ReplyError::MixedCodes);
        }
        if reply.lines.len() >= MAX_LINES {
            return Err(ReplyError::TooLong);
        }
        reply.lines.push(text);
        Ok(if more { None } else { self.partial.take() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let mut parser = ReplyParser::default();
        parser.receive(bytes);
        parser.take()
    }

    #[test]
    fn one_line_and_many() {
        assert_eq!(parse(b"250 2.1.0 Ok\r\n").unwrap().unwrap(), Reply::new(250, (2, 1, 0), "Ok"));
        assert_eq!(parse(b"250\r\n").unwrap().unwrap(), Reply::basic(250, [""]));
        let reply = parse(b"550-5.1.1 No such\r\n550-5.1.1\r\n550 5.1.1 user\r\n").unwrap().unwrap();
        assert_eq!((reply.enhanced.unwrap().to_string(), reply.text()), ("5.1.1".into(), "No such  user".into()));
        assert_eq!(parse(b"250 ok\n").unwrap().unwrap().text(), "ok", "bare LF is harmless here");
        assert_eq!(parse(b"550 3.2 x\r\n").unwrap().unwrap().text(), "3.2 x");
    }

    #[test]
    fn any_split_gives_the_same() {
        let bytes = b"250-mx.example\r\n250-SIZE 10\r\n250 DSN\r\n354 go\r\n";
        let mut parser = ReplyParser::default();
        let mut replies = Vec::new();
        for byte in bytes {
            parser.receive(&[*byte]);
            replies.extend(parser.take().unwrap());
        }
        assert_eq!(replies, [Reply::basic(250, ["mx.example", "SIZE 10", "DSN"]), Reply::basic(354, ["go"])]);
        assert!(!parser.has_rest());
    }

    #[test]
    fn garbage_is_an_error_and_bounded() {
        for bytes in [b"hello\r\n".as_slice(), b"\r\n", b"99 x\r\n", b"150 x\r\n", b"250x\r\n", b"25\xc3\r\n"] {
            assert_eq!(parse(bytes), Err(ReplyError::NoCode), "{bytes:?}");
        }
        assert_eq!(parse(b"250-a\r\n251 b\r\n"), Err(ReplyError::MixedCodes));
        assert_eq!(parse(&[b'2'; 5000]), Err(ReplyError::TooLong));
        assert_eq!(parse(&b"250-x\r\n".repeat(101)), Err(ReplyError::TooLong));
    }
}
