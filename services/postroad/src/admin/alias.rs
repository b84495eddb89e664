//! `postroad admin alias | group`: addresses that lead to others.

use clap::Subcommand;
use proto::admin;
use serde_json::{Value, json};

use super::Answer;
use crate::client::{Admin, refused};

#[derive(Debug, Subcommand)]
pub enum Alias {
    /// Make an alias, or give it other targets
    Add {
        address: String,
        #[arg(required = true)]
        targets: Vec<String>,
    },
    List {
        domain: Option<String>,
    },
    Remove {
        address: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Group {
    /// Add members; the group is made when it is missing
    Add {
        address: String,
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Take members out
    Drop {
        address: String,
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Remove the group itself
    Remove { address: String },
}

impl Alias {
    pub async fn run(self, mut client: Admin) -> anyhow::Result<Answer> {
        Ok(match self {
            Alias::Add { address, targets } => {
                let request = admin::SetAliasRequest { address, targets };
                let alias = client.set_alias(request).await.map_err(refused)?.into_inner();
                Answer { lines: vec![alias_line(&alias)], document: alias_document(&alias) }
            }
            Alias::List { domain } => {
                let request = admin::ListAliasesRequest { domain: domain.unwrap_or_default() };
                let aliases = client.list_aliases(request).await.map_err(refused)?.into_inner().aliases;
                Answer {
                    lines: aliases.iter().map(alias_line).collect(),
                    document: aliases.iter().map(alias_document).collect(),
                }
            }
            Alias::Remove { address } => {
                let request = admin::DeleteAliasRequest { address: address.clone() };
                client.delete_alias(request).await.map_err(refused)?;
                Answer { lines: vec![format!("alias {address} removed")], document: json!({ "removed": address }) }
            }
        })
    }
}

impl Group {
    pub async fn run(self, mut client: Admin) -> anyhow::Result<Answer> {
        let request = match self {
            Group::Add { address, members } => admin::ChangeGroupRequest { address, add: members, remove: Vec::new() },
            Group::Drop { address, members } => admin::ChangeGroupRequest { address, add: Vec::new(), remove: members },
            Group::Remove { address } => return Alias::Remove { address }.run(client).await,
        };
        let group = client.change_group(request).await.map_err(refused)?.into_inner();
        Ok(Answer { lines: vec![alias_line(&group)], document: alias_document(&group) })
    }
}

fn alias_line(alias: &admin::Alias) -> String {
    let group = if alias.group { "  (group)" } else { "" };
    format!("{} -> {}{group}", alias.address, alias.targets.join(", "))
}

fn alias_document(alias: &admin::Alias) -> Value {
    json!({ "address": alias.address, "targets": alias.targets, "group": alias.group })
}
