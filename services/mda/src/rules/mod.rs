//! Rules of accounts: Sieve scripts, vacation, forward. Local delivery hands over what goes to an
//! account that has some; everybody else pays nothing for them.
//!
//! A script runs without touching anything ([`sieve`]); what it wants is then done in the
//! transaction that settles the delivery (Invariant 3): mailbox rows, messages that are sent on, the
//! memory of who was answered, and a line in the journey for each (Invariant 6). A script that fails
//! keeps the message.

mod decide;
mod effects;
mod letters;
mod runner;
mod service;

use serde::Deserialize;
use sqlx::PgPool;

pub use runner::Runner;
pub use service::Service;

/// What Sieve scripts may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Octets of one script.
    pub max_script_bytes: usize,
    /// Scripts of one account.
    pub max_scripts: u32,
    /// Work of one run: commands, tests, and octets looked at in dozens.
    pub steps: u64,
    /// Mailboxes, addresses and answers of one run.
    pub actions: usize,
    /// Addresses that a script may send one message on to. A forward has its own limit of 16.
    pub redirects: usize,
    /// Octets of a message that body tests see.
    pub body_bytes: u64,
    /// The reverse-path of what is sent on: the message's own, or the account's address, which
    /// then also gets the bounces.
    pub redirect_sender: RedirectSender,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectSender {
    Original,
    Account,
}

impl Default for Config {
    fn default() -> Self {
        let limits = sieve::Limits::default();
        Self {
            max_script_bytes: 64 << 10,
            max_scripts: 32,
            steps: limits.steps,
            actions: limits.actions,
            redirects: limits.redirects,
            body_bytes: 4 << 20,
            redirect_sender: RedirectSender::Original,
        }
    }
}

impl Config {
    pub fn validate(&self) -> Result<(), String> {
        let bounds = [
            ("max_script_bytes", self.max_script_bytes as u64, 1_024, 1 << 20),
            ("max_scripts", u64::from(self.max_scripts), 1, 1_000),
            ("steps", self.steps, 1_000, 100_000_000),
            ("actions", self.actions as u64, 1, 1_000),
            ("redirects", self.redirects as u64, 0, 100),
            ("body_bytes", self.body_bytes, 0, 64 << 20),
        ];
        for (key, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(format!("configuration key \"sieve.{key}\" = {value}: expected {least} to {most}"));
            }
        }
        Ok(())
    }

    fn limits(&self) -> sieve::Limits {
        sieve::Limits { steps: self.steps, actions: self.actions, redirects: self.redirects }
    }
}

/// Forgets who was answered, and which ids were seen, when their time is over.
pub async fn forget(pool: &PgPool, most: i64) -> Result<(), sqlx::Error> {
    for statement in [
        "delete from vacation_answers where ctid = any (array(
             select ctid from vacation_answers where until < now() limit $1 for update skip locked))",
        "delete from sieve_tracked where ctid = any (array(
             select ctid from sieve_tracked where until < now() limit $1 for update skip locked))",
    ] {
        sqlx::query(statement).bind(most).execute(pool).await?;
    }
    Ok(())
}

/// What a table keeps of a text of any length.
fn digest(parts: &[&str]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
