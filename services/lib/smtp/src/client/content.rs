use super::DotStuffer;

/// A BDAT command carries about as much.
const CHUNK: usize = 64 * 1024;

/// Content as the server takes it: DATA with dots stuffed, or BDAT in chunks.
#[derive(Debug)]
pub(super) enum Encoder {
    Data(DotStuffer),
    /// RFC 3030. One message that fits is one `BDAT n LAST`.
    Chunks {
        pending: Vec<u8>,
        outstanding: usize,
    },
}

impl Default for Encoder {
    fn default() -> Self {
        Self::data()
    }
}

impl Encoder {
    pub fn data() -> Self {
        Self::Data(DotStuffer::default())
    }

    pub fn chunks() -> Self {
        Self::Chunks { pending: Vec::new(), outstanding: 0 }
    }

    pub fn encode(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Data(stuffer) => stuffer.encode(chunk, out),
            Self::Chunks { pending, outstanding } => {
                pending.extend_from_slice(chunk);
                if pending.len() >= CHUNK {
                    out.extend_from_slice(format!("BDAT {}\r\n", pending.len()).as_bytes());
                    out.append(pending);
                    *outstanding += 1;
                }
            }
        }
    }

    /// The line for the transcript.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> String {
        match self {
            Self::Data(stuffer) => {
                stuffer.finish(out);
                ".".to_owned()
            }
            Self::Chunks { pending, .. } => {
                let line = format!("BDAT {} LAST", pending.len());
                out.extend_from_slice(line.as_bytes());
                out.extend_from_slice(b"\r\n");
                out.append(pending);
                line
            }
        }
    }

    /// True when the reply at hand belongs to a chunk before the last.
    pub fn take_outstanding(&mut self) -> bool {
        match self {
            Self::Chunks { outstanding, .. } if *outstanding > 0 => {
                *outstanding -= 1;
                true
            }
            _ => false,
        }
    }
}
