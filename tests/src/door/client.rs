use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use crate::site::Site;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// One SMTP client at a loopback address of its own.
pub struct Client(BufReader<Box<dyn Wire>>);

/// For clients that believe a site's own CA.
pub fn connector(site: &Site) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(site.ca()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

impl Client {
    /// `n` chooses the address, so that no limit by address stands for all.
    pub async fn connect(port: u16, n: usize) -> io::Result<Self> {
        Ok(Self(BufReader::new(Box::new(Self::tcp(port, n).await?))))
    }

    pub async fn connect_tls(port: u16, n: usize, connector: &TlsConnector) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let tls = connector.connect(name, Self::tcp(port, n).await?).await?;
        // A client that waits holds little, or this program's own memory would be the limit.
        Ok(Self(BufReader::with_capacity(512, Box::new(tls))))
    }

    async fn tcp(port: u16, n: usize) -> io::Result<TcpStream> {
        let [.., a, b] = u32::try_from(n / 2).unwrap_or_default().to_be_bytes();
        let own = Ipv4Addr::new(127, 1 + u8::try_from(n / 131_072).unwrap_or_default(), a, b.max(1));
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((own, 0)))?;
        socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
    }

    /// One line, whatever it says.
    pub async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    /// An IMAP command, up to the line that begins with `end`.
    pub async fn imap(&mut self, command: &str, end: &str) -> io::Result<()> {
        self.0.get_mut().write_all(command.as_bytes()).await?;
        loop {
            let line = self.line().await?;
            if line.starts_with(end) {
                return Ok(());
            }
            if line.starts_with("a ") || line.starts_with("* BYE") {
                return Err(io::Error::other(format!("{command}: {line}")));
            }
        }
    }

    pub async fn greet(&mut self) -> io::Result<()> {
        self.reply().await?;
        self.command("EHLO client.example").await.map(drop)
    }

    /// A whole conversation for one message; the reply that ended it.
    pub async fn deliver(port: u16, n: usize, size: usize) -> io::Result<String> {
        let mut client = Self::connect(port, n).await?;
        client.greet().await?;
        let reply = client.message(size).await?;
        client.command("QUIT").await?;
        Ok(reply)
    }

    pub async fn message(&mut self, size: usize) -> io::Result<String> {
        for command in ["MAIL FROM:<a@sender.example>", "RCPT TO:<bob@example.com>", "DATA"] {
            let reply = self.command(command).await?;
            if !reply.starts_with(['2', '3']) {
                return Ok(reply);
            }
        }
        self.0.get_mut().write_all(b"Subject: load\r\n\r\n").await?;
        let line = [&[b'x'; 76][..], b"\r\n"].concat();
        let block = line.repeat(64);
        for _ in 0..size / block.len() {
            self.0.get_mut().write_all(&block).await?;
        }
        self.command(".").await
    }

    pub async fn command(&mut self, line: &str) -> io::Result<String> {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).await?;
        self.0.get_mut().flush().await?;
        self.reply().await
    }

    async fn reply(&mut self) -> io::Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) == Some(&b' ') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}

/// Connections that say nothing an SMTP server understands.
pub async fn garbage(port: u16, n: usize, connections: usize) {
    for round in 0..connections {
        let Ok(mut client) = Client::connect(port, n + round % 97).await else { continue };
        let bytes: &[u8] = match round % 4 {
            0 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xff\xfe\xfd\0\0\0\0",
            2 => &[0xaa; 3000],
            _ => b"",
        };
        let _ = client.0.get_mut().write_all(bytes).await;
    }
}

/// Content an octet at a time, again as soon as it is cut; how often that was.
pub async fn slowloris(port: u16, n: usize, done: Arc<AtomicBool>) -> usize {
    let mut cut = 0;
    while !done.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(port, n).await else { continue };
        let begin = async {
            client.greet().await?;
            for command in ["MAIL FROM:<a@sender.example>", "RCPT TO:<bob@example.com>", "DATA"] {
                client.command(command).await?;
            }
            io::Result::Ok(())
        };
        if begin.await.is_err() {
            continue;
        }
        while !done.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if client.0.get_mut().write_all(b"x").await.is_err() {
                cut += 1;
                break;
            }
        }
    }
    cut
}

/// Passwords for one account from another network, one after another; how many were answered
/// with 535, and how many with "later".
pub async fn guess(port: u16, n: usize, done: Arc<AtomicBool>) -> (usize, usize) {
    let program = format!(
        "import smtplib, ssl, sys\n\
         tls = ssl._create_unverified_context(); wrong = later = 0\n\
         for i in range(100000):\n    \
             try:\n        \
                 s = smtplib.SMTP('127.0.0.1', {port}, source_address=('127.9.{}.{}', 0), timeout=20); s.starttls(context=tls)\n        \
                 s.login('bob@example.com', f'guess{{i}}')\n    \
             except smtplib.SMTPAuthenticationError as e:\n        \
                 wrong += e.smtp_code == 535; later += e.smtp_code == 454\n    \
             except (smtplib.SMTPException, OSError): pass\n    \
             print(wrong, later, flush=True)\n",
        n / 250 % 250,
        1 + n % 250
    );
    let mut child = tokio::process::Command::new("python3")
        .args(["-c", &program])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python3");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut last = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let Ok(Ok(Some(line))) = tokio::time::timeout(Duration::from_secs(1), lines.next_line()).await else {
            continue;
        };
        if let Some((wrong, later)) = line.split_once(' ') {
            last = (wrong.parse().unwrap_or(last.0), later.parse().unwrap_or(last.1));
        }
    }
    last
}

/// All ways to hide a second message in the first; how many tries were refused.
pub async fn smuggle(port: u16, n: usize, done: Arc<AtomicBool>) -> usize {
    let ends = ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\n\0.\r\n", "\r\n.\r\r\n"];
    let mut refused = 0;
    while !done.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(port, n).await else { continue };
        if client.greet().await.is_err() {
            continue;
        }
        for end in ends {
            for command in ["MAIL FROM:<a@sender.example>", "RCPT TO:<bob@example.com>", "DATA"] {
                if client.command(command).await.is_err() {
                    break;
                }
            }
            let text = format!(
                "Subject: smuggled\r\n\r\nx{end}MAIL FROM:<evil@x.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\nevil\r\n."
            );
            let Ok(reply) = client.command(&text).await else { break };
            assert!(reply.starts_with("554 5.6.0"), "{end:?}: {reply}");
            refused += 1;
        }
    }
    refused
}
