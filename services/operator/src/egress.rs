//! An `EgressPool`: handed to `mda`, which tells the relays.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Resource as _, ResourceExt as _,
    runtime::{
        controller::Action,
        events::EventType,
        finalizer::{Event, finalizer},
    },
};
use proto::relay::{DeletePoolRequest, EgressPool as Pool, EgressSource};
use tonic::Code;

use crate::{
    crd::{AppliedStatus, DeletionPolicy, EgressPool},
    domain::{Context, Error},
    status::{Ours, Status, condition, let_go, publish, reason, replaced, tell},
};

pub const EGRESS_FINALIZER: &str = "mail.postroad.dev/egress-pool";
/// Somebody may have changed it behind our back.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

impl Status for AppliedStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl Ours for EgressPool {
    type Status = AppliedStatus;

    fn status(&self) -> Option<&AppliedStatus> {
        self.status.as_ref()
    }
}

pub async fn reconcile_pool(pool: Arc<EgressPool>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<EgressPool> = Api::namespaced(context.client.clone(), &pool.namespace().unwrap_or_default());
    let outcome = match pool.spec.deletion_policy {
        DeletionPolicy::Delete => finalizer(&api, EGRESS_FINALIZER, pool, async |event| match event {
            Event::Apply(pool) => apply(&pool, &context, &api).await,
            Event::Cleanup(pool) => cleanup(&pool, &context).await,
        })
        .await
        .map_err(|e| Error::from(Box::new(e))),
        DeletionPolicy::Retain => match let_go(&api, &*pool, EGRESS_FINALIZER).await {
            Ok(()) if pool.meta().deletion_timestamp.is_some() => Ok(Action::await_change()),
            Ok(()) => apply(&pool, &context, &api).await,
            Err(e) => Err(e),
        },
    };
    context.metrics.count(if outcome.is_ok() { "ok" } else { "error" });
    outcome
}

async fn apply(pool: &EgressPool, context: &Context, api: &Api<EgressPool>) -> Result<Action, Error> {
    let source = |s: &crate::crd::Source| EgressSource { address: s.address.clone(), hostname: s.hostname.clone() };
    let request = Pool {
        name: pool.name_any(),
        sources: pool.spec.sources.iter().map(source).collect(),
        tenants: pool.spec.tenants.clone(),
    };
    let (ready, outcome) = match context.egress.clone().set_pool(request).await {
        Ok(_) => {
            let tenants = pool.spec.tenants.len();
            let words = format!("relays use it for {tenants} tenants");
            (condition(pool, "Ready", "True", "Applied", &words), Ok(Action::requeue(LOOK_AGAIN)))
        }
        Err(status) => (condition(pool, "Ready", "False", reason(&status), status.message()), Err(Error::from(status))),
    };
    let old = pool.status.clone().unwrap_or_default();
    let generation = if outcome.is_ok() { pool.meta().generation } else { old.observed_generation };
    let conditions = replaced(old.conditions, ready);
    publish(pool, context, api, AppliedStatus { observed_generation: generation, conditions }).await?;
    outcome
}

async fn cleanup(pool: &EgressPool, context: &Context) -> Result<Action, Error> {
    let request = DeletePoolRequest { name: pool.name_any() };
    match context.egress.clone().delete_pool(request).await {
        Err(status) if status.code() != Code::NotFound => {
            tell(pool, context, EventType::Warning, "NotDeleted", status.message()).await;
            Err(status.into())
        }
        _ => Ok(Action::await_change()),
    }
}
