//! A whole site: `postroad up` on its own data directory.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    ports::{nobody_listens, reserve},
    process::{Process, ours},
};

/// Stopped, and its data removed, when dropped.
pub struct Site {
    up: Option<Process>,
    folder: TempDir,
    options: Options,
}

#[derive(Clone)]
pub struct Options {
    pub listen: String,
    pub port_offset: u16,
    pub domains: Vec<String>,
    /// Added to the command as they are.
    pub more: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// YAML for `--config`.
    pub config: Option<String>,
    /// Where `postroad` and the services are; those built beside the test when absent.
    pub binaries: Option<PathBuf>,
}

/// The mail ports without their offset.
pub const PORTS: [u16; 8] = [25, 587, 465, 143, 993, 110, 995, 4190];

/// An offset at which nobody listens on a mail port of these hosts, and which no other test has.
pub fn free_port_offset(hosts: &[&str]) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let is_free = |offset: u16| {
        let mut ports = PORTS.iter().chain(&[8080]).map(|port| port + offset);
        reserve(25 + offset) && ports.all(|port| hosts.iter().all(|host| nobody_listens(host, port)))
    };
    // Modulo 41 all ports differ, so two offsets never meet; the console's stay below the inside ports.
    let start = u16::try_from(std::process::id() % 200).unwrap();
    (0..200)
        .map(|_| 3_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 200 * 41)
        .find(|offset| is_free(*offset))
        .expect("free ports on loopback")
}

impl Options {
    pub fn new(listen: &str, port_offset: u16, domain: &str) -> Self {
        Self {
            listen: listen.to_owned(),
            port_offset,
            domains: vec![domain.to_owned()],
            more: Vec::new(),
            environment: Vec::new(),
            config: None,
            binaries: None,
        }
    }

    pub fn more(mut self, options: &[&str]) -> Self {
        self.more.extend(options.iter().map(|o| (*o).to_owned()));
        self
    }
}

impl Site {
    pub fn up(options: Options) -> Self {
        Self::up_in(tempfile::Builder::new().prefix("postroad-site").tempdir_in("/tmp").unwrap(), options)
    }

    /// In a folder that is removed with it.
    pub fn up_in(folder: TempDir, options: Options) -> Self {
        let mut site = Self { up: None, folder, options };
        site.start();
        site
    }

    /// Starts it (again) on the same data and waits for `ready`.
    pub fn start(&mut self) {
        let o = &self.options;
        let mut command = Command::new(o.binaries.as_ref().map_or_else(|| ours("postroad"), |b| b.join("postroad")));
        command.arg("up").arg("--data").arg(self.data()).args(["--listen", &o.listen]);
        command.args(["--port-offset", &o.port_offset.to_string()]);
        command.args(o.domains.iter().flat_map(|d| ["--domain", d]));
        command.args(&o.more).envs(o.environment.iter().cloned()).stdout(Stdio::piped());
        if let Some(yaml) = &o.config {
            let file = self.folder.path().join("config.yaml");
            std::fs::write(&file, yaml).unwrap();
            command.arg("--config").arg(file);
        }
        let mut up = Process::start(&mut command);
        let mut lines = BufReader::new(up.stdout()).lines();
        let ready = lines.any(|line| line.unwrap().trim() == "ready");
        assert!(ready, "postroad up ended before it was ready; logs:\n{}", self.logs());
        // Somebody must read on, or the pipe fills up.
        std::thread::spawn(move || lines.for_each(drop));
        self.up = Some(up);
    }

    /// SIGTERM, and what it takes to drain.
    pub fn stop(&mut self) {
        if let Some(mut up) = self.up.take() {
            up.stop(Duration::from_secs(150));
        }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn ca(&self) -> PathBuf {
        self.data().join("tls/ca.pem")
    }

    pub fn host(&self) -> &str {
        &self.options.listen
    }

    /// The port of a well-known one: `port(25)`.
    pub fn port(&self, well_known: u16) -> u16 {
        well_known + self.options.port_offset
    }

    /// `postroad admin …`; panics when it fails.
    pub fn admin(&self, arguments: &[&str], input: &str) -> String {
        self.cli("admin", arguments, input)
    }

    pub fn cli(&self, verb: &str, arguments: &[&str], input: &str) -> String {
        let output = self.try_cli(verb, arguments, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "postroad {verb} {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn try_cli(&self, verb: &str, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(ours("postroad"))
            .arg(verb)
            .arg("--data")
            .arg(self.data())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// An account with the password "secret".
    pub fn account(&self, address: &str) {
        self.admin(&["account", "add", address, "--password-stdin"], "secret\n");
    }

    /// Process ids of a service, postgres and redis too.
    pub fn pids(&self, service: &str) -> Vec<u32> {
        let run = std::fs::read_dir(self.data().join("run")).unwrap().flatten();
        let ours = run.filter(|f| {
            let name = f.file_name().to_string_lossy().into_owned();
            name.ends_with(".pid") && name.strip_prefix(service).is_some_and(|rest| rest.starts_with('-'))
        });
        ours.filter_map(|f| std::fs::read_to_string(f.path()).ok()?.trim().parse().ok()).collect()
    }

    /// Sends a signal (`KILL`) to every process of a service.
    pub fn signal(&self, service: &str, signal: &str) {
        let pids = self.pids(service);
        assert!(!pids.is_empty(), "no process of {service}");
        for pid in pids {
            let _ = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
        }
    }

    fn logs(&self) -> String {
        let logs = std::fs::read_dir(self.data().join("log")).into_iter().flatten().flatten();
        logs.map(|f| format!("--- {}\n{}", f.path().display(), tail(&f.path()))).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // SIGTERM first: it takes its children along.
        if let Some(mut up) = self.up.take()
            && up.is_running()
            && !std::thread::panicking()
        {
            up.stop(Duration::from_secs(150));
        }
    }
}

fn tail(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
