//! The relay with a Redis and a name server of its own, an `mda` in memory, and scripted peers.

mod mda;
mod peer;
pub mod tls;
pub mod zone;

use std::{path::PathBuf, process::Child, time::Duration};

use hickory_server::{Server, zone_handler::Catalog};
pub use mda::{Delivery, Mda};
use outbound_relay::Config;
pub use peer::{HangsUp, Peer, Script, Tls};
use proto::spool::{Claimed, DeliveryId, Outcome, outcome::Result as End};
use queue::{Item, Producer, Stream};

pub const CONTENT: &str = "From: alice@sender.com\r\nSubject: hi\r\n\r\nbody\r\n.dot\r\n";

pub struct Site {
    pub mda: Mda,
    producer: Producer,
    service: runtime::Service,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    _name_server: Server<Catalog>,
    _redis: Redis,
}

struct Redis(Child, PathBuf);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

async fn redis() -> (Redis, queue::Url) {
    let folder = std::env::temp_dir().join(format!("relay-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder).unwrap();
    let socket = folder.join("redis.sock");
    let child = std::process::Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .current_dir(&folder)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("redis-server starts (Debian package redis-server)");
    while !socket.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let url = format!("redis+unix://{}", socket.display()).try_into().unwrap();
    (Redis(child, folder), url)
}

pub async fn site(records: &[&str], port: u16, adjust: impl FnOnce(&mut Config)) -> Site {
    site_with(zone::serve(records, false).await, port, adjust).await
}

pub async fn site_with(
    (dns, server): (std::net::SocketAddr, Server<Catalog>),
    port: u16,
    adjust: impl FnOnce(&mut Config),
) -> Site {
    let (redis, url) = redis().await;
    let service = runtime::Service::detached("outbound-relay");
    let mda = Mda::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config {
        redis_url: Some(url.clone()),
        mda: listener.local_addr().unwrap().into(),
        hostname: "mx.sender.com".into(),
        relay_port: port,
        ..Config::default()
    };
    config.dns = dns::Config { server: Some(dns), timeout_ms: 5_000, attempts: 1, ..dns::Config::default() };
    adjust(&mut config);
    tokio::spawn(runtime::grpc::serve(listener, mda.routes(), service.shutdown.clone()));
    let running = tokio::spawn(outbound_relay::run(config, service.clone()));
    let producer = Producer::new(&url);
    // Its socket is there a moment before Redis listens.
    while producer.length(Stream::Remote).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Site { mda, producer, service, running, _name_server: server, _redis: redis }
}

/// A delivery as `mda` would hand it out; the test changes what it cares for.
pub fn delivery(forward_path: &str) -> Claimed {
    Claimed {
        token: "token".into(),
        forward_path: forward_path.into(),
        reverse_path: "alice@sender.com".into(),
        attempt: 1,
        accepted_at_ms: chrono::Utc::now().timestamp_millis(),
        size: CONTENT.len() as u64,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        ..Claimed::default()
    }
}

impl Site {
    /// Queues one message to these recipients; returns its queue id.
    pub async fn submit(&self, deliveries: Vec<Claimed>) -> String {
        self.submit_content(deliveries, CONTENT.as_bytes()).await
    }

    /// What is due is handed out again, as `mda`'s dispatcher would.
    pub async fn hand_out_again(&self) {
        let ids: Vec<(String, u32)> = {
            let mut state = self.mda.0.lock().unwrap();
            state.deliveries.values_mut().for_each(|d| d.leased_until = None);
            state.deliveries.keys().cloned().collect()
        };
        let items = ids.into_iter().map(|(queue_id, number)| Item {
            queue_id,
            number,
            traceparent: String::new(),
            handed_out: 0,
        });
        self.producer.add(Stream::Remote, &items.collect::<Vec<_>>()).await.unwrap();
    }

    pub async fn submit_content(&self, deliveries: Vec<Claimed>, content: &[u8]) -> String {
        let queue_id = address::QueueId::from_bytes(uuid::Uuid::now_v7().into_bytes()).to_string();
        let mut items = Vec::new();
        {
            let mut state = self.mda.0.lock().unwrap();
            state.contents.insert(queue_id.clone(), content.to_vec());
            for (number, mut claimed) in deliveries.into_iter().enumerate() {
                let number = number as u32;
                claimed.size = content.len() as u64;
                claimed.id = Some(DeliveryId { queue_id: queue_id.clone(), number });
                items.push(Item {
                    queue_id: queue_id.clone(),
                    number,
                    traceparent: claimed.traceparent.clone(),
                    handed_out: 0,
                });
                state.deliveries.insert((queue_id.clone(), number), Delivery { claimed, leased_until: None });
            }
        }
        self.producer.add(Stream::Remote, &items).await.unwrap();
        queue_id
    }

    /// The outcomes, once there are `count`.
    pub async fn outcomes(&self, count: usize) -> Vec<Outcome> {
        for _ in 0..4_000 {
            {
                let state = self.mda.0.lock().unwrap();
                if state.outcomes.len() >= count {
                    return state.outcomes.clone();
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no {count} outcomes: {:?}", self.mda.0.lock().unwrap().outcomes);
    }

    /// Entries still in the stream, once they are `count`.
    pub async fn stream_is_empty(&self) -> bool {
        for _ in 0..2_000 {
            if self.producer.length(Stream::Remote).await.unwrap() == 0 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    pub async fn stop(self) {
        self.service.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// `relayed`, `deferred` or `bounced`, and the journey's text.
pub fn told(outcome: &Outcome) -> (&'static str, String) {
    let name = match outcome.result.as_ref().unwrap() {
        End::Relayed(_) => "relayed",
        End::Deferred(_) => "deferred",
        End::Bounced(_) => "bounced",
    };
    let event = outcome.event.clone().unwrap();
    assert_eq!((event.name.as_str(), event.service.as_str()), (name, "outbound-relay"));
    (name, event.text)
}

pub fn detail(outcome: &Outcome) -> serde_json::Value {
    serde_json::from_str(&outcome.event.as_ref().unwrap().detail).unwrap()
}
