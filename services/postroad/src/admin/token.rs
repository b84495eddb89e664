//! `postroad admin token`.

use clap::{Subcommand, ValueEnum};
use proto::console::{self, console_client::ConsoleClient};
use runtime::grpc::Channel;
use serde_json::{Value, json};

use super::Answer;
use crate::{client::refused, text};

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it; it is told here and never again
    Add {
        /// Whose it is
        name: String,
        #[arg(long, value_enum)]
        role: Role,
        /// Only for this tenant; a tenant-admin must have one
        #[arg(long, default_value = "")]
        tenant: String,
        /// Days until it is over; 0 is never
        #[arg(long, default_value_t = 0)]
        days: u32,
    },
    List,
    /// End a token and the sessions that began with it
    Remove {
        id: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Role {
    /// Everything, of all tenants
    Operator,
    /// Accounts, aliases, queue and tokens of one tenant
    TenantAdmin,
    /// Looks, changes nothing
    Support,
}

impl From<Role> for console::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Operator => Self::Operator,
            Role::TenantAdmin => Self::TenantAdmin,
            Role::Support => Self::Support,
        }
    }
}

impl Token {
    pub async fn run(self, mut client: ConsoleClient<Channel>) -> anyhow::Result<Answer> {
        match self {
            Self::Add { name, role, tenant, days } => {
                let request = console::CreateTokenRequest {
                    name,
                    role: console::Role::from(role).into(),
                    tenant,
                    valid_seconds: u64::from(days) * 86_400,
                    ..Default::default()
                };
                let made = client.create_token(request).await.map_err(refused)?.into_inner();
                let mut document = document(&made.token.unwrap_or_default());
                document["secret"] = json!(made.secret);
                Ok(Answer { lines: vec![made.secret], document })
            }
            Self::List => {
                let request = console::ListTokensRequest::default();
                let tokens = client.list_tokens(request).await.map_err(refused)?.into_inner().tokens;
                Ok(Answer { lines: tokens.iter().map(line).collect(), document: tokens.iter().map(document).collect() })
            }
            Self::Remove { id } => {
                let request = console::RevokeTokenRequest { id: id.clone(), ..Default::default() };
                client.revoke_token(request).await.map_err(refused)?;
                Ok(Answer { lines: vec![format!("token {id} removed")], document: json!({ "removed": id }) })
            }
        }
    }
}

fn role(token: &console::Token) -> String {
    token.role().as_str_name().to_lowercase().replace('_', "-")
}

fn line(token: &console::Token) -> String {
    let tenant = if token.tenant.is_empty() { "all tenants" } else { &token.tenant };
    let until = if token.expires_at_ms == 0 { "no end".to_owned() } else { text::time(token.expires_at_ms) };
    text::printable(&format!("{}  {}  {tenant}  {until}  {}", token.id, role(token), token.name))
}

fn document(token: &console::Token) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "role": role(token),
        "tenant": token.tenant,
        "created_at": text::time(token.created_at_ms),
        "expires_at_ms": token.expires_at_ms,
        "last_used_at_ms": token.last_used_at_ms,
    })
}
