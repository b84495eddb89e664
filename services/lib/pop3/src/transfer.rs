//! A message on the wire: byte-stuffing (RFC 1939 §3) and the cut of TOP (§7).

/// Encodes one message, chunk by chunk, for RETR or TOP.
///
/// Lines end at LF, with or without a CR before it: most clients read that way, and a
/// message with a bare LF before a dot must not end the reply early for them.
#[derive(Debug)]
pub struct Transfer {
    at_line_start: bool,
    /// The last two bytes written, so that the end can tell whether a CRLF is missing.
    tail: [u8; 2],
    /// Bytes of the current line so far.
    line_length: usize,
    cut: Cut,
}

#[derive(Debug)]
enum Cut {
    /// RETR: all of it.
    None,
    /// TOP, before the blank line that ends the header; then this many lines.
    Header(u32),
    /// TOP, with this many lines of the body still to send.
    Body(u32),
}

impl Transfer {
    /// `lines`: those of the body to send after the header; `None` sends everything.
    pub fn new(lines: Option<u32>) -> Self {
        Self { at_line_start: true, tail: *b"\r\n", line_length: 0, cut: lines.map_or(Cut::None, Cut::Header) }
    }

    /// Appends the encoded chunk. False once the cut is reached: the rest need not be fetched.
    pub fn push(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) -> bool {
        out.reserve(chunk.len() + 16);
        if matches!(self.cut, Cut::None) {
            self.push_whole(chunk, out);
            return true;
        }
        while !chunk.is_empty() {
            if matches!(self.cut, Cut::Body(0)) {
                return false;
            }
            let end = memchr::memchr(b'\n', chunk).map(|lf| lf + 1);
            let (piece, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
            if self.at_line_start && piece.first() == Some(&b'.') {
                out.push(b'.');
            }
            out.extend_from_slice(piece);
            self.remember(piece);
            self.at_line_start = end.is_some();
            if end.is_some() {
                self.line_ended();
            }
            chunk = rest;
        }
        !matches!(self.cut, Cut::Body(0))
    }

    /// Whether the chunk goes out as it is; then it counts as sent.
    pub fn passes(&mut self, chunk: &[u8]) -> bool {
        let begins_dotted = self.at_line_start && chunk.first() == Some(&b'.');
        let passes = matches!(self.cut, Cut::None) && !begins_dotted && memchr::memmem::find(chunk, b"\n.").is_none();
        if passes {
            self.remember_whole(chunk);
        }
        passes
    }

    /// Without a cut only the lines that begin with a dot matter.
    fn push_whole(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        if self.at_line_start && chunk.first() == Some(&b'.') {
            out.push(b'.');
        }
        let mut rest = chunk;
        while let Some(lf) = memchr::memmem::find(rest, b"\n.") {
            let (lines, dotted) = rest.split_at(lf + 1);
            out.extend_from_slice(lines);
            out.push(b'.');
            rest = dotted;
        }
        out.extend_from_slice(rest);
        self.remember_whole(chunk);
    }

    fn remember_whole(&mut self, chunk: &[u8]) {
        self.remember(chunk);
        if let Some(last) = chunk.last() {
            self.at_line_start = *last == b'\n';
        }
    }

    /// Appends the line that ends the reply, after the CRLF that the message may lack.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.tail != *b"\r\n" {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }

    fn remember(&mut self, piece: &[u8]) {
        self.line_length = self.line_length.saturating_add(piece.len());
        match piece {
            [.., a, b] => self.tail = [*a, *b],
            [b] => self.tail = [self.tail[1], *b],
            [] => {}
        }
    }

    fn line_ended(&mut self) {
        let blank = self.line_length == 1 || self.line_length == 2 && self.tail == *b"\r\n";
        match &mut self.cut {
            Cut::Header(lines) if blank => self.cut = Cut::Body(*lines),
            Cut::Body(left) => *left = left.saturating_sub(1),
            Cut::None | Cut::Header(_) => {}
        }
        self.line_length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes in chunks of every size, and expects the same each time.
    fn encode(message: &str, lines: Option<u32>) -> String {
        let mut results: Vec<String> = (1..=message.len().max(1))
            .map(|size| {
                let mut transfer = Transfer::new(lines);
                let mut out = Vec::new();
                for chunk in message.as_bytes().chunks(size) {
                    if transfer.passes(chunk) {
                        out.extend_from_slice(chunk);
                    } else if !transfer.push(chunk, &mut out) {
                        break;
                    }
                }
                transfer.finish(&mut out);
                String::from_utf8(out).expect("stays UTF-8")
            })
            .collect();
        results.dedup();
        assert_eq!(results.len(), 1, "{results:?}");
        results.remove(0)
    }

    #[test]
    fn stuffs_dots_at_line_starts() {
        assert_eq!(encode("A: b\r\n\r\n.\r\n..x\r\na.b\r\n", None), "A: b\r\n\r\n..\r\n...x\r\na.b\r\n.\r\n");
        assert_eq!(encode(".", None), "..\r\n.\r\n");
        assert_eq!(encode("a\n.\nb\r\n", None), "a\n..\nb\r\n.\r\n");
    }

    #[test]
    fn ends_with_a_line_of_its_own() {
        assert_eq!(encode("", None), ".\r\n");
        assert_eq!(encode("a", None), "a\r\n.\r\n");
        assert_eq!(encode("a\r", None), "a\r\r\n.\r\n");
        assert_eq!(encode("a\r\n", None), "a\r\n.\r\n");
    }

    #[test]
    fn top_sends_the_header_the_blank_line_and_n_lines() {
        let message = "A: b\r\nC: d\r\n\r\none\r\n\r\n.three\r\nfour\r\n";
        assert_eq!(encode(message, Some(0)), "A: b\r\nC: d\r\n\r\n.\r\n");
        assert_eq!(encode(message, Some(1)), "A: b\r\nC: d\r\n\r\none\r\n.\r\n");
        assert_eq!(encode(message, Some(3)), "A: b\r\nC: d\r\n\r\none\r\n\r\n..three\r\n.\r\n");
        assert_eq!(encode(message, Some(99)), format!("{}.\r\n", message.replace(".three", "..three")));
    }

    #[test]
    fn top_of_a_message_without_a_body() {
        assert_eq!(encode("A: b\r\n", Some(5)), "A: b\r\n.\r\n");
        assert_eq!(encode("\r\nx\r\ny\r\n", Some(1)), "\r\nx\r\n.\r\n");
    }
}
