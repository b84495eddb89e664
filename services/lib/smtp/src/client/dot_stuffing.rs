/// Makes content transparent (RFC 5321 §4.5.2), chunk by chunk.
///
/// Accepted content has CRLF line ends only. Should anything else come this way, a bare CR or
/// LF goes out as CRLF, so that no peer can find an end of data in it that we did not mean.
#[derive(Debug)]
pub struct DotStuffer {
    last: Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    LineEnd,
    /// Sent, its LF not yet.
    Cr,
    Text,
}

impl Default for DotStuffer {
    fn default() -> Self {
        Self { last: Last::LineEnd }
    }
}

impl DotStuffer {
    /// Appends the encoded chunk to `out`.
    pub fn encode(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) {
        out.reserve(chunk.len() + 16);
        while let Some(&first) = chunk.first() {
            if self.last == Last::Cr {
                out.push(b'\n');
                self.last = Last::LineEnd;
                if first == b'\n' {
                    chunk = chunk.get(1..).unwrap_or_default();
                    continue;
                }
            }
            if self.last == Last::LineEnd && first == b'.' {
                out.push(b'.');
            }
            let end = memchr::memchr2(b'\r', b'\n', chunk).unwrap_or(chunk.len());
            let (text, rest) = chunk.split_at(end);
            out.extend_from_slice(text);
            if !text.is_empty() {
                self.last = Last::Text;
            }
            chunk = rest;
            if let Some(&end) = rest.first() {
                out.push(b'\r');
                self.last = Last::Cr;
                if end == b'\r' {
                    chunk = rest.get(1..).unwrap_or_default();
                }
            }
        }
    }

    /// Appends the end of data; a last line without end gets one.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        match self.last {
            Last::LineEnd => {}
            Last::Cr => out.push(b'\n'),
            Last::Text => out.extend_from_slice(b"\r\n"),
        }
        out.extend_from_slice(b".\r\n");
        self.last = Last::LineEnd;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(chunks: &[&[u8]]) -> String {
        let (mut stuffer, mut out) = (DotStuffer::default(), Vec::new());
        for chunk in chunks {
            stuffer.encode(chunk, &mut out);
        }
        stuffer.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn doubles_dots_at_line_starts_only() {
        assert_eq!(encode(&[b".a\r\n..\r\nb.\r\n.\r\n"]), "..a\r\n...\r\nb.\r\n..\r\n.\r\n");
        assert_eq!(encode(&[]), ".\r\n");
        assert_eq!(encode(&[b"no end"]), "no end\r\n.\r\n");
        assert_eq!(encode(&[b"a\r\n\r\n\r\n"]), "a\r\n\r\n\r\n.\r\n");
    }

    #[test]
    fn bare_line_ends_cannot_smuggle() {
        assert_eq!(encode(&[b"a\n.\nb\r.\rc"]), "a\r\n..\r\nb\r\n..\r\nc\r\n.\r\n");
        assert_eq!(encode(&[b"a\r\r\n.\r\n"]), "a\r\n\r\n..\r\n.\r\n");
    }

    #[test]
    fn any_split_gives_the_same() {
        let content = b".x\r\n\r\n..\r\n.\r\nmid.dle\n.\r.\r\n.\r\nlast\r";
        let whole = encode(&[content]);
        for a in 0..content.len() {
            for b in a..content.len() {
                let parts = [&content[..a], &content[a..b], &content[b..]];
                assert_eq!(encode(&parts), whole, "{a} {b}");
            }
        }
    }
}
