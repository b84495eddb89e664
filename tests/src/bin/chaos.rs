//! `make chaos`: prints what failed, how often, and that nothing was lost.
//!
//! `chaos [SECONDS] [SEED]`: faults go on at random for that long after each had its turn.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::{process::ExitCode, time::Duration};

use tests::chaos::{Plan, run};

const SESSIONS: usize = 8;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap_or_else(|e| panic!("{a}: {e}")));
    let time = Duration::from_secs(arguments.next().unwrap_or(120));
    let seed = arguments.next().unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("seed {seed}");
    let report = run(&Plan { time, sessions: SESSIONS, seed }).await;
    println!("{:<28} {:>8} {:>9} {:>18}", "fault", "injected", "messages", "worst recovery (s)");
    for row in &report.rows {
        let recovery = row.worst_recovery.as_secs_f32();
        println!("{:<28} {:>8} {:>9} {:>18.1}", row.name, row.injected, row.messages, recovery);
    }
    for wrong in &report.wrong {
        println!("wrong: {wrong}");
    }
    println!(
        "chaos: messages={} faults={} lost={} doubled={} worst_recovery_s={:.0}",
        report.messages,
        report.injected(),
        report.lost,
        report.doubled,
        report.worst_recovery().as_secs_f32().ceil()
    );
    if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
