//! `postroad up`: everything on one machine as one process tree, with a private Postgres and
//! Redis in a data directory.
//!
//! Layout of the data directory: `postgres/`, `redis/`, `tls/`, `log/SERVICE-N.log`, and while
//! it runs `run/SERVICE-N.pid` and `run/mda-N.addr`. Started again on the same directory, it
//! goes on with what is there.

mod certificate;
mod options;
mod ports;
mod postgres;
mod probe;
mod process;
mod redis;
mod secret;
mod services;
mod site;
mod supervisor;
mod user;

use std::{io::Write, time::Duration};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

pub use options::Options;
use process::Patience;
use services::Plan;
use site::Site;
use supervisor::Supervisor;

/// Until everything must be ready.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs until SIGTERM or SIGINT, or until something does not start.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let site = Site::open(&options.data)?;
    site.end_leftovers().await;
    let plan = Plan::new(&site, options)?;
    let mut supervisor = Supervisor::new(&site);
    let outcome = tokio::select! {
        outcome = run_until_trouble(&site, &plan, &mut supervisor) => outcome,
        () = stop.requested() => Ok(()),
    };
    // A second signal means that nobody wants to wait for sessions.
    let hurry = async { stop.requested().await };
    supervisor.stop(hurry).await;
    site.forget();
    outcome
}

/// Starts everything, says `ready` and then watches; comes back only with an error.
async fn run_until_trouble(site: &Site, plan: &Plan, supervisor: &mut Supervisor<'_>) -> anyhow::Result<()> {
    match tokio::time::timeout(START_TIMEOUT, start(site, plan, supervisor)).await {
        Ok(started) => started?,
        Err(_) => bail!("not ready after {} s; see {}", START_TIMEOUT.as_secs(), site.log_directory().display()),
    }
    let log_in = format!("postroad admin --data {} token add --role operator me", site.root().display());
    say(std::io::stderr(), &format!("console: {} (log in with a token: {log_in})", plan.console_url()));
    say(std::io::stdout(), "ready");
    loop {
        let exit = supervisor.next_exit().await;
        say(std::io::stderr(), &format!("postroad: {exit}; starting it again"));
    }
}

/// Whoever started us may have stopped listening; that ends no mail service.
fn say(mut to: impl Write, words: &str) {
    let _ = writeln!(to, "{words}").and_then(|()| to.flush());
}

async fn start(site: &Site, plan: &Plan, supervisor: &mut Supervisor<'_>) -> anyhow::Result<()> {
    let redis = redis::prepare(site)?;
    let postgres = postgres::prepare(site, &plan.accounts, plan.database_clients())?;
    let (postgres_socket, redis_socket) = (postgres.socket.clone(), redis.socket.clone());
    supervisor.start(postgres.program, Patience::Store);
    supervisor.start(redis.program, Patience::Store);
    supervisor.until_ready(probe::postgres(&postgres_socket)).await?;
    supervisor.until_ready(probe::redis(&redis_socket)).await?;

    plan.publish(site)?;
    for service in plan.services() {
        supervisor.start(service.program, service.patience);
        if service.wait {
            supervisor.until_ready(probe::http_ready(service.health)).await?;
        }
    }
    for health in plan.health_ports() {
        supervisor.until_ready(probe::http_ready(health)).await?;
    }
    for address in plan.mail_ports() {
        supervisor.until_ready(probe::accepts(address)).await?;
    }
    let mda = plan.mda_peers()?;
    for domain in &plan.domains {
        let created = async { crate::client::create_domain(&mda, domain.as_str()).await };
        supervisor.unless_exit(created).await?.context("option --domain")?;
    }
    Ok(())
}

/// The signals that end us.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
            _ = self.hangup.recv() => (),
        }
    }
}
