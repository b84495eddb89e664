//! What all resources share: conditions, the status written when it is another, events.

use std::fmt::Debug;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::events::{Event as Told, EventType},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::domain::{Context, Error};

/// A resource's status, as far as all of them have the same.
pub(crate) trait Status: Serialize + PartialEq {
    fn conditions(&self) -> &[Condition];
}

/// A custom resource that is ours.
pub(crate) trait Ours:
    Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize
{
    type Status: Status;
    fn status(&self) -> Option<&Self::Status>;
}

/// The time is that of the change: one that says the same as before keeps its own.
pub(crate) fn condition<K: Ours>(resource: &K, kind: &str, status: &str, reason: &str, message: &str) -> Condition {
    let old = resource.status().into_iter().flat_map(Status::conditions);
    let old = old.into_iter().find(|c| c.type_ == kind && c.status == status);
    Condition {
        last_transition_time: old.map_or_else(|| Time(Timestamp::now()), |c| c.last_transition_time.clone()),
        message: message.to_owned(),
        observed_generation: resource.meta().generation,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: kind.to_owned(),
    }
}

/// Only what is to be removed one day needs a finalizer: a resource without one is deleted also
/// when the operator was uninstalled before, and its namespace with it.
pub(crate) async fn let_go<K: Ours>(api: &Api<K>, resource: &K, finalizer: &str) -> Result<(), Error> {
    if !resource.finalizers().iter().any(|f| f == finalizer) {
        return Ok(());
    }
    let others: Vec<&String> = resource.finalizers().iter().filter(|f| *f != finalizer).collect();
    // Refused with a conflict when somebody else has written since.
    let metadata = serde_json::json!({ "finalizers": others, "resourceVersion": resource.resource_version() });
    let patch = Patch::Merge(serde_json::json!({ "metadata": metadata }));
    api.patch(&resource.name_any(), &PatchParams::default(), &patch).await?;
    Ok(())
}

pub(crate) fn replaced(mut conditions: Vec<Condition>, new: Condition) -> Vec<Condition> {
    conditions.retain(|c| c.type_ != new.type_);
    conditions.push(new);
    conditions
}

pub(crate) fn reason(status: &tonic::Status) -> &'static str {
    if runtime::grpc::is_transient(status) { "Unavailable" } else { "Refused" }
}

/// Writes the status when it is another than before, and tells of what changed.
pub(crate) async fn publish<K: Ours>(
    resource: &K,
    context: &Context,
    api: &Api<K>,
    status: K::Status,
) -> Result<(), Error> {
    if resource.status() == Some(&status) {
        return Ok(());
    }
    let patch = Patch::Merge(serde_json::json!({ "status": &status }));
    api.patch_status(&resource.name_any(), &PatchParams::default(), &patch).await?;
    let before = |kind: &str| {
        let mut old = resource.status().into_iter().flat_map(Status::conditions);
        old.find(|c| c.type_ == kind).map(|c| (c.status.clone(), c.reason.clone()))
    };
    for new in status.conditions() {
        if before(&new.type_) != Some((new.status.clone(), new.reason.clone())) {
            let kind = if new.status == "True" { EventType::Normal } else { EventType::Warning };
            tell(resource, context, kind, &format!("{}{}", new.type_, new.reason), &new.message).await;
        }
    }
    Ok(())
}

/// An event is for people; nothing depends on it.
pub(crate) async fn tell<K: Ours>(resource: &K, context: &Context, type_: EventType, reason: &str, note: &str) {
    // The API takes 1 kB.
    let note = Some(note.chars().take(900).collect());
    let event = Told { type_, reason: reason.to_owned(), note, action: "Reconcile".into(), secondary: None };
    if let Err(e) = context.recorder.publish(&event, &resource.object_ref(&())).await {
        tracing::debug!(error = %e, "event not written");
    }
}
