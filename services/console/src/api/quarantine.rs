//! What a verdict, a filter or a scanner sent to Junk, and its release into INBOX.

use proto::admin::{ListQuarantineRequest, ReleaseQuarantinedRequest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::domains::domain;
use crate::{
    problem::Problem,
    route::{Call, Json, Nothing},
};

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Whose accounts; empty means all.
    domain: String,
    /// Only this account; empty means all.
    address: String,
    /// Accepted before, in milliseconds since 1970; 0 means no bound. For the next page, what the last one has.
    before_ms: i64,
    /// At most this many, up to 1000; 0 means 100.
    limit: u32,
}

/// A message in an account's Junk.
#[derive(Serialize, JsonSchema)]
pub struct Quarantined {
    queue_id: String,
    address: String,
    /// The reverse-path; empty is the null one.
    sender: String,
    /// The header's From, decoded; not verified by anybody.
    from: String,
    subject: String,
    accepted_at_ms: i64,
    size: u64,
    /// It was read in Junk.
    seen: bool,
    /// What the verdicts said.
    reason: String,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Action {
    /// Into INBOX.
    Release,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    action: Action,
    /// Only into these accounts; all that have it in quarantine when absent.
    #[serde(default)]
    addresses: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub struct Released {
    /// The accounts that have it in INBOX now.
    addresses: Vec<String>,
}

pub async fn list(call: Call, filter: Filter, _: Nothing) -> Result<Json<Vec<Quarantined>>, Problem> {
    let caller = call.caller()?;
    let address = match filter.address.as_str() {
        "" => String::new(),
        text => caller.must_own_address(&call.app, text).await?.to_string(),
    };
    let domain = match filter.domain.as_str() {
        "" => String::new(),
        text => {
            let domain = domain(text)?;
            caller.must_own(&call.app, &domain).await?;
            domain.to_string()
        }
    };
    let request = ListQuarantineRequest { domain, address, limit: filter.limit, before_ms: filter.before_ms };
    let found = call.app.admin.clone().list_quarantine(call.scoped(request)?).await?.into_inner().messages;
    let shown = |m: proto::admin::QuarantinedMessage| Quarantined {
        queue_id: m.queue_id,
        address: m.address,
        sender: m.sender,
        from: m.from,
        subject: m.subject,
        accepted_at_ms: m.accepted_at_ms,
        size: m.size,
        seen: m.seen,
        reason: m.reason,
    };
    Ok(Json(found.into_iter().map(shown).collect()))
}

/// The tenant is part of the statement, so another's message is not found by it.
pub async fn change(call: Call, _: Nothing, change: Change) -> Result<Json<Released>, Problem> {
    let queue_id: address::QueueId =
        call.part("queue_id").parse().map_err(|_| Problem::not_found("no such message"))?;
    let Action::Release = change.action;
    let request = ReleaseQuarantinedRequest {
        queue_id: queue_id.to_string(),
        addresses: change.addresses,
        by: call.caller()?.name.clone(),
    };
    let addresses = call.app.admin.clone().release_quarantined(call.scoped(request)?).await?.into_inner().addresses;
    Ok(Json(Released { addresses }))
}
