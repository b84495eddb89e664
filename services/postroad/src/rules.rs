//! `postroad admin sieve|vacation|forward`: what an account has done with its mail.

use std::{io::Read as _, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use proto::rules::{self, Owner, owner::By, rules_client::RulesClient};
use runtime::grpc::Channel;
use serde_json::{Value, json};

use crate::{admin::Answer, client::refused, text};

/// More than mda takes by default; it says itself what is too large.
const MAX_INPUT: u64 = 2 << 20;

#[derive(Debug, Subcommand)]
pub enum Sieve {
    /// Store a script, from a file or standard input; it must be one
    Put {
        address: String,
        name: String,
        file: Option<PathBuf>,
        /// Make it the active one
        #[arg(long)]
        activate: bool,
    },
    List {
        address: String,
    },
    /// Print a script
    Get {
        address: String,
        name: String,
    },
    /// Run this script for all mail from now on
    Activate {
        address: String,
        name: String,
    },
    /// Run no script
    Deactivate {
        address: String,
    },
    Rename {
        address: String,
        name: String,
        new_name: String,
    },
    Remove {
        address: String,
        name: String,
    },
    /// Say what is wrong with a script, from a file or standard input
    Check {
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Vacation {
    /// Answer whoever writes; the text is --text or standard input
    On {
        address: String,
        #[arg(long)]
        text: Option<String>,
        /// Without it: "Auto: " and the message's own
        #[arg(long, default_value = "")]
        subject: String,
        /// Answer the same sender once in so many days
        #[arg(long, default_value_t = 7)]
        days: u32,
        /// A day (2026-12-24, from its beginning in UTC) or a time (2026-12-24T08:00:00Z)
        #[arg(long)]
        from: Option<String>,
        /// Up to this day or time
        #[arg(long)]
        until: Option<String>,
    },
    Off {
        address: String,
    },
    Show {
        address: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Forward {
    /// Send mail on to other addresses
    Set {
        address: String,
        #[arg(required = true)]
        to: Vec<String>,
        /// And keep it here too
        #[arg(long)]
        keep: bool,
    },
    Off {
        address: String,
    },
    Show {
        address: String,
    },
}

fn owner(address: String) -> Option<Owner> {
    Some(Owner { by: Some(By::Address(address)) })
}

fn read(file: Option<PathBuf>) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    match &file {
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
            file.take(MAX_INPUT).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
        }
        None => drop(std::io::stdin().lock().take(MAX_INPUT).read_to_end(&mut bytes).context("standard input")?),
    }
    String::from_utf8(bytes).context("the text is not UTF-8")
}

fn done(line: String, document: Value) -> Answer {
    Answer { lines: vec![line], document }
}

impl Sieve {
    pub async fn run(self, mut client: RulesClient<Channel>) -> anyhow::Result<Answer> {
        Ok(match self {
            Self::Put { address, name, file, activate } => {
                let owner = owner(address.clone());
                let request = rules::PutScriptRequest {
                    owner: owner.clone(),
                    name: name.clone(),
                    script: read(file)?,
                    ..Default::default()
                };
                client.put_script(request).await.map_err(refused)?;
                if activate {
                    let request = rules::ActivateScriptRequest { owner, name: name.clone() };
                    client.activate_script(request).await.map_err(refused)?;
                }
                let state = if activate { "stored and active" } else { "stored" };
                done(format!("script {name} of {address} is {state}"), json!({ "name": name, "active": activate }))
            }
            Self::List { address } => {
                let request = rules::ListScriptsRequest { owner: owner(address) };
                let scripts = client.list_scripts(request).await.map_err(refused)?.into_inner().scripts;
                let line = |s: &rules::ListedScript| {
                    format!("{}  {} bytes{}", text::printable(&s.name), s.size, if s.active { "  active" } else { "" })
                };
                let document = |s: &rules::ListedScript| json!({ "name": s.name, "active": s.active, "size": s.size });
                Answer { lines: scripts.iter().map(line).collect(), document: scripts.iter().map(document).collect() }
            }
            Self::Get { address, name } => {
                let request = rules::GetScriptRequest { owner: owner(address), name: name.clone() };
                let script = client.get_script(request).await.map_err(refused)?.into_inner().script;
                let lines = script.lines().map(str::to_owned).collect();
                Answer { lines, document: json!({ "name": name, "script": script }) }
            }
            Self::Activate { address, name } => {
                let request = rules::ActivateScriptRequest { owner: owner(address.clone()), name: name.clone() };
                client.activate_script(request).await.map_err(refused)?;
                done(format!("script {name} of {address} is active"), json!({ "active_script": name }))
            }
            Self::Deactivate { address } => {
                let request = rules::ActivateScriptRequest { owner: owner(address.clone()), name: String::new() };
                client.activate_script(request).await.map_err(refused)?;
                done(format!("no script of {address} is active"), json!({ "active_script": "" }))
            }
            Self::Rename { address, name, new_name } => {
                let request = rules::RenameScriptRequest {
                    owner: owner(address.clone()),
                    name: name.clone(),
                    new_name: new_name.clone(),
                };
                client.rename_script(request).await.map_err(refused)?;
                done(format!("script {name} of {address} is now {new_name}"), json!({ "name": new_name }))
            }
            Self::Remove { address, name } => {
                let request = rules::DeleteScriptRequest { owner: owner(address.clone()), name: name.clone() };
                client.delete_script(request).await.map_err(refused)?;
                done(format!("script {name} of {address} removed"), json!({ "removed": name }))
            }
            Self::Check { file } => {
                let request = rules::CheckScriptRequest { script: read(file)? };
                client.check_script(request).await.map_err(refused)?;
                done("the script is in order".into(), json!({ "ok": true }))
            }
        })
    }
}

/// A day or a time, as milliseconds since 1970; 0 for none.
fn time(given: Option<String>) -> anyhow::Result<i64> {
    let Some(given) = given else { return Ok(0) };
    let given = given.trim();
    let time = match given.parse::<jiff::civil::Date>() {
        Ok(day) if !given.contains('T') => day.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp()).ok(),
        _ => given.parse::<jiff::Timestamp>().ok(),
    };
    match time {
        Some(time) => Ok(time.as_millisecond()),
        None => bail!("{given:?}: expected a day (2026-12-24) or a time (2026-12-24T08:00:00Z)"),
    }
}

async fn get(client: &mut RulesClient<Channel>, address: String) -> anyhow::Result<rules::AccountRules> {
    let request = rules::GetRulesRequest { owner: owner(address) };
    Ok(client.get_rules(request).await.map_err(refused)?.into_inner())
}

fn vacation_answer(address: &str, rules: rules::AccountRules) -> Answer {
    let vacation = rules.vacation.unwrap_or_default();
    let since = |word: &str, ms: i64| if ms == 0 { String::new() } else { format!(" {word} {}", text::time(ms)) };
    let line = match vacation.on {
        true => format!(
            "{address} answers whoever writes, once in {} days{}{}",
            if vacation.days == 0 { 7 } else { vacation.days },
            since("from", vacation.from_ms),
            since("until", vacation.until_ms)
        ),
        false => format!("{address} answers nobody"),
    };
    let document = json!({
        "on": vacation.on, "subject": vacation.subject, "text": vacation.text, "days": vacation.days,
        "from_ms": vacation.from_ms, "until_ms": vacation.until_ms,
    });
    done(line, document)
}

impl Vacation {
    pub async fn run(self, mut client: RulesClient<Channel>) -> anyhow::Result<Answer> {
        let (address, vacation) = match self {
            Self::Show { address } => {
                let rules = get(&mut client, address.clone()).await?;
                return Ok(vacation_answer(&address, rules));
            }
            Self::On { address, text, subject, days, from, until } => {
                let text = match text {
                    Some(text) => text,
                    None => read(None)?,
                };
                let (from_ms, until_ms) = (time(from)?, time(until)?);
                (address, rules::Vacation { on: true, subject, text, days, from_ms, until_ms })
            }
            Self::Off { address } => {
                let known = get(&mut client, address.clone()).await?.vacation.unwrap_or_default();
                (address, rules::Vacation { on: false, ..known })
            }
        };
        let request = rules::SetVacationRequest { owner: owner(address.clone()), vacation: Some(vacation) };
        let rules = client.set_vacation(request).await.map_err(refused)?.into_inner();
        Ok(vacation_answer(&address, rules))
    }
}

fn forward_answer(address: &str, rules: rules::AccountRules) -> Answer {
    let forward = rules.forward.unwrap_or_default();
    let line = match (forward.to.is_empty(), forward.keep) {
        (true, _) => format!("{address} is not forwarded"),
        (false, true) => format!("{address} -> {}, and kept", forward.to.join(", ")),
        (false, false) => format!("{address} -> {}", forward.to.join(", ")),
    };
    done(line, json!({ "to": forward.to, "keep": forward.keep }))
}

impl Forward {
    pub async fn run(self, mut client: RulesClient<Channel>) -> anyhow::Result<Answer> {
        let (address, forward) = match self {
            Self::Show { address } => {
                let rules = get(&mut client, address.clone()).await?;
                return Ok(forward_answer(&address, rules));
            }
            Self::Set { address, to, keep } => (address, rules::Forward { to, keep }),
            Self::Off { address } => (address, rules::Forward { to: Vec::new(), keep: true }),
        };
        let request = rules::SetForwardRequest { owner: owner(address.clone()), forward: Some(forward) };
        let rules = client.set_forward(request).await.map_err(refused)?.into_inner();
        Ok(forward_answer(&address, rules))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times() {
        assert_eq!(time(None).expect("none"), 0);
        assert_eq!(time(Some("1970-01-02".into())).expect("a day"), 86_400_000);
        assert_eq!(time(Some("1970-01-01T01:00:00+01:00".into())).expect("a time"), 0);
        assert!(time(Some("tomorrow".into())).is_err());
    }
}
