//! `postroad`: the whole system on one machine, and the operator's hand in it.
//!
//! - `up` starts a private Postgres and Redis and every service, and keeps them running ([`up`]).
//! - `check` sends a message and reads it, as `helm test` does; `wait` keeps a container open.
//! - `admin`, `queue`, `quarantine` and `trace` are calls to `mda`'s Admin and Journey.
//!
//! The interface is stable: other tools build on it.
#![allow(clippy::print_stdout, reason = "a command line talks on standard output")]

mod admin;
mod check;
mod client;
mod quarantine;
mod queue;
mod rules;
mod text;
mod trace;
pub mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An e-mail system: MTA, MDA, IMAP and POP3 servers.
#[derive(Parser)]
#[command(name = "postroad", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole system on this machine
    Up(up::Options),
    /// Manage domains, accounts and aliases
    Admin(admin::Options),
    /// Show what happened to a message
    Trace(trace::Options),
    /// Look at and change what waits for delivery
    Queue(queue::Options),
    /// Look at what was sent to Junk, and release it into INBOX
    Quarantine(quarantine::Options),
    /// Send a message by submission and read it by IMAP, with an account that is removed again
    Check(check::Options),
    /// Do nothing until SIGTERM: a container to run the other commands in
    Wait,
}

/// Errors are one sentence on standard error and exit code 1.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One thread, the first: a process that asked for a signal at its parent's death
    // (PR_SET_PDEATHSIG) gets it when the thread that started it ends.
    let tokio = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(tokio) => tokio,
        Err(e) => return fail(&e.into()),
    };
    // One provider for all of TLS, here and in every library.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = tokio.block_on(async {
        match arguments.command {
            Command::Up(options) => up::run(options).await,
            Command::Admin(options) => admin::run(options).await,
            Command::Trace(options) => trace::run(options).await,
            Command::Queue(options) => queue::run(options).await,
            Command::Quarantine(options) => quarantine::run(options).await,
            Command::Check(options) => check::run(options).await,
            Command::Wait => wait().await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

/// As process 1 of a container we must ask for the signal: the kernel has no default for it.
async fn wait() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
    Ok(())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("postroad: {error:#}");
    ExitCode::FAILURE
}
