//! Processes that end with the test.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Killed when dropped.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self { child, name }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, then at most `limit` until it is gone.
    pub fn stop(&mut self, limit: Duration) {
        let _ = Command::new("kill").arg(self.id().to_string()).stderr(Stdio::null()).status();
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < limit, "{} does not stop", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().expect("standard output is piped")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program in PATH or in Postgres's own folders; panics with the package that has it.
pub fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let postgres = glob_postgres();
    let places = std::env::split_paths(&path).chain(postgres);
    places
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: apt-get install {package}"))
}

fn glob_postgres() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut bins: Vec<PathBuf> = versions.map(|v| v.path().join("bin")).collect();
    bins.sort();
    bins.reverse();
    bins
}

/// A program of ours, built beside this test.
pub fn ours(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    // Tests are in `deps`, programs above it.
    let places = this.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    places
        .clone()
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing in {:?}: cargo build --workspace", places.collect::<Vec<_>>()))
}

pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}
