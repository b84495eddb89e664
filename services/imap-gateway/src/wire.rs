//! The client's end of a session: octets in through the framer, responses out through a buffer.

use std::{io, time::Duration};

use imap::Framer;
use listener::{Stream, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
}

impl Wire {
    pub fn new(stream: Stream) -> Self {
        Self { stream: Some(stream), framer: Framer::default(), out: Vec::new() }
    }

    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Feeds the framer with what the client sends next; an error when it is gone. Nothing is
    /// lost when the future is dropped.
    pub async fn read(&mut self) -> io::Result<()> {
        // A waiting session shall cost little: memory comes with the first octet.
        let mut first = [0u8; 512];
        let n = self.stream()?.read(&mut first).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.framer.feed(first.get(..n).unwrap_or_default());
        Ok(())
    }

    /// [`Wire::read`] for many octets at once.
    pub async fn read_much(&mut self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(READ);
        if self.stream()?.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.framer.feed(&buffer);
        Ok(())
    }

    /// Writes when enough has gathered.
    pub async fn flush_some(&mut self) -> io::Result<()> {
        if self.out.len() >= GATHER { self.flush().await } else { Ok(()) }
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
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

    /// The TLS handshake; what came before it is thrown away (RFC 9051 §6.2.1).
    pub async fn start_tls(&mut self, tls: &Tls) -> io::Result<()> {
        self.flush().await?;
        self.framer.discard();
        let plain = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
        let (stream, _) = plain.starttls(tls).await?;
        self.stream = Some(stream);
        Ok(())
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
