//! Whether something is there already. Each probe asks until the answer is yes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

const PAUSE: Duration = Duration::from_millis(25);
const PATIENCE: Duration = Duration::from_secs(2);

/// Postgres lets a client in: it answers the start-up message with an authentication request
/// (`R`), not with an error (`E`), as it does while it recovers.
pub async fn postgres(socket: &Path) {
    // PostgreSQL's protocol 3.0: length, version, then pairs of texts, then an empty one.
    let parameters = format!("user\0{user}\0database\0{user}\0\0", user = super::postgres::NAME);
    let length = u32::try_from(8 + parameters.len()).unwrap_or_default();
    let hello = [&length.to_be_bytes()[..], &0x0003_0000_u32.to_be_bytes(), parameters.as_bytes()].concat();
    until(async || first_answer(UnixStream::connect(socket).await?, &hello, 1).await, |answer| answer == b"R").await;
}

/// Redis has read its file and works.
pub async fn redis(socket: &Path) {
    until(async || first_answer(UnixStream::connect(socket).await?, b"PING\r\n", 5).await, |answer| answer == b"+PONG")
        .await;
}

/// A service answers `/readyz` with 200.
pub async fn http_ready(address: SocketAddr) {
    let ask = async || first_answer(TcpStream::connect(address).await?, b"GET /readyz HTTP/1.0\r\n\r\n", 12).await;
    until(ask, |answer| answer.ends_with(b" 200")).await;
}

/// A port accepts connections. Says nothing on it: a PROXY header might be expected.
pub async fn accepts(address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    until(async || TcpStream::connect((ip, address.port())).await.map(|_| Vec::new()), |_| true).await;
}

async fn until(mut ask: impl AsyncFnMut() -> std::io::Result<Vec<u8>>, good: impl Fn(&[u8]) -> bool) {
    loop {
        if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, ask()).await
            && good(&answer)
        {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends the question and reads the first bytes of the answer.
async fn first_answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &[u8],
    bytes: usize,
) -> std::io::Result<Vec<u8>> {
    stream.write_all(question).await?;
    let mut answer = vec![0; bytes];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
