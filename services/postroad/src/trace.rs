//! `postroad trace`: the journey of a message.

use std::io::Write as _;

use anyhow::bail;
use clap::Args;
use proto::journey::{FindRequest, JourneyEvent, Message, TraceRequest};
use serde_json::{Value, json};

use crate::{
    client::{Site, refused},
    text,
};

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    site: Site,
    /// A queue id, or a Message-ID with or without angle brackets
    #[arg(value_name = "QUEUE-ID|MESSAGE-ID", required_unless_present_any = ["sender", "recipient", "tenant", "since", "until"])]
    id: Option<String>,
    /// Instead of an id: messages with this reverse-path
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Messages to this address, an alias or the account behind it
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Messages from or to a tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Not older than: 2h, 3d, or a time like 2026-11-01T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Older than
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Of a search, at most so many messages
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
    /// Go on until every recipient is in a final state
    #[arg(long)]
    follow: bool,
}

/// With `--json`, one document a line: each message, then its events. What is found by other
/// criteria than an id is listed; a single message is shown with its events all the same.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut journey = options.site.journey()?;
    let now = jiff::Timestamp::now().as_millisecond();
    let time = |given: &Option<String>, name| match given {
        Some(text) => text::moment(text, now).ok_or_else(|| {
            anyhow::anyhow!(
                "--{name} {text:?}: expected an age like 30m, 2h or 3d, or a time like 2026-11-01T10:00:00Z"
            )
        }),
        None => Ok(0),
    };
    let request = FindRequest {
        id: options.id.clone().unwrap_or_default(),
        sender: options.sender.clone().unwrap_or_default(),
        recipient: options.recipient.clone().unwrap_or_default(),
        tenant: options.tenant.clone().unwrap_or_default(),
        since_ms: time(&options.since, "since")?,
        until_ms: time(&options.until, "until")?,
        limit: options.limit,
    };
    let messages = journey.find(request).await.map_err(refused)?.into_inner().messages;
    if messages.is_empty() {
        match &options.id {
            Some(id) => bail!("no message has the id {id}"),
            None => bail!("no message was found"),
        }
    }
    let is_list = options.id.is_none() && messages.len() > 1;
    // Newest first; read from top to bottom, the newest belongs at the end.
    for message in messages.into_iter().rev() {
        print(&head(&message, options.site.json))?;
        if is_list {
            continue;
        }
        let request = TraceRequest { queue_id: message.queue_id.clone(), follow: options.follow };
        let mut batches = journey.trace(request).await.map_err(refused)?.into_inner();
        while let Some(batch) = batches.message().await.map_err(refused)? {
            for event in &batch.events {
                let lines = if options.site.json { vec![document(&message, event).to_string()] } else { lines(event) };
                print(&lines)?;
            }
        }
    }
    Ok(())
}

/// Flushed at once: somebody follows. A closed pipe is the reader's right.
fn print(lines: &[String]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

fn head(m: &Message, json: bool) -> Vec<String> {
    if json {
        let document = json!({
            "queue_id": m.queue_id,
            "message_id": m.message_id,
            "reverse_path": m.reverse_path,
            "accepted_at": text::time(m.accepted_at_ms),
            "size": m.size,
            "trace_id": m.trace_id,
            "open": m.open,
            "refused": m.refused,
            "tenants": m.tenants,
        });
        return vec![document.to_string()];
    }
    let words = format!(
        "{}  {}  from <{}>  {} bytes  Message-ID {}  {}  trace {}",
        m.queue_id,
        text::time(m.accepted_at_ms),
        m.reverse_path,
        m.size,
        if m.message_id.is_empty() { "-" } else { &m.message_id },
        if m.refused { "refused".to_owned() } else { format!("{} open", m.open) },
        if m.trace_id.is_empty() { "-" } else { &m.trace_id },
    );
    vec![text::printable(&words)]
}

fn lines(event: &JourneyEvent) -> Vec<String> {
    let or_dash = |s: &str| if s.is_empty() { "-".to_owned() } else { text::printable(s) };
    let mut lines = vec![format!(
        "{}  {:<14}  {:<10}  {}  {}  {}",
        text::time(event.at_ms),
        text::printable(&event.service),
        text::printable(&event.name),
        or_dash(&event.recipient),
        or_dash(&event.text),
        or_dash(&event.trace_id),
    )];
    if let Some(detail) = detail(event) {
        lines.extend(detail_lines(&detail));
    }
    lines
}

fn detail(event: &JourneyEvent) -> Option<Value> {
    serde_json::from_str(&event.detail).ok()
}

/// The SMTP dialogue as it was spoken, and before it the other facts, one a line.
fn detail_lines(detail: &Value) -> Vec<String> {
    let Some(facts) = detail.as_object() else { return Vec::new() };
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines: Vec<String> = facts
        .iter()
        .filter(|(key, value)| *key != "dialogue" && !value.is_null())
        .map(|(key, value)| format!("    {}: {}", text::printable(key), text::printable(&shown(value))))
        .collect();
    let dialogue = facts.get("dialogue").and_then(Value::as_array);
    lines.extend(dialogue.into_iter().flatten().map(|line| format!("    {}", text::printable(&shown(line)))));
    lines
}

fn document(message: &Message, event: &JourneyEvent) -> Value {
    json!({
        "queue_id": message.queue_id,
        "at": text::time(event.at_ms),
        "service": event.service,
        "event": event.name,
        "recipient": event.recipient,
        "text": event.text,
        "detail": detail(event),
        "trace_id": event.trace_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_and_its_dialogue_follows() {
        let event = JourneyEvent {
            at_ms: 1_000,
            name: "relayed".into(),
            service: "outbound-relay".into(),
            recipient: "bob@example.com".into(),
            text: "250 2.0.0 Ok".into(),
            detail: r#"{"peer":"127.0.0.3:25","dialogue":["S: 220 mx","C: EHLO \u001b[2J"],"tls":null}"#.into(),
            trace_id: "ab".repeat(16),
        };
        let expected = [
            format!(
                "1970-01-01T00:00:01.000Z  outbound-relay  relayed     bob@example.com  250 2.0.0 Ok  {}",
                "ab".repeat(16)
            ),
            "    peer: 127.0.0.3:25".to_owned(),
            "    S: 220 mx".to_owned(),
            "    C: EHLO \u{fffd}[2J".to_owned(),
        ];
        assert_eq!(lines(&event), expected);
    }

    #[test]
    fn an_event_without_detail_is_one_line() {
        let event = JourneyEvent { name: "queued".into(), service: "mda".into(), ..JourneyEvent::default() };
        assert_eq!(lines(&event), ["1970-01-01T00:00:00.000Z  mda             queued      -  -  -"]);
    }
}
