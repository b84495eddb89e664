//! `postroad queue`: deliveries that have no final state yet.

use clap::{Args, Subcommand};
use proto::admin::{
    ChangeQueueRequest, ListPausedDestinationsRequest, ListQueueRequest, PauseDestinationRequest, QueueEntry,
    ResumeDestinationRequest, change_queue_request::Action,
};
use serde_json::{Value, json};

use crate::{
    client::{Admin, Site, refused},
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
        #[command(flatten)]
        filter: Filter,
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Try again now, whatever the back-off says
    Retry(Which),
    /// Do not try until released
    Hold(Which),
    /// End a hold
    Release(Which),
    /// Give up; the sender gets a bounce (RFC 3464)
    Bounce(Which),
    /// Deliver to another address, elsewhere
    Redirect {
        /// The new recipient
        #[arg(long, value_name = "ADDRESS")]
        to: String,
        #[command(flatten)]
        which: Which,
    },
    /// Deliver nothing to a domain until it is resumed
    Pause {
        domain: String,
        /// For whoever finds it paused
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// End a pause
    Resume { domain: String },
    /// The paused domains
    Paused,
}

/// Criteria; all given ones must be met.
#[derive(Debug, Args)]
struct Filter {
    /// The reverse-path
    #[arg(long)]
    sender: Option<String>,
    #[arg(long)]
    recipient: Option<String>,
    /// The recipient's domain
    #[arg(long)]
    domain: Option<String>,
    /// Whose account submitted it
    #[arg(long)]
    tenant: Option<String>,
    /// Accepted at least so long ago: 90s, 30m, 4h, 5d
    #[arg(long, value_name = "AGE", value_parser = seconds)]
    older_than: Option<u64>,
    /// Words of the last reply, in any case
    #[arg(long, value_name = "WORDS")]
    last_reply: Option<String>,
    /// Only what is held
    #[arg(long)]
    held: bool,
    /// Only what was set aside because nobody could work on it
    #[arg(long)]
    set_aside: bool,
}

#[derive(Debug, Args)]
struct Which {
    #[arg(value_name = "QUEUE-ID")]
    queue_ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Everything in the queue, when neither ids nor criteria are given
    #[arg(long)]
    all: bool,
}

fn seconds(text: &str) -> Result<u64, String> {
    let expected = || "expected a number and s, m, h or d".to_owned();
    let unit = text.chars().last().ok_or_else(expected)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| expected())?;
    number.checked_mul(factor).ok_or_else(expected)
}

impl Filter {
    fn is_empty(&self) -> bool {
        let texts = [&self.sender, &self.recipient, &self.domain, &self.tenant, &self.last_reply];
        texts.iter().all(|t| t.is_none()) && self.older_than.is_none() && !self.held && !self.set_aside
    }

    fn request(self, queue_id: Option<String>, limit: u32) -> ListQueueRequest {
        ListQueueRequest {
            queue_id: queue_id.unwrap_or_default(),
            sender: self.sender.unwrap_or_default(),
            recipient: self.recipient.unwrap_or_default(),
            domain: self.domain.unwrap_or_default(),
            limit,
            tenant: self.tenant.unwrap_or_default(),
            older_than_seconds: self.older_than.unwrap_or_default(),
            last_reply: self.last_reply.unwrap_or_default(),
            held: self.held,
            set_aside: self.set_aside,
        }
    }
}

pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut client = options.site.admin()?;
    let json = options.site.json;
    let (action, which, to) = match options.command {
        Command::List { queue_id, filter, limit } => {
            let request = filter.request(queue_id, limit);
            let entries = client.list_queue(request).await.map_err(refused)?.into_inner().entries;
            print(&entries, json);
            return Ok(());
        }
        Command::Retry(which) => (Action::Retry, which, String::new()),
        Command::Hold(which) => (Action::Hold, which, String::new()),
        Command::Release(which) => (Action::Release, which, String::new()),
        Command::Bounce(which) => (Action::Bounce, which, String::new()),
        Command::Redirect { to, which } => (Action::Redirect, which, to),
        Command::Pause { domain, reason } => {
            client.pause_destination(PauseDestinationRequest { domain, reason }).await.map_err(refused)?;
            return Ok(());
        }
        Command::Resume { domain } => {
            let request = ResumeDestinationRequest { domain };
            let released = client.resume_destination(request).await.map_err(refused)?.into_inner().released;
            say(json, "released", released, "deliveries are due");
            return Ok(());
        }
        Command::Paused => return paused(&mut client, json).await,
    };
    let changed = change(&mut client, action, which, to).await?;
    say(json, "changed", changed, "deliveries changed");
    Ok(())
}

fn say(json: bool, key: &str, number: u32, words: &str) {
    if json {
        println!("{}", json!({ key: number }));
    } else {
        println!("{number} {words}");
    }
}

async fn change(client: &mut Admin, action: Action, which: Which, redirect_to: String) -> anyhow::Result<u32> {
    if which.queue_ids.is_empty() && which.filter.is_empty() && !which.all {
        anyhow::bail!("expected queue ids, a criterion such as --domain, or --all");
    }
    let filter = Some(which.filter.request(None, 0));
    let request = ChangeQueueRequest { action: action.into(), queue_ids: which.queue_ids, filter, redirect_to };
    let mut changed = 0;
    loop {
        let now = client.change_queue(request.clone()).await.map_err(refused)?.into_inner().changed;
        changed += now;
        // Bounces come in portions: each is a message of its own.
        if action != Action::Bounce || now == 0 {
            return Ok(changed);
        }
    }
}

async fn paused(client: &mut Admin, json: bool) -> anyhow::Result<()> {
    let answer = client.list_paused_destinations(ListPausedDestinationsRequest {}).await.map_err(refused)?;
    let all = answer.into_inner().destinations;
    if json {
        let document = |d: &proto::admin::PausedDestination| json!({ "domain": d.domain, "reason": d.reason, "paused_at": text::time(d.paused_at_ms) });
        println!("{}", all.iter().map(document).collect::<Value>());
        return Ok(());
    }
    for d in all {
        println!("{}  {}  {}", d.domain, text::time(d.paused_at_ms), text::printable(&d.reason));
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
            e if e.set_aside => "set aside".to_owned(),
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
        "set_aside": e.set_aside,
        "leased": e.leased,
        "last_text": e.last_text,
        "size": e.size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("4h"), Ok(14_400));
        for wrong in ["", "4", "h", "-1d", "4 h", "99999999999999999999d", "1é"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
