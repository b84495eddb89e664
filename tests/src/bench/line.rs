//! Clients that only count what they read: parsing is not what is measured.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longer than any line that ends an answer: the one of LOGIN has all capabilities.
const TAIL: usize = 4096;

/// A connection that remembers the last octets it has read.
pub struct Line {
    stream: TcpStream,
    room: Vec<u8>,
    tail: Vec<u8>,
    tags: u32,
}

impl Line {
    /// Reads the greeting.
    pub async fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut line = Self { stream, room: vec![0; 128 * 1024], tail: Vec::new(), tags: 0 };
        line.until(|tail| tail.ends_with(b"\r\n")).await;
        line
    }

    /// An IMAP command up to its tagged OK; octets read.
    pub async fn imap(&mut self, command: &str) -> usize {
        self.append(command, b"").await
    }

    /// The same with a literal behind it (RFC 7888).
    pub async fn append(&mut self, command: &str, literal: &[u8]) -> usize {
        self.tags += 1;
        let tag = format!("t{} ", self.tags);
        let mut sent = format!("{tag}{command}\r\n").into_bytes();
        if !literal.is_empty() {
            sent.extend_from_slice(literal);
            sent.extend_from_slice(b"\r\n");
        }
        self.send(&sent).await;
        let octets = self.until(|tail| last_line(tail).is_some_and(|line| line.starts_with(tag.as_bytes()))).await;
        let status = String::from_utf8_lossy(last_line(&self.tail).unwrap()).into_owned();
        assert!(status.starts_with(&format!("{tag}OK")), "{command}: {status}");
        octets
    }

    /// IDLE, which goes on.
    pub async fn idle(&mut self) {
        self.send(b"i IDLE\r\n").await;
        self.until(|tail| last_line(tail).is_some_and(|line| line.starts_with(b"+"))).await;
    }

    /// A POP3 command with an answer of one line.
    pub async fn pop3(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.until(|tail| tail.ends_with(b"\r\n")).await;
        let answer = String::from_utf8_lossy(last_line(&self.tail).unwrap()).into_owned();
        assert!(answer.starts_with("+OK"), "{command}: {answer}");
        answer
    }

    /// A POP3 command with an answer of many lines; octets read.
    pub async fn pop3_text(&mut self, command: &str) -> usize {
        self.send(format!("{command}\r\n").as_bytes()).await;
        self.until(|tail| tail.ends_with(b"\r\n.\r\n")).await
    }

    async fn send(&mut self, octets: &[u8]) {
        self.tail.clear();
        self.stream.write_all(octets).await.unwrap();
    }

    async fn until(&mut self, is_end: impl Fn(&[u8]) -> bool) -> usize {
        let mut octets = 0;
        loop {
            let read = self.stream.read(&mut self.room).await.unwrap();
            assert!(read > 0, "the server closed: {}", String::from_utf8_lossy(&self.tail));
            octets += read;
            self.tail.extend_from_slice(&self.room[read.saturating_sub(TAIL)..read]);
            let excess = self.tail.len().saturating_sub(TAIL);
            self.tail.drain(..excess);
            if is_end(&self.tail) {
                return octets;
            }
        }
    }
}

/// Without its line end, when it has one.
fn last_line(tail: &[u8]) -> Option<&[u8]> {
    let text = tail.strip_suffix(b"\r\n")?;
    Some(text.rsplit(|b| *b == b'\n').next().unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_last_line() {
        assert_eq!(last_line(b"* 1 EXISTS\r\nt1 OK\r\n"), Some(&b"t1 OK"[..]));
        assert_eq!(last_line(b"t1 OK\r\n"), Some(&b"t1 OK"[..]));
        assert_eq!(last_line(b"* 1 EXISTS\r\nt1 O"), None);
    }
}
