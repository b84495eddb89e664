//! One supervised process: started, logged, started again, stopped.

use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Child, sync::mpsc::UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::{
    site::MARK,
    user::{Account, Setpriv},
};

const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug)]
pub struct Program {
    /// Its name in `SERVICE-N.pid`.
    pub service: &'static str,
    pub number: u32,
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(String, OsString)>,
    pub account: Option<Account>,
    /// Given to a process of another account that would not reach the data directory.
    pub capability: Option<&'static str>,
}

/// In which order processes are stopped, by which signal, and how long they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Finishes its sessions first.
    Mail,
    /// Needed by the former until their end.
    Inside,
    /// Postgres and Redis, last.
    Store,
}

impl Patience {
    fn time(self) -> Duration {
        // A little more than what a service gives itself (runtime.drain_seconds).
        Duration::from_secs(35)
    }
}

/// Says that a process ended without being asked.
#[derive(Debug)]
pub struct Exit {
    service: &'static str,
    number: u32,
    reason: String,
    last_words: String,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} ended ({})", self.service, self.number, self.reason)?;
        if self.last_words.is_empty() { Ok(()) } else { write!(f, ": {}", self.last_words) }
    }
}

impl std::error::Error for Exit {}

/// Where a process leaves its traces.
#[derive(Debug, Clone)]
pub struct Place {
    pub root: PathBuf,
    pub pid_file: PathBuf,
    pub log_file: PathBuf,
    pub setpriv: Option<Setpriv>,
}

/// Keeps the program running until `stop`, then ends it. Cut short by `hurry`.
pub async fn keep_running(
    program: Program,
    patience: Patience,
    place: Place,
    stop: CancellationToken,
    hurry: CancellationToken,
    exits: UnboundedSender<Exit>,
) {
    while !stop.is_cancelled() {
        let (reason, last_words) = match spawn(&program, &place) {
            Ok(mut child) => {
                tokio::select! {
                    ended = child.wait() => describe(ended, &place.log_file),
                    () = stop.cancelled() => {
                        end(&mut child, program.stop_signal(), patience, &hurry).await;
                        break;
                    }
                }
            }
            Err(e) => (format!("cannot be started: {e}"), String::new()),
        };
        if stop.is_cancelled() {
            break;
        }
        let _ = exits.send(Exit { service: program.service, number: program.number, reason, last_words });
        tokio::select! {
            () = tokio::time::sleep(RESTART_AFTER) => (),
            () = stop.cancelled() => (),
        }
    }
    let _ = fs::remove_file(&place.pid_file);
}

impl Program {
    /// Postgres: SIGINT is the fast shutdown, which does not wait for clients.
    fn stop_signal(&self) -> Signal {
        if self.service == "postgres" { Signal::INT } else { Signal::TERM }
    }

    /// The command with user, environment and working directory, for start-up steps too.
    pub fn command(&self, root: &Path, setpriv: Option<&Setpriv>) -> std::process::Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = match setpriv {
            Some(setpriv) => {
                let mut command = std::process::Command::new(setpriv.path());
                command.args(["--pdeathsig", if self.stop_signal() == Signal::INT { "INT" } else { "TERM" }]);
                if let Some(account) = self.account {
                    command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid));
                    command.arg("--clear-groups");
                }
                if let Some(capability) = self.capability {
                    command.arg(format!("--inh-caps=+{capability}")).arg(format!("--ambient-caps=+{capability}"));
                }
                command.arg("--").arg(&self.path);
                command
            }
            None => {
                let mut command = std::process::Command::new(&self.path);
                if let Some(account) = self.account {
                    command.uid(account.uid).gid(account.gid);
                }
                command
            }
        };
        command.args(&self.arguments);
        // Our own settings are not those of our children: an unknown key would stop them.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTROAD_") {
                command.env_remove(name);
            }
        }
        command.env(MARK, root).envs(self.environment.iter().map(|(k, v)| (k, v)));
        // A Ctrl-C reaches the whole group of the terminal; ours is stopped in order instead.
        command.process_group(0).current_dir(root).stdin(Stdio::null());
        command
    }
}

fn spawn(program: &Program, place: &Place) -> std::io::Result<Child> {
    let log = fs::File::options().create(true).append(true).open(&place.log_file)?;
    let mut command = program.command(&place.root, place.setpriv.as_ref());
    command.stdout(log.try_clone()?).stderr(log);
    let child = tokio::process::Command::from(command).spawn()?;
    if let Some(pid) = child.id() {
        // Renamed into place, so that no reader finds half a number.
        let new = place.pid_file.with_extension("new");
        fs::write(&new, format!("{pid}\n"))?;
        fs::rename(&new, &place.pid_file)?;
    }
    Ok(child)
}

async fn end(child: &mut Child, signal: Signal, patience: Patience, hurry: &CancellationToken) {
    signal_child(child, signal);
    let cut = async {
        tokio::select! {
            () = tokio::time::sleep(patience.time()) => (),
            // The stores always end in order: that takes no client's time.
            () = hurry.cancelled(), if patience != Patience::Store => (),
        }
    };
    tokio::select! {
        _ = child.wait() => (),
        () = cut => {
            let _ = child.kill().await;
        }
    }
}

fn signal_child(child: &Child, signal: Signal) {
    // A child that has not been waited for keeps its number, so this hits no stranger.
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Who was killed had no time for last words.
fn describe(ended: std::io::Result<ExitStatus>, log: &Path) -> (String, String) {
    match ended {
        Ok(status) if status.code().is_some() => (status.to_string(), last_words(log)),
        Ok(status) => (status.to_string(), String::new()),
        Err(e) => (e.to_string(), String::new()),
    }
}

/// The end of the log, for people who see nothing but our own words.
fn last_words(log: &Path) -> String {
    let Ok(text) = fs::read(log) else { return String::new() };
    let tail = text.get(text.len().saturating_sub(2000)..).unwrap_or_default();
    let tail = String::from_utf8_lossy(tail);
    let last = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    crate::text::printable(last)
}
