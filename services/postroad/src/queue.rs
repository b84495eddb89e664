//! `postroad queue`: deliveries that have no final state yet.

use clap::{Args, Subcommand};
use proto::admin::{ChangeQueueRequest, ListQueueRequest, QueueEntry, change_queue_request::Action};
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
    /// What waits, oldest first
    List {
        /// Only this message
        queue_id: Option<String>,
        #[arg(long)]
        sender: Option<String>,
        #[arg(long)]
        recipient: Option<String>,
        /// The recipient's domain
        #[arg(long)]
        domain: Option<String>,
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Try again now, whatever the back-off says
    Retry(Ids),
    /// Do not try until released
    Hold(Ids),
    /// End a hold
    Release(Ids),
    /// Give up; the sender gets a bounce (RFC 3464)
    Bounce(Ids),
}

#[derive(Debug, Args)]
struct Ids {
    #[arg(required = true, value_name = "QUEUE-ID")]
    queue_ids: Vec<String>,
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut client = options.site.admin()?;
    let (action, ids) = match options.command {
        Command::List { queue_id, sender, recipient, domain, limit } => {
            let request = ListQueueRequest {
                queue_id: queue_id.unwrap_or_default(),
                sender: sender.unwrap_or_default(),
                recipient: recipient.unwrap_or_default(),
                domain: domain.unwrap_or_default(),
                limit,
            };
            let entries = client.list_queue(request).await.map_err(refused)?.into_inner().entries;
            print(&entries, options.site.json);
            return Ok(());
        }
        Command::Retry(ids) => (Action::Retry, ids),
        Command::Hold(ids) => (Action::Hold, ids),
        Command::Release(ids) => (Action::Release, ids),
        Command::Bounce(ids) => (Action::Bounce, ids),
    };
    let request = ChangeQueueRequest { action: action.into(), queue_ids: ids.queue_ids };
    let changed = client.change_queue(request).await.map_err(refused)?.into_inner().changed;
    if options.site.json {
        println!("{}", json!({ "changed": changed }));
    } else {
        println!("{changed} deliveries changed");
    }
    Ok(())
}

fn print(entries: &[QueueEntry], json: bool) {
    if json {
        println!("{}", entries.iter().map(document).collect::<Value>());
        return;
    }
    for e in entries {
        let state = match e {
            e if e.held => "held".to_owned(),
            e if e.leased => "being tried".to_owned(),
            e => format!("next {}", text::time(e.next_attempt_ms)),
        };
        println!(
            "{}/{}  {}  <{}> -> <{}>  {} bytes  {} attempts  {state}  {}",
            e.queue_id,
            e.number,
            text::time(e.accepted_at_ms),
            text::printable(&e.sender),
            text::printable(&e.recipient),
            e.size,
            e.attempts,
            text::printable(&e.last_text),
        );
    }
}

fn document(e: &QueueEntry) -> Value {
    json!({
        "queue_id": e.queue_id,
        "number": e.number,
        "sender": e.sender,
        "recipient": e.recipient,
        "remote": e.remote,
        "attempts": e.attempts,
        "accepted_at": text::time(e.accepted_at_ms),
        "next_attempt": text::time(e.next_attempt_ms),
        "held": e.held,
        "leased": e.leased,
        "last_text": e.last_text,
        "size": e.size,
    })
}
