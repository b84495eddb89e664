//! The queue, and destinations that are paused.

use proto::admin::{
    ChangeQueueRequest, ListPausedDestinationsRequest, ListQueueRequest, PauseDestinationRequest,
    ResumeDestinationRequest, change_queue_request::Action as Wire,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    problem::Problem,
    route::{Call, Json, NoContent, Nothing},
};

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    queue_id: String,
    sender: String,
    recipient: String,
    /// The recipient's.
    domain: String,
    /// Words of the last reply.
    last_reply: String,
    /// Only what is held.
    held: bool,
    /// At most this many, up to 1000; 0 means 100.
    limit: u32,
}

/// A delivery without a final state.
#[derive(Serialize, JsonSchema)]
pub struct Entry {
    queue_id: String,
    number: u32,
    sender: String,
    recipient: String,
    /// To another site.
    remote: bool,
    attempts: u32,
    accepted_at_ms: i64,
    next_attempt_ms: i64,
    held: bool,
    /// An attempt runs just now.
    running: bool,
    last_reply: String,
    size: u64,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    /// Due at once, whatever the back-off said.
    Retry,
    /// Not tried until released.
    Hold,
    Release,
    /// Final: the sender gets a DSN.
    Bounce,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    action: Action,
}

#[derive(Serialize, JsonSchema)]
pub struct Changed {
    /// Deliveries changed; those that are being attempted are not.
    changed: u32,
}

pub async fn list(call: Call, filter: Filter, _: Nothing) -> Result<Json<Vec<Entry>>, Problem> {
    let request = ListQueueRequest {
        queue_id: filter.queue_id,
        sender: filter.sender,
        recipient: filter.recipient,
        domain: filter.domain,
        last_reply: filter.last_reply,
        held: filter.held,
        limit: filter.limit.min(1000),
        tenant: call.caller()?.tenant.clone(),
        ..ListQueueRequest::default()
    };
    let entries = call.app.admin.clone().list_queue(call.scoped(request)?).await?.into_inner().entries;
    let entries = entries.into_iter().map(|e| Entry {
        queue_id: e.queue_id,
        number: e.number,
        sender: e.sender,
        recipient: e.recipient,
        remote: e.remote,
        attempts: e.attempts,
        accepted_at_ms: e.accepted_at_ms,
        next_attempt_ms: e.next_attempt_ms,
        held: e.held,
        running: e.leased,
        last_reply: e.last_text,
        size: e.size,
    });
    Ok(Json(entries.collect()))
}

/// The tenant is part of what is changed, so another's message is left alone by the statement itself.
pub async fn change(call: Call, _: Nothing, change: Change) -> Result<Json<Changed>, Problem> {
    let action = match change.action {
        Action::Retry => Wire::Retry,
        Action::Hold => Wire::Hold,
        Action::Release => Wire::Release,
        Action::Bounce => Wire::Bounce,
    };
    let queue_id: address::QueueId =
        call.part("queue_id").parse().map_err(|_| Problem::not_found("no such message"))?;
    let filter = ListQueueRequest {
        queue_id: queue_id.to_string(),
        tenant: call.caller()?.tenant.clone(),
        ..ListQueueRequest::default()
    };
    let request = ChangeQueueRequest { action: action.into(), filter: Some(filter), ..ChangeQueueRequest::default() };
    let changed = call.app.admin.clone().change_queue(call.scoped(request)?).await?.into_inner().changed;
    Ok(Json(Changed { changed }))
}

#[derive(Serialize, JsonSchema)]
pub struct Paused {
    domain: String,
    reason: String,
    paused_at_ms: i64,
}

pub async fn paused(call: Call, _: Nothing, _: Nothing) -> Result<Json<Vec<Paused>>, Problem> {
    let request = ListPausedDestinationsRequest {};
    let found = call.app.admin.clone().list_paused_destinations(call.scoped(request)?).await?.into_inner().destinations;
    let paused = |d: proto::admin::PausedDestination| Paused {
        domain: d.domain,
        reason: d.reason,
        paused_at_ms: d.paused_at_ms,
    };
    Ok(Json(found.into_iter().map(paused).collect()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// For whoever finds it paused.
    reason: String,
}

pub async fn pause(call: Call, _: Nothing, pause: Pause) -> Result<NoContent, Problem> {
    let request = PauseDestinationRequest { domain: call.part("domain").to_owned(), reason: pause.reason };
    call.app.admin.clone().pause_destination(call.scoped(request)?).await?;
    Ok(NoContent)
}

#[derive(Serialize, JsonSchema)]
pub struct Resumed {
    /// Deliveries that are due now.
    released: u32,
}

pub async fn resume(call: Call, _: Nothing, _: Nothing) -> Result<Json<Resumed>, Problem> {
    let request = ResumeDestinationRequest { domain: call.part("domain").to_owned() };
    let released = call.app.admin.clone().resume_destination(call.scoped(request)?).await?.into_inner().released;
    Ok(Json(Resumed { released }))
}
