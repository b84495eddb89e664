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
    #[arg(value_name = "QUEUE-ID|MESSAGE-ID")]
    id: String,
    /// Go on until every recipient is in a final state
    #[arg(long)]
    follow: bool,
}

/// With `--json`, one document a line: each message, then its events.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut journey = options.site.journey()?;
    let request = FindRequest { id: options.id.clone(), ..FindRequest::default() };
    let messages = journey.find(request).await.map_err(refused)?.into_inner().messages;
    if messages.is_empty() {
        bail!("no message has the id {}", options.id);
    }
    // Newest first; read from top to bottom, the newest belongs at the end.
    for message in messages.into_iter().rev() {
        print(&head(&message, options.site.json))?;
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
        });
        return vec![document.to_string()];
    }
    let words = format!(
        "{}  from <{}>  {} bytes  Message-ID {}  {} open  trace {}",
        m.queue_id,
        m.reverse_path,
        m.size,
        if m.message_id.is_empty() { "-" } else { &m.message_id },
        m.open,
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
