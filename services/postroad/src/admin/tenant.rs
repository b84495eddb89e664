//! `postroad admin tenant`.

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use proto::admin;
use serde_json::{Value, json};

use super::{Answer, transfer};
use crate::client::{Admin, Site, refused};

#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Make a tenant; does nothing when it is there
    Add {
        name: String,
    },
    List,
    /// Limit what all accounts of a tenant may hold together
    Quota {
        name: String,
        /// Bytes of mail; 0 is no limit
        #[arg(long)]
        bytes: u64,
        /// Messages; 0 is no limit
        #[arg(long, default_value_t = 0)]
        messages: u64,
    },
    /// How many accounts a tenant may have, and what each of them may send; what is not given stays
    Limit {
        name: String,
        /// 0 is no limit
        #[arg(long)]
        accounts: Option<u64>,
        /// Recipients in a day, of each account without a limit of its own; 0 is what smtp-ingress has as
        /// limits.recipients_per_account
        #[arg(long)]
        daily_recipients: Option<u64>,
    },
    /// Remove a tenant that has no domains
    Remove {
        name: String,
    },
    /// Write all that a tenant has: directory.jsonl with domains, keys, accounts and aliases (it holds
    /// secrets), and a Maildir for each account
    Export {
        name: String,
        to: PathBuf,
    },
}

impl Tenant {
    pub(super) async fn run(self, mut client: Admin, site: &Site) -> anyhow::Result<Answer> {
        let tenant = match self {
            Tenant::Add { name } => client.create_tenant(admin::CreateTenantRequest { name }).await,
            Tenant::Quota { name, bytes, messages } => {
                let request = admin::SetTenantQuotaRequest { name, quota_bytes: bytes, quota_messages: messages };
                client.set_tenant_quota(request).await
            }
            Tenant::Limit { name, accounts, daily_recipients } => {
                let request = admin::SetTenantLimitsRequest { name, max_accounts: accounts, daily_recipients };
                client.set_tenant_limits(request).await
            }
            Tenant::List => {
                let answer = client.list_tenants(admin::ListTenantsRequest {}).await.map_err(refused)?;
                let tenants = answer.into_inner().tenants;
                return Ok(Answer {
                    lines: tenants.iter().map(line).collect(),
                    document: tenants.iter().map(document).collect(),
                });
            }
            Tenant::Remove { name } => {
                let request = admin::DeleteTenantRequest { name: name.clone() };
                client.delete_tenant(request).await.map_err(refused)?;
                let lines = vec![format!("tenant {name} removed")];
                return Ok(Answer { lines, document: json!({ "removed": name }) });
            }
            Tenant::Export { name, to } => return export(client, site, name, to).await,
        };
        let tenant = tenant.map_err(refused)?.into_inner();
        Ok(Answer { lines: vec![line(&tenant)], document: document(&tenant) })
    }
}

fn line(t: &admin::Tenant) -> String {
    let of = |limit: u64| if limit == 0 { "no limit".to_owned() } else { format!("of {limit}") };
    format!(
        "{}  {} domains  {} accounts ({})  {} bytes ({})  {} messages ({})",
        t.name,
        t.domains,
        t.accounts,
        of(t.max_accounts),
        t.used_bytes,
        of(t.quota_bytes),
        t.used_messages,
        of(t.quota_messages)
    )
}

fn document(t: &admin::Tenant) -> Value {
    json!({
        "name": t.name,
        "domains": t.domains,
        "accounts": t.accounts,
        "quota_bytes": t.quota_bytes,
        "quota_messages": t.quota_messages,
        "used_bytes": t.used_bytes,
        "used_messages": t.used_messages,
        "max_accounts": t.max_accounts,
        "daily_recipients": t.daily_recipients,
        "dmarc_quarantine": t.dmarc_quarantine,
    })
}

async fn export(mut client: Admin, site: &Site, name: String, to: PathBuf) -> anyhow::Result<Answer> {
    std::fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    let path = to.join("directory.jsonl");
    let mut file = private(&path).with_context(|| path.display().to_string())?;
    let mut stream =
        client.export_tenant(admin::ExportTenantRequest { name: name.clone() }).await.map_err(refused)?.into_inner();
    let mut accounts = Vec::new();
    while let Some(answer) = stream.message().await.map_err(refused)? {
        let entry: Value = serde_json::from_str(&answer.line).context("directory")?;
        accounts.extend(
            entry
                .get("account")
                .filter(|_| entry.get("app_password").is_none())
                .and_then(Value::as_str)
                .map(str::to_owned),
        );
        writeln!(file, "{}", answer.line)?;
    }
    file.sync_all()?;
    let mut messages = 0;
    for address in &accounts {
        let export = transfer::Export::maildir(address, to.join("mail").join(address));
        messages += export.write(&mut client, site.mailboxes()?).await.with_context(|| address.clone())?;
    }
    let lines = vec![format!("tenant {name}: {} accounts, {messages} messages in {}", accounts.len(), to.display())];
    Ok(Answer { lines, document: json!({ "tenant": name, "accounts": accounts.len(), "messages": messages }) })
}

/// Nobody else may read hashes and keys.
fn private(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
}
