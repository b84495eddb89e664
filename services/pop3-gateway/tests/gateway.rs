//! The gateway over real sockets, with an `mda` of a few lines behind it.
#![allow(clippy::unwrap_used)]

mod mda;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use mda::Mda;
use runtime::Service;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const DOTS: &[u8] = b"Subject: one\r\n\r\n.\r\n..x\r\n\xff\xfe8 bit\r\n";

/// On an address of its own: nobody else is given the port before it is bound.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let own = Ipv4Addr::new(127, 0, 1, NEXT.fetch_add(1, Ordering::Relaxed));
    std::net::TcpListener::bind((own, 0)).unwrap().local_addr().unwrap()
}

struct Gateway {
    plain: SocketAddr,
    tls: SocketAddr,
    ca: rcgen::Certificate,
    service: Service,
    _files: Files,
}

/// Removed at the end of the test.
struct Files(std::path::PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A gateway whose `mda` is at `peer`, or nowhere.
async fn gateway(peer: SocketAddr) -> Gateway {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let files = Files(std::env::temp_dir().join(format!("pop3-gateway-{}", uuid::Uuid::new_v4())));
    std::fs::create_dir(&files.0).unwrap();
    let (cert_file, key_file) = (files.0.join("cert.pem"), files.0.join("key.pem"));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, signing_key.serialize_pem()).unwrap();

    let mut config = pop3_gateway::Config { pop3_listen: free_port(), pop3s_listen: free_port(), ..Default::default() };
    config.mda = peer.into();
    config.call_seconds = 10;
    config.listener.tls_cert = Some(cert_file);
    config.listener.tls_key = Some(key_file);
    let (plain, tls) = (config.pop3_listen, config.pop3s_listen);
    let service = Service::detached("pop3-gateway");
    tokio::spawn(pop3_gateway::run(config, service.clone()));
    while TcpStream::connect(tls).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Gateway { plain, tls, ca: cert, service, _files: files }
}

impl Gateway {
    async fn handshake(&self, tcp: TcpStream) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await.unwrap()
    }

    async fn client(&self) -> Client<TlsStream<TcpStream>> {
        Client(BufReader::new(self.handshake(TcpStream::connect(self.tls).await.unwrap()).await))
    }
}

struct Client<S>(BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// `C:` lines are sent, `S:` lines are expected; `…` stands for anything.
    async fn play(&mut self, transcript: &str) {
        for line in transcript.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if let Some(sent) = line.strip_prefix("C: ") {
                self.0.write_all(format!("{sent}\r\n").as_bytes()).await.unwrap();
                self.0.flush().await.unwrap();
                continue;
            }
            let expected = line.strip_prefix("S: ").unwrap();
            let got = String::from_utf8_lossy(&self.line().await).into_owned();
            match expected.strip_suffix('…') {
                Some(prefix) => assert!(got.starts_with(prefix), "S: {got}, where {line}"),
                None => assert_eq!(got.trim_end(), expected),
            }
        }
    }

    async fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        let read = self.0.read_until(b'\n', &mut line);
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("a reply in time").unwrap();
        line
    }

    /// The text of a multi-line reply, without byte-stuffing.
    async fn text(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        loop {
            let line = self.line().await;
            assert!(!line.is_empty(), "connection ended in the middle");
            if line == b".\r\n" {
                return text;
            }
            text.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }
}

const LOGIN: &str = "
    S: +OK …
    C: USER bob@example.com
    S: +OK …
    C: PASS secret word
    S: +OK …
";

#[tokio::test]
async fn a_whole_session() {
    let mda = Mda::start(&[DOTS, b"Subject: two\r\n\r\nx\r\n"]).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client.play(LOGIN).await;
    client
        .play(
            "
            C: STAT
            S: +OK 2 52
            C: UIDL
            S: +OK …
            S: 1 77.1
            S: 2 77.2
            S: .
            C: RETR 1
            S: +OK 33 octets
        ",
        )
        .await;
    assert_eq!(client.text().await, DOTS);
    client
        .play(
            "
            C: TOP 1 0
            S: +OK …
        ",
        )
        .await;
    assert_eq!(client.text().await, b"Subject: one\r\n\r\n");
    client
        .play(
            "
            C: DELE 1
            S: +OK …
            C: QUIT
            S: +OK …
        ",
        )
        .await;
    assert_eq!(mda.uids(), [2]);
    assert!(!mda.is_locked(), "free before the reply to QUIT");
}

#[tokio::test]
async fn stls_on_the_plain_port() {
    let mda = Mda::start(&[DOTS]).await;
    let gateway = gateway(mda.address).await;
    let mut client = Client(BufReader::new(TcpStream::connect(gateway.plain).await.unwrap()));
    client
        .play(
            "
            S: +OK …
            C: USER bob@example.com
            S: -ERR …
            C: STLS
            S: +OK …
        ",
        )
        .await;
    let mut client = Client(BufReader::new(gateway.handshake(client.0.into_inner()).await));
    client
        .play(
            "
            C: AUTH LOGIN
            S: + VXNlcm5hbWU6
            C: Ym9iQGV4YW1wbGUuY29t
            S: + UGFzc3dvcmQ6
            C: c2VjcmV0IHdvcmQ=
            S: +OK 1 messages (33 octets)
        ",
        )
        .await;
}

#[tokio::test]
async fn the_maildrop_is_locked_and_given_back() {
    let mda = Mda::start(&[DOTS]).await;
    let gateway = gateway(mda.address).await;
    let mut first = gateway.client().await;
    first.play(LOGIN).await;
    first.play("C: DELE 1\nS: +OK …").await;
    let mut second = gateway.client().await;
    second
        .play(
            "
            S: +OK …
            C: USER bob@example.com
            S: +OK …
            C: PASS secret word
            S: -ERR [IN-USE] …
        ",
        )
        .await;
    // Gone without QUIT: nothing is deleted, and the next session need not wait.
    drop(first);
    while mda.is_locked() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    second
        .play(
            "
            C: USER bob@example.com
            S: +OK …
            C: PASS secret word
            S: +OK 1 messages (33 octets)
        ",
        )
        .await;
}

#[tokio::test]
async fn a_wrong_password_is_told_from_trouble() {
    let mda = Mda::start(&[DOTS]).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client
        .play(
            "
            S: +OK …
            C: USER bob@example.com
            S: +OK …
            C: PASS wrong
            S: -ERR [AUTH] …
            C: USER bob@example.com
            S: +OK …
            C: PASS secret word
            S: +OK …
            C: DELE 1
            S: +OK …
        ",
        )
        .await;
    mda.set_down(true);
    client
        .play(
            "
            C: RETR 1
            S: -ERR message is marked as deleted
            C: RSET
            S: +OK …
            C: RETR 1
            S: -ERR [SYS/TEMP] …
            C: DELE 1
            S: +OK …
            C: QUIT
            S: -ERR [SYS/TEMP] …
        ",
        )
        .await;
    assert_eq!(mda.uids(), [1]);
}

#[tokio::test]
async fn works_again_when_mda_comes_back() {
    let address = free_port();
    let gateway = gateway(address).await;
    let mut client = gateway.client().await;
    client
        .play(
            "
            S: +OK …
            C: USER bob@example.com
            S: +OK …
            C: PASS secret word
            S: -ERR [SYS/TEMP] …
        ",
        )
        .await;
    let _mda = Mda::start_at(address, &[DOTS]).await;
    // The channel connects again by itself.
    tokio::time::sleep(Duration::from_secs(3)).await;
    client
        .play(
            "
            C: USER bob@example.com
            S: +OK …
            C: PASS secret word
            S: +OK 1 messages (33 octets)
        ",
        )
        .await;
}

#[tokio::test]
async fn a_drain_says_goodbye_and_deletes_nothing() {
    let mda = Mda::start(&[DOTS]).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client.play(LOGIN).await;
    client.play("C: DELE 1\nS: +OK …").await;
    gateway.service.shutdown.cancel();
    client.play("S: -ERR [SYS/TEMP] …").await;
    assert_eq!(client.line().await, b"");
    assert_eq!(mda.uids(), [1]);
    assert!(!mda.is_locked());
}

/// Invariant 10, with more than one chunk.
#[tokio::test]
async fn five_megabytes_byte_for_byte() {
    let mut message = b"Subject: big\r\n\r\n".to_vec();
    for n in 0..70_000u32 {
        message.extend_from_slice(format!(".{n} {:>60}\r\n.\r\n", n.wrapping_mul(2_654_435_761)).as_bytes());
    }
    let mda = Mda::start(&[&message]).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client.play(LOGIN).await;
    client.play("C: RETR 1\nS: +OK …").await;
    assert!(client.text().await == message, "differs");
}

/// A part of a message must not look like the whole.
#[tokio::test]
async fn a_message_that_breaks_off_ends_the_connection_without_its_last_line() {
    let message = format!("Subject: big\r\n\r\n{}", "0123456789\r\n".repeat(1000));
    let mda = Mda::start(&[message.as_bytes()]).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client.play(LOGIN).await;
    client.play("C: DELE 1\nS: +OK …\nC: RSET\nS: +OK …").await;
    mda.cut_after(3);
    client.play("C: RETR 1").await;
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut client.0, &mut rest).await;
    assert!(rest.len() < 4000 && !rest.ends_with(b"\r\n.\r\n"), "{} octets", rest.len());
    assert_eq!(mda.uids(), [1]);
}

#[tokio::test]
async fn a_session_that_lost_the_maildrop_deletes_nothing() {
    let mda = Mda::start(&[DOTS]).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client.play(LOGIN).await;
    client.play("C: DELE 1\nS: +OK …").await;
    mda.steal_lock();
    client.play("C: QUIT\nS: -ERR [SYS/TEMP] …").await;
    assert_eq!(mda.uids(), [1]);
}

/// RFC 6856 §7.
#[tokio::test]
async fn utf8_headers_go_as_they_are_only_to_who_asked_for_them() {
    let message = "From: jö@exämple.com\r\nSubject: Grüße\r\n\r\nGrüße\r\n".as_bytes();
    let mda = Mda::start(&[message, DOTS, DOTS]).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client.play(LOGIN).await;
    client.play("C: UIDL 3\nS: +OK 3 from-elsewhere\nC: RETR 1\nS: +OK 93 octets").await;
    let surrogate = client.text().await;
    assert_eq!(surrogate.len(), 93);
    let expected =
        "From: =?utf-8?B?asO2QGV4w6RtcGxlLmNvbQ==?= :;\r\nSubject: =?utf-8?B?R3LDvMOfZQ==?=\r\n\r\nGrüße\r\n";
    assert_eq!(String::from_utf8(surrogate).unwrap(), expected);
    client.play("C: QUIT\nS: +OK …").await;
    let mut client = gateway.client().await;
    client.play(&format!("S: +OK …\nC: UTF8\n{LOGIN}")).await;
    client.play(&format!("C: RETR 1\nS: +OK {} octets", message.len())).await;
    assert_eq!(client.text().await, message);
}

/// A client that stops reading keeps no call open; when it reads on, nothing is missing and nothing twice.
#[tokio::test]
async fn a_slow_reader_gets_every_octet_and_keeps_nobody_waiting() {
    let mut message = b"Subject: big\r\n\r\n".to_vec();
    for n in 0..400_000u32 {
        message.extend_from_slice(format!(".{n} {:>40}\r\n", n.wrapping_mul(2_654_435_761)).as_bytes());
    }
    let mda = Mda::start(&[&message]).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client.play(LOGIN).await;
    client.play("C: RETR 1\nS: +OK …").await;
    // Longer than the gateway keeps its call for a client that takes nothing.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut other = gateway.client().await;
    other.play("S: +OK …\nC: CAPA\nS: +OK …").await;
    assert_eq!(mda.starts(), [0], "it waits");
    assert!(client.text().await == message, "differs");
    let starts = mda.starts();
    assert!(starts.len() >= 2 && starts[1] > 0 && starts[1] < message.len() as u64, "{starts:?}");
    client.play("C: QUIT\nS: +OK …").await;
}

#[tokio::test]
async fn a_client_that_takes_all_in_order_is_read_ahead_for() {
    let messages: Vec<Vec<u8>> = (1..=250).map(|n| format!("Subject: {n}\r\n\r\n.{n}\r\n").into_bytes()).collect();
    let large = [b"Subject: large\r\n\r\n".to_vec(), b"0123456789\r\n".repeat(10_000)].concat();
    let mut all: Vec<&[u8]> = messages.iter().map(|m| &m[..]).collect();
    all[119] = &large;
    let mda = Mda::start(&all).await;
    let gateway = gateway(mda.address).await;
    let mut client = gateway.client().await;
    client.play(LOGIN).await;
    client.play("C: DELE 5\nS: +OK …").await;
    for (number, message) in all.iter().enumerate() {
        match number + 1 {
            5 => client.play("C: RETR 5\nS: -ERR message is marked as deleted").await,
            number => {
                client.play(&format!("C: RETR {number}\nS: +OK {} octets", message.len())).await;
                assert!(client.text().await == *message, "{number}");
            }
        }
    }
    // The first for itself, like the large one and the one behind it; the rest in bounded batches.
    let batches = mda.batches();
    assert_eq!(mda.starts().len(), 2, "{batches:?}");
    assert!(batches.iter().all(|uids| uids.len() <= 200 && !uids.contains(&5) && !uids.contains(&120)), "{batches:?}");
    assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 247);
    // Out of order nothing is read in advance, and what is gone meanwhile is an error like ever.
    mda.remove(7);
    client.play("C: RETR 7\nS: -ERR …\nC: RETR 3\nS: +OK 18 octets").await;
    assert_eq!(client.text().await, messages[2]);
    assert_eq!(mda.batches().len(), batches.len());
}
