//! `postroad quarantine`: what was sent to Junk, and its way into INBOX.

use clap::{Args, Subcommand};
use proto::admin::{ListQuarantineRequest, QuarantinedMessage, ReleaseQuarantinedRequest};
use serde_json::{Value, json};

use crate::{
    client::{Site, refused},
    text,
};

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    site: Site,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What a verdict, a filter or a scanner sent to Junk and nobody has moved since, newest first
    List {
        /// Of this domain's accounts
        #[arg(long)]
        domain: Option<String>,
        /// Of this account
        #[arg(long)]
        account: Option<String>,
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Move messages into INBOX
    Release {
        #[arg(value_name = "QUEUE-ID", required = true)]
        queue_ids: Vec<String>,
        /// Only of this account; all that have it when absent
        #[arg(long)]
        account: Option<String>,
    },
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut client = options.site.admin()?;
    match options.command {
        Command::List { domain, account, limit } => {
            let (domain, address) = (domain.unwrap_or_default(), account.unwrap_or_default());
            let request = ListQuarantineRequest { domain, address, limit, before_ms: 0 };
            let messages = client.list_quarantine(request).await.map_err(refused)?.into_inner().messages;
            print(&messages, options.site.json);
        }
        Command::Release { queue_ids, account } => {
            let mut released = Vec::new();
            for queue_id in queue_ids {
                let addresses = account.iter().cloned().collect();
                let request = ReleaseQuarantinedRequest { queue_id: queue_id.clone(), addresses, by: String::new() };
                let answer = client.release_quarantined(request).await.map_err(refused)?.into_inner();
                if !options.site.json {
                    println!("{queue_id} is in the INBOX of {}", answer.addresses.join(", "));
                }
                released.push(json!({ "queue_id": queue_id, "addresses": answer.addresses }));
            }
            if options.site.json {
                println!("{}", Value::Array(released));
            }
        }
    }
    Ok(())
}

fn print(messages: &[QuarantinedMessage], json: bool) {
    if json {
        println!("{}", messages.iter().map(document).collect::<Value>());
        return;
    }
    for m in messages {
        println!(
            "{}  {}  <{}> -> {}  from {}  {:?}  {} bytes  {}",
            m.queue_id,
            text::time(m.accepted_at_ms),
            text::printable(&m.sender),
            text::printable(&m.address),
            text::printable(&m.from),
            text::printable(&m.subject),
            m.size,
            text::printable(&m.reason),
        );
    }
}

fn document(m: &QuarantinedMessage) -> Value {
    json!({
        "queue_id": m.queue_id,
        "address": m.address,
        "sender": m.sender,
        "from": m.from,
        "subject": m.subject,
        "accepted_at": text::time(m.accepted_at_ms),
        "size": m.size,
        "seen": m.seen,
        "reason": m.reason,
    })
}
