//! Postfix from Debian's packages as another site on loopback, with a configuration, a queue and
//! ports of its own.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    bench::peer::{Daemon, SERVICES, command},
    eventually,
    process::program,
};

pub struct Postfix {
    /// Stopped before its configuration goes.
    _daemon: Daemon,
    folder: TempDir,
}

pub struct Setting<'a> {
    pub address: SocketAddr,
    pub domain: &'a str,
    /// Certificate and key, PEM.
    pub tls: (&'a Path, &'a Path),
    /// `domain host port`: where mail for others goes.
    pub next_hop: (&'a str, &'a str, u16),
    /// Local parts with a mailbox.
    pub users: &'a [&'a str],
}

impl Postfix {
    pub async fn start(setting: Setting<'_>) -> Self {
        program("postfix", "postfix");
        let folder = tempfile::Builder::new().prefix("postroad-postfix").tempdir_in("/tmp").unwrap();
        command("chmod", &["755"], &[folder.path()]);
        let path = |name: &str| folder.path().join(name);
        for name in ["postfix", "data", "queue", "log", "mail"] {
            fs::create_dir(path(name)).unwrap();
        }
        command("chown", &["postfix"], &[&path("data")]);
        command("chown", &["nobody:nogroup"], &[&path("mail")]);
        let Setting { address, domain, tls: (cert, key), next_hop: (other, host, port), users } = setting;
        let mailboxes: String = users.iter().map(|u| format!("{u}@{domain} {u}/\n")).collect();
        fs::write(path("postfix/mailboxes"), mailboxes).unwrap();
        fs::write(path("postfix/transport"), format!("{other} smtp:[{host}]:{port}\n")).unwrap();
        let main = format!(
            "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file_prefixes = {folder}
maillog_file = {folder}/log/postfix
myhostname = mail.{domain}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_bind_address = {ip}
mydestination =
mynetworks = 127.0.0.1/32
alias_maps =
alias_database =
virtual_mailbox_domains = {domain}
virtual_mailbox_maps = texthash:{folder}/postfix/mailboxes
virtual_mailbox_base = {folder}/mail
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
transport_maps = texthash:{folder}/postfix/transport
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
smtpd_tls_cert_file = {cert}
smtpd_tls_key_file = {key}
smtp_tls_security_level = encrypt
",
            folder = folder.path().display(),
            ip = address.ip(),
            cert = cert.display(),
            key = key.display(),
        );
        fs::write(path("postfix/main.cf"), main).unwrap();
        fs::write(path("postfix/master.cf"), format!("{address} inet n - n - - smtpd\n{SERVICES}")).unwrap();
        let config = path("postfix");
        command("postfix", &["-c"], &[&config, Path::new("check")]);
        let config = config.display();
        let daemon = Daemon::start(&format!("postfix -c {config} start-fg"), &format!("postfix -c {config} stop"));
        let postfix = Self { _daemon: daemon, folder };
        eventually("Postfix answers", Duration::from_secs(30), || async { TcpStream::connect(address).ok() }).await;
        postfix
    }

    /// A user's messages.
    pub fn mailbox(&self, user: &str) -> Vec<String> {
        let new = self.folder.path().join("mail").join(user).join("new");
        let files = fs::read_dir(new).into_iter().flatten().flatten();
        files.filter_map(|f| Some(String::from_utf8_lossy(&fs::read(f.path()).ok()?).into_owned())).collect()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log/postfix")).unwrap_or_default()
    }
}
