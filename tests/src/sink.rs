//! A world of MTAs on loopback that take everything, or never say a word, and remember what they
//! answered 250 to; and a way to put mail for them straight into a site's queue.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use address::QueueId;
use proto::{
    admin::{ListQueueRequest, admin_client::AdminClient},
    spool::{AcceptRequest, Envelope, Recipient, Target, spool_client::SpoolClient, target::To},
};
use runtime::grpc::{Channel, Peers, channel};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::site::Site;

#[derive(Debug, Clone)]
pub struct Taken {
    /// `X-Number`.
    pub number: usize,
    /// Just before the 250 was sent.
    pub at: Instant,
    /// Over which it came.
    pub connection: usize,
}

#[derive(Clone, Default)]
pub struct Sink {
    taken: Arc<Mutex<Vec<Taken>>>,
    connections: Arc<AtomicUsize>,
    /// Connections that ended without QUIT.
    cut: Arc<Mutex<HashSet<usize>>>,
}

/// How a host behaves.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// Takes everything; so long after the final dot.
    Takes(Duration),
    /// Accepts connections and says nothing.
    Hangs,
}

impl Sink {
    pub async fn listen(&self, address: SocketAddr, manner: Manner) {
        let listener = TcpListener::bind(address).await.unwrap();
        let sink = self.clone();
        tokio::spawn(async move {
            let mut hanging = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                match manner {
                    Manner::Takes(delay) => drop(tokio::spawn(sink.clone().serve(stream, delay))),
                    Manner::Hangs => hanging.push(stream),
                }
            }
        });
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    /// Whether the client went away without QUIT, as one that is killed does.
    pub fn is_cut(&self, connection: usize) -> bool {
        self.cut.lock().unwrap().contains(&connection)
    }

    async fn serve(self, stream: TcpStream, delay: Duration) {
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        if talk(stream, &self.taken, connection, delay).await.is_none() {
            self.cut.lock().unwrap().insert(connection);
        }
    }
}

/// Nothing when the client went away.
async fn talk(stream: TcpStream, taken: &Mutex<Vec<Taken>>, connection: usize, delay: Duration) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    say(&mut stream, "220 sink ESMTP").await?;
    let mut line = String::new();
    loop {
        hear(&mut stream, &mut line).await?;
        let answer = match line.get(..4)? {
            "EHLO" => "250-sink\r\n250-PIPELINING\r\n250 8BITMIME",
            "DATA" => {
                say(&mut stream, "354 go").await?;
                let mut number = None;
                while line.trim_end() != "." {
                    hear(&mut stream, &mut line).await?;
                    number = number.or_else(|| line.strip_prefix("X-Number: ")?.trim().parse().ok());
                }
                tokio::time::sleep(delay).await;
                taken.lock().unwrap().push(Taken { number: number?, at: Instant::now(), connection });
                "250 2.0.0 Ok"
            }
            "QUIT" => {
                say(&mut stream, "221 bye").await;
                return Some(());
            }
            _ => "250 2.0.0 Ok",
        };
        say(&mut stream, answer).await?;
    }
}

async fn hear(stream: &mut BufReader<TcpStream>, line: &mut String) -> Option<()> {
    line.clear();
    stream.read_line(line).await.ok().filter(|n| *n > 0).map(drop)
}

async fn say(stream: &mut BufReader<TcpStream>, text: &str) -> Option<()> {
    stream.get_mut().write_all(format!("{text}\r\n").as_bytes()).await.ok()
}

/// The queue of a site, from behind its door.
#[derive(Clone)]
pub struct Queue {
    spool: SpoolClient<Channel>,
    admin: AdminClient<Channel>,
}

impl Queue {
    pub fn of(site: &Site) -> Self {
        let address = std::fs::read_to_string(site.data().join("run/mda-1.addr")).unwrap();
        let peers = Peers::try_from(address.trim().to_owned()).unwrap();
        let channel = channel(&peers, Duration::from_secs(60));
        Self { spool: SpoolClient::new(channel.clone()), admin: AdminClient::new(channel) }
    }

    /// Message `number` to one recipient elsewhere; comes back when it is committed.
    pub async fn put(&self, number: usize, to: &str) {
        let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
        let targets = vec![Target { to: Some(To::Remote(to.to_owned())) }];
        let recipients = vec![Recipient { forward_path: to.to_owned(), targets, ..Default::default() }];
        let envelope = Envelope { queue_id, reverse_path: "news@example.com".into(), recipients, ..Default::default() };
        let content = format!("From: news@example.com\r\nX-Number: {number}\r\nSubject: x\r\n\r\nbody\r\n");
        let request = AcceptRequest { envelope: Some(envelope), content: content.into() };
        for _ in 0..100 {
            match self.spool.clone().accept(tokio_stream::iter([request.clone()])).await {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        panic!("message {number} was not accepted");
    }

    /// Many at once; `to` says where each number goes.
    pub async fn fill(&self, numbers: std::ops::Range<usize>, to: impl Fn(usize) -> String) {
        use futures::StreamExt as _;
        let puts = numbers.map(|n| {
            let (queue, to) = (self.clone(), to(n));
            async move { queue.put(n, &to).await }
        });
        futures::stream::iter(puts).buffer_unordered(64).collect::<Vec<()>>().await;
    }

    pub async fn open(&self, domain: &str) -> usize {
        let request = ListQueueRequest { domain: domain.into(), limit: 100_000, ..Default::default() };
        let admin = self.admin.clone().max_decoding_message_size(proto::MAX_GRPC_MESSAGE);
        admin.clone().list_queue(request).await.map_or(usize::MAX, |a| a.into_inner().entries.len())
    }
}
