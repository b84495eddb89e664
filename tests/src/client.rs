//! Real clients.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use crate::site::{PORTS, Site};

/// A Python with these packages of PyPI, kept for the next time; panics when it cannot be made.
pub fn venv(packages: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = home.join(".cache/postroad").join(format!("venv-{}", packages.join("-").replace("==", "-")));
    let python = folder.join("bin/python");
    if !folder.join("complete").is_file() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        run(Command::new(&python).args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]).args(packages));
        std::fs::write(folder.join("complete"), "").unwrap();
    }
    python
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; apt-get install python3-venv"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a Python program with the site's host, ports and CA as `HOST`, `PORT[25]` … and `CA`.
/// Panics with its output when it fails; returns what it printed.
pub fn python(site: &Site, program: &str) -> String {
    python_of(Path::new("python3"), site, program)
}

/// The same with a Python of [`venv`].
pub fn python_of(interpreter: &Path, site: &Site, program: &str) -> String {
    let ports: Vec<String> = PORTS.iter().map(|p| format!("{p}: {}", site.port(*p))).collect();
    let prelude = format!(
        "import email, imaplib, poplib, re, smtplib, socket, ssl, sys, time\n\
         HOST, CA, PORT = {:?}, {:?}, {{{}}}\n\
         TLS = ssl.create_default_context(cafile=CA); TLS.check_hostname = False\n",
        site.host(),
        site.ca().display().to_string(),
        ports.join(", ")
    );
    let mut child = Command::new(interpreter)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is missing: apt-get install python3");
    child.stdin.take().unwrap().write_all(format!("{prelude}{program}").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "python failed:\n{out}\n{err}");
    out.into_owned()
}
