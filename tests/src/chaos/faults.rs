//! What can fail, and how it is made to.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    process::{is_root, program},
    site::Site,
};

type Injection = for<'a> fn(&'a Site, &'a Disk) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

pub struct Fault {
    pub name: &'static str,
    pub inject: Injection,
}

macro_rules! fault {
    ($name:literal, $site:ident, $disk:ident, $deed:expr) => {
        Fault { name: $name, inject: |$site, $disk| Box::pin(async move { $deed }) }
    };
}

pub const FAULTS: [Fault; 15] = [
    fault!("smtp-ingress killed", site, _disk, site.signal("smtp-ingress", "KILL")),
    fault!("auth-checker killed", site, _disk, site.signal("auth-checker", "KILL")),
    fault!("mda killed", site, _disk, site.signal("mda", "KILL")),
    fault!("outbound-relay killed", site, _disk, site.signal("outbound-relay", "KILL")),
    fault!("imap-gateway killed", site, _disk, site.signal("imap-gateway", "KILL")),
    // Fast shutdown: sessions are cut, everything is written.
    fault!("postgres restarted", site, _disk, site.signal("postgres", "INT")),
    // Immediate shutdown: the next start recovers from the log.
    fault!("postgres crashed", site, _disk, site.signal("postgres", "QUIT")),
    fault!("postgres connections cut", site, _disk, drop(sql(site, CUT))),
    fault!("redis killed", site, _disk, site.signal("redis", "KILL")),
    fault!("redis flushed", site, _disk, flush_redis(site)),
    fault!("redis log truncated", site, _disk, truncate_redis(site)),
    fault!("mda unreachable for 3 s", site, _disk, freeze(site, "mda", 3_000, 1).await),
    fault!("auth-checker slow", site, _disk, freeze(site, "auth-checker", 150, 10).await),
    fault!("postgres hangs for 3 s", site, _disk, freeze_tree(site, 3_000).await),
    fault!("disk full for 3 s", _site, disk, disk.fill(Duration::from_secs(3)).await),
];

const CUT: &str =
    "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname is not null";

/// xorshift64*.
pub fn below(state: &mut u64, n: usize) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
}

/// Runs SQL on the site's own Postgres and returns what it prints, one row a line.
pub fn sql(site: &Site, statement: &str) -> Option<String> {
    let socket = find(&site.data(), ".s.PGSQL.5432")?;
    let url = std::env::var("PGDATABASE").unwrap_or_else(|_| "postroad".into());
    let output = Command::new(program("psql", "postgresql-client-15"))
        .args(["-X", "-At", "-q", "-U", "postroad", "-d", &url, "-h"])
        .arg(socket.parent()?)
        .args(["-c", statement])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn flush_redis(site: &Site) {
    if let Some(socket) = find(&site.data(), "redis.sock") {
        let mut cli = Command::new(program("redis-cli", "redis-tools"));
        let _ = cli.arg("-s").arg(socket).arg("FLUSHALL").stdout(Stdio::null()).status();
    }
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if entry.file_name() == name {
            return Some(path);
        }
        if path.is_dir()
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}

/// A crash that takes the end of Redis's log along.
fn truncate_redis(site: &Site) {
    site.signal("redis", "KILL");
    for file in std::fs::read_dir(site.data().join("redis/appendonlydir")).into_iter().flatten().flatten() {
        if file.file_name().to_string_lossy().ends_with(".aof")
            && let Ok(log) = std::fs::OpenOptions::new().write(true).open(file.path())
        {
            let length = log.metadata().map_or(0, |m| m.len());
            let _ = log.set_len(length / 2);
        }
    }
}

/// A peer that takes connections and does not answer.
async fn freeze(site: &Site, service: &str, ms: u64, times: usize) {
    for _ in 0..times {
        site.signal(service, "STOP");
        tokio::time::sleep(Duration::from_millis(ms)).await;
        site.signal(service, "CONT");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn freeze_tree(site: &Site, ms: u64) {
    let tree: Vec<String> = site.pids("postgres").into_iter().flat_map(with_children).collect();
    let signal = |name: &str| drop(Command::new("kill").args(["-s", name]).args(&tree).stderr(Stdio::null()).status());
    signal("STOP");
    tokio::time::sleep(Duration::from_millis(ms)).await;
    signal("CONT");
}

fn with_children(pid: u32) -> Vec<String> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid.to_string()).chain(children.split_whitespace().map(str::to_owned)).collect()
}

/// The disk that the site's data is on: as root a small one of its own, which can be filled.
pub struct Disk {
    folder: PathBuf,
    is_own: bool,
}

impl Disk {
    pub fn mount() -> Self {
        let folder = tempfile::Builder::new().prefix("postroad-chaos").tempdir_in("/tmp").unwrap().keep();
        let mounted = is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=3g", "tmpfs"])
                .arg(&folder)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success());
        Self { folder, is_own: mounted }
    }

    /// Within the disk, for the site to remove.
    pub fn folder(&self) -> TempDir {
        tempfile::Builder::new().prefix("site").tempdir_in(&self.folder).unwrap()
    }

    /// Nothing happens on a disk that is not ours to fill.
    async fn fill(&self, time: Duration) {
        if !self.is_own {
            eprintln!("not root: the disk is not filled");
            return;
        }
        let ballast = self.folder.join("ballast");
        let _ = Command::new("dd")
            .args(["if=/dev/zero", "bs=1M"])
            .arg(format!("of={}", ballast.display()))
            .stderr(Stdio::null())
            .status();
        tokio::time::sleep(time).await;
        let _ = std::fs::remove_file(ballast);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_own {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
