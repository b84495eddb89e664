//! What the front door holds: many idle sessions, floods of large messages, an attack. Prints the
//! figures of docs/OPERATIONS.md; ends with an error when a promise is broken.
//!
//!     door idle | idle-tls | imap-idle | flood | attack [CONNECTIONS]

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let number = arguments.next().and_then(|n| n.parse().ok());
    match what.as_str() {
        "idle" => tests::door::idle(number.unwrap_or(5_000), false).await,
        "idle-tls" => tests::door::idle(number.unwrap_or(5_000), true).await,
        "imap-idle" => tests::door::imap_idle(number.unwrap_or(10_000)).await,
        "flood" => tests::door::flood(number.unwrap_or(200)).await,
        "attack" => tests::door::attack(number.unwrap_or(100_000)).await,
        _ => {
            eprintln!("expected: door idle | idle-tls | imap-idle | flood | attack, and a number");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
