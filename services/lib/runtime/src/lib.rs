//! What every service is started, watched and stopped with.
//!
//! A service's `main.rs` is `runtime::main("smtp-ingress", smtp_ingress::run)`, where
//! `async fn run(config: Config, service: runtime::Service) -> anyhow::Result<()>`:
//! - `Config` is read from file and environment before anything is bound ([`config`]);
//! - logs and traces are on ([`telemetry`]);
//! - `/livez`, `/readyz` and `/metrics` answer on `runtime.http_listen` ([`health`]);
//! - [`Service::shutdown`] is cancelled on SIGTERM and SIGINT; `run` then drains and returns.
//!   After `runtime.drain_seconds` the process ends anyway.
//!
//! Calls between services go through [`grpc`].

pub mod config;
pub mod grpc;
pub mod health;
mod sampling;
pub mod telemetry;

use std::{process::ExitCode, sync::Arc, time::Duration};

pub use config::{Config, ServiceConfig};
pub use prometheus_client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a running service has from its surroundings.
#[derive(Clone)]
pub struct Service {
    /// Folder, package, binary, image and `service.name` in one.
    pub name: &'static str,
    /// Cancelled when the process shall drain and end.
    pub shutdown: CancellationToken,
    health: Arc<health::Health>,
}

impl Service {
    /// For tests that run a service in their own process: no signals, no HTTP.
    pub fn detached(name: &'static str) -> Self {
        Self { name, shutdown: CancellationToken::new(), health: Arc::default() }
    }

    /// Registers metrics; call it once, before [`Service::ready`].
    pub fn metrics<M>(&self, register: impl FnOnce(&mut Registry) -> M) -> M {
        self.health.register(register)
    }

    /// From now on `/readyz` says yes, until shutdown. Call it when every port is bound.
    pub fn ready(&self) {
        self.health.set_ready(true);
        tracing::info!("ready");
    }
}

#[derive(clap::Parser)]
#[command(version)]
struct Arguments {
    /// YAML file with a section named like the service; environment variables
    /// POSTROAD_<KEY> (POSTROAD_<KEY>__<SUBKEY>) go before it.
    #[arg(long, env = "POSTROAD_CONFIG")]
    config: Option<std::path::PathBuf>,
    /// Say whether the configuration is right, and end
    #[arg(long)]
    check: bool,
}

/// Runs a service to its end. Errors before it is ready are printed and end with code 1.
pub fn main<C, F, R>(name: &'static str, run: F) -> ExitCode
where
    C: ServiceConfig,
    F: FnOnce(C, Service) -> R,
    R: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let arguments = <Arguments as clap::Parser>::parse();
    let config: C = match config::load(name, arguments.config.as_deref()) {
        Ok(config) => config,
        Err(e) => return fail(name, &e),
    };
    if arguments.check {
        return ExitCode::SUCCESS;
    }
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.enable_all().worker_threads(worker_threads(config.runtime()));
    let tokio = match threads.build() {
        Ok(tokio) => tokio,
        Err(e) => return fail(name, &e),
    };
    // One provider for all of TLS, here and in every library.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = tokio.block_on(supervise(name, config, run));
    // Blocking tasks that hang must not hold the process.
    tokio.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(name, &e),
    }
}

/// A message passes through several services and Postgres, which share the cores. A thread more that mostly sleeps is
/// woken for nothing again and again: on two cores that was a fifth of what the services took.
fn worker_threads(config: &Config) -> usize {
    let of_cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    config.worker_threads.map_or_else(of_cores, |n| n.get().into())
}

async fn supervise<C, F, R>(name: &'static str, config: C, run: F) -> anyhow::Result<()>
where
    C: ServiceConfig,
    F: FnOnce(C, Service) -> R,
    R: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let own = config.runtime().clone();
    if let Some(files) = &own.grpc_tls {
        grpc::install_tls(files)?;
    }
    let traces = telemetry::init(name, &own)?;
    let service = Service::detached(name);
    service.metrics(grpc::register);
    let http = health::serve(own.http_listen, service.health.clone()).await?;
    let mut running = tokio::spawn(run(config, service.clone()));
    let outcome = tokio::select! {
        ended = &mut running => flatten(ended),
        () = stop_signal() => {
            tracing::info!("draining");
            service.health.set_ready(false);
            service.shutdown.cancel();
            match tokio::time::timeout(Duration::from_secs(own.drain_seconds), running).await {
                Ok(ended) => flatten(ended),
                Err(_) => {
                    tracing::warn!(seconds = own.drain_seconds, "not drained in time");
                    Ok(())
                }
            }
        }
    };
    http.abort();
    telemetry::flush(traces).await;
    outcome
}

fn flatten(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    ended.map_err(anyhow::Error::from).and_then(|outcome| outcome)
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => (), _ = int.recv() => () }
        }
        // Without signals the process still runs and can be killed.
        _ => std::future::pending().await,
    }
}

fn fail(name: &str, error: &impl std::fmt::Display) -> ExitCode {
    // Alternate form: anyhow prints the chain of causes on one line.
    eprintln!("{name}: {error:#}");
    ExitCode::FAILURE
}
