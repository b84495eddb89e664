//! A `Tenant`: made in `mda`, with its limits.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Resource as _, ResourceExt as _,
    runtime::{
        controller::Action,
        events::EventType,
        finalizer::{Event, finalizer},
    },
};
use proto::admin::{
    CreateTenantRequest, DeleteTenantRequest, SetDmarcOverrideRequest, SetTenantLimitsRequest, SetTenantQuotaRequest,
};
use tonic::Code;

use crate::{
    crd::{AppliedStatus, DeletionPolicy, OfTenant, Tenant},
    domain::{Context, Error},
    status::{Ours, condition, let_go, publish, reason, replaced, tell},
};

pub const TENANT_FINALIZER: &str = "mail.postroad.dev/tenant";
/// Somebody may have changed it behind our back.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

impl Ours for Tenant {
    type Status = AppliedStatus;

    fn status(&self) -> Option<&AppliedStatus> {
        self.status.as_ref()
    }
}

pub async fn reconcile_tenant(tenant: Arc<Tenant>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<Tenant> = Api::namespaced(context.client.clone(), &tenant.namespace().unwrap_or_default());
    let outcome = match tenant.spec.deletion_policy {
        DeletionPolicy::Delete => finalizer(&api, TENANT_FINALIZER, tenant, async |event| match event {
            Event::Apply(tenant) => apply(&tenant, &context, &api).await,
            Event::Cleanup(tenant) => cleanup(&tenant, &context).await,
        })
        .await
        .map_err(|e| Error::from(Box::new(e))),
        DeletionPolicy::Retain => match let_go(&api, &*tenant, TENANT_FINALIZER).await {
            Ok(()) if tenant.meta().deletion_timestamp.is_some() => Ok(Action::await_change()),
            Ok(()) => apply(&tenant, &context, &api).await,
            Err(e) => Err(e),
        },
    };
    context.metrics.count(if outcome.is_ok() { "ok" } else { "error" });
    outcome
}

async fn apply(tenant: &Tenant, context: &Context, api: &Api<Tenant>) -> Result<Action, Error> {
    let (ready, outcome) = match make(tenant, context).await {
        Ok(words) => (condition(tenant, "Ready", "True", "Applied", &words), Ok(Action::requeue(LOOK_AGAIN))),
        Err(status) => {
            (condition(tenant, "Ready", "False", reason(&status), status.message()), Err(Error::from(status)))
        }
    };
    let old = tenant.status.clone().unwrap_or_default();
    let generation = if outcome.is_ok() { tenant.meta().generation } else { old.observed_generation };
    let conditions = replaced(old.conditions, ready);
    publish(tenant, context, api, AppliedStatus { observed_generation: generation, conditions }).await?;
    outcome
}

/// Creating one that is there changes nothing.
async fn make(tenant: &Tenant, context: &Context) -> Result<String, tonic::Status> {
    let name = tenant.spec.name.clone();
    context.admin.clone().create_tenant(CreateTenantRequest { name: name.clone() }).await?;
    let mut words = Vec::new();
    if let Some(quota) = tenant.spec.quota {
        let request =
            SetTenantQuotaRequest { name: name.clone(), quota_bytes: quota.bytes, quota_messages: quota.messages };
        context.admin.clone().set_tenant_quota(request).await?;
        words.push(format!("{} bytes, {} messages", quota.bytes, quota.messages));
    }
    if let Some(limits) = tenant.spec.limits {
        let request = SetTenantLimitsRequest {
            name: name.clone(),
            max_accounts: limits.max_accounts,
            daily_recipients: limits.daily_recipients,
        };
        let tenant = context.admin.clone().set_tenant_limits(request).await?.into_inner();
        words.push(format!("{} accounts, {} recipients a day", tenant.max_accounts, tenant.daily_recipients));
    }
    if let Some(mind) = tenant.spec.dmarc_override {
        let quarantine = mind == OfTenant::Quarantine;
        let request = SetDmarcOverrideRequest { tenant: name, quarantine, ..SetDmarcOverrideRequest::default() };
        context.admin.clone().set_dmarc_override(request).await?;
    }
    if words.is_empty() {
        return Ok("no limit is set here".into());
    }
    Ok(format!("limits: {} (0 is none)", words.join(", ")))
}

async fn cleanup(tenant: &Tenant, context: &Context) -> Result<Action, Error> {
    let request = DeleteTenantRequest { name: tenant.spec.name.clone() };
    match context.admin.clone().delete_tenant(request).await {
        Err(status) if status.code() != Code::NotFound => {
            tell(tenant, context, EventType::Warning, "NotDeleted", status.message()).await;
            Err(status.into())
        }
        _ => Ok(Action::await_change()),
    }
}
