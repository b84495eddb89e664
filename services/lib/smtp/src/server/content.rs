use bytes::{Buf as _, Bytes, BytesMut};

use super::pieces::{PIECE, Piece, Pieces};

/// Why content cannot be taken, known at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// RFC 5321 §2.3.8: CR and LF only together. What we took for text, another server could
    /// take for the end of data (SMTP smuggling).
    BareLineEnd,
    /// RFC 5321 §4.5.2 allows the characters 1 to 127, 8BITMIME those above.
    Nul,
    /// RFC 5321 §4.5.3.1.6.
    LongLine,
    TooLarge,
}

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of content.
    pub content: u64,
    /// Octets of a line without its CRLF; 0 is no limit.
    pub line: usize,
}

/// Most messages need no more, and no piece.
const SMALL: usize = 64 * 1024;

/// Receives content: after DATA until CRLF.CRLF (RFC 5321 §4.1.1.4), with dot-stuffing undone
/// (§4.5.2), or in chunks as they are (RFC 3030).
#[derive(Debug)]
pub struct ContentReader {
    state: State,
    rooms: Pieces,
    /// All of a small message.
    small: Vec<u8>,
    /// Full pieces of a larger one.
    pieces: Vec<Bytes>,
    /// The piece that grows.
    last: Option<Piece>,
    /// Octets of content seen, also those that were thrown away.
    seen: u64,
    /// Octets of the line so far.
    line: usize,
    limits: Limits,
    /// BODY=BINARYMIME: any octet may stand anywhere (RFC 3030 §3).
    binary: bool,
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
    pub fn new(limits: Limits, expected: u64, binary: bool, rooms: Pieces) -> Self {
        // What is announced is reserved up to a bound: the client need not keep its word.
        let capacity = usize::try_from(expected.min(limits.content).min(SMALL as u64)).unwrap_or_default();
        Self {
            state: State::LineStart,
            rooms,
            small: Vec::with_capacity(capacity.saturating_add(2).min(SMALL)),
            pieces: Vec::new(),
            last: None,
            seen: 0,
            line: 0,
            limits,
            binary,
            defect: None,
            discarding: false,
        }
    }

    /// Octets of memory held.
    pub fn held(&self) -> usize {
        self.small.capacity() + (self.pieces.len() + usize::from(self.last.is_some())) * PIECE
    }

    /// Octets of content so far, held or not.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// There will be no content.
    pub fn is_defective(&self) -> bool {
        self.defect.is_some()
    }

    /// Goes on to the end without keeping anything.
    pub fn discard(&mut self) {
        self.discarding = true;
        self.small = Vec::new();
        self.pieces = Vec::new();
        self.last = None;
    }

    /// The content in pieces, at least one, or why there is none.
    pub fn finish(mut self) -> Result<Vec<Bytes>, Defect> {
        if self.state == State::Cr && !self.binary {
            self.fail(Defect::BareLineEnd);
        }
        if let Some(defect) = self.defect {
            return Err(defect);
        }
        self.pieces.extend(self.last.map(Bytes::from_owner));
        if self.pieces.is_empty() {
            self.pieces.push(self.small.into());
        }
        Ok(self.pieces)
    }

    /// Takes octets of a chunk as they are.
    pub fn take(&mut self, bytes: &[u8]) {
        if !self.binary {
            self.check(bytes);
        }
        self.push(bytes);
    }

    /// A chunk's text follows the same rules as DATA's; only BINARYMIME lifts them. A line end
    /// may lie across two chunks.
    fn check(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            self.state = match (self.state, byte) {
                (State::Cr, b'\n') => {
                    self.line = 0;
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
                    let rest = bytes.get(at - 1..).unwrap_or_default();
                    let length = memchr::memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
                    self.lengthen(length);
                    at += length - 1;
                    State::Text
                }
            };
        }
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
                    self.line = 0;
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
                    self.lengthen(length);
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
        if self.seen > self.limits.content {
            self.fail(Defect::TooLarge);
        }
        if !self.discarding {
            self.keep(bytes);
        }
    }

    fn keep(&mut self, mut octets: &[u8]) {
        let small = self.small.len() + octets.len();
        if self.pieces.is_empty() && self.last.is_none() && small <= SMALL {
            if small > self.small.capacity() {
                let room = small.max(2 * self.small.capacity()).min(SMALL);
                self.small.reserve_exact(room - self.small.len());
            }
            return self.small.extend_from_slice(octets);
        }
        while !octets.is_empty() {
            let mut piece = self.last.take().unwrap_or_else(|| self.rooms.take());
            // It has become too large to be small; a piece has room for it.
            piece.fill(&std::mem::take(&mut self.small));
            octets = piece.fill(octets);
            match piece.is_full() {
                true => self.pieces.push(Bytes::from_owner(piece)),
                false => self.last = Some(piece),
            }
        }
    }

    fn lengthen(&mut self, octets: usize) {
        self.line = self.line.saturating_add(octets);
        if self.limits.line > 0 && self.line > self.limits.line {
            self.fail(Defect::LongLine);
        }
    }

    fn fail(&mut self, defect: Defect) {
        self.defect.get_or_insert(defect);
        if !self.discarding {
            self.discard();
        }
    }
}

/// Whether content, in whatever pieces, holds what only BINARYMIME may carry: NUL, or CR and LF apart.
pub fn is_binary<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut after_cr = false;
    for piece in pieces {
        let mut at = 0;
        while let Some(hit) = piece.get(at..).and_then(|rest| memchr::memchr3(b'\r', b'\n', 0, rest)) {
            match (piece.get(at + hit), after_cr) {
                (Some(b'\n'), true) if hit == 0 => after_cr = false,
                (Some(b'\r'), false) => after_cr = true,
                _ => return true,
            }
            at += hit + 1;
        }
        // Text behind a lone CR.
        if after_cr && at < piece.len() {
            return true;
        }
    }
    after_cr
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMITS: Limits = Limits { content: 1000, line: 998 };

    type Outcome = (Result<Vec<u8>, Defect>, Vec<u8>);

    /// The content and what is left behind its end; `None` when there is no end.
    fn read(chunks: &[&[u8]]) -> Option<Outcome> {
        let mut reader = ContentReader::new(LIMITS, 0, false, Pieces::default());
        let mut input = BytesMut::new();
        let mut ended = false;
        for chunk in chunks {
            input.extend_from_slice(chunk);
            ended = ended || reader.read(&mut input);
        }
        ended.then(|| (reader.finish().map(|pieces| pieces.concat()), input.to_vec()))
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
        let mut reader = ContentReader::new(Limits { content: 10, ..LIMITS }, u64::MAX, false, Pieces::default());
        let mut input = BytesMut::from(b"0123456789\r\nmore\r\n.\r\n".as_slice());
        assert!(reader.read(&mut input));
        assert_eq!(reader.held(), 0);
        assert_eq!(reader.finish(), Err(Defect::TooLarge));
    }

    #[test]
    fn a_large_message_is_in_pieces_and_holds_no_more_than_them() {
        let line = b"0123456789abcdef\r\n";
        let text = line.repeat(50_000);
        let mut reader = ContentReader::new(Limits { content: u64::MAX, ..LIMITS }, 0, false, Pieces::default());
        for part in text.chunks(1_000) {
            assert!(!reader.read(&mut BytesMut::from(part)));
            assert!(reader.held() <= usize::try_from(reader.seen()).unwrap() + PIECE, "{}", reader.held());
        }
        let pieces = reader.finish().unwrap();
        assert!(pieces.iter().rev().skip(1).all(|piece| piece.len() == PIECE));
        assert_eq!(pieces.concat(), text);
        let mut exact = ContentReader::new(Limits { content: u64::MAX, ..LIMITS }, 0, true, Pieces::default());
        exact.take(&vec![b'x'; 2 * PIECE]);
        assert_eq!(exact.finish().unwrap().len(), 2);
    }

    fn chunks(binary: bool, chunks: &[&[u8]]) -> Result<Vec<u8>, Defect> {
        let mut reader = ContentReader::new(Limits { content: 1000, line: 10 }, 0, binary, Pieces::default());
        chunks.iter().for_each(|chunk| reader.take(chunk));
        reader.finish().map(|pieces| pieces.concat())
    }

    #[test]
    fn chunks_are_taken_as_they_are() {
        assert_eq!(chunks(false, &[b"a\r\n.\r", b"\n..b"]).unwrap(), b"a\r\n.\r\n..b");
        for bad in ["a\nb", "a\rb", "a\r", "\n.\n", "\r\r\n"] {
            assert_eq!(chunks(false, &[bad.as_bytes()]), Err(Defect::BareLineEnd), "{bad:?}");
            let (one, two) = bad.as_bytes().split_at(1);
            assert_eq!(chunks(false, &[one, two]), Err(Defect::BareLineEnd), "{bad:?}");
            assert_eq!(chunks(true, &[bad.as_bytes()]).unwrap(), bad.as_bytes());
            assert!(is_binary([bad.as_bytes()]) && is_binary([one, two]), "{bad:?}");
        }
        assert_eq!(chunks(false, &[b"\0"]), Err(Defect::Nul));
        assert!(is_binary([&b"x\0"[..]]) && !is_binary([&b"a\r\nb\r\n\r\n"[..]]) && !is_binary([]));
        assert!(!is_binary([&b"a\r"[..], b"", b"\nb"]) && is_binary([&b"a\r"[..], b"b"]));
    }

    #[test]
    fn long_lines_are_refused_however_they_come() {
        assert!(chunks(false, &[b"0123456789\r\n", b"0123456789"]).is_ok());
        assert_eq!(chunks(false, &[b"012345", b"67890"]), Err(Defect::LongLine));
        assert_eq!(content(&[&[b'x'; 998][..], b"\r\n.\r\n"].concat()).len(), 1000);
        let long = [&[b'x'; 500][..], &[b'y'; 499], b"\r\n.\r\n"].concat();
        assert_eq!(read(&[&long[..500], &long[500..]]).unwrap().0, Err(Defect::LongLine));
        // The stuffed dot is no part of the line.
        let stuffed = read(&[b".", &[b'.'; 998], b"\r\n.\r\n"]).unwrap().0;
        assert_ne!(stuffed, Err(Defect::LongLine));
    }
}
