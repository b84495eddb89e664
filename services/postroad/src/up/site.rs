//! The data directory: lock, layout, what a former run left behind.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::{self, File, Permissions, TryLockError},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::user::Account;

/// Marks every process of ours in its environment, with the data directory as the value.
/// Not `POSTROAD_…`: those are configuration keys.
pub const MARK: &str = "POSTROAD";

/// Longest path of a unix socket that all systems take (sun_path is 104 or 108 bytes).
const MAX_SOCKET_PATH: usize = 100;

/// A data directory that is ours alone.
#[derive(Debug)]
pub struct Site {
    /// Absolute, without symbolic links.
    root: PathBuf,
    socket_directories: RefCell<BTreeSet<PathBuf>>,
    /// Held until the process ends, however it ends.
    _lock: File,
}

impl Site {
    /// Makes the directory if needed. Fails when another `up` runs on it.
    pub fn open(data: &Path) -> anyhow::Result<Self> {
        let named = || format!("data directory {}", data.display());
        fs::DirBuilder::new().recursive(true).mode(0o711).create(data).with_context(named)?;
        let root = fs::canonicalize(data).with_context(named)?;
        let lock = File::create(root.join("lock")).with_context(named)?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => bail!("another postroad up runs on {}", data.display()),
            Err(TryLockError::Error(e)) => return Err(e).with_context(named),
        }
        let site = Self { root, socket_directories: RefCell::default(), _lock: lock };
        // Clients may read ca.pem; its keys have modes of their own.
        let directories = [
            (site.run_directory(), 0o755),
            (site.path("tls"), 0o755),
            (site.log_directory(), 0o700),
            (site.path("redis"), 0o700),
        ];
        for (directory, mode) in directories {
            fs::DirBuilder::new().recursive(true).mode(mode).create(&directory).with_context(named)?;
        }
        Ok(site)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn run_directory(&self) -> PathBuf {
        self.path("run")
    }

    pub fn log_directory(&self) -> PathBuf {
        self.path("log")
    }

    pub fn pid_file(&self, service: &str, number: u32) -> PathBuf {
        self.run_directory().join(format!("{service}-{number}.pid"))
    }

    pub fn log_file(&self, service: &str, number: u32) -> PathBuf {
        self.log_directory().join(format!("{service}-{number}.log"))
    }

    /// Lets another account pass through the data directory itself.
    pub fn open_way(&self, account: Account) -> anyhow::Result<()> {
        if !account.can_reach(&self.root) {
            let mode = fs::metadata(&self.root)?.mode() & 0o7777;
            fs::set_permissions(&self.root, Permissions::from_mode(mode | 0o711))?;
        }
        Ok(())
    }

    /// A private directory for unix sockets: `DIR/run/NAME`, or below the system's temporary
    /// directory when the path of `socket` in it would be too long.
    pub fn socket_directory(&self, name: &str, socket: &str, owner: Option<Account>) -> anyhow::Result<PathBuf> {
        let mut directory = self.path(name);
        if directory.join(socket).as_os_str().len() > MAX_SOCKET_PATH {
            let mut hash = DefaultHasher::new();
            self.root.hash(&mut hash);
            directory = std::env::temp_dir().join(format!("postroad-{:016x}-{name}", hash.finish()));
        }
        self.socket_directories.borrow_mut().insert(directory.clone());
        let named = || format!("socket directory {}", directory.display());
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => (),
            other => other.with_context(named)?,
        }
        // In a directory that everybody may write to, somebody else may have been first.
        let found = fs::symlink_metadata(&directory).with_context(named)?;
        let ours = [Some(rustix::process::geteuid().as_raw()), owner.map(|a| a.uid)];
        if !found.is_dir() || !ours.contains(&Some(found.uid())) {
            bail!("{} belongs to somebody else", directory.display());
        }
        fs::set_permissions(&directory, Permissions::from_mode(0o700)).with_context(named)?;
        if let Some(account) = owner {
            std::os::unix::fs::chown(&directory, Some(account.uid), Some(account.gid)).with_context(named)?;
        }
        Ok(directory)
    }

    /// Ends processes of a former `up` that was killed. Services may go at once (Invariant 7);
    /// the stores get a moment.
    pub async fn end_leftovers(&self) {
        let leftovers = self.leftovers();
        for (name, pid) in &leftovers {
            let signal = match name.as_str() {
                "postgres" => Signal::INT,
                "redis-server" => Signal::TERM,
                _ => Signal::KILL,
            };
            let _ = kill_process(*pid, signal);
        }
        for round in 0.. {
            let alive: Vec<_> = leftovers.iter().filter(|(name, pid)| self.is_ours(name, *pid)).collect();
            match (alive.is_empty(), round) {
                (true, _) | (_, 300) => break,
                (_, 150) => alive.iter().for_each(|(_, pid)| {
                    let _ = kill_process(*pid, Signal::QUIT);
                }),
                (_, 200..) => alive.iter().for_each(|(_, pid)| {
                    let _ = kill_process(*pid, Signal::KILL);
                }),
                _ => (),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.forget();
    }

    /// Removes what says that something runs. A store that was killed, or told to stop while it
    /// started, leaves its socket.
    pub fn forget(&self) {
        let Ok(entries) = fs::read_dir(self.run_directory()) else { return };
        for entry in entries.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        for directory in self.socket_directories.take() {
            let _ = fs::remove_dir_all(directory);
        }
    }

    /// Processes that a former run recorded and that still are what it recorded.
    fn leftovers(&self) -> Vec<(String, Pid)> {
        let Ok(entries) = fs::read_dir(self.run_directory()) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| {
                let file = entry.file_name();
                let (service, _number) = file.to_str()?.strip_suffix(".pid")?.rsplit_once('-')?;
                let command = if service == "redis" { "redis-server" } else { service };
                let pid = fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
                let pid = Pid::from_raw(pid)?;
                self.is_ours(command, pid).then(|| (command.to_owned(), pid))
            })
            .collect()
    }

    /// A number may have been given to another process since: the command must be the same, and
    /// its environment or its working directory must be of this data directory.
    /// (Postgres and Redis write over their environment, but work inside it.)
    fn is_ours(&self, command: &str, pid: Pid) -> bool {
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let named = fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == command);
        let marked = || {
            let mark = format!("{MARK}={}", self.root.display());
            fs::read(process.join("environ")).is_ok_and(|e| e.split(|b| *b == 0).any(|entry| entry == mark.as_bytes()))
        };
        let inside = || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.root));
        test_kill_process(pid).is_ok() && named && (marked() || inside())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> PathBuf {
        std::env::temp_dir().join(format!("postroad-test-{}", uuid::Uuid::new_v4()))
    }

    #[test]
    fn two_on_one_directory_refuse() {
        let data = temporary();
        let first = Site::open(&data).expect("free");
        let error = Site::open(&data).expect_err("taken").to_string();
        assert!(error.contains("another postroad up runs"), "{error}");
        drop(first);
        Site::open(&data).expect("free again");
        fs::remove_dir_all(data).expect("removed");
    }

    #[test]
    fn long_socket_paths_go_elsewhere() {
        let data = temporary();
        let site = Site::open(&data.join("x".repeat(120))).expect("free");
        let directory = site.socket_directory("sockets", "s", None).expect("made");
        assert!(directory.as_os_str().len() < MAX_SOCKET_PATH && !directory.starts_with(&data), "{directory:?}");
        assert_eq!(fs::metadata(&directory).expect("is there").mode() & 0o777, 0o700);
        fs::remove_dir(directory).expect("empty");
        fs::remove_dir_all(data).expect("removed");
    }

    #[test]
    fn strangers_are_no_leftovers() {
        let data = temporary();
        let site = Site::open(&data).expect("free");
        // We exist, but are no mda of this directory.
        fs::write(site.pid_file("mda", 1), std::process::id().to_string()).expect("written");
        fs::write(site.pid_file("mda", 2), "no number").expect("written");
        assert!(site.leftovers().is_empty());
        fs::remove_dir_all(data).expect("removed");
    }
}
