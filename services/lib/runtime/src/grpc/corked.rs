//! What is written in one breath leaves in one write.
//!
//! HTTP/2 flushes each frame as soon as it has it: the head of a call, its message and its end come a
//! moment after each other, from different tasks, and would be a packet, a system call and a wake at
//! the other end each. So a flush lets the other tasks that are ready have their turn first, and goes
//! on when they have written nothing more. There is no timer: an idle process does not wait.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Octets that are held; what is larger is worth a write of its own, and is not copied.
const MOST: usize = 16 * 1024;
/// So often a flush is put off at most.
const TURNS: u8 = 3;

pub(super) struct Corked<T> {
    inner: T,
    held: BytesMut,
    /// Of `held`, when the flush was last put off.
    seen: usize,
    turns: u8,
}

impl<T> Corked<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, held: BytesMut::new(), seen: 0, turns: 0 }
    }

    fn hold(&mut self, octets: &[u8]) {
        if self.held.capacity() == 0 {
            self.held.reserve(MOST);
        }
        self.held.extend_from_slice(octets);
    }
}

impl<T: AsyncWrite + Unpin> Corked<T> {
    /// Writes what is held, and nothing else.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.held.advance(written),
            }
        }
        // What was advanced over is free again.
        self.held.clear();
        (self.seen, self.turns) = (0, 0);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(octets)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total: usize = slices.iter().map(|s| s.len()).sum();
        if this.held.len() + total <= MOST {
            slices.iter().for_each(|s| this.hold(s));
            return Poll::Ready(Ok(total));
        }
        // Together with what is held, as far as the socket takes it.
        while !this.held.is_empty() {
            let mut all = vec![IoSlice::new(&this.held)];
            all.extend(slices.iter().map(|s| IoSlice::new(s)));
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &all))?;
            let of_slices = written.saturating_sub(this.held.len());
            match written {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                _ if of_slices > 0 => {
                    this.held.clear();
                    (this.seen, this.turns) = (0, 0);
                    return Poll::Ready(Ok(of_slices));
                }
                _ => this.held.advance(written),
            }
        }
        Pin::new(&mut this.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.len() > this.seen && this.turns < TURNS {
            (this.seen, this.turns) = (this.held.len(), this.turns + 1);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Corked<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

impl<T: Connected> Connected for Corked<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Takes at most so many octets a write, and is full after each.
    struct Socket {
        most: usize,
        full: bool,
        writes: usize,
        received: Vec<u8>,
    }

    impl Socket {
        fn new(most: usize) -> Corked<Self> {
            Corked::new(Self { most, full: false, writes: 0, received: Vec::new() })
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(octets)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.full = !self.full;
            if !self.full {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let before = self.received.len();
            let octets = slices.iter().flat_map(|s| s.iter().copied()).take(self.most);
            self.received.extend(octets);
            self.writes += 1;
            Poll::Ready(Ok(self.received.len() - before))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_breath_is_one_write() {
        let mut corked = Socket::new(usize::MAX);
        for word in ["head", "message", "end"] {
            corked.write_all(word.as_bytes()).await.expect("held");
        }
        assert_eq!(corked.inner.writes, 0);
        corked.flush().await.expect("written");
        corked.flush().await.expect("nothing to do");
        assert_eq!((corked.inner.writes, &corked.inner.received[..]), (1, &b"headmessageend"[..]));
    }

    #[tokio::test]
    async fn a_flush_waits_for_who_is_ready_and_not_for_ever() {
        let mut corked = Socket::new(usize::MAX);
        corked.write_all(b"x").await.expect("held");
        // Each time somebody writes more.
        for turn in 1..=TURNS {
            let flushed = futures::poll!(Box::pin(corked.flush()));
            assert!(flushed.is_pending(), "turn {turn}");
            corked.write_all(b"x").await.expect("held");
        }
        assert_eq!(corked.inner.writes, 0);
        corked.flush().await.expect("written");
        assert_eq!((corked.inner.writes, corked.inner.received.len()), (1, usize::from(TURNS) + 1));
    }

    #[tokio::test]
    async fn all_arrives_in_order_whatever_the_socket_takes() {
        for most in [11, MOST - 1, MOST + 3, usize::MAX] {
            let mut corked = Socket::new(most);
            let mut sent = Vec::new();
            for (n, size) in [3, MOST - 3, 1, MOST, MOST + 1, 5, 2 * MOST].into_iter().enumerate() {
                let octets: Vec<u8> = (0..size).map(|i| (i * 31 + n) as u8).collect();
                corked.write_all(&octets).await.expect("taken");
                sent.extend(octets);
                if n % 3 == 2 {
                    corked.flush().await.expect("written");
                    assert_eq!(corked.inner.received, sent, "flushed, {most}");
                }
                assert!(corked.held.len() <= MOST);
            }
            corked.shutdown().await.expect("written");
            assert_eq!(corked.inner.received, sent, "{most}");
        }
    }
}
