//! `postroad admin app-password`.

use clap::Subcommand;
use proto::admin;
use serde_json::{Value, json};

use super::Answer;
use crate::{
    client::{Admin, refused},
    text,
};

#[derive(Debug, Subcommand)]
pub enum AppPassword {
    /// Make a password for one program and print it, once
    Add {
        address: String,
        /// Which program it is for
        name: String,
        /// Where it is taken; all when not given
        #[arg(long, value_delimiter = ',', value_name = "smtp|imap|pop3")]
        services: Vec<String>,
    },
    List {
        address: String,
    },
    /// Refuse it from now on
    Remove {
        address: String,
        id: u64,
    },
}

impl AppPassword {
    pub(super) async fn run(self, mut client: Admin) -> anyhow::Result<Answer> {
        Ok(match self {
            AppPassword::Add { address, name, services } => {
                let request = admin::CreateAppPasswordRequest { address, name, services };
                let answer = client.create_app_password(request).await.map_err(refused)?.into_inner();
                let made = answer.app_password.unwrap_or_default();
                let mut document = document(&made);
                document["password"] = json!(answer.password);
                Answer { lines: vec![answer.password], document }
            }
            AppPassword::List { address } => {
                let request = admin::ListAppPasswordsRequest { address };
                let all = client.list_app_passwords(request).await.map_err(refused)?.into_inner().app_passwords;
                Answer { lines: all.iter().map(line).collect(), document: all.iter().map(document).collect() }
            }
            AppPassword::Remove { address, id } => {
                client.delete_app_password(admin::DeleteAppPasswordRequest { address, id }).await.map_err(refused)?;
                Answer { lines: vec![format!("app password {id} removed")], document: json!({ "removed": id }) }
            }
        })
    }
}

fn used(p: &admin::AppPassword) -> String {
    if p.used_at_ms == 0 { "never used".into() } else { format!("used {}", text::time(p.used_at_ms)) }
}

fn line(p: &admin::AppPassword) -> String {
    format!("{}  {}  {}  {}", p.id, text::printable(&p.name), p.services.join(","), used(p))
}

fn document(p: &admin::AppPassword) -> Value {
    json!({
        "id": p.id,
        "name": p.name,
        "services": p.services,
        "created_at": text::time(p.created_at_ms),
        "used_at": (p.used_at_ms > 0).then(|| text::time(p.used_at_ms)),
    })
}
