//! What is measured: a server with its mailboxes. Ours is here.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::{ACCOUNTS, DOMAIN, SENDER_DOMAIN, cpu, recipient};
use crate::{
    dns::NameServer,
    site::{Options, Site, free_port_offset},
};

pub trait Subject {
    fn name(&self) -> &'static str;
    /// Where mail comes in, from anybody.
    fn server(&self) -> SocketAddr;
    /// All its processes are these and their descendants.
    fn processes(&self) -> Vec<u32>;
    /// In an account's INBOX.
    fn messages(&mut self, account: usize) -> impl Future<Output = usize>;
}

const ADDRESS: &str = "127.0.0.1";
/// Counting over TLS would be one more library here; nobody measures the counting.
const CONFIG: &str = "imap-gateway:\n  allow_cleartext_login: true\n";

/// `postroad up`, as it comes.
pub struct Postroad {
    process: u32,
    accounts: Vec<Account>,
    server: SocketAddr,
    _site: Site,
    _dns: NameServer,
}

impl Postroad {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With environment variables for all of its processes.
    pub async fn start_with(environment: &[(String, String)]) -> Self {
        let dns = NameServer::start(&["com."]).await;
        // Verdicts are found, not skipped: SPF passes, there is a DMARC policy, no DKIM signature.
        for record in [
            format!("{SENDER_DOMAIN} MX 10 mail.{SENDER_DOMAIN}"),
            format!("mail.{SENDER_DOMAIN} A 127.0.0.1"),
            format!("{SENDER_DOMAIN} A 127.0.0.1"),
            format!("{SENDER_DOMAIN} TXT v=spf1 a mx -all"),
            format!("_dmarc.{SENDER_DOMAIN} TXT v=DMARC1; p=none"),
        ] {
            dns.add(&record).await;
        }
        let mut options =
            Options::new(ADDRESS, free_port_offset(&[ADDRESS]), DOMAIN).more(&["--dns", &dns.address.to_string()]);
        options.config = Some(CONFIG.to_owned());
        options.environment = environment.to_vec();
        let site = Site::up(options);
        let mut accounts = Vec::new();
        for account in 0..ACCOUNTS {
            site.account(&recipient(account));
            accounts.push(Account::login(&site, &recipient(account)).await);
        }
        let mda = site.pids("mda").first().copied().expect("mda runs");
        let server = SocketAddr::new(ADDRESS.parse().unwrap(), site.port(25));
        Self { process: cpu::parent(mda), accounts, server, _site: site, _dns: dns }
    }
}

impl Subject for Postroad {
    fn name(&self) -> &'static str {
        "Postroad"
    }

    fn server(&self) -> SocketAddr {
        self.server
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.process]
    }

    async fn messages(&mut self, account: usize) -> usize {
        self.accounts[account].messages().await
    }
}

/// An IMAP session that asks for STATUS only.
struct Account(BufReader<TcpStream>);

impl Account {
    async fn login(site: &Site, address: &str) -> Self {
        let stream = TcpStream::connect((site.host(), site.port(143))).await.unwrap();
        let mut account = Self(BufReader::new(stream));
        let mut greeting = String::new();
        account.0.read_line(&mut greeting).await.unwrap();
        account.command(&format!("LOGIN {address} secret")).await;
        account
    }

    /// RFC 9051 §6.3.11: `* STATUS INBOX (MESSAGES 17)`.
    async fn messages(&mut self) -> usize {
        let lines = self.command("STATUS INBOX (MESSAGES)").await;
        let count = lines.iter().find_map(|l| l.split_once("(MESSAGES ")?.1.split(')').next()?.parse().ok());
        count.unwrap_or_else(|| panic!("no STATUS in {lines:?}"))
    }

    async fn command(&mut self, command: &str) -> Vec<String> {
        self.0.get_mut().write_all(format!("a {command}\r\n").as_bytes()).await.unwrap();
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.unwrap() > 0, "IMAP session ended: {lines:?}");
            if let Some(status) = line.strip_prefix("a ") {
                assert!(status.starts_with("OK"), "{command}: {line}");
                return lines;
            }
            lines.push(line);
        }
    }
}
