//! Real clients.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::site::{PORTS, Site};

/// Runs a Python program with the site's host, ports and CA as `HOST`, `PORT[25]` … and `CA`.
/// Panics with its output when it fails; returns what it printed.
pub fn python(site: &Site, program: &str) -> String {
    let ports: Vec<String> = PORTS.iter().map(|p| format!("{p}: {}", site.port(*p))).collect();
    let prelude = format!(
        "import email, imaplib, poplib, re, smtplib, socket, ssl, sys, time\n\
         HOST, CA, PORT = {:?}, {:?}, {{{}}}\n\
         TLS = ssl.create_default_context(cafile=CA); TLS.check_hostname = False\n",
        site.host(),
        site.ca().display().to_string(),
        ports.join(", ")
    );
    let mut child = Command::new("python3")
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
