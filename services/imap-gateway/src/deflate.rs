//! COMPRESS=DEFLATE (RFC 4978): raw deflate (RFC 1951) in both directions.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Octets inflated at once: a small input may stand for very much.
const INFLATE: usize = 32 * 1024;
const DEFLATE: usize = 16 * 1024;

pub(crate) struct Deflate {
    compress: Compress,
    decompress: Decompress,
    /// Received, not yet inflated.
    input: Vec<u8>,
}

impl Deflate {
    pub fn new() -> Self {
        Self {
            // Mail is compressed for the air, not for the archive: the fastest level gains most of it.
            compress: Compress::new(Compression::fast(), false),
            decompress: Decompress::new(false),
            input: Vec::new(),
        }
    }

    pub fn push(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
    }

    /// The next octets of the client, at most 32 kB; empty when more has to be received first.
    pub fn inflate(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(if self.input.is_empty() { 256 } else { INFLATE });
        let before = self.decompress.total_in();
        let status = self
            .decompress
            .decompress_vec(&self.input, &mut out, FlushDecompress::Sync)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        let used = usize::try_from(self.decompress.total_in() - before).unwrap_or_default();
        self.input.drain(..used.min(self.input.len()));
        if status == Status::StreamEnd && out.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(out)
    }

    /// All of it, flushed so that the client can read it.
    pub fn deflate(&mut self, octets: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(octets.len() / 2 + 64);
        let mut rest = octets;
        loop {
            if out.capacity() - out.len() < 64 {
                out.reserve(DEFLATE);
            }
            let before = self.compress.total_in();
            self.compress
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let used = usize::try_from(self.compress.total_in() - before).unwrap_or_default();
            rest = rest.get(used..).unwrap_or_default();
            // Room that is left says that the flush is complete.
            if rest.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_says_the_other_reads() {
        let (mut server, mut client) = (Deflate::new(), Deflate::new());
        for len in [1usize, 10, 5_000, 1_000_000] {
            let text: Vec<u8> = (0..len).map(|n| (n * n % 251) as u8).collect();
            let packed = server.deflate(&text).expect("deflates");
            let mut read = Vec::new();
            for piece in packed.chunks(700) {
                client.push(piece);
                loop {
                    let some = client.inflate().expect("inflates");
                    if some.is_empty() {
                        break;
                    }
                    assert!(some.len() <= INFLATE);
                    read.extend(some);
                }
            }
            assert!(read == text, "{len}");
        }
        client.push(b"\xff\xff\xff\xff garbage");
        assert!(client.inflate().is_err());
    }
}
