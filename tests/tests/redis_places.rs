//! The queue on a Redis Cluster and behind Sentinels: mail flows, and flows again after a failover.

#![allow(clippy::unwrap_used)]

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use address::QueueId;
use proto::{
    mailboxes::{StatusRequest, WatchRequest},
    spool::{AcceptRequest, Envelope, Recipient, Target, target::To},
};
use tempfile::TempDir;
use tests::{
    eventually,
    process::{Process, program},
    storage::Mda,
};

const SOON: Duration = Duration::from_secs(90);

/// A port that is free, and so is the one 10,000 above it, where cluster nodes talk.
fn port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 50_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
        // Of the ephemeral range only its lower part has room above.
        let low = 20_000 + port % 10_000;
        if [low, low + 10_000].iter().all(|p| TcpListener::bind(("127.0.0.1", *p)).is_ok()) {
            return low;
        }
    }
}

struct Node {
    port: u16,
    process: Process,
}

fn server(folder: &Path, more: &[&str]) -> Node {
    let port = port();
    let home = folder.join(port.to_string());
    std::fs::create_dir(&home).unwrap();
    let mut command = Command::new(program("redis-server", "redis-server"));
    command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"]).arg(&home);
    Node { port, process: Process::start(command.args(more).stdout(Stdio::null())) }
}

fn cli(port: u16, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program("redis-cli", "redis-tools"));
    let output = command.args(["-p", &port.to_string()]).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn answers(node: &Node) {
    eventually("redis answers", SOON, || async { cli(node.port, &["PING"]).filter(|a| a == "PONG") }).await;
}

async fn accept(mda: &Mda, account: u64) {
    let recipient = Recipient {
        forward_path: "bob@example.com".into(),
        targets: vec![Target { to: Some(To::AccountId(account)) }],
        ..Default::default()
    };
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let envelope = Envelope { queue_id, recipients: vec![recipient], ..Default::default() };
    let request = AcceptRequest { envelope: Some(envelope), content: "Subject: x\r\n\r\n".into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
}

async fn there(mda: &Mda, account_id: u64, messages: u32) {
    eventually("all mail is in the mailbox, once", SOON, || async {
        let request = StatusRequest { account_id, names: vec!["INBOX".into()], ..Default::default() };
        let state = mda.mailboxes().status(request).await.ok()?.into_inner().states.remove(0).state?;
        assert!(state.messages <= messages, "{} messages", state.messages);
        (state.messages == messages).then_some(())
    })
    .await;
}

/// Mail flows, sessions are woken, and a failover in the middle of it costs nothing.
async fn mail_flows_through(url: String, fail_over: impl AsyncFnOnce()) {
    let mda = Mda::start_with(|config| config.redis_url = Some(url.try_into().unwrap())).await;
    let bob = mda.account("bob@example.com").await;
    let mut wakes = mda.mailboxes().watch(WatchRequest { account_id: bob }).await.unwrap().into_inner();
    for _ in 0..50 {
        accept(&mda, bob).await;
    }
    there(&mda, bob, 50).await;
    tokio::time::timeout(SOON, wakes.message()).await.expect("a wake").unwrap().unwrap();
    fail_over().await;
    for _ in 0..50 {
        accept(&mda, bob).await;
    }
    there(&mda, bob, 100).await;
    mda.stop().await;
}

#[tokio::test]
async fn a_cluster_of_three_with_replicas() {
    let folder: TempDir = tempfile::tempdir_in("/tmp").unwrap();
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    let mut nodes: Vec<Node> = (0..6).map(|_| server(folder.path(), &options)).collect();
    for node in &nodes {
        answers(node).await;
    }
    let addresses: Vec<String> = nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
    let made = Command::new(program("redis-cli", "redis-tools"))
        .args(["--cluster", "create"])
        .args(&addresses)
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    for node in &nodes {
        eventually("the cluster is up", SOON, || async {
            cli(node.port, &["CLUSTER", "INFO"]).filter(|info| info.contains("cluster_state:ok"))
        })
        .await;
    }
    // All have to know the replicas before one of them can take over.
    eventually("replicas are in step", SOON, || async {
        let info = cli(nodes[0].port, &["CLUSTER", "NODES"])?;
        (info.matches("slave").count() == 3).then_some(())
    })
    .await;
    let url = format!("redis+cluster://{},{}/", addresses[0], addresses[3]);
    mail_flows_through(url, async || {
        // Whoever has the stream of local deliveries dies.
        let slot = cli(nodes[0].port, &["CLUSTER", "KEYSLOT", "postroad:{local}"]).unwrap();
        let slot: u32 = slot.parse().unwrap();
        let map = cli(nodes[0].port, &["CLUSTER", "NODES"]).unwrap();
        let owner = map.lines().find(|line| {
            let ranges = line.split(' ').skip(8).filter_map(|r| r.split_once('-'));
            ranges.into_iter().any(|(a, b)| (a.parse().unwrap()..=b.parse::<u32>().unwrap()).contains(&slot))
        });
        let address = owner.unwrap().split(' ').nth(1).unwrap().split('@').next().unwrap();
        let at = addresses.iter().position(|a| a == address).unwrap();
        drop(nodes.remove(at));
    })
    .await;
    for node in &mut nodes {
        assert!(node.process.is_running());
    }
}

#[tokio::test]
async fn sentinels_name_the_master() {
    let folder: TempDir = tempfile::tempdir_in("/tmp").unwrap();
    let master = server(folder.path(), &["--repl-diskless-sync-delay", "0"]);
    answers(&master).await;
    let replica = server(folder.path(), &["--replicaof", &format!("127.0.0.1 {}", master.port)]);
    eventually("the replica is in step", SOON, || async {
        cli(replica.port, &["INFO", "replication"]).filter(|info| info.contains("master_link_status:up"))
    })
    .await;
    let port = port();
    let config = folder.path().join("sentinel.conf");
    let lines = [
        format!("port {port}"),
        "bind 127.0.0.1".into(),
        format!("sentinel monitor mail 127.0.0.1 {} 1", master.port),
        "sentinel down-after-milliseconds mail 1000".into(),
        "sentinel failover-timeout mail 5000".into(),
    ];
    std::fs::write(&config, lines.join("\n")).unwrap();
    let mut command = Command::new(program("redis-server", "redis-server"));
    let _sentinel = Process::start(command.arg(&config).arg("--sentinel").stdout(Stdio::null()));
    eventually("the sentinel knows the replica", SOON, || async {
        cli(port, &["SENTINEL", "replicas", "mail"]).filter(|info| info.contains(&replica.port.to_string()))
    })
    .await;
    let replica_port = replica.port.to_string();
    mail_flows_through(format!("redis+sentinel://127.0.0.1:{port}/mail"), async || {
        drop(master);
        eventually("the replica is the master", SOON, || async {
            cli(port, &["SENTINEL", "get-master-addr-by-name", "mail"])
                .filter(|address| address.contains(&replica_port))
        })
        .await;
    })
    .await;
}
