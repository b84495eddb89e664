//! A message's bytes on their way into and out of Postgres.

use std::{cell::RefCell, sync::LazyLock};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use proto::mailboxes::{Part, Structure};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::{Status, Streaming};

/// Level 1: mail compresses well at once, and the writer must be fast.
const ZSTD_LEVEL: i32 = 1;
/// More would hold up whoever shares the thread, for half a millisecond and up to a second.
const SHORT: usize = 32 << 10;
/// As many contents as there are cores are worked on beside the threads that serve calls.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

/// Content as the table `contents` has it.
pub struct Prepared {
    pub size: i32,
    pub header: Vec<u8>,
    pub body: Vec<u8>,
    /// Where the body is instead ([`crate::objects`]).
    pub object: Option<String>,
    pub structure: Vec<u8>,
    /// Without angle brackets; empty when the header has none.
    pub message_id: String,
}

/// Compresses and parses, once for a message's whole life.
pub async fn prepare(content: Bytes) -> Result<Prepared, Status> {
    if content.len() <= SHORT {
        return prepare_here(&content);
    }
    let turn = TURNS.acquire().await.map_err(|_| Status::internal("compression"))?;
    // It goes on when the caller is gone, so the turn goes along.
    let work = move || {
        let _turn = turn;
        prepare_here(&content)
    };
    spawn_blocking(work).await.map_err(|_| Status::internal("compression"))?
}

fn prepare_here(content: &[u8]) -> Result<Prepared, Status> {
    let size = i32::try_from(content.len()).map_err(|_| Status::out_of_range("message is too large"))?;
    let (header, body) = content.split_at(message::split(content));
    Ok(Prepared {
        size,
        header: compress(header)?,
        body: compress(body)?,
        object: None,
        structure: structure(content).encode_to_vec(),
        message_id: message_id(header),
    })
}

/// A context is dear to make and good for ever: each thread keeps its own.
fn compress(bytes: &[u8]) -> Result<Vec<u8>, Status> {
    thread_local! {
        static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    let compressed = COMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(compressor) => compressor.compress(bytes),
        None => kept.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?).compress(bytes),
    });
    compressed.map_err(|_| Status::internal("compression"))
}

/// `size` bounds what a damaged row could make of memory.
pub fn decompress(stored: &[u8], size: usize) -> Result<Bytes, Status> {
    // The frame says how much it holds: what is kept shall have no room to spare.
    let told = zstd::zstd_safe::get_frame_content_size(stored).ok().flatten();
    let size = told.and_then(|told| usize::try_from(told).ok()).map_or(size, |told| told.min(size));
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let content = DECOMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(decompressor) => decompressor.decompress(stored, size),
        None => kept.insert(zstd::bulk::Decompressor::new()?).decompress(stored, size),
    });
    content.map(Bytes::from).map_err(|e| {
        tracing::error!(error = %e, "stored content is damaged");
        Status::data_loss("stored content is damaged")
    })
}

fn structure(content: &[u8]) -> Structure {
    let parsed = message::Structure::parse(content);
    let part = |span: message::PartSpan| Part {
        section: span.section,
        header_start: span.header_start,
        body_start: span.body_start,
        end: span.end,
        inner_body_start: span.inner_body_start,
        encoding: span.encoding,
    };
    Structure {
        envelope: imap::structure::envelope_text(&parsed.envelope).into(),
        body: imap::structure::body_text(&parsed).into(),
        bodystructure: imap::structure::bodystructure_text(&parsed).into(),
        parts: parsed.spans().into_iter().map(part).collect(),
        preview: Some(message::preview(&parsed, content)),
        thread_id: message::thread_root(content).map(|root| thread_id(&root)).unwrap_or_default(),
    }
}

/// The same for all that refer to the same beginning, without telling it (RFC 8474 §5.2).
fn thread_id(root: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, root);
    digest.as_ref().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

fn message_id(header: &[u8]) -> String {
    let value = message::field(header, "Message-ID").map(message::unfold).unwrap_or_default();
    let text = String::from_utf8_lossy(&value);
    // What people search for; a longer one is no use to them.
    let text: String = text.trim().trim_start_matches('<').trim_end_matches('>').chars().take(500).collect();
    plain(&text)
}

/// Postgres text has no NUL.
pub fn plain(text: &str) -> String {
    text.replace('\0', "")
}

/// The chunks of a client stream whose first request the caller has read; one copy at most.
pub struct Gathered {
    first: Bytes,
    rest: BytesMut,
    limit: usize,
}

impl Gathered {
    pub fn new(first: Bytes, limit: usize) -> Self {
        Self { first, rest: BytesMut::new(), limit }
    }

    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Status> {
        if chunk.is_empty() {
            return Ok(());
        }
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        if self.rest.len() + chunk.len() > self.limit {
            return Err(Status::out_of_range(format!("message is larger than {} bytes", self.limit)));
        }
        self.rest.extend_from_slice(chunk);
        Ok(())
    }

    /// A message that came in one request is not copied at all.
    pub fn finish(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}

/// Reads a client stream to its end.
pub async fn gather<T>(
    mut stream: Streaming<T>,
    first: Bytes,
    limit: usize,
    chunk: impl Fn(T) -> Bytes,
) -> Result<Bytes, Status> {
    let mut gathered = Gathered::new(first, limit);
    while let Some(next) = stream.message().await? {
        gathered.push(&chunk(next))?;
    }
    Ok(gathered.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn content_comes_back_byte_for_byte() {
        let short = b"Message-ID: <a@b>\r\nSubject: \xe4\r\n\r\nbody \x00\xff\r\n.\r\n";
        for raw in [short.to_vec(), short.repeat(SHORT / short.len() + 1)] {
            let stored = prepare(raw.clone().into()).await.expect("not too large");
            let header = decompress(&stored.header, raw.len()).expect("whole");
            let body = decompress(&stored.body, raw.len()).expect("whole");
            assert_eq!([header, body].concat(), raw);
            assert_eq!(stored.message_id, "a@b");
        }
    }

    #[test]
    fn a_stream_of_chunks_is_bounded() {
        let mut gathered = Gathered::new(Bytes::from_static(b"ab"), 4);
        gathered.push(b"cd").expect("fits");
        assert!(gathered.push(b"e").is_err());
        assert_eq!(gathered.finish(), "abcd");
    }
}
