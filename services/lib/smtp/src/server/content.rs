use bytes::{Buf as _, BytesMut};

/// Why content cannot be taken, known at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// RFC 5321 §2.3.8: CR and LF only together. What we took for text, another server could
    /// take for the end of data (SMTP smuggling).
    BareLineEnd,
    /// RFC 5321 §4.5.2 allows the characters 1 to 127, 8BITMIME those above.
    Nul,
    TooLarge,
}

/// Receives content until CRLF.CRLF (RFC 5321 §4.1.1.4) and undoes dot-stuffing (§4.5.2).
#[derive(Debug)]
pub struct ContentReader {
    state: State,
    content: Vec<u8>,
    /// Octets of content seen, also those that were thrown away.
    seen: u64,
    limit: u64,
    defect: Option<Defect>,
    discarding: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Text,
    Cr,
    /// A dot at the start of a line; not content so far.
    Dot,
    DotCr,
}

impl ContentReader {
    pub fn new(limit: u64, expected: u64) -> Self {
        // What is announced is reserved up to a bound: the client need not keep its word.
        let capacity = usize::try_from(expected.min(limit).min(64 * 1024)).unwrap_or_default();
        Self {
            state: State::LineStart,
            content: Vec::with_capacity(capacity + 2),
            seen: 0,
            limit,
            defect: None,
            discarding: false,
        }
    }

    /// Octets of memory held.
    pub fn held(&self) -> usize {
        self.content.capacity()
    }

    /// Octets of content so far, held or not.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Goes on to the end without keeping anything.
    pub fn discard(&mut self) {
        self.discarding = true;
        self.content = Vec::new();
    }

    /// The content, or why there is none.
    pub fn finish(self) -> Result<Vec<u8>, Defect> {
        self.defect.map_or(Ok(self.content), Err)
    }

    /// Consumes input up to the end of data; `true` when that is reached.
    pub fn read(&mut self, input: &mut BytesMut) -> bool {
        let mut at = 0;
        let mut ended = false;
        while let Some(&byte) = input.get(at) {
            at += 1;
            self.state = match (self.state, byte) {
                (State::DotCr, b'\n') => {
                    ended = true;
                    break;
                }
                (State::LineStart, b'.') => State::Dot,
                (State::Dot, b'\r') => State::DotCr,
                (State::DotCr, _) => {
                    // The dot was stuffing, and its CR stands alone.
                    self.fail(Defect::BareLineEnd);
                    at -= 1;
                    State::Cr
                }
                (State::Cr, b'\n') => {
                    self.push(b"\r\n");
                    State::LineStart
                }
                (State::Cr, _) => {
                    self.fail(Defect::BareLineEnd);
                    at -= 1;
                    State::Text
                }
                (_, b'\r') => State::Cr,
                (_, b'\n') => {
                    self.fail(Defect::BareLineEnd);
                    State::Text
                }
                (_, 0) => {
                    self.fail(Defect::Nul);
                    State::Text
                }
                (_, _) => {
                    let start = at - 1;
                    let rest = input.get(start..).unwrap_or_default();
                    let length = memchr::memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
                    at = start + length;
                    self.push(rest.get(..length).unwrap_or_default());
                    State::Text
                }
            };
        }
        input.advance(at);
        ended
    }

    fn push(&mut self, bytes: &[u8]) {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.limit {
            self.fail(Defect::TooLarge);
        }
        if !self.discarding {
            self.content.extend_from_slice(bytes);
        }
    }

    fn fail(&mut self, defect: Defect) {
        self.defect.get_or_insert(defect);
        if !self.discarding {
            self.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    type Outcome = (Result<Vec<u8>, Defect>, Vec<u8>);

    /// The content and what is left behind its end; `None` when there is no end.
    fn read(chunks: &[&[u8]]) -> Option<Outcome> {
        let mut reader = ContentReader::new(1000, 0);
        let mut input = BytesMut::new();
        let mut ended = false;
        for chunk in chunks {
            input.extend_from_slice(chunk);
            ended = ended || reader.read(&mut input);
        }
        ended.then(|| (reader.finish(), input.to_vec()))
    }

    fn content(bytes: &[u8]) -> Vec<u8> {
        read(&[bytes]).unwrap().0.unwrap()
    }

    #[test]
    fn ends_at_crlf_dot_crlf_only() {
        assert_eq!(content(b".\r\n"), b"");
        assert_eq!(content(b"a\r\n.\r\n"), b"a\r\n");
        assert_eq!(content(b"..\r\n...\r\n.a\r\n.\r\n"), b".\r\n..\r\na\r\n");
        assert_eq!(content(b"a.\r\n.\r\n"), b"a.\r\n");
        assert_eq!(content("\u{e4}\r\n\r\n.\r\n".as_bytes()), "\u{e4}\r\n\r\n".as_bytes());
        assert_eq!(read(&[b"a\r\n."]), None);
        assert_eq!(read(&[b"a.\r\n"]), None);
        assert_eq!(read(&[b"a\r\n.\r\nQUIT\r\n"]).unwrap().1, b"QUIT\r\n");
    }

    #[test]
    fn smuggling_variants_are_read_to_the_real_end_and_refused() {
        for fake in
            ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\r\n.\r\r\n", "\r\r\n.\n", "\n\r\n.\n"]
        {
            let sent = format!("body{fake}MAIL FROM:<evil@x.example>\r\n.\r\nQUIT\r\n");
            let (outcome, rest) = read(&[sent.as_bytes()]).unwrap();
            assert_eq!((outcome, rest), (Err(Defect::BareLineEnd), b"QUIT\r\n".to_vec()), "{fake:?}");
        }
        assert_eq!(read(&[b"a\0b\r\n.\r\n"]).unwrap().0, Err(Defect::Nul));
    }

    #[test]
    fn any_split_gives_the_same() {
        for bytes in [b"..x\r\n\r\n..\r\nq\r\n.\r\nNOOP".as_slice(), b"a\r.\r\n.\r\n..\n\r\n.\r\nRS"] {
            let whole = read(&[bytes]);
            assert!(whole.is_some());
            for a in 0..bytes.len() {
                for b in a..bytes.len() {
                    assert_eq!(read(&[&bytes[..a], &bytes[a..b], &bytes[b..]]), whole, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn a_large_message_is_not_kept() {
        let mut reader = ContentReader::new(10, u64::MAX);
        let mut input = BytesMut::from(b"0123456789\r\nmore\r\n.\r\n".as_slice());
        assert!(reader.read(&mut input));
        assert_eq!(reader.held(), 0);
        assert_eq!(reader.finish(), Err(Defect::TooLarge));
    }
}
