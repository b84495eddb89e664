//! A `Domain`: applied to `mda`, looked up in the DNS, removed when it shall be.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    runtime::{
        controller::Action,
        events::{EventType, Recorder},
        finalizer::{self, Event, finalizer},
    },
};
use proto::{
    admin::{CreateDomainRequest, DeleteDomainRequest, DnsRecord, admin_client::AdminClient},
    relay::egress_client::EgressClient,
};
use runtime::grpc::{Channel, is_transient};
use tonic::Code;

use crate::{
    crd::{DeletionPolicy, Domain, DomainStatus, PublishedRecord},
    metrics::Metrics,
    policy,
    records::{State, Wanted, Zone, compare},
    status::{Ours, Status, condition, let_go, publish, reason, replaced, tell},
};

pub const FINALIZER: &str = "mail.postroad.dev/domain";

/// While records are missing somebody is publishing them.
const LOOK_AGAIN_SOON: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(3600);
const AFTER_TROUBLE: Duration = Duration::from_secs(10);
const AFTER_REFUSAL: Duration = Duration::from_secs(300);

impl Status for DomainStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl Ours for Domain {
    type Status = DomainStatus;

    fn status(&self) -> Option<&DomainStatus> {
        self.status.as_ref()
    }
}

/// What reconciling needs.
pub struct Context {
    pub client: Client,
    pub admin: AdminClient<Channel>,
    pub egress: EgressClient<Channel>,
    pub zone: Arc<dyn Zone>,
    /// Where MX records should point.
    pub hostname: String,
    pub recorder: Recorder,
    pub metrics: Metrics,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Kubernetes API is away, or another write came first. Transient.
    #[error("Kubernetes API: {0}")]
    Kube(#[from] kube::Error),
    /// `mda` refuses or is away; see [`is_transient`].
    #[error("mda: {}", .0.message())]
    Admin(#[from] tonic::Status),
    #[error(transparent)]
    Finalizer(#[from] Box<finalizer::Error<Error>>),
}

pub async fn reconcile(domain: Arc<Domain>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<Domain> = Api::namespaced(context.client.clone(), &domain.namespace().unwrap_or_default());
    let outcome = match domain.spec.deletion_policy {
        DeletionPolicy::Delete => finalizer(&api, FINALIZER, domain, async |event| match event {
            Event::Apply(domain) => apply(&domain, &context, &api).await,
            Event::Cleanup(domain) => cleanup(&domain, &context).await,
        })
        .await
        .map_err(|e| Error::from(Box::new(e))),
        DeletionPolicy::Retain => match let_go(&api, &*domain, FINALIZER).await {
            Ok(()) if domain.meta().deletion_timestamp.is_some() => Ok(Action::await_change()),
            Ok(()) => apply(&domain, &context, &api).await,
            Err(e) => Err(e),
        },
    };
    context.metrics.count(if outcome.is_ok() { "ok" } else { "error" });
    outcome
}

/// When to try again after an error.
#[allow(clippy::needless_pass_by_value, reason = "the controller's signature")]
pub fn on_error<K>(_: Arc<K>, error: &Error, _: Arc<Context>) -> Action {
    let inner = match error {
        Error::Finalizer(e) => match e.as_ref() {
            finalizer::Error::ApplyFailed(e) | finalizer::Error::CleanupFailed(e) => e,
            _ => error,
        },
        e => e,
    };
    Action::requeue(match inner {
        Error::Admin(status) if !is_transient(status) => AFTER_REFUSAL,
        _ => AFTER_TROUBLE,
    })
}

async fn apply(domain: &Domain, context: &Context, api: &Api<Domain>) -> Result<Action, Error> {
    let (records, applied) = match make(domain, context).await {
        Ok(made) => made,
        Err(status) => {
            let ready = condition(domain, "Ready", "False", reason(&status), status.message());
            let old = domain.status.clone().unwrap_or_default();
            let conditions = replaced(old.conditions.clone(), ready);
            publish(domain, context, api, DomainStatus { conditions, ..old }).await?;
            return Err(status.into());
        }
    };
    let records = look_up(domain, context, records).await;
    let ready = condition(domain, "Ready", "True", "Applied", "mda accepts mail for the domain");
    let dns = dns_condition(domain, &records);
    let is_published = dns.status == "True";
    let mut conditions = replaced(replaced(Vec::new(), ready), dns);
    let dkim = applied.dkim.map(|(dkim, condition)| {
        conditions.push(condition);
        dkim
    });
    let status = DomainStatus { observed_generation: domain.meta().generation, conditions, dkim, records };
    publish(domain, context, api, status).await?;
    Ok(Action::requeue(if is_published { LOOK_AGAIN } else { LOOK_AGAIN_SOON }))
}

/// The domain and what it shall be; the records to publish.
async fn make(domain: &Domain, context: &Context) -> Result<(Vec<DnsRecord>, policy::Applied), tonic::Status> {
    let request = CreateDomainRequest { name: domain.spec.name.clone(), tenant: domain.spec.tenant.clone() };
    let created = context.admin.clone().create_domain(request.clone()).await?.into_inner();
    let applied = policy::apply(domain, context).await?;
    if !applied.rotated {
        return Ok((created.records, applied));
    }
    // It is there, so this only tells the records of the new keys, too.
    Ok((context.admin.clone().create_domain(request).await?.into_inner().records, applied))
}

async fn cleanup(domain: &Domain, context: &Context) -> Result<Action, Error> {
    // The catch-all came with the resource and would keep the domain.
    if domain.spec.catch_all.as_ref().is_some_and(|targets| !targets.is_empty()) {
        policy::remove_catch_all(&domain.spec.name, context).await?;
    }
    let request = DeleteDomainRequest { name: domain.spec.name.clone() };
    match context.admin.clone().delete_domain(request).await {
        Err(status) if status.code() != Code::NotFound => {
            tell(domain, context, EventType::Warning, "NotDeleted", status.message()).await;
            Err(status.into())
        }
        _ => Ok(Action::await_change()),
    }
}

async fn look_up(domain: &Domain, context: &Context, texts: Vec<DnsRecord>) -> Vec<PublishedRecord> {
    let name = &domain.spec.name;
    let hosts = if domain.spec.mx.is_empty() { vec![context.hostname.clone()] } else { domain.spec.mx.clone() };
    let value = format!("10 {}", hosts.first().map(String::as_str).unwrap_or_default());
    let mx = DnsRecord { name: name.clone(), r#type: "MX".into(), value };
    let mut records = vec![judged(mx, &Wanted::Mx { hosts }, context.zone.mx(name).await)];
    for record in texts {
        let (wanted, found) = (Wanted::txt(&record.name, &record.value), context.zone.txt(&record.name).await);
        records.push(judged(record, &wanted, found));
    }
    records
}

fn judged(record: DnsRecord, wanted: &Wanted, found: Result<Vec<String>, dns::LookupError>) -> PublishedRecord {
    let (state, found) = match found {
        Ok(found) => {
            let state = compare(wanted, &found);
            (state, (state == State::Different).then(|| found.join(" | ")))
        }
        Err(_) => (State::Unknown, None),
    };
    PublishedRecord { name: record.name, kind: record.r#type, value: record.value, state, found }
}

fn dns_condition(domain: &Domain, records: &[PublishedRecord]) -> Condition {
    let named = |state: State| -> Vec<String> {
        records.iter().filter(|r| r.state == state).map(|r| format!("{} {}", r.kind, r.name)).collect()
    };
    let (missing, different, unknown) = (named(State::Missing), named(State::Different), named(State::Unknown));
    let mut words = Vec::new();
    for (what, names) in [("missing", &missing), ("different", &different), ("no answer for", &unknown)] {
        if !names.is_empty() {
            words.push(format!("{what}: {}", names.join(", ")));
        }
    }
    let (status, reason) = match () {
        () if !different.is_empty() => ("False", "Different"),
        () if !missing.is_empty() => ("False", "Missing"),
        () if !unknown.is_empty() => ("Unknown", "NoAnswer"),
        () => ("True", "Published"),
    };
    let message = if words.is_empty() { "all records are published".into() } else { words.join("; ") };
    condition(domain, "DNSPublished", status, reason, &message)
}
