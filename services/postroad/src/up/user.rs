//! Whom Postgres runs as, and how it gets to its files.
//!
//! Postgres refuses to run as root. Run as root, `up` starts it as the user `postgres`, whose way
//! to the data directory may be closed above it (below `mktemp -d`, say). Then it gets one
//! capability, CAP_DAC_READ_SEARCH, which opens the way and allows no writing.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, bail};

/// Who we are and who Postgres is to be.
#[derive(Debug, Clone)]
pub struct Accounts {
    /// `None`: Postgres runs as we do.
    pub postgres: Option<Account>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Accounts {
    pub fn find() -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { postgres: None });
        }
        let users = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
        match find_account(&users, "postgres") {
            Some(account) => Ok(Self { postgres: Some(account) }),
            None => bail!("there is no user postgres for the database to run as: install the package postgresql-15"),
        }
    }
}

/// passwd(5): name, password, user id, group id, …
fn find_account(users: &str, name: &str) -> Option<Account> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        Some(Account { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    })
}

impl Account {
    /// Whether the account may pass through the directory and all above it.
    pub fn can_reach(self, directory: &Path) -> bool {
        directory.ancestors().all(|d| std::fs::metadata(d).is_ok_and(|m| self.may_pass(&m)))
    }

    fn may_pass(self, directory: &std::fs::Metadata) -> bool {
        let shift = match directory {
            d if d.uid() == self.uid => 6,
            d if d.gid() == self.gid => 3,
            _ => 0,
        };
        directory.mode() >> shift & 1 == 1
    }
}

/// setpriv(1) of util-linux: sets the signal that a process gets when we die, and its user.
#[derive(Debug, Clone)]
pub struct Setpriv(PathBuf);

impl Setpriv {
    /// `None` where it is missing or another, smaller one.
    pub fn find() -> Option<Self> {
        let path = find_in_path("setpriv")?;
        let tried = std::process::Command::new(&path)
            .args(["--pdeathsig", "TERM", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success()).then_some(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// The capability by which a process passes closed directories: the weakest that we have ourselves.
pub fn way_capability() -> Option<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    let held = u64::from_str_radix(line.trim(), 16).ok()?;
    // Numbers of capability.h; containers often have only the stronger one.
    [(2, "dac_read_search"), (1, "dac_override")]
        .into_iter()
        .find(|(bit, _)| held >> bit & 1 == 1)
        .map(|(_, name)| name)
}

pub fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_account() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\npostgresql:x:5:5::/:/bin/sh\npostgres:x:101:103:,,,:/var/lib:/bin/bash\n";
        assert_eq!(find_account(users, "postgres"), Some(Account { uid: 101, gid: 103 }));
        assert_eq!(find_account(users, "nobody"), None);
    }

    #[test]
    fn everybody_reaches_the_root() {
        assert!(Account { uid: 4_000_000, gid: 4_000_000 }.can_reach(Path::new("/")));
        assert!(!Account { uid: 4_000_000, gid: 4_000_000 }.can_reach(Path::new("/there/is/no/such/directory")));
    }
}
