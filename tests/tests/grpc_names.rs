//! Pods that come and go behind one DNS name: calls follow the name server's records, none fails.
//!
//! The system's own resolver is asked, as in a pod: the test runs in a network and a mount
//! namespace of its own, where port 53 and /etc/resolv.conf are free to have.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use proto::auth::{SignRequest, SignResponse, VerifyRequest, VerifyResponse, auth_client::AuthClient, auth_server};
use runtime::grpc::{Channel, Peers, channel, serve};
use tests::{dns::NameServer, eventually, process::is_root};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, service::Routes};

const INSIDE: &str = "POSTROAD_TEST_NAMESPACE";
const NAME: &str = "mda-headless.mail.test";
const SETUP: &str = r#"
python3 - <<'END'
import fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
END
echo "nameserver 127.0.0.53
options timeout:1 attempts:1" >"$1"
mount --bind "$1" /etc/resolv.conf
shift
exec "$@"
"#;
const PATIENCE: Duration = Duration::from_secs(30);

/// Says who it is.
struct Pod(u8);

#[tonic::async_trait]
impl auth_server::Auth for Pod {
    async fn verify(&self, _: Request<Streaming<VerifyRequest>>) -> Result<Response<VerifyResponse>, Status> {
        Err(Status::failed_precondition(self.0.to_string()))
    }

    async fn sign(&self, _: Request<Streaming<SignRequest>>) -> Result<Response<SignResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

/// Serves at 127.0.0.`number` until it is cancelled.
async fn pod(number: u8) -> CancellationToken {
    let address: SocketAddr = format!("127.0.0.{number}:9400").parse().unwrap();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let (routes, stop) = (Routes::new(auth_server::AuthServer::new(Pod(number))), CancellationToken::new());
    tokio::spawn(serve(listener, routes, stop.clone()));
    stop
}

/// Who answers 40 calls.
async fn answering(client: &AuthClient<Channel>) -> BTreeSet<u8> {
    let mut pods = BTreeSet::new();
    for _ in 0..40 {
        let request = futures::stream::iter([VerifyRequest::default()]);
        let status = client.clone().verify(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "a call failed: {status}");
        pods.insert(status.message().parse().unwrap());
    }
    pods
}

async fn until(client: &AuthClient<Channel>, what: &str, wanted: &[u8]) {
    let (start, wanted) = (Instant::now(), BTreeSet::from_iter(wanted.iter().copied()));
    eventually(what, PATIENCE, || async { (answering(client).await == wanted).then_some(()) }).await;
    eprintln!("{what}: noticed within {:?}", start.elapsed());
}

async fn changes() {
    let address = |number: u8| format!("{NAME} A 127.0.0.{number}");
    let dns = NameServer::start_at("127.0.0.53:53".parse().unwrap(), &["test."]).await;
    let first = pod(11).await;
    dns.add(&address(11)).await;
    let peers = Peers::try_from(format!("{NAME}:9400")).unwrap();
    let client = AuthClient::new(channel(&peers, Duration::from_secs(20)));
    until(&client, "the only pod", &[11]).await;

    let second = pod(12).await;
    dns.add(&address(12)).await;
    until(&client, "a pod came", &[11, 12]).await;

    // A pod that is to go leaves the DNS first and serves on for a while.
    dns.remove(NAME).await;
    dns.add(&address(12)).await;
    until(&client, "a pod went", &[12]).await;
    first.cancel();

    // All of them are others now.
    let _third = pod(13).await;
    dns.remove(NAME).await;
    dns.add(&address(13)).await;
    until(&client, "another pod", &[13]).await;
    second.cancel();
    assert_eq!(answering(&client).await, [13].into());

    // Two names of no pod, one of a pod: who refuses connections is left out.
    dns.add(&address(14)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(answering(&client).await, [13].into());

    // A name server that is away takes no pod along.
    drop(dns);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(answering(&client).await, [13].into());
}

#[test]
fn calls_follow_the_dns_and_none_fails() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(changes());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-root-user");
    }
    let status = command
        .args(["--net", "--mount", "sh", "-c", SETUP, "sh"])
        .arg(folder.path().join("resolv.conf"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "calls_follow_the_dns_and_none_fails", "--nocapture"])
        .env(INSIDE, "yes")
        .status()
        .expect("unshare (package util-linux)");
    assert!(status.success());
}
