//! The same 500 ugly messages and the same questions at Debian's Dovecot: every difference is
//! listed and has a rule of its own (`imap_dovecot/rules.py`).

#![allow(clippy::unwrap_used)]

use std::{
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tests::{
    ports::free_address,
    process::{Process, program},
    site::{Options, Site, free_port_offset},
};

/// Dovecot on data of its own, on loopback.
fn dovecot(folder: &Path, port: u16) -> Process {
    for directory in ["mail", "state", "run"] {
        std::fs::create_dir(folder.join(directory)).unwrap();
    }
    let own = Command::new("chown").arg("nobody:nogroup").arg(folder.join("mail")).status().unwrap();
    assert!(own.success(), "Dovecot's mail needs an owner: run as root");
    let config = format!(
        "base_dir = {f}/run\nstate_dir = {f}/state\nlog_path = {f}/log\ninstance_name = postroad-compare\n\
         protocols = imap\nssl = no\ndisable_plaintext_auth = no\nauth_username_format = %Ln\n\
         mail_location = maildir:~/Maildir\npassdb {{\n  driver = static\n  args = nopassword=y\n}}\n\
         userdb {{\n  driver = static\n  args = uid=nobody gid=nogroup home={f}/mail/%n allow_all_users=yes\n}}\n\
         service imap-login {{\n  inet_listener imap {{\n    address = 127.0.0.1\n    port = {port}\n  }}\n}}\n",
        f = folder.display()
    );
    let file = folder.join("dovecot.conf");
    std::fs::write(&file, config).unwrap();
    let daemon = Process::start(Command::new(program("dovecot", "dovecot-imapd")).arg("-F").arg("-c").arg(&file));
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(60), "Dovecot does not answer");
        std::thread::sleep(Duration::from_millis(100));
    }
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_to_dovecot_has_a_reason() {
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com");
    options.config = Some("imap-gateway:\n  allow_cleartext_login: true\n".into());
    let site = Site::up(options);
    site.account("bob@example.com");
    let folder = tempfile::Builder::new().prefix("postroad-dovecot").tempdir_in("/tmp").unwrap();
    // Its workers run as other users.
    Command::new("chmod").arg("755").arg(folder.path()).status().unwrap();
    let port = free_address().port();
    let mut daemon = dovecot(folder.path(), port);
    let seed = std::env::var("IMAP_COMPARE_SEED").unwrap_or_else(|_| "1".into());
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/imap_dovecot");
    let output = Command::new(program("python3", "python3"))
        .arg(scripts.join("compare.py"))
        .args([site.port(143).to_string(), port.to_string(), "500".into(), seed])
        .arg(scripts.join("rules.py"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    daemon.stop(Duration::from_secs(60));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    eprintln!("{said}");
    assert!(output.status.success(), "{said}");
    assert!(said.contains("values compared over 500 messages"), "{said}");
}
