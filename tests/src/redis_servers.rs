//! Redis as operators run it: a master with a replica and three Sentinels, or a cluster of three masters with
//! a replica each.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    eventually,
    ports::reserve,
    process::{Process, program},
};

const SOON: Duration = Duration::from_secs(60);

/// A free port, whose sister 10,000 above it, where cluster nodes talk, is free as well.
fn port() -> u16 {
    let first = 20_000 + (std::process::id() % 80) as u16 * 25;
    (first..22_500).find(|port| reserve(*port) && reserve(port + 10_000)).expect("free ports on loopback")
}

/// Killed with SIGKILL when dropped.
pub struct Node {
    pub port: u16,
    process: Process,
}

impl Node {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let port = port();
        let home = folder.join(port.to_string());
        std::fs::create_dir(&home).unwrap();
        let mut command = Command::new(program("redis-server", "redis-server"));
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"]).arg(&home);
        command.args(["--repl-diskless-sync-delay", "0"]).args(more);
        Self { port, process: Process::start(command.stdout(Stdio::null())) }
    }

    fn sentinel(folder: &Path, master: u16) -> Self {
        let port = port();
        let config = folder.join(format!("sentinel-{port}.conf"));
        let lines = [
            format!("port {port}"),
            "bind 127.0.0.1".into(),
            format!("sentinel monitor mail 127.0.0.1 {master} 2"),
            "sentinel down-after-milliseconds mail 1000".into(),
            "sentinel failover-timeout mail 5000".into(),
        ];
        std::fs::write(&config, lines.join("\n")).unwrap();
        let mut command = Command::new(program("redis-server", "redis-server"));
        Self { port, process: Process::start(command.arg(&config).arg("--sentinel").stdout(Stdio::null())) }
    }

    pub fn say(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(program("redis-cli", "redis-tools"));
        let output = command.args(["-p", &self.port.to_string()]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    async fn until(&self, what: &str, arguments: &[&str], is_so: impl Fn(&str) -> bool) {
        eventually(what, SOON, || async { self.say(arguments).filter(|said| is_so(said)) }).await;
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

/// `redis+sentinel://…/mail`.
pub struct Watched {
    pub master: Option<Node>,
    pub replica: Node,
    sentinels: Vec<Node>,
    _folder: TempDir,
}

impl Watched {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let master = Node::start(folder.path(), &[]);
        master.until("the master answers", &["PING"], |said| said == "PONG").await;
        let replica = Node::start(folder.path(), &["--replicaof", &format!("127.0.0.1 {}", master.port)]);
        replica
            .until("the replica is in step", &["INFO", "replication"], |said| said.contains("master_link_status:up"))
            .await;
        let sentinels: Vec<Node> = (0..3).map(|_| Node::sentinel(folder.path(), master.port)).collect();
        for sentinel in &sentinels {
            let enough = ["SENTINEL", "ckquorum", "mail"];
            sentinel.until("Sentinels know each other", &enough, |said| said.starts_with("OK 3")).await;
            let known = ["SENTINEL", "replicas", "mail"];
            sentinel.until("and the replica", &known, |said| said.contains(&replica.port.to_string())).await;
        }
        Self { master: Some(master), replica, sentinels, _folder: folder }
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port)).collect();
        format!("redis+sentinel://{}/mail", hosts.join(","))
    }

    /// Kills the master; returns when the Sentinels name the replica.
    pub async fn fail_over(&mut self) {
        drop(self.master.take());
        let port = self.replica.port.to_string();
        let who = ["SENTINEL", "get-master-addr-by-name", "mail"];
        self.sentinels[0].until("the replica is the master", &who, |said| said.contains(&port)).await;
    }
}

/// `redis+cluster://…/`.
pub struct Cluster {
    pub nodes: Vec<Node>,
    _folder: TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let nodes: Vec<Node> = (0..6).map(|_| Node::start(folder.path(), &options)).collect();
        for node in &nodes {
            node.until("redis answers", &["PING"], |said| said == "PONG").await;
        }
        let addresses = nodes.iter().map(|n| format!("127.0.0.1:{}", n.port));
        let made = Command::new(program("redis-cli", "redis-tools"))
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        for node in &nodes {
            node.until("the cluster is up", &["CLUSTER", "INFO"], |said| said.contains("cluster_state:ok")).await;
            // All have to know the replicas before one of them can take over.
            let knows = |said: &str| said.matches("slave").count() == 3 && said.matches("connected").count() == 6;
            node.until("all know all", &["CLUSTER", "NODES"], knows).await;
        }
        Self { nodes, _folder: folder }
    }

    /// Some of its nodes.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = [0, 3].map(|n| format!("127.0.0.1:{}", self.nodes[n].port)).into();
        format!("redis+cluster://{}/", hosts.join(","))
    }

    fn owner(&self, witness: &Node, key: &str) -> Option<u16> {
        let slot: u32 = witness.say(&["CLUSTER", "KEYSLOT", key])?.parse().ok()?;
        let map = witness.say(&["CLUSTER", "NODES"])?;
        let has = |line: &&str| {
            let mut ranges = line.split(' ').skip(8).filter_map(|r| r.split_once('-'));
            !line.contains("fail") && ranges.any(|(a, b)| (a.parse().unwrap()..=b.parse().unwrap()).contains(&slot))
        };
        let address = map.lines().find(has)?.split(' ').nth(1)?.split('@').next()?;
        address.rsplit(':').next()?.parse().ok()
    }

    /// Kills the node that has a key; returns when another one has it.
    pub async fn fail_over(&mut self, key: &str) {
        let owner = eventually("the key has an owner", SOON, || async { self.owner(&self.nodes[0], key) }).await;
        self.nodes.retain(|node| node.port != owner);
        eventually("a replica takes over", SOON, || async {
            self.owner(&self.nodes[0], key).filter(|now| *now != owner)
        })
        .await;
    }
}
