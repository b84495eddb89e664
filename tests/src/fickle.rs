//! An MTA that takes mail in the end, and does as it is told before.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

#[derive(Debug, Clone, Copy)]
pub enum Mood {
    /// Says this to RCPT.
    Says(&'static str),
    /// Never answers the final dot.
    Hangs,
}

#[derive(Clone, Default)]
pub struct Fickle {
    moods: Arc<Mutex<VecDeque<Mood>>>,
    /// What was taken with a 250, header and all.
    taken: Arc<Mutex<Vec<String>>>,
    hanging: Arc<Mutex<usize>>,
}

impl Fickle {
    /// One transaction for each mood; then it takes everything.
    pub async fn start(address: SocketAddr, moods: &[Mood]) -> Self {
        let fickle = Self { moods: Arc::new(Mutex::new(moods.iter().copied().collect())), ..Self::default() };
        let listener = TcpListener::bind(address).await.unwrap();
        let own = fickle.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(stream));
            }
        });
        fickle
    }

    pub fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }

    /// Transactions that wait for an answer for ever.
    pub fn hanging(&self) -> usize {
        *self.hanging.lock().unwrap()
    }

    async fn serve(self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        say(&mut stream, "220 mx.fickle.com ESMTP").await?;
        let mut mood = None;
        loop {
            let line = hear(&mut stream).await?;
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            let answer = match (verb.as_str(), mood) {
                ("EHLO", _) => "250 mx.fickle.com",
                ("MAIL", _) => {
                    mood = self.moods.lock().unwrap().pop_front();
                    "250 2.1.0 Ok"
                }
                ("RCPT", Some(Mood::Says(no))) => no,
                ("RCPT", _) => "250 2.1.5 Ok",
                ("DATA", Some(Mood::Says(_))) => "503 5.5.1 no recipients",
                ("DATA", _) => {
                    say(&mut stream, "354 go").await?;
                    let mut content = String::new();
                    loop {
                        let line = hear(&mut stream).await?;
                        if line == ".\r\n" {
                            break;
                        }
                        content.push_str(&line);
                    }
                    if matches!(mood, Some(Mood::Hangs)) {
                        *self.hanging.lock().unwrap() += 1;
                        std::future::pending::<()>().await;
                    }
                    self.taken.lock().unwrap().push(content);
                    "250 2.0.0 Ok: taken"
                }
                ("QUIT", _) => {
                    say(&mut stream, "221 bye").await?;
                    return None;
                }
                _ => "250 2.0.0 Ok",
            };
            say(&mut stream, answer).await?;
        }
    }
}

async fn hear(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok().filter(|n| *n > 0)?;
    Some(String::from_utf8_lossy(&line).into_owned())
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> Option<()> {
    stream.write_all(format!("{line}\r\n").as_bytes()).await.ok()
}
