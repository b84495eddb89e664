//! Dovecot from Debian's packages as an IMAP and POP3 server: Maildir, plain TCP on loopback, every
//! password right, so that it pays for no hash. Nothing else differs from the defaults, but that one
//! address may have many connections.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tempfile::TempDir;

use super::peer::{Daemon, command};
use crate::{
    eventually,
    ports::free_address,
    process::{is_root, program},
};

pub struct Dovecot {
    pub imap: SocketAddr,
    pub pop3: SocketAddr,
    daemon: Daemon,
    _folder: TempDir,
}

impl Dovecot {
    pub async fn start() -> Self {
        assert!(is_root(), "Dovecot's mail has an owner: be root, or use `--only postroad`");
        let program = program("dovecot", "dovecot-imapd");
        let folder = tempfile::Builder::new().prefix("postroad-bench").tempdir_in("/tmp").unwrap();
        command("chmod", &["755"], &[folder.path()]);
        for directory in ["mail", "state"] {
            fs::create_dir(folder.path().join(directory)).unwrap();
        }
        command("chown", &["nobody:nogroup"], &[&folder.path().join("mail")]);
        let (imap, pop3) = (free_address(), free_address());
        let config = folder.path().join("dovecot.conf");
        fs::write(&config, settings(&folder, imap, pop3)).unwrap();
        let run = format!("{} -c {}", program.display(), config.display());
        let daemon = Daemon::start(&format!("{run} -F"), &format!("{run} stop"));
        for address in [imap, pop3] {
            let ask = || async { TcpStream::connect(address).ok() };
            eventually("Dovecot answers (apt-get install dovecot-imapd dovecot-pop3d)", Duration::from_secs(30), ask)
                .await;
        }
        Self { imap, pop3, daemon, _folder: folder }
    }

    pub fn process(&self) -> u32 {
        self.daemon.0.id()
    }
}

fn settings(folder: &TempDir, imap: SocketAddr, pop3: SocketAddr) -> String {
    let folder = folder.path().display();
    let login = |protocol: &str, tls: &str, address: SocketAddr| {
        format!(
            "service {protocol}-login {{
  inet_listener {protocol} {{
    address = {}
    port = {}
  }}
  inet_listener {tls} {{
    port = 0
  }}
}}
",
            address.ip(),
            address.port()
        )
    };
    format!(
        "base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
instance_name = postroad-retrieval
protocols = imap pop3
ssl = no
disable_plaintext_auth = no
auth_username_format = %Ln
mail_max_userip_connections = 10000
mail_location = maildir:~/Maildir
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={folder}/mail/%n allow_all_users=yes
}}
{}{}",
        login("imap", "imaps", imap),
        login("pop3", "pop3s", pop3)
    )
}
