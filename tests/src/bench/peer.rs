//! Postfix and Dovecot from Debian's packages, as they come: SMTP in, LMTP to Dovecot, Maildir.
//!
//! Everything is below a temporary directory, with configurations of its own; what the system
//! runs is not touched. Nothing that bears on durability or throughput differs from the defaults.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{ACCOUNTS, DOMAIN, Subject, local_part, recipient};
use crate::{
    eventually,
    ports::free_address,
    process::{is_root, program},
};

/// Both, as they run.
pub struct PostfixDovecot {
    postfix: Daemon,
    dovecot: Daemon,
    server: SocketAddr,
    folder: TempDir,
}

impl PostfixDovecot {
    pub async fn start() -> Self {
        assert!(is_root(), "Postfix runs only as root: be root, or use `--only postroad`");
        let (postfix_program, dovecot_program) = (program("postfix", "postfix"), program("dovecot", "dovecot-lmtpd"));
        let folder = tempfile::Builder::new().prefix("postroad-bench").tempdir_in("/tmp").unwrap();
        // Both change to users of their own.
        command("chmod", &["755"], &[folder.path()]);
        let server = free_address();
        let lmtp = folder.path().join("lmtp");

        let config = dovecot_config(&dovecot_program, folder.path(), &lmtp);
        let run = format!("{} -c {}", dovecot_program.display(), config.display());
        let dovecot = Daemon::start(&format!("{run} -F"), &format!("{run} stop"));
        until(&folder, "Dovecot answers", || UnixStream::connect(&lmtp).is_ok()).await;

        let config = postfix_config(folder.path(), server, &lmtp);
        command("postfix", &["-c"], &[&config, Path::new("check")]);
        let run = format!("{} -c {}", postfix_program.display(), config.display());
        let postfix = Daemon::start(&format!("{run} start-fg"), &format!("{run} stop"));
        until(&folder, "Postfix answers", || TcpStream::connect(server).is_ok()).await;
        Self { postfix, dovecot, server, folder }
    }
}

async fn until(folder: &TempDir, what: &str, ready: impl Fn() -> bool) {
    let limit = Duration::from_secs(30);
    let ask = || async { ready().then_some(()) };
    if tokio::time::timeout(limit, eventually(what, 2 * limit, ask)).await.is_err() {
        let logs = fs::read_dir(folder.path().join("log")).unwrap().flatten();
        let logs: String = logs.map(|f| fs::read_to_string(f.path()).unwrap_or_default()).collect();
        panic!("not within {limit:?}: {what}\n{logs}");
    }
}

impl Subject for PostfixDovecot {
    fn name(&self) -> &'static str {
        "Postfix + Dovecot"
    }

    fn server(&self) -> SocketAddr {
        self.server
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.postfix.0.id(), self.dovecot.0.id()]
    }

    /// Files in the Maildir: asking Dovecot would cost it CPU.
    async fn messages(&mut self, account: usize) -> usize {
        let maildir = self.folder.path().join("mail").join(local_part(account)).join("Maildir");
        ["new", "cur"].iter().filter_map(|d| fs::read_dir(maildir.join(d)).ok()).map(Iterator::count).sum()
    }
}

/// Ends when it is dropped, and when we are killed.
pub(crate) struct Daemon(pub(crate) Child);

/// $1 starts it in the foreground, $2 stops it.
const UNTIL_INPUT_CLOSES: &str =
    "trap '' INT; sh -c \"exec $1\" </dev/null & pid=$!; cat >/dev/null; sh -c \"$2\"; wait $pid";

impl Daemon {
    pub(crate) fn start(start: &str, stop: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", UNTIL_INPUT_CLOSES, "sh", start, stop]);
        // Postfix says more than anybody wants to know; its log has it too.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

pub(crate) fn command(program: &str, options: &[&str], files: &[&Path]) {
    let status = Command::new(program).args(options).args(files).status();
    assert!(status.is_ok_and(|s| s.success()), "{program} {options:?} {files:?} failed");
}

/// The file of Dovecot's configuration.
fn dovecot_config(program: &Path, folder: &Path, lmtp: &Path) -> PathBuf {
    let version = Command::new(program).arg("--version").output().unwrap().stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    assert!(version.starts_with("2.3."), "the configuration here is for Dovecot 2.3, this is {version}");
    let mail = folder.join("mail");
    for directory in ["mail", "log", "state"] {
        fs::create_dir(folder.join(directory)).unwrap();
    }
    command("chown", &["nobody:nogroup"], &[&mail]);
    let file = folder.join("dovecot.conf");
    let settings = format!(
        "base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log/dovecot
instance_name = postroad-bench
protocols = lmtp
ssl = no
hostname = mail.{DOMAIN}
postmaster_address = postmaster@{DOMAIN}
mail_location = maildir:~/Maildir
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={mail}/%n allow_all_users=yes
}}
service lmtp {{
  unix_listener {lmtp} {{
    mode = 0666
  }}
}}
",
        folder = folder.display(),
        mail = mail.display(),
        lmtp = lmtp.display(),
    );
    fs::write(&file, settings).unwrap();
    file
}

/// The directory of Postfix's configuration.
fn postfix_config(folder: &Path, server: SocketAddr, lmtp: &Path) -> PathBuf {
    let config = folder.join("postfix");
    let data = folder.join("postfix-data");
    for directory in [&config, &data, &folder.join("postfix-queue")] {
        fs::create_dir(directory).unwrap();
    }
    command("chown", &["postfix"], &[&data]);
    let recipients: String = (0..ACCOUNTS).map(|n| format!("{} {}\n", recipient(n), local_part(n))).collect();
    fs::write(config.join("recipients"), recipients).unwrap();
    let main = format!(
        "compatibility_level = 3.6
queue_directory = {folder}/postfix-queue
data_directory = {data}
maillog_file_prefixes = {folder}
maillog_file = {folder}/log/postfix
myhostname = mail.{DOMAIN}
inet_interfaces = {address}
inet_protocols = ipv4
mydestination =
mynetworks =
alias_maps =
alias_database =
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_maps = texthash:{config}/recipients
virtual_transport = lmtp:unix:{lmtp}
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = reject_unauth_destination
",
        folder = folder.display(),
        data = data.display(),
        address = server.ip(),
        config = config.display(),
        lmtp = lmtp.display(),
    );
    fs::write(config.join("main.cf"), main).unwrap();
    fs::write(config.join("master.cf"), format!("{server} inet n - n - - smtpd\n{SERVICES}")).unwrap();
    config
}

/// The rest of Debian's master.cf, without chroot, and with postlogd instead of a syslog.
pub(crate) const SERVICES: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";
