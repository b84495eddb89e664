//! Postgres and Redis of a test's own, and an `mda` on them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use proto::{
    admin::{CreateAccountRequest, CreateDomainRequest, admin_client::AdminClient},
    directory::directory_client::DirectoryClient,
    journey::journey_client::JourneyClient,
    mailboxes::mailboxes_client::MailboxesClient,
    relay::{egress_client::EgressClient, relay_client::RelayClient},
    rules::{ActivateScriptRequest, Owner, PutScriptRequest, owner::By, rules_client::RulesClient},
    spool::spool_client::SpoolClient,
};
use runtime::grpc::{Channel, channel};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::{
    eventually,
    ports::free_address,
    process::{Process, is_root, program},
};

/// One Postgres for all tests of a process; every test has a database of its own.
struct Postgres {
    folder: PathBuf,
    /// It ends when this process does and its standard input closes, and takes its folder along.
    _process: std::process::Child,
}

const UNTIL_INPUT_CLOSES: &str =
    "folder=$1; shift; \"$@\" </dev/null & pid=$!; cat >/dev/null; kill -QUIT $pid; wait $pid; rm -rf \"$folder\"";

static POSTGRES: OnceLock<Postgres> = OnceLock::new();

/// As root, Postgres runs as the user that its package made.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

impl Postgres {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("postroad-pg").tempdir_in("/tmp").unwrap().keep();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&folder).status().unwrap().success());
        }
        let data = folder.join("data");
        let init = as_postgres(&program("initdb", "postgresql-15"))
            .args(["--auth=trust", "--username=postroad", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(init.success(), "initdb failed");
        let postgres = as_postgres(&program("postgres", "postgresql-15"));
        let process = Command::new("sh")
            .args(["-c", UNTIL_INPUT_CLOSES, "sh"])
            .arg(&folder)
            .arg(postgres.get_program())
            .args(postgres.get_args())
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&folder)
            .args(["-c", "listen_addresses=", "-c", "max_connections=200", "-c", "fsync=off"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder, _process: process }
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postroad@localhost/{database}?host={}", self.folder.display())
    }
}

/// A new, empty database.
pub async fn database() -> String {
    let postgres = POSTGRES.get_or_init(Postgres::start);
    let name = format!("t{}", uuid::Uuid::now_v7().simple());
    let url = postgres.url("postgres");
    let mut connection =
        eventually("postgres answers", Duration::from_secs(60), || async { PgConnection::connect(&url).await.ok() })
            .await;
    let create = sqlx::AssertSqlSafe(format!("create database {name}"));
    sqlx::query(create).execute(&mut connection).await.unwrap();
    postgres.url(&name)
}

/// A Redis of the test's own.
pub struct Redis {
    folder: TempDir,
    _process: Process,
}

impl Redis {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("postroad-redis").tempdir_in("/tmp").unwrap();
        let process = Process::start(
            Command::new(program("redis-server", "redis-server"))
                .args(["--port", "0", "--save", "", "--unixsocket"])
                .arg(folder.path().join("socket"))
                .stdout(Stdio::null()),
        );
        let redis = Self { folder, _process: process };
        eventually("redis answers", Duration::from_secs(20), || async { redis.command(&["PING"]).ok() }).await;
        redis
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub fn command(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(program("redis-cli", "redis-tools"))
            .arg("-s")
            .arg(self.socket())
            .args(arguments)
            .output()
            .map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// An `mda` within the test's process, on its own database and Redis.
pub struct Mda {
    pub address: SocketAddr,
    pub database_url: String,
    pub redis: Redis,
    channel: Channel,
    service: runtime::Service,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Mda {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub async fn start_with(change: impl FnOnce(&mut mda::Config)) -> Self {
        let redis = Redis::start().await;
        let database_url = database().await;
        let mut config = mda::Config {
            listen: free_address(),
            database_url: database_url.clone(),
            database_connections: 8,
            redis_url: Some(redis.url().try_into().unwrap()),
            hostname: "mx.example.com".into(),
            redispatch_seconds: 5,
            ..mda::Config::default()
        };
        change(&mut config);
        let address = config.listen;
        let service = runtime::Service::detached("mda");
        let running = tokio::spawn(mda::run(config, service.clone()));
        let channel = channel(&address.into(), Duration::from_secs(120));
        let mda = Self { address, database_url, redis, channel, service, running };
        eventually("mda answers", Duration::from_secs(40), || async {
            assert!(!mda.running.is_finished(), "mda ended at its start");
            mda.admin().list_domains(proto::admin::ListDomainsRequest {}).await.ok()
        })
        .await;
        mda
    }

    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    pub fn spool(&self) -> SpoolClient<Channel> {
        SpoolClient::new(self.channel.clone())
    }

    pub fn relay(&self) -> RelayClient<Channel> {
        RelayClient::new(self.channel.clone())
    }

    pub fn egress(&self) -> EgressClient<Channel> {
        EgressClient::new(self.channel.clone())
    }

    pub fn directory(&self) -> DirectoryClient<Channel> {
        DirectoryClient::new(self.channel.clone())
    }

    pub fn mailboxes(&self) -> MailboxesClient<Channel> {
        MailboxesClient::new(self.channel.clone()).max_decoding_message_size(proto::MAX_GRPC_MESSAGE)
    }

    pub fn rules(&self) -> RulesClient<Channel> {
        RulesClient::new(self.channel.clone())
    }

    pub fn journey(&self) -> JourneyClient<Channel> {
        JourneyClient::new(self.channel.clone())
    }

    /// Stores an account's Sieve script, and lets it rule.
    pub async fn script(&self, account: u64, text: &str) {
        let owner = Some(Owner { by: Some(By::AccountId(account)) });
        let (name, script) = ("main".to_owned(), text.to_owned());
        let request = PutScriptRequest { owner: owner.clone(), name: name.clone(), script, ..Default::default() };
        self.rules().put_script(request).await.unwrap();
        self.rules().activate_script(ActivateScriptRequest { owner, name }).await.unwrap();
    }

    /// An account with the password "secret"; its domain is made with it.
    pub async fn account(&self, address: &str) -> u64 {
        let name = address.rsplit('@').next().unwrap().to_owned();
        self.admin().create_domain(CreateDomainRequest { name, ..Default::default() }).await.unwrap();
        let request =
            CreateAccountRequest { address: address.to_owned(), password: "secret".into(), ..Default::default() };
        self.admin().create_account(request).await.unwrap().into_inner().account_id
    }

    pub async fn sql(&self) -> PgConnection {
        PgConnection::connect(&self.database_url).await.unwrap()
    }

    pub async fn stop(self) {
        self.service.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}
