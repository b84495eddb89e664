//! `make bench`: the same mail into Postroad and into Postfix with Dovecot, side by side, and out of both.
//!
//! How it is measured, and what the figures mean: docs/benchmarks.md.

pub mod cpu;
pub mod dovecot;
pub mod journey;
pub mod line;
pub mod mail;
pub mod memory;
pub mod peer;
pub mod relay;
pub mod report;
pub mod retrieval;
pub mod run;
pub mod sender;
pub mod subject;
pub mod tracing;
pub mod verdicts;

pub use run::{Measure, Run, Size, measure};
pub use subject::Subject;

/// Every recipient is local at both.
pub const DOMAIN: &str = "example.com";
/// Whose mail it is; published in the zone that Postroad asks.
pub const SENDER_DOMAIN: &str = "sender.com";
pub const ACCOUNTS: usize = 20;

/// The address of an account (0-based).
pub fn recipient(account: usize) -> String {
    format!("{}@{DOMAIN}", local_part(account))
}

pub fn local_part(account: usize) -> String {
    format!("u{account:02}")
}
