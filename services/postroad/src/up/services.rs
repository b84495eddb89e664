//! What each service is told: its configuration as environment variables, over `--config`.
//!
//! A key of a service's `config.rs` is `POSTROAD_<KEY>`, with `__` between levels.

use std::{collections::BTreeMap, ffi::OsString, fs, net::SocketAddr, path::PathBuf};

use address::Domain;
use anyhow::{Context as _, bail};
use runtime::grpc::Peers;

use super::{
    certificate,
    options::{Options, SERVICES},
    ports::{CONSOLE, InsidePorts, MailPorts},
    postgres,
    process::{Patience, Program},
    redis, secret,
    site::Site,
    user::Accounts,
};

/// Everything that is decided before the first process starts.
pub struct Plan {
    pub accounts: Accounts,
    pub domains: Vec<Domain>,
    binaries: PathBuf,
    hostname: Domain,
    mail: MailPorts,
    processes: Vec<Process>,
    /// Keeps the ports of `processes` ours.
    _inside: InsidePorts,
    /// Those that all processes of a service share.
    settings: BTreeMap<&'static str, Vec<(String, OsString)>>,
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct Process {
    service: &'static str,
    number: u32,
    /// gRPC, for the services that have it.
    listen: SocketAddr,
    health: SocketAddr,
}

/// A process to start; with `wait`, the next one starts when it is ready.
pub struct Start {
    pub program: Program,
    pub patience: Patience,
    pub wait: bool,
    pub health: SocketAddr,
}

impl Plan {
    pub fn new(site: &Site, options: Options) -> anyhow::Result<Self> {
        let binaries = beside_us()?;
        let accounts = Accounts::find()?;
        let mail = MailPorts::new(options.listen, options.port_offset);
        mail.ensure_free()?;
        let hostname = match (&options.hostname, options.domain.first()) {
            (Some(hostname), _) => hostname.clone(),
            (None, Some(domain)) => format!("mail.{domain}").parse()?,
            (None, None) => "localhost".parse()?,
        };
        let config = options
            .config
            .as_ref()
            .map(|f| fs::canonicalize(f).with_context(|| format!("option --config {}", f.display())));
        let mut inside = InsidePorts::default();
        let mut processes = Vec::new();
        for service in SERVICES {
            // The last one given counts.
            let replicas = options.replicas.iter().rev().find(|(name, _)| name == service).map_or(1, |(_, n)| *n);
            for number in 1..=replicas {
                let mut free = || loop {
                    let address = inside.take()?;
                    // The console's may lie among them.
                    if address.port() != mail.at(CONSOLE).port() {
                        return anyhow::Ok(address);
                    }
                };
                processes.push(Process { service, number, listen: free()?, health: free()? });
            }
        }
        let mut plan = Self {
            accounts,
            domains: options.domain.clone(),
            binaries,
            hostname,
            mail,
            processes,
            _inside: inside,
            settings: BTreeMap::new(),
            config: config.transpose()?,
        };
        plan.settings = plan.settings(site, &options)?;
        Ok(plan)
    }

    /// In the order of starting.
    pub fn services(&self) -> Vec<Start> {
        self.processes.iter().map(|process| self.start(process)).collect()
    }

    pub fn health_ports(&self) -> Vec<SocketAddr> {
        self.processes.iter().map(|p| p.health).collect()
    }

    pub fn mail_ports(&self) -> impl Iterator<Item = SocketAddr> {
        self.mail.all()
    }

    /// Where the console is, for a browser.
    pub fn console_url(&self) -> String {
        let address = reachable(self.mail.at(CONSOLE));
        let scheme = if self.mail.at(CONSOLE).ip().is_loopback() { "http" } else { "https" };
        format!("{scheme}://{address}/")
    }

    pub fn mda_peers(&self) -> anyhow::Result<Peers> {
        Peers::try_from(self.peers("mda")).map_err(anyhow::Error::msg)
    }

    /// Connections that Postgres must allow: more than all mda processes open together.
    pub fn database_clients(&self) -> usize {
        let mda = self.processes.iter().filter(|p| p.service == "mda").count();
        100.max(20 * mda + 20)
    }

    /// Tells the command line where mda is, and Prometheus where all are.
    pub fn publish(&self, site: &Site) -> anyhow::Result<()> {
        for mda in self.processes.iter().filter(|p| p.service == "mda") {
            fs::write(site.run_directory().join(format!("mda-{}.addr", mda.number)), format!("{}\n", mda.listen))?;
        }
        let scraped: Vec<_> = self
            .processes
            .iter()
            .map(|p| {
                let labels = serde_json::json!({ "job": p.service, "site": self.hostname.to_string() });
                serde_json::json!({ "targets": [p.health.to_string()], "labels": labels })
            })
            .collect();
        // For Prometheus's file_sd_configs.
        fs::write(site.run_directory().join("prometheus.json"), serde_json::Value::from(scraped).to_string())?;
        fs::write(site.run_directory().join("hostname"), format!("{}\n", self.hostname))?;
        Ok(())
    }

    fn start(&self, process: &Process) -> Start {
        let patience =
            if matches!(process.service, "mda" | "auth-checker") { Patience::Inside } else { Patience::Mail };
        let mut environment = self.settings.get(process.service).cloned().unwrap_or_default();
        environment.push(("POSTROAD_RUNTIME__HTTP_LISTEN".into(), process.health.to_string().into()));
        if patience == Patience::Inside {
            environment.push(("POSTROAD_LISTEN".into(), process.listen.to_string().into()));
        }
        if let Some(config) = &self.config {
            environment.push(("POSTROAD_CONFIG".into(), config.into()));
        }
        let program = Program {
            service: process.service,
            number: process.number,
            path: self.binaries.join(process.service),
            arguments: Vec::new(),
            environment,
            account: None,
            capability: None,
        };
        // The first mda migrates the database; the others find it done.
        Start { program, patience, wait: process.service == "mda", health: process.health }
    }

    fn peers(&self, service: &str) -> String {
        let all = self.processes.iter().filter(|p| p.service == service).map(|p| p.listen.to_string());
        all.collect::<Vec<_>>().join(",")
    }

    fn settings(
        &self,
        site: &Site,
        options: &Options,
    ) -> anyhow::Result<BTreeMap<&'static str, Vec<(String, OsString)>>> {
        let sockets = postgres::socket_directory(site, &self.accounts)?;
        let database = format!("postgres://{name}@localhost/{name}?host={}", in_url(&sockets)?, name = postgres::NAME);
        let redis = format!("redis+unix://{}", in_url(&redis::socket(site)?)?);
        let hostname = self.hostname.to_string();
        let mda = self.peers("mda");
        let at = |port| self.mail.at(port).to_string();

        let tls = match (&options.tls_cert, &options.tls_key) {
            (Some(cert), Some(key)) => certificate::Files { cert: absolute(cert)?, key: absolute(key)? },
            _ => certificate::ensure(&site.path("tls"), &self.hostname, &self.domains, options.listen)?,
        };
        let networks: Vec<_> = options.proxy_from.iter().map(|n| format!("{n:?}", n = n.to_string())).collect();
        let listener = [
            setting("listener.tls_cert", tls.cert),
            setting("listener.tls_key", tls.key),
            setting("listener.proxy_from", format!("[{}]", networks.join(","))),
        ];
        let dns: Vec<_> = options.dns.iter().map(|server| setting("dns.server", server.to_string())).collect();

        let mut all = BTreeMap::new();
        all.insert(
            "mda",
            vec![
                setting("database_url", database),
                setting("redis_url", redis.clone()),
                setting("hostname", hostname.clone()),
                setting("auth_checker", self.peers("auth-checker")),
                setting("encryption_keys", secret::ensure_key(&site.path("encryption.key"))?),
            ],
        );
        let auth = vec![setting("mda", mda.clone()), setting("hostname", hostname.clone())];
        all.insert("auth-checker", [auth, dns.clone()].concat());
        let ingress = [
            setting("hostname", hostname.clone()),
            setting("mx_listen", at(25)),
            setting("submission_listen", at(587)),
            setting("submissions_listen", at(465)),
            setting("mda", mda.clone()),
            setting("auth_checker", self.peers("auth-checker")),
            setting("redis_url", redis.clone()),
        ];
        all.insert("smtp-ingress", [&ingress[..], &listener, &dns].concat());
        let mut relay = vec![
            setting("hostname", hostname.clone()),
            setting("redis_url", redis),
            setting("mda", mda.clone()),
            setting("auth_checker", self.peers("auth-checker")),
            setting("relay_port", options.relay_port.to_string()),
        ];
        if !options.listen.is_unspecified() {
            relay.push(setting("source_address", options.listen.to_string()));
        }
        all.insert("outbound-relay", [relay, dns.clone()].concat());
        let imap = [
            setting("hostname", hostname.clone()),
            setting("imap_listen", at(143)),
            setting("imaps_listen", at(993)),
            setting("managesieve_listen", at(4190)),
            setting("mda", mda.clone()),
        ];
        all.insert("imap-gateway", [&imap[..], &listener].concat());
        let pop3 = [
            setting("hostname", hostname.clone()),
            setting("pop3_listen", at(110)),
            setting("pop3s_listen", at(995)),
            setting("mda", mda.clone()),
        ];
        all.insert("pop3-gateway", [&pop3[..], &listener].concat());
        let mut console = vec![
            setting("hostname", hostname.clone()),
            setting("listen", at(CONSOLE)),
            setting("mda", mda),
            setting("submission", reachable(self.mail.at(465)).to_string()),
            setting("submission_name", hostname),
            setting("mx", reachable(self.mail.at(25)).to_string()),
        ];
        if options.tls_cert.is_none() {
            console.push(setting("submission_ca", site.path("tls").join("ca.pem")));
        }
        // Passwords leave no machine in the clear.
        if !options.listen.is_loopback() {
            console.extend(listener[..2].iter().cloned());
        }
        all.insert("console", [console, dns].concat());
        Ok(all)
    }
}

/// How this machine itself gets to a port of ours.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(a) if a.ip().is_unspecified() => (std::net::Ipv4Addr::LOCALHOST, a.port()).into(),
        SocketAddr::V6(a) if a.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, a.port()).into(),
        other => other,
    }
}

/// `dns.server` is `POSTROAD_DNS__SERVER`.
fn setting(key: &str, value: impl Into<OsString>) -> (String, OsString) {
    (format!("POSTROAD_{}", key.replace('.', "__").to_uppercase()), value.into())
}

fn absolute(path: &std::path::Path) -> anyhow::Result<PathBuf> {
    fs::canonicalize(path).with_context(|| path.display().to_string())
}

/// The services are found beside this program, and all of them are.
fn beside_us() -> anyhow::Result<PathBuf> {
    let ourselves = std::env::current_exe()?;
    let directory = ourselves.parent().context("this program is in no directory")?.to_owned();
    for service in SERVICES {
        if !directory.join(service).is_file() {
            bail!("{service} is not in {}, where postroad is", directory.display());
        }
    }
    Ok(directory)
}

/// A path as a part of a URL (RFC 3986 §2.1).
fn in_url(path: &std::path::Path) -> anyhow::Result<String> {
    let path = path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))?;
    let encode = |b: u8| match b {
        b'/' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    Ok(path.bytes().map(encode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_urls() {
        assert_eq!(in_url("/a b/ü+%".as_ref()).expect("UTF-8"), "/a%20b/%C3%BC%2B%25");
    }

    #[test]
    fn settings_are_environment_variables() {
        assert_eq!(setting("dns.server", "x"), ("POSTROAD_DNS__SERVER".to_owned(), "x".into()));
    }
}
