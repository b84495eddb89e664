//! `postroad admin`: tenants, domains, accounts, aliases and groups; keys, reports and tokens; mail in
//! and out of other formats.

mod alias;
mod app_password;
mod authentication;
mod tenant;
mod token;
mod transfer;

use std::io::{BufRead as _, Read as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use proto::admin;
use serde_json::{Value, json};

use crate::{
    client::{Admin, Site, refused},
    rules, text,
};

/// Longer than any password that a hash takes whole.
const MAX_PASSWORD: u64 = 1024;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    site: Site,
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Domains that mail is accepted for
    #[command(subcommand)]
    Domain(Domain),
    /// Mailboxes and who may log in
    #[command(subcommand)]
    Account(Account),
    /// Addresses that lead to others; "@example.com" takes what has no other address
    #[command(subcommand)]
    Alias(alias::Alias),
    /// Scripts that sort an account's mail (RFC 5228)
    #[command(subcommand)]
    Sieve(rules::Sieve),
    /// Answers while somebody is away
    #[command(subcommand)]
    Vacation(rules::Vacation),
    /// Mail that goes on to other addresses
    #[command(subcommand)]
    Forward(rules::Forward),
    /// Addresses with members, who get its mail and cannot send as it
    #[command(subcommand)]
    Group(alias::Group),
    /// Customers, with domains and limits of their own
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Passwords for one program each
    #[command(subcommand)]
    AppPassword(app_password::AppPassword),
    /// Bring a Maildir or mbox into an account; asked again, it goes on where it was
    Import(transfer::Import),
    /// Write an account's mail as Maildir or mbox; asked again, it goes on where it was
    Export(transfer::Export),
    /// Keys that sign outgoing mail
    #[command(subcommand)]
    Dkim(authentication::Dkim),
    /// What is done about mail that is not authenticated
    #[command(subcommand)]
    Dmarc(authentication::Dmarc),
    /// Reports from others about our domains
    #[command(subcommand)]
    Report(authentication::Report),
    /// Who may use the console and its API
    #[command(subcommand)]
    Token(token::Token),
}

#[derive(Debug, Subcommand)]
enum Domain {
    /// Accept mail for a domain, and make its DKIM keys; does nothing when it is there
    Add {
        domain: String,
        /// Whose it is
        #[arg(long, default_value = "")]
        tenant: String,
    },
    List,
    /// Remove a domain that has no accounts and aliases
    Remove {
        domain: String,
    },
    /// Print the DNS records to publish
    Dns {
        domain: String,
    },
}

#[derive(Debug, Subcommand)]
enum Account {
    Add {
        address: String,
        #[command(flatten)]
        password: Password,
        /// Bytes of mail; 0 is no limit
        #[arg(long, default_value_t = 0)]
        quota: u64,
        /// Messages; 0 is no limit
        #[arg(long, default_value_t = 0)]
        quota_messages: u64,
        /// It submits mail and has none
        #[arg(long)]
        send_only: bool,
    },
    /// Limit what an account may hold
    Quota {
        address: String,
        /// Bytes of mail; 0 is no limit
        #[arg(long)]
        bytes: u64,
        /// Messages; 0 is no limit
        #[arg(long, default_value_t = 0)]
        messages: u64,
    },
    /// Whether an account only submits mail and takes none
    SendOnly {
        address: String,
        #[arg(action = clap::ArgAction::Set)]
        send_only: bool,
    },
    /// Set a new password
    Passwd {
        address: String,
        #[command(flatten)]
        password: Password,
    },
    List {
        domain: Option<String>,
    },
    /// Remove an account and all its mail
    Remove {
        address: String,
    },
    /// Refuse logins and mail, keep what is there
    Disable {
        address: String,
    },
    Enable {
        address: String,
    },
    /// What POP3 does for an account; what is not given stays as it is
    Pop3 {
        address: String,
        /// What DELE comes to: removal, or a move to Trash
        #[arg(long, value_enum)]
        dele: Option<Dele>,
        /// The messages of INBOX that POP3 shows
        #[arg(long, value_enum)]
        show: Option<Show>,
    },
    /// How many recipients an account may send to in a day
    Limit {
        address: String,
        /// 0 is what smtp-ingress has as limits.recipients_per_account
        #[arg(long)]
        daily_recipients: u64,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Dele {
    Expunge,
    Trash,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Show {
    All,
    /// Without those marked as deleted
    Undeleted,
    /// Neither read nor marked as deleted
    Unseen,
}

impl From<Dele> for admin::pop3::Dele {
    fn from(dele: Dele) -> Self {
        match dele {
            Dele::Expunge => Self::Expunge,
            Dele::Trash => Self::Trash,
        }
    }
}

impl From<Show> for admin::pop3::Show {
    fn from(show: Show) -> Self {
        match show {
            Show::All => Self::All,
            Show::Undeleted => Self::Undeleted,
            Show::Unseen => Self::Unseen,
        }
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Password {
    /// Read the password from standard input, its first line
    #[arg(long)]
    password_stdin: bool,
    /// Read a hash of another server instead, such as {SHA512-CRYPT}$6$…
    #[arg(long)]
    password_hash_stdin: bool,
}

impl Password {
    /// The password, or the hash of one.
    fn read(&self) -> anyhow::Result<(String, String)> {
        let line = read_password()?;
        Ok(if self.password_hash_stdin { (String::new(), line) } else { (line, String::new()) })
    }
}

/// What is printed: lines for people, a document for programs.
pub(crate) struct Answer {
    pub lines: Vec<String>,
    pub document: Value,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut client = options.site.admin()?;
    let answer = match options.subject {
        Subject::Domain(domain) => domain.run(client, options.site.hostname()).await?,
        Subject::Account(account) => account.run(client).await?,
        Subject::Alias(alias) => alias.run(client).await?,
        Subject::Sieve(sieve) => sieve.run(options.site.rules()?).await?,
        Subject::Vacation(vacation) => vacation.run(options.site.rules()?).await?,
        Subject::Forward(forward) => forward.run(options.site.rules()?).await?,
        Subject::Group(group) => group.run(client).await?,
        Subject::Tenant(tenant) => tenant.run(client, &options.site).await?,
        Subject::AppPassword(app_password) => app_password.run(client).await?,
        Subject::Import(import) => import.run(&mut client, options.site.mailboxes()?).await?,
        Subject::Export(export) => export.run(&mut client, options.site.mailboxes()?).await?,
        Subject::Dkim(dkim) => dkim.run(client).await?,
        Subject::Dmarc(dmarc) => dmarc.run(client).await?,
        Subject::Report(report) => report.run(client).await?,
        Subject::Token(token) => token.run(options.site.console()?).await?,
    };
    if options.site.json {
        println!("{}", answer.document);
    } else {
        for line in answer.lines {
            println!("{line}");
        }
    }
    Ok(())
}

impl Domain {
    async fn run(self, mut client: Admin, hostname: Option<String>) -> anyhow::Result<Answer> {
        Ok(match self {
            Domain::Add { domain, tenant } => {
                let request = admin::CreateDomainRequest { name: domain, tenant };
                let domain = client.create_domain(request).await.map_err(refused)?.into_inner();
                Answer { lines: vec![format!("domain {} is there", domain.name)], document: dns_document(&domain) }
            }
            Domain::List => {
                let names =
                    client.list_domains(admin::ListDomainsRequest {}).await.map_err(refused)?.into_inner().names;
                Answer { document: json!(names), lines: names }
            }
            Domain::Remove { domain } => {
                let request = admin::DeleteDomainRequest { name: domain.clone() };
                client.delete_domain(request).await.map_err(refused)?;
                Answer { lines: vec![format!("domain {domain} removed")], document: json!({ "removed": domain }) }
            }
            Domain::Dns { domain } => {
                let request = admin::GetDomainRequest { name: domain };
                let mut domain = client.get_domain(request).await.map_err(refused)?.into_inner();
                // Where mail enters is not mda's knowledge.
                if let Some(hostname) = hostname {
                    let value = format!("10 {hostname}");
                    let mx = admin::DnsRecord { name: domain.name.clone(), r#type: "MX".into(), value };
                    domain.records.insert(0, mx);
                }
                Answer { lines: domain.records.iter().map(zone_line).collect(), document: dns_document(&domain) }
            }
        })
    }
}

/// A line of a zone file (RFC 1035 §5.1).
fn zone_line(record: &admin::DnsRecord) -> String {
    let value = match record.r#type.as_str() {
        "TXT" => text::txt(&record.value),
        "MX" => format!("{}.", record.value),
        _ => record.value.clone(),
    };
    format!("{}. IN {} {value}", record.name, record.r#type)
}

fn dns_document(domain: &admin::Domain) -> Value {
    let record = |r: &admin::DnsRecord| json!({ "name": r.name, "type": r.r#type, "value": r.value });
    json!({ "name": domain.name, "records": domain.records.iter().map(record).collect::<Vec<_>>() })
}

impl Account {
    async fn run(self, mut client: Admin) -> anyhow::Result<Answer> {
        let (account, done) = match self {
            Account::Add { address, password, quota, quota_messages, send_only } => {
                let (password, password_hash) = password.read()?;
                let request = admin::CreateAccountRequest {
                    address,
                    password,
                    quota_bytes: quota,
                    quota_messages,
                    password_hash,
                    send_only,
                };
                (client.create_account(request).await, "created")
            }
            Account::Quota { address, bytes, messages } => {
                let request = admin::SetQuotaRequest { address, quota_bytes: bytes, quota_messages: messages };
                (client.set_quota(request).await, "has a new limit")
            }
            Account::SendOnly { address, send_only } => {
                let request = admin::SetSendOnlyRequest { address, send_only };
                (client.set_send_only(request).await, if send_only { "takes no mail" } else { "takes mail" })
            }
            Account::Passwd { address, password } => {
                let (password, password_hash) = password.read()?;
                let request = admin::SetPasswordRequest { address, password, password_hash };
                (client.set_password(request).await, "has a new password")
            }
            Account::Disable { address } => {
                let request = admin::SetAccountDisabledRequest { address, disabled: true };
                (client.set_account_disabled(request).await, "disabled")
            }
            Account::Enable { address } => {
                let request = admin::SetAccountDisabledRequest { address, disabled: false };
                (client.set_account_disabled(request).await, "enabled")
            }
            Account::Pop3 { address, dele, show } => {
                let pop3 = admin::Pop3 {
                    dele: dele.map_or(admin::pop3::Dele::Unspecified, Into::into).into(),
                    show: show.map_or(admin::pop3::Show::Unspecified, Into::into).into(),
                };
                let request = admin::SetPop3Request { address, pop3: Some(pop3) };
                let account = client.set_pop3(request).await.map_err(refused)?.into_inner();
                let (dele, show) = pop3_words(&account);
                let lines = vec![format!("account {}: DELE means {dele}, POP3 shows {show}", account.address)];
                return Ok(Answer { lines, document: account_document(&account) });
            }
            Account::Limit { address, daily_recipients } => {
                let request = admin::SetSendingLimitRequest { address, daily_recipients };
                let account = client.set_sending_limit(request).await.map_err(refused)?.into_inner();
                let limit = match account.daily_recipients {
                    0 => "as many recipients a day as everybody".to_owned(),
                    limit => format!("{limit} recipients a day"),
                };
                let lines = vec![format!("account {} may send to {limit}", account.address)];
                return Ok(Answer { lines, document: account_document(&account) });
            }
            Account::Remove { address } => {
                let request = admin::DeleteAccountRequest { address: address.clone() };
                client.delete_account(request).await.map_err(refused)?;
                let lines = vec![format!("account {address} removed")];
                return Ok(Answer { lines, document: json!({ "removed": address }) });
            }
            Account::List { domain } => {
                let request = admin::ListAccountsRequest { domain: domain.unwrap_or_default(), address: String::new() };
                let accounts = client.list_accounts(request).await.map_err(refused)?.into_inner().accounts;
                let lines = accounts.iter().map(account_line).collect();
                return Ok(Answer { lines, document: accounts.iter().map(account_document).collect() });
            }
        };
        let account = account.map_err(refused)?.into_inner();
        Ok(Answer { lines: vec![format!("account {} {done}", account.address)], document: account_document(&account) })
    }
}

fn account_line(account: &admin::Account) -> String {
    let quota = if account.quota_bytes == 0 { "no limit".to_owned() } else { format!("of {}", account.quota_bytes) };
    let messages = if account.quota_messages == 0 { String::new() } else { format!(" of {}", account.quota_messages) };
    let disabled = if account.disabled { "  disabled" } else { "" };
    let send_only = if account.send_only { "  send-only" } else { "" };
    format!(
        "{}  {} bytes ({quota})  {}{messages} messages{disabled}{send_only}",
        account.address, account.used_bytes, account.used_messages
    )
}

fn pop3_words(account: &admin::Account) -> (String, String) {
    let pop3 = account.pop3.unwrap_or_default();
    (pop3.dele().as_str_name().to_lowercase(), pop3.show().as_str_name().to_lowercase())
}

fn account_document(account: &admin::Account) -> Value {
    let (dele, show) = pop3_words(account);
    json!({
        "pop3": { "dele": dele, "show": show },
        "account_id": account.account_id,
        "address": account.address,
        "disabled": account.disabled,
        "quota_bytes": account.quota_bytes,
        "used_bytes": account.used_bytes,
        "daily_recipients": account.daily_recipients,
        "quota_messages": account.quota_messages,
        "used_messages": account.used_messages,
        "send_only": account.send_only,
        "tenant": account.tenant,
    })
}

/// The first line of standard input, without its line end.
fn read_password() -> anyhow::Result<String> {
    let mut line = Vec::new();
    std::io::stdin().lock().take(MAX_PASSWORD).read_until(b'\n', &mut line).context("standard input")?;
    let password = String::from_utf8(line).context("the password is not UTF-8")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("standard input has no password");
    }
    Ok(password.to_owned())
}
