//! A fast SMTP client: some sessions at once, each sends one message after the other.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
};

use super::{ACCOUNTS, SENDER_DOMAIN, mail::Text, recipient};

/// What to send.
pub struct Batch {
    pub server: SocketAddr,
    /// Names the messages; unique.
    pub run: String,
    pub count: usize,
    /// Bytes of one message.
    pub size: usize,
    pub sessions: usize,
    pub text: Arc<Text>,
}

/// Sends all; panics unless each is answered 250. Message n goes to account n modulo [`ACCOUNTS`].
pub async fn send(batch: Batch) {
    let batch = Arc::new(batch);
    let next = Arc::new(AtomicUsize::new(0));
    let mut sessions = JoinSet::new();
    for _ in 0..batch.sessions {
        sessions.spawn(session(batch.clone(), next.clone()));
    }
    while let Some(ended) = sessions.join_next().await {
        ended.expect("a session failed");
    }
}

async fn session(batch: Arc<Batch>, next: Arc<AtomicUsize>) {
    let mut connection = Connection::open(batch.server).await;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= batch.count {
            break;
        }
        let to = recipient(number % ACCOUNTS);
        let message = batch.text.message(&batch.run, number, &to, batch.size);
        connection.transaction(&to, message).await;
    }
    connection.command("QUIT\r\n", "221").await;
}

struct Connection {
    stream: BufReader<TcpStream>,
    pipelining: bool,
    line: String,
}

impl Connection {
    async fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).await.expect("the server accepts");
        stream.set_nodelay(true).expect("a TCP option");
        let mut connection = Self { stream: BufReader::new(stream), pipelining: false, line: String::new() };
        connection.reply("220").await;
        connection.write(format!("EHLO mail.{SENDER_DOMAIN}\r\n").as_bytes()).await;
        let extensions = connection.reply("250").await;
        connection.pipelining = extensions.iter().any(|e| e.eq_ignore_ascii_case("PIPELINING"));
        connection
    }

    async fn transaction(&mut self, to: &str, mut message: Vec<u8>) {
        let mail = format!("MAIL FROM:<news@{SENDER_DOMAIN}>\r\n");
        let rcpt = format!("RCPT TO:<{to}>\r\n");
        if self.pipelining {
            self.write(format!("{mail}{rcpt}DATA\r\n").as_bytes()).await;
            for code in ["250", "250", "354"] {
                self.reply(code).await;
            }
        } else {
            self.command(&mail, "250").await;
            self.command(&rcpt, "250").await;
            self.command("DATA\r\n", "354").await;
        }
        message.extend_from_slice(b".\r\n");
        self.write(&message).await;
        self.reply("250").await;
    }

    async fn command(&mut self, line: &str, code: &str) {
        self.write(line.as_bytes()).await;
        self.reply(code).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.expect("the server reads");
    }

    /// The texts of a reply's lines (RFC 5321 §4.2.1).
    async fn reply(&mut self, code: &str) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            self.line.clear();
            let length = self.stream.read_line(&mut self.line).await.expect("the server answers");
            assert!(length > 0, "the server closed the connection before its {code}");
            let line = self.line.trim_end();
            assert!(line.starts_with(code), "expected {code}: {line}");
            texts.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return texts;
            }
        }
    }
}
