//! Custom resources to Admin calls, and the DNS as status conditions.
//!
//! - **Role**: a `Domain` resource becomes a domain of `mda` with DKIM keys; its status says which
//!   records to publish, and which are published and right, its keys are replaced in time. An `EgressPool` becomes addresses that
//!   relays send from, a `Tenant` limits its accounts together. Mailboxes stay out of etcd.
//! - **Ports**: the runtime's HTTP port only.
//! - **Peers**: the Kubernetes API, `mda`'s Admin and Egress, name servers.
//! - **Scaling**: one process works, by a Lease; more wait to take over within `lease_seconds`.
//!
//! Everything is written again whenever it is looked at, so a crash between two steps, a lost event
//! or two leaders for a moment do no harm: creating a domain that is there changes nothing.

mod config;
mod crd;
mod domain;
mod egress;
mod lease;
mod metrics;
mod policy;
mod records;
mod status;
mod tenant;

use std::sync::Arc;

use anyhow::Context as _;
use kube::{
    Api, Client,
    runtime::{
        Controller,
        events::{Recorder, Reporter},
        watcher,
    },
};
use proto::{admin::admin_client::AdminClient, relay::egress_client::EgressClient};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use crd::{
    AppliedStatus, DeletionPolicy, Dkim, DkimStatus, Domain, DomainSpec, DomainStatus, EgressPool, EgressPoolSpec,
    Limits, OfDomain, OfTenant, PublishedRecord, Quota, SigningKey, Source, Tenant, TenantSpec, crds,
};
pub use domain::{Context, Error, FINALIZER, on_error, reconcile};
pub use egress::{EGRESS_FINALIZER, reconcile_pool};
pub use lease::{Lease, lead};
pub use metrics::Metrics;
pub use records::{State, Wanted, Zone, compare};
pub use tenant::{TENANT_FINALIZER, reconcile_tenant};

/// Waits for the lease, reconciles as long as it holds it, until shutdown.
pub async fn run(config: Config, service: runtime::Service) -> anyhow::Result<()> {
    let metrics = service.metrics(Metrics::register);
    let client = Client::try_default().await.context("no way to the Kubernetes API")?;
    let zone: Arc<dyn Zone> = Arc::new(dns::Resolver::new(&config.dns).context("configuration key \"dns\"")?);
    let channel = runtime::grpc::channel(&config.mda, config.mda_timeout());
    let name = std::env::var("OPERATOR_NAME").unwrap_or_else(|_| format!("operator-{}", std::process::id()));
    let namespace = std::env::var("OPERATOR_NAMESPACE").unwrap_or_else(|_| client.default_namespace().to_owned());
    let reporter = Reporter { controller: "postroad-operator".into(), instance: Some(name.clone()) };
    let context = Arc::new(Context {
        client: client.clone(),
        admin: AdminClient::new(channel.clone()),
        egress: EgressClient::new(channel),
        zone,
        hostname: config.hostname.clone(),
        recorder: Recorder::new(client.clone(), reporter),
        metrics,
    });
    service.ready();
    let lease = Lease::new(client.clone(), &namespace, &name, config.lease());
    lead(&lease, &service.shutdown, |lost| watch(context.clone(), namespace.clone(), lost)).await;
    Ok(())
}

/// Reconciles every resource of the namespace until `lost`; the running ones are finished.
async fn watch(context: Arc<Context>, namespace: String, lost: CancellationToken) {
    use futures::StreamExt as _;
    let client = || context.client.clone();
    let domains: Api<Domain> = Api::namespaced(client(), &namespace);
    let pools: Api<EgressPool> = Api::namespaced(client(), &namespace);
    let tenants: Api<Tenant> = Api::namespaced(client(), &namespace);
    let tenants = Controller::new(tenants, watcher::Config::default())
        .graceful_shutdown_on(lost.clone().cancelled_owned())
        .run(reconcile_tenant, on_error, context.clone())
        .for_each(async |outcome| {
            if let Err(e) = outcome {
                tracing::warn!(error = %e, "a Tenant is not reconciled");
            }
        });
    let domains = Controller::new(domains, watcher::Config::default())
        .graceful_shutdown_on(lost.clone().cancelled_owned())
        .run(reconcile, on_error, context.clone())
        .for_each(async |outcome| {
            if let Err(e) = outcome {
                tracing::warn!(error = %e, "a Domain is not reconciled");
            }
        });
    let pools = Controller::new(pools, watcher::Config::default())
        .graceful_shutdown_on(lost.cancelled_owned())
        .run(reconcile_pool, on_error, context.clone())
        .for_each(async |outcome| {
            if let Err(e) = outcome {
                tracing::warn!(error = %e, "an EgressPool is not reconciled");
            }
        });
    tokio::join!(tenants, domains, pools);
}
