//! `make demo`: a message from alice@sender.com's MUA to bob@example.com's MUA, every hop shown.
//!
//! Starts a name server and two sites on loopback, hands the rest to `tests/demo.py`, which is the
//! two MUAs, and stops everything again.

use std::process::{Command, ExitCode};

use tests::{process::ours, sites::Sites};

/// High enough for any user, out of the way of most servers.
const PORT_OFFSET: u16 = 12_000;

#[tokio::main]
async fn main() -> ExitCode {
    let started = std::time::Instant::now();
    let sites = Sites::up(PORT_OFFSET, |options| options).await;
    eprintln!("two sites are ready after {:.1} s", started.elapsed().as_secs_f32());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/demo.py");
    let demo = Command::new("python3")
        .arg(script)
        .env("POSTROAD", ours("postroad"))
        .env("OFFSET", PORT_OFFSET.to_string())
        .env("SENDER_DATA", sites.sender.data())
        .env("EXAMPLE_DATA", sites.example.data())
        .status();
    let held = demo.is_ok_and(|status| status.success());
    drop(sites);
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
