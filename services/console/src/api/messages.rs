//! Messages and their journeys.

use std::collections::HashSet;

use proto::{
    console::{FindMessagesRequest, Message as Found},
    journey::{JourneyEvent, TraceRequest},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    App,
    caller::Caller,
    problem::Problem,
    route::{Call, Json, Nothing},
};

/// Events of one message that are kept while it is shown.
const MAX_EVENTS: usize = 10_000;

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub struct Find {
    /// A queue id or a Message-ID.
    id: String,
    /// The reverse-path.
    sender: String,
    recipient: String,
    /// Accepted at or after, in milliseconds since 1970; 0 means no bound.
    since_ms: i64,
    /// Accepted before; 0 means no bound.
    until_ms: i64,
    /// At most this many, up to 500; 0 means 50.
    limit: u32,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    pub queue_id: String,
    pub message_id: String,
    /// The reverse-path; empty is the null one.
    pub sender: String,
    pub recipients: Vec<String>,
    pub accepted_at_ms: i64,
    pub size: u64,
    pub trace_id: String,
    /// Where the trace is shown; empty when no such place is configured.
    pub trace_url: String,
    /// Recipients without a final state.
    pub open: u32,
    /// Name of the last event.
    pub last_event: String,
}

/// Something that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    pub at_ms: i64,
    /// `received`, `verdict`, `refused`, `queued`, `delivered`, `relayed`, `deferred`, `bounced`, `fetched`, …
    pub name: String,
    pub service: String,
    /// The other site that tells it; empty for our own.
    pub site: String,
    /// Empty when it concerns all.
    pub recipient: String,
    pub text: String,
    /// Peer, TLS, dialogue, verdicts: an object, or null.
    pub detail: Value,
    pub trace_id: String,
    pub trace_url: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Journey {
    pub message: Message,
    pub events: Vec<Event>,
}

fn trace_url(app: &App, trace_id: &str) -> String {
    let template = app.config.trace_url.as_ref().filter(|_| !trace_id.is_empty());
    template.map(|url| url.replace("{trace_id}", trace_id)).unwrap_or_default()
}

fn message(app: &App, found: Found) -> Message {
    Message {
        trace_url: trace_url(app, &found.trace_id),
        queue_id: found.queue_id,
        message_id: found.message_id,
        sender: found.reverse_path,
        recipients: found.recipients,
        accepted_at_ms: found.accepted_at_ms,
        size: found.size,
        trace_id: found.trace_id,
        open: found.open,
        last_event: found.last_event,
    }
}

pub fn event(app: &App, e: JourneyEvent) -> Event {
    Event {
        trace_url: trace_url(app, &e.trace_id),
        detail: serde_json::from_str(&e.detail).unwrap_or(Value::Null),
        at_ms: e.at_ms,
        name: e.name,
        service: e.service,
        site: String::new(),
        recipient: e.recipient,
        text: e.text,
        trace_id: e.trace_id,
    }
}

pub async fn find(call: Call, find: Find, _: Nothing) -> Result<Json<Vec<Message>>, Problem> {
    let request = FindMessagesRequest {
        tenant: call.caller()?.tenant.clone(),
        id: find.id,
        sender: find.sender,
        recipient: find.recipient,
        from_ms: find.since_ms,
        to_ms: find.until_ms,
        limit: find.limit,
    };
    let found = call.app.console.clone().find_messages(request).await?.into_inner().messages;
    Ok(Json(found.into_iter().map(|m| message(&call.app, m)).collect()))
}

/// The message, if it is there and the caller's tenant has a part in it.
pub async fn one(app: &App, caller: &Caller, queue_id: &str) -> Result<Message, Problem> {
    let id: address::QueueId = queue_id.parse().map_err(|_| Problem::not_found("no such message"))?;
    let tenant = caller.tenant.clone();
    let request = FindMessagesRequest { tenant, id: id.to_string(), limit: 1, ..FindMessagesRequest::default() };
    let mut found = app.console.clone().find_messages(request).await?.into_inner().messages;
    found.pop().map(|m| message(app, m)).ok_or_else(|| Problem::not_found("no such message"))
}

/// All that `mda` knows now, in order.
pub async fn trace(app: &App, queue_id: &str) -> Result<Vec<JourneyEvent>, Problem> {
    let request = TraceRequest { queue_id: queue_id.to_owned(), ..TraceRequest::default() };
    let mut batches = app.journey.clone().trace(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(batch) = batches.message().await? {
        events.extend(batch.events);
        if events.len() > MAX_EVENTS {
            break;
        }
    }
    Ok(events)
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// Only what this site knows itself.
    local: bool,
}

pub async fn show(call: Call, scope: Scope, _: Nothing) -> Result<Json<Journey>, Problem> {
    let app = &call.app;
    let message = one(app, call.caller()?, call.part("queue_id")).await?;
    let own = trace(app, &message.queue_id).await?;
    let onward: HashSet<_> = own.iter().filter_map(|e| app.sites.onward(e)).filter(|_| !scope.local).take(20).collect();
    let elsewhere = futures::future::join_all(onward.iter().map(|o| app.sites.events(o))).await;
    let mut events: Vec<Event> =
        own.into_iter().map(|e| event(app, e)).chain(elsewhere.into_iter().flatten()).collect();
    // Stable: what one site says stays in its order.
    events.sort_by_key(|e| e.at_ms);
    Ok(Json(Journey { message, events }))
}
