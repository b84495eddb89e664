//! The client's end of a session: octets in through the framer, responses out through a buffer.

use std::{io, time::Duration};

use imap::Framer;
use listener::{Stream, Tls, TlsInfo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::deflate::Deflate;

const READ: usize = 32 * 1024;
/// Responses gathered before they are written.
pub(crate) const GATHER: usize = 64 * 1024;
/// A client that does not read for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) struct Wire {
    /// `None` after a failed handshake.
    stream: Option<Stream>,
    pub framer: Framer,
    /// What is still to be written.
    pub out: Vec<u8>,
    /// After COMPRESS (RFC 4978).
    deflate: Option<Box<Deflate>>,
}

impl Wire {
    pub fn new(stream: Stream) -> Self {
        Self { stream: Some(stream), framer: Framer::default(), out: Vec::new(), deflate: None }
    }

    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Feeds the framer with what the client sends next; an error when it is gone. Nothing is
    /// lost when the future is dropped.
    pub async fn read(&mut self) -> io::Result<()> {
        if self.inflate()? {
            return Ok(());
        }
        // A waiting session shall cost little: memory comes with the first octet.
        let mut first = [0u8; 512];
        let n = self.stream()?.read(&mut first).await?;
        self.take(n, first.get(..n).unwrap_or_default())
    }

    /// [`Wire::read`] for many octets at once.
    pub async fn read_much(&mut self) -> io::Result<()> {
        if self.inflate()? {
            return Ok(());
        }
        let mut buffer = Vec::with_capacity(READ);
        let n = self.stream()?.read_buf(&mut buffer).await?;
        self.take(n, &buffer)
    }

    fn take(&mut self, n: usize, octets: &[u8]) -> io::Result<()> {
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &mut self.deflate {
            None => self.framer.feed(octets),
            Some(deflate) => {
                deflate.push(octets);
                self.inflate()?;
            }
        }
        Ok(())
    }

    /// Hands on some of what the client sent compressed; `false` when there is nothing.
    fn inflate(&mut self) -> io::Result<bool> {
        let Some(deflate) = &mut self.deflate else { return Ok(false) };
        let octets = deflate.inflate()?;
        self.framer.feed(&octets);
        Ok(!octets.is_empty())
    }

    /// From now on both sides compress; what the client has sent already is compressed too.
    pub async fn compress(&mut self) -> io::Result<()> {
        self.flush().await?;
        let mut deflate = Box::new(Deflate::new());
        deflate.push(&self.framer.take_rest());
        self.deflate = Some(deflate);
        self.inflate().map(drop)
    }

    pub fn is_compressed(&self) -> bool {
        self.deflate.is_some()
    }

    /// Writes when enough has gathered.
    pub async fn flush_some(&mut self) -> io::Result<()> {
        if self.out.len() >= GATHER { self.flush().await } else { Ok(()) }
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut out = std::mem::take(&mut self.out);
        if let Some(deflate) = &mut self.deflate {
            out = deflate.deflate(&out)?;
        }
        let stream = self.stream()?;
        let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "client does not read");
        // In pieces, so that a slow client with a large message is not taken for one that sleeps.
        for piece in out.chunks(GATHER) {
            tokio::time::timeout(WRITE_TIMEOUT, stream.write_all(piece)).await.map_err(slow)??;
        }
        tokio::time::timeout(WRITE_TIMEOUT, stream.flush()).await.map_err(slow)??;
        self.out = out;
        self.out.clear();
        if self.out.capacity() > 4 * GATHER {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// Gives back what a session that waits does not need.
    pub fn rest(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        self.framer.rest();
    }

    /// The TLS handshake; what came before it is thrown away (RFC 9051 §6.2.1).
    pub async fn start_tls(&mut self, tls: &Tls) -> io::Result<TlsInfo> {
        self.flush().await?;
        self.framer.discard();
        let plain = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        let (stream, info) = plain.starttls(tls).await?;
        self.stream = Some(stream);
        Ok(info)
    }

    /// Writes the rest and ends; the client may be gone already, which is fine now.
    pub async fn close(mut self) {
        let ending = async {
            self.flush().await?;
            self.stream()?.shutdown().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), ending).await;
    }
}
