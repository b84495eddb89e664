//! Debian's packages of the peers.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::process::is_root;

/// A file of each, and the package that has it.
const PACKAGES: [(&str, &str); 3] = [
    ("/usr/sbin/postfix", "postfix"),
    ("/usr/sbin/dovecot", "dovecot-core"),
    ("/usr/lib/dovecot/lmtp", "dovecot-lmtpd"),
];

/// Asked by Debian's maintainer scripts before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing, or panics with its name.
pub fn ensure() {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    let command = format!("apt-get install {}", missing.join(" "));
    assert!(missing.is_empty() || is_root(), "the peers are missing: {command}");
    assert!(is_root(), "Postfix runs only as root: use `--only postroad`, or be root");
    if missing.is_empty() {
        return;
    }
    eprintln!("{command}");
    let _quiet = NothingStarts::new();
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    // Old lists may do.
    let _ = apt(&["update"]);
    let install = [&["install", "--yes", "--no-install-recommends"], &missing[..]].concat();
    assert!(apt(&install), "failed: {command}");
}

/// While it lives, no package starts its service: ours run from a directory of their own.
struct NothingStarts {
    ours: bool,
}

impl NothingStarts {
    fn new() -> Self {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        let ours = file.and_then(|mut f| f.write_all(b"#!/bin/sh\nexit 101\n")).is_ok();
        Self { ours }
    }
}

impl Drop for NothingStarts {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}
