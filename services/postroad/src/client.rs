//! Finding and calling the `mda` of a running Postroad.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use proto::{
    MAX_GRPC_MESSAGE,
    admin::{Domain, admin_client::AdminClient},
    console::console_client::ConsoleClient,
    journey::journey_client::JourneyClient,
    mailboxes::mailboxes_client::MailboxesClient,
    rules::rules_client::RulesClient,
};
use runtime::grpc::{Channel, Peers, TlsFiles};
use tonic::codegen::{Service, http};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);
const TRANSFER_DEADLINE: Duration = Duration::from_secs(3_600);

/// Which Postroad is meant.
#[derive(Debug, clap::Args)]
pub struct Site {
    /// The data directory of `postroad up`
    #[arg(long, global = true, value_name = "DIR", env = "POSTROAD_DATA")]
    data: Option<PathBuf>,
    /// Instead of --data: where mda's gRPC port is
    #[arg(long, global = true, value_name = "HOST:PORT", env = "POSTROAD_MDA")]
    mda: Option<String>,
    /// With --mda: the directory with ca.crt, tls.crt and tls.key for mutual TLS
    #[arg(long, global = true, value_name = "DIR", env = "POSTROAD_GRPC_TLS")]
    grpc_tls: Option<PathBuf>,
    /// With --grpc-tls: the name in mda's certificate, when --mda is a forwarded port
    #[arg(long, global = true, value_name = "NAME", env = "POSTROAD_GRPC_SERVER_NAME")]
    grpc_server_name: Option<String>,
    /// See and change what belongs to one tenant only
    #[arg(long, global = true, value_name = "NAME")]
    as_tenant: Option<String>,
    /// Answer in JSON, one document
    #[arg(long, global = true)]
    pub json: bool,
}

impl Site {
    pub fn admin(&self) -> anyhow::Result<Admin> {
        let tenant = self.as_tenant.as_deref().map(str::parse).transpose();
        let tenant = tenant.map_err(|_| anyhow::anyhow!("--as-tenant: expected the name of a tenant"))?;
        let client = AdminClient::new(AsTenant { channel: self.channel()?, tenant });
        Ok(client.max_decoding_message_size(MAX_GRPC_MESSAGE))
    }

    /// For whole mailboxes: a call may take long.
    pub fn mailboxes(&self) -> anyhow::Result<MailboxesClient<Channel>> {
        Ok(MailboxesClient::new(self.channel_for(TRANSFER_DEADLINE)?).max_decoding_message_size(MAX_GRPC_MESSAGE))
    }

    pub fn console(&self) -> anyhow::Result<ConsoleClient<Channel>> {
        Ok(ConsoleClient::new(self.channel()?))
    }

    pub fn journey(&self) -> anyhow::Result<JourneyClient<Channel>> {
        Ok(JourneyClient::new(self.channel()?).max_decoding_message_size(MAX_GRPC_MESSAGE))
    }

    pub fn rules(&self) -> anyhow::Result<RulesClient<Channel>> {
        Ok(RulesClient::new(self.channel()?).max_decoding_message_size(MAX_GRPC_MESSAGE))
    }

    /// The host name of the Postroad that runs in the data directory.
    pub fn hostname(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.data.as_ref()?.join("run/hostname")).ok()?;
        Some(text.trim().to_owned())
    }

    fn secure(&self, folder: &std::path::Path) -> anyhow::Result<()> {
        if SECURED.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let file = |name| folder.join(name);
        let server_name = self.grpc_server_name.clone();
        let files = TlsFiles { ca: file("ca.crt"), cert: file("tls.crt"), key: file("tls.key"), server_name };
        runtime::grpc::install_tls(&files)
    }

    fn channel(&self) -> anyhow::Result<Channel> {
        self.channel_for(DEADLINE)
    }

    fn channel_for(&self, deadline: Duration) -> anyhow::Result<Channel> {
        let peers = match (&self.mda, &self.data) {
            (Some(mda), _) => mda.clone(),
            (None, Some(data)) => addresses(data)?,
            (None, None) => bail!("--data DIR or --mda HOST:PORT must say which Postroad is meant"),
        };
        if let (Some(folder), Some(_)) = (&self.grpc_tls, &self.mda) {
            self.secure(folder)?;
        }
        let peers = Peers::try_from(peers.clone()).map_err(|e| anyhow::anyhow!("{peers}: {e}"))?;
        Ok(runtime::grpc::channel(&peers, deadline))
    }
}

pub type Admin = AdminClient<AsTenant>;

/// Says in each call whose things are meant.
#[derive(Clone)]
pub struct AsTenant {
    channel: Channel,
    tenant: Option<http::HeaderValue>,
}

type Call = http::Request<tonic::body::Body>;

impl Service<Call> for AsTenant {
    type Response = <Channel as Service<Call>>::Response;
    type Error = <Channel as Service<Call>>::Error;
    type Future = <Channel as Service<Call>>::Future;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        if let Some(tenant) = &self.tenant {
            call.headers_mut().insert("postroad-tenant", tenant.clone());
        }
        self.channel.call(call)
    }
}

/// Whether calls of this process are secured already; one is enough for all.
static SECURED: AtomicBool = AtomicBool::new(false);

/// What `up` wrote when it started its mda processes: `DIR/run/mda-N.addr`.
fn addresses(data: &std::path::Path) -> anyhow::Result<String> {
    let run = data.join("run");
    let entries = std::fs::read_dir(&run).with_context(|| format!("no Postroad runs in {}", data.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|n| n.starts_with("mda-") && n.ends_with(".addr")) {
            found.push(std::fs::read_to_string(run.join(name))?.trim().to_owned());
        }
    }
    if found.is_empty() {
        bail!("no Postroad runs in {}", data.display());
    }
    Ok(found.join(","))
}

/// Creates a domain, or finds it there (used by `up --domain`).
pub async fn create_domain(mda: &Peers, name: &str) -> anyhow::Result<Domain> {
    let mut admin = AdminClient::new(runtime::grpc::channel(mda, DEADLINE));
    let request = proto::admin::CreateDomainRequest { name: name.to_owned(), ..Default::default() };
    let answer = admin.create_domain(request).await.map_err(refused).with_context(|| format!("domain {name}"))?;
    Ok(answer.into_inner())
}

/// A gRPC error as a sentence: mda's own words, unless there was no mda.
pub fn refused(status: tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow::anyhow!("mda answered {:?}", status.code()),
        words if status.code() == tonic::Code::Unavailable => {
            anyhow::anyhow!("mda cannot be reached or is not ready ({words})")
        }
        words => anyhow::anyhow!("{words}"),
    }
}
