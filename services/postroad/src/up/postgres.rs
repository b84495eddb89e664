//! The private Postgres: made once, reached only through its unix socket.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::{
    process::Program,
    site::Site,
    user::{Account, Accounts, Setpriv, find_in_path, way_capability},
};

/// The database, and the role that owns it.
pub const NAME: &str = "postroad";

const SOCKET: &str = ".s.PGSQL.5432";
const OLDEST: u32 = 15;
const MISSING: &str = "PostgreSQL 15 or later is not installed: install the package postgresql-15";

/// Durability is Postgres' default and stated because it is our promise (Invariant 1).
const SETTINGS: [&str; 14] = [
    "listen_addresses=",
    "port=5432",
    "unix_socket_permissions=0700",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=256MB",
    "max_wal_size=2GB",
    "wal_buffers=16MB",
    "checkpoint_timeout=15min",
    "jit=off",
    "logging_collector=off",
    "log_destination=stderr",
    "cluster_name=postroad",
];

pub struct Postgres {
    pub program: Program,
    pub socket: PathBuf,
}

/// The directory of its socket, which clients are told.
pub fn socket_directory(site: &Site, accounts: &Accounts) -> anyhow::Result<PathBuf> {
    site.socket_directory("postgres-socket", SOCKET, accounts.postgres)
}

/// Finds the binaries and makes the database if there is none.
pub fn prepare(site: &Site, accounts: &Accounts, clients: usize) -> anyhow::Result<Postgres> {
    let data = site.path("postgres");
    let binaries = Binaries::find(&data)?;
    let setpriv = Setpriv::find();
    let capability = match accounts.postgres {
        Some(account) => way(site, account, setpriv.is_some())?,
        None => None,
    };
    let sockets = socket_directory(site, accounts)?;
    let home = Home { site, account: accounts.postgres, capability, setpriv, binaries };
    if !data.exists() {
        home.create(&data).context("the database cannot be made")?;
    }
    let mut arguments: Vec<OsString> = vec!["-D".into(), data.into(), "-k".into(), sockets.clone().into()];
    for setting in SETTINGS {
        arguments.extend(["-c".into(), setting.into()]);
    }
    arguments.extend(["-c".into(), format!("max_connections={clients}").into()]);
    // lz4 is a choice of whoever built Postgres; its own method is slower and always there.
    let compression =
        if home.accepts(&arguments, "wal_compression=lz4") { "wal_compression=lz4" } else { "wal_compression=pglz" };
    arguments.extend(["-c".into(), compression.into()]);
    Ok(Postgres { program: home.program("postgres", arguments), socket: sockets.join(SOCKET) })
}

/// The capability that the account needs to reach its files, if any.
fn way(site: &Site, account: Account, has_setpriv: bool) -> anyhow::Result<Option<&'static str>> {
    site.open_way(account)?;
    if account.can_reach(site.root()) {
        return Ok(None);
    }
    let closed = || format!("the user postgres cannot reach {}: a directory above it is closed", site.root().display());
    if !has_setpriv {
        bail!("{}, and setpriv (package util-linux) is missing", closed());
    }
    way_capability().with_context(closed).map(Some)
}

struct Home<'a> {
    site: &'a Site,
    account: Option<Account>,
    capability: Option<&'static str>,
    setpriv: Option<Setpriv>,
    binaries: Binaries,
}

impl Home<'_> {
    fn program(&self, name: &'static str, arguments: Vec<OsString>) -> Program {
        Program {
            service: name,
            number: 1,
            path: self.binaries.directory.join(name),
            arguments,
            // Messages in one language, whatever this machine's is.
            environment: vec![("LC_ALL".into(), "C".into())],
            account: self.account,
            capability: self.capability,
        }
    }

    fn command(&self, name: &'static str, arguments: Vec<OsString>) -> Command {
        self.program(name, arguments).command(self.site.root(), self.setpriv.as_ref())
    }

    /// Made beside its place and moved there when complete, so that a half one is never used.
    fn create(&self, data: &Path) -> anyhow::Result<()> {
        let new = self.site.path("postgres.new");
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&new)?;
        if let Some(account) = self.account {
            std::os::unix::fs::chown(&new, Some(account.uid), Some(account.gid))?;
        }
        // `trust` on a socket that only we and Postgres can get to.
        let arguments = ["--username", NAME, "--auth=trust", "--encoding=UTF8", "--locale=C", "-D"];
        let arguments = arguments.into_iter().map(OsString::from).chain([new.clone().into()]).collect();
        self.finish(self.command("initdb", arguments), "")?;
        // Single-user mode: no client program is needed, and no port is opened.
        let arguments = vec!["--single".into(), "-D".into(), new.clone().into(), "postgres".into()];
        self.finish(self.command("postgres", arguments), &format!("CREATE DATABASE {NAME}\n"))?;
        fs::rename(&new, data)?;
        Ok(())
    }

    /// Runs a step to its end; its words are the error.
    fn finish(&self, mut command: Command, input: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}", output.status, crate::text::printable(words.trim()));
        }
        Ok(())
    }

    /// Whether Postgres knows a setting's value.
    fn accepts(&self, arguments: &[OsString], setting: &str) -> bool {
        let mut arguments = arguments.to_vec();
        arguments.extend(["-c".into(), setting.into(), "-C".into(), "wal_compression".into()]);
        self.finish(self.command("postgres", arguments), "").is_ok()
    }
}

struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// In PATH, then Debian's places from the newest down. An existing database wants the
    /// version that made it.
    fn find(data: &Path) -> anyhow::Result<Self> {
        let made_by = fs::read_to_string(data.join("PG_VERSION")).ok().and_then(|v| v.trim().parse::<u32>().ok());
        let in_path = find_in_path("postgres").and_then(|p| p.parent().map(Path::to_owned));
        let mut candidates: Vec<_> = in_path.into_iter().chain(debian_directories()).collect();
        candidates.retain(|d| d.join("postgres").is_file() && d.join("initdb").is_file());
        let fits = |directory: &PathBuf| match (version(&directory.join("postgres")), made_by) {
            (Some(found), Some(wanted)) => found == wanted,
            (Some(found), None) => found >= OLDEST,
            (None, _) => false,
        };
        match (candidates.into_iter().find(fits), made_by) {
            (Some(directory), _) => Ok(Self { directory }),
            (None, None) => bail!(MISSING),
            (None, Some(version)) => {
                bail!("{} was made by PostgreSQL {version}: install the package postgresql-{version}", data.display())
            }
        }
    }
}

fn debian_directories() -> Vec<PathBuf> {
    let mut versions: Vec<u32> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.iter().map(|v| PathBuf::from(format!("/usr/lib/postgresql/{v}/bin"))).collect()
}

/// The major version: `postgres (PostgreSQL) 15.14 (Debian …)`.
fn version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").stdin(Stdio::null()).output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL) ")?.1;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(parse_version("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("something else"), None);
    }
}
