//! The events of one message.

use std::time::Duration;

use chrono::{DateTime, Utc};
use proto::journey::{JourneyEvent, TraceResponse};
use sqlx::{FromRow, PgPool, types::Uuid};
use tokio::sync::mpsc;
use tonic::Status;

use crate::database::status;

/// Followers ask again this often.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

#[derive(FromRow)]
struct Event {
    id: i64,
    at_ms: i64,
    name: String,
    service: String,
    recipient: String,
    text: String,
    detail: String,
    traceparent: String,
    dialogue: Option<String>,
}

/// Days before the message are not looked at: its first event may be a little older than itself,
/// by the clocks of the machines.
const EVENTS: &str = "
select j.id, (extract(epoch from j.at) * 1000)::bigint as at_ms, j.name, j.service, j.recipient, j.text, j.detail,
       coalesce(nullif(j.traceparent, ''), $3) as traceparent,
       (select d.lines from journey_dialogues d
        where d.queue_id = j.queue_id and d.event = j.id and d.at >= $4 - interval '1 day') as dialogue
from journey j
where j.queue_id = $1 and j.id > $2 and j.at >= $4 - interval '1 day'
order by j.id";

pub(super) async fn follow(
    pool: &PgPool,
    queue_id: Uuid,
    follow: bool,
    answers: &mpsc::Sender<Result<TraceResponse, Status>>,
) -> Result<(), Status> {
    let head: Option<(DateTime<Utc>, String)> =
        sqlx::query_as("select accepted_at, traceparent from spool where queue_id = $1")
            .bind(queue_id)
            .fetch_optional(pool)
            .await
            .map_err(status)?;
    let (accepted_at, traceparent) = head.ok_or_else(|| Status::not_found("no such message"))?;
    let mut after = 0;
    loop {
        // Asked before the events: when nothing is open, the events that follow are all.
        let open: i64 = sqlx::query_scalar("select count(*) from deliveries where queue_id = $1")
            .bind(queue_id)
            .fetch_one(pool)
            .await
            .map_err(status)?;
        let events: Vec<Event> = sqlx::query_as(EVENTS)
            .bind(queue_id)
            .bind(after)
            .bind(&traceparent)
            .bind(accepted_at)
            .fetch_all(pool)
            .await
            .map_err(status)?;
        if let Some(last) = events.last() {
            after = last.id;
            let events = events.into_iter().map(event).collect();
            if answers.send(Ok(TraceResponse { events })).await.is_err() {
                return Ok(());
            }
        }
        if !follow || open == 0 {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => (),
            () = answers.closed() => return Ok(()),
        }
    }
}

fn event(e: Event) -> JourneyEvent {
    let detail = match e.dialogue {
        Some(dialogue) => with_dialogue(&e.detail, &dialogue),
        None => e.detail,
    };
    JourneyEvent {
        at_ms: e.at_ms,
        name: e.name,
        service: e.service,
        recipient: e.recipient,
        text: e.text,
        detail,
        trace_id: runtime::telemetry::trace_id(&e.traceparent).to_owned(),
    }
}

/// Kept apart because its time is shorter; readers see one object.
fn with_dialogue(detail: &str, dialogue: &str) -> String {
    let mut facts: serde_json::Map<_, _> = serde_json::from_str(detail).unwrap_or_default();
    facts.insert("dialogue".into(), dialogue.lines().collect::<Vec<_>>().into());
    serde_json::Value::Object(facts).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialogue_is_a_part_of_the_detail() {
        let expected = r#"{"dialogue":["S: 220 \"mx\"","C: QUIT"],"peer":"x"}"#;
        assert_eq!(with_dialogue(r#"{"peer":"x"}"#, "S: 220 \"mx\"\nC: QUIT"), expected);
        assert_eq!(with_dialogue("", "C: A"), r#"{"dialogue":["C: A"]}"#);
    }
}
