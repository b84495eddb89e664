//! `postroad check`: whether mail goes in and comes out, seen as a mail program sees it.
//!
//! A message is submitted (RFC 6409, TLS from the start) and read by IMAP, by an account made for
//! it and removed again. No name server outside is needed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use proto::admin;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use uuid::Uuid;

use crate::client::{Admin, Site, refused};

/// No line of a server of ours is longer.
const MAX_LINE: u64 = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    site: Site,
    /// The submission port with TLS from the start, usually 465
    #[arg(long, value_name = "HOST:PORT")]
    submissions: String,
    /// The IMAP port with TLS from the start, usually 993
    #[arg(long, value_name = "HOST:PORT")]
    imaps: String,
    /// The name in the servers' certificate [default: the host that is connected to]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// CA of the servers' certificate; ignored when the file does not exist [default: public CAs]
    #[arg(long, value_name = "PEM")]
    ca: Option<PathBuf>,
    /// Domain of the account; made and removed again when it is not there
    #[arg(long, value_name = "D", default_value = "postroad-check.invalid")]
    domain: String,
    /// Seconds for all of it
    #[arg(long, value_name = "N", default_value_t = 60)]
    timeout: u64,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut admin = options.site.admin()?;
    let domain = options.domain.clone();
    let known = admin.list_domains(admin::ListDomainsRequest {}).await.map_err(refused)?.into_inner().names;
    let is_new = !known.contains(&domain);
    let address = format!("check-{}@{domain}", Uuid::new_v4().simple());
    let limit = Duration::from_secs(options.timeout);
    let outcome = match tokio::time::timeout(limit, deliver(&options, &mut admin, &address)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(anyhow::anyhow!("not within {} s", limit.as_secs())),
    };
    // Also after a failure nothing of ours stays.
    let _ = admin.delete_account(admin::DeleteAccountRequest { address }).await;
    if is_new {
        let _ = admin.delete_domain(admin::DeleteDomainRequest { name: domain }).await;
    }
    outcome
}

async fn deliver(options: &Options, admin: &mut Admin, address: &str) -> anyhow::Result<()> {
    let password = Uuid::new_v4().to_string();
    let domain = admin::CreateDomainRequest { name: options.domain.clone(), ..Default::default() };
    admin.create_domain(domain).await.map_err(refused).context("domain")?;
    let account =
        admin::CreateAccountRequest { address: address.to_owned(), password: password.clone(), ..Default::default() };
    admin.create_account(account).await.map_err(refused).context("account")?;
    println!("account {address} created");

    let tls = TlsConnector::from(Arc::new(trust(options.ca.as_deref())?));
    let token = Uuid::new_v4().to_string();
    let name = options.server_name.as_deref();
    let submit = async {
        let mut smtp = Talk::open(&options.submissions, name, &tls).await?;
        let reply = smtp.submit(address, &password, &token).await?;
        println!("submitted: {reply}");
        anyhow::Ok(())
    };
    submit.await.with_context(|| format!("submission to {}", options.submissions))?;
    let read = async {
        let mut imap = Talk::open(&options.imaps, name, &tls).await?;
        imap.read(address, &password, &token).await
    };
    read.await.with_context(|| format!("IMAP at {}", options.imaps))?;
    println!("read by IMAP: the message is there");
    Ok(())
}

fn trust(ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca.filter(|file| file.exists()) {
        Some(file) => {
            for one in CertificateDer::pem_file_iter(file).with_context(|| file.display().to_string())? {
                roots.add(one.with_context(|| file.display().to_string())?)?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// A conversation in lines.
struct Talk(BufReader<TlsStream<TcpStream>>);

impl Talk {
    async fn open(place: &str, name: Option<&str>, tls: &TlsConnector) -> anyhow::Result<Self> {
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        let name = ServerName::try_from(name.unwrap_or(host).to_owned())?;
        let tcp = TcpStream::connect(place).await?;
        Ok(Self(BufReader::new(tls.connect(name, tcp).await.context("TLS")?)))
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await?;
        Ok(self.0.flush().await?)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        (&mut self.0).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        ensure!(line.ends_with(b"\n"), "the server closed the connection");
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// The last line of an SMTP reply that must have this code (RFC 5321 §4.2.1).
    async fn reply(&mut self, code: &str) -> anyhow::Result<String> {
        loop {
            let line = self.line().await?;
            ensure!(line.starts_with(code), "{line}");
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }

    async fn submit(&mut self, address: &str, password: &str, token: &str) -> anyhow::Result<String> {
        self.reply("220").await?;
        self.say("EHLO check.invalid").await?;
        self.reply("250").await?;
        self.say(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{address}\0{password}")))).await?;
        self.reply("235").await?;
        self.say(&format!("MAIL FROM:<{address}>")).await?;
        self.reply("250").await?;
        self.say(&format!("RCPT TO:<{address}>")).await?;
        self.reply("250").await?;
        self.say("DATA").await?;
        self.reply("354").await?;
        let header = format!("From: {address}\r\nTo: {address}\r\nSubject: check {token}");
        self.say(&format!("{header}\r\n\r\nMail goes in and comes out: {token}\r\n.")).await?;
        let reply = self.reply("250").await?;
        self.say("QUIT").await?;
        Ok(reply)
    }

    /// Untagged lines up to the tagged OK (RFC 9051 §7.1).
    async fn command(&mut self, command: &str) -> anyhow::Result<Vec<String>> {
        self.say(&format!("a {command}")).await?;
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            match line.strip_prefix("a ") {
                Some(status) if status.starts_with("OK") => return Ok(lines),
                Some(status) => bail!("{status}"),
                None => lines.push(line),
            }
        }
    }

    async fn read(&mut self, address: &str, password: &str, token: &str) -> anyhow::Result<()> {
        self.line().await?;
        self.command(&format!("LOGIN \"{address}\" \"{password}\"")).await?;
        loop {
            let selected = self.command("SELECT INBOX").await?;
            if !selected.iter().any(|line| line == "* 0 EXISTS") {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let message = self.command("FETCH 1 (BODY.PEEK[])").await?;
        ensure!(message.iter().any(|line| line.ends_with(token)), "another message is there");
        self.command("LOGOUT").await?;
        Ok(())
    }
}
