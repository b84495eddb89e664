//! A message as it came: in pieces, so that a large one is never moved, its header in one.

use bytes::{Bytes, BytesMut};

/// Octets of a header. More is no header that anybody writes, and it has to be held in one piece here
/// and in `mda`.
pub const MAX_HEADER: usize = 1 << 20;

pub struct Content {
    /// At least one; the first has the whole header.
    pieces: Vec<Bytes>,
    header: usize,
}

impl Content {
    /// `None` when the header is larger than [`MAX_HEADER`].
    pub fn new(pieces: Vec<Bytes>) -> Option<Self> {
        let mut rest = pieces.into_iter();
        let mut first = rest.next().unwrap_or_default();
        let mut header = message::split(&first);
        while header == first.len()
            && let Some(next) = rest.next()
        {
            let mut joined = BytesMut::from(first);
            joined.extend_from_slice(&next);
            first = joined.freeze();
            header = message::split(&first);
            if header > MAX_HEADER {
                return None;
            }
        }
        let pieces = std::iter::once(first).chain(rest).collect();
        Some(Self { pieces, header }).filter(|content| content.header <= MAX_HEADER)
    }

    /// With the empty line that ends it.
    pub fn header(&self) -> Bytes {
        self.pieces.first().map(|first| first.slice(..self.header)).unwrap_or_default()
    }

    pub fn body(&self) -> impl Iterator<Item = Bytes> {
        let (first, rest) = self.pieces.split_first().map_or((None, &[][..]), |(f, r)| (Some(f), r));
        first.map(|first| first.slice(self.header..)).into_iter().chain(rest.iter().cloned())
    }

    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(pieces: &[&'static [u8]]) -> Option<Content> {
        Content::new(pieces.iter().copied().map(Bytes::from_static).collect())
    }

    #[test]
    fn the_header_is_in_one_piece_wherever_the_pieces_end() {
        let text = b"A: b\r\nC: d\r\n\r\nbody\r\nmore\r\n";
        for a in 0..text.len() {
            for b in a..text.len() {
                let content = content(&[&text[..a], &text[a..b], &text[b..]]).expect("small");
                assert_eq!(content.header(), &text[..14], "{a} {b}");
                assert_eq!(content.body().collect::<Vec<_>>().concat(), &text[14..]);
                assert_eq!((content.pieces().concat().as_slice(), content.len()), (&text[..], text.len()));
            }
        }
        let whole = content(&[text]).expect("small");
        assert_eq!(whole.pieces()[0].as_ptr(), text.as_ptr(), "nothing is copied");
    }

    #[test]
    fn a_header_without_end_is_no_message() {
        let line = Bytes::from(b"X: y\r\n".repeat(40_000));
        assert!(Content::new(vec![line.clone(); 4]).is_some());
        assert!(Content::new(vec![line; 5]).is_none());
        assert!(content(&[]).is_some_and(|c| c.header().is_empty() && c.len() == 0));
    }
}
