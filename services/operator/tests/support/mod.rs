//! A Kubernetes API, an `mda` and a DNS of this process.

mod api;
mod mda;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use kube::runtime::{
    controller::Action,
    events::{Recorder, Reporter},
};
use operator::{Context, Domain, Error, Metrics, Zone, on_error, reconcile, reconcile_pool, reconcile_tenant};
use proto::{admin::admin_client::AdminClient, relay::egress_client::EgressClient};

pub use api::FakeApi;
pub use mda::FakeMda;

pub struct World {
    pub api: FakeApi,
    pub mda: FakeMda,
    pub zone: Arc<FakeZone>,
    context: Arc<Context>,
}

impl World {
    pub async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (api, mda, zone) = (FakeApi::default(), FakeMda::default(), Arc::new(FakeZone::default()));
        let channel = runtime::grpc::channel(&mda.start().await, Duration::from_secs(5));
        let client = api.client();
        let reporter = Reporter { controller: "postroad-operator".into(), instance: None };
        let context = Arc::new(Context {
            client: client.clone(),
            admin: AdminClient::new(channel.clone()),
            egress: EgressClient::new(channel),
            zone: zone.clone(),
            hostname: "mail.example.org".into(),
            recorder: Recorder::new(client, reporter),
            metrics: Metrics::default(),
        });
        Self { api, mda, zone, context }
    }

    /// As the controller does with what it has watched.
    pub async fn reconcile(&self, name: &str) -> Result<Action, Error> {
        let object = self.api.object(name).unwrap();
        if object["kind"] == "EgressPool" {
            return reconcile_pool(Arc::new(serde_json::from_value(object).unwrap()), self.context.clone()).await;
        }
        if object["kind"] == "Tenant" {
            return reconcile_tenant(Arc::new(serde_json::from_value(object).unwrap()), self.context.clone()).await;
        }
        let domain: Domain = serde_json::from_value(object).unwrap();
        reconcile(Arc::new(domain), self.context.clone()).await
    }

    /// The finalizer, then the rest.
    pub async fn settle(&self, name: &str) {
        self.reconcile(name).await.unwrap();
        self.reconcile(name).await.unwrap();
    }

    pub fn retry_after(&self, error: &Error) -> Action {
        on_error(Arc::new(()), error, self.context.clone())
    }
}

#[derive(Default)]
pub struct FakeZone {
    records: Mutex<HashMap<(String, &'static str), Vec<String>>>,
    silent: Mutex<bool>,
}

impl FakeZone {
    pub fn set(&self, name: &str, kind: &'static str, values: &[&str]) {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        self.records.lock().unwrap().insert((name.to_owned(), kind), values);
    }

    pub fn fail(&self, fail: bool) {
        *self.silent.lock().unwrap() = fail;
    }

    fn get(&self, name: &str, kind: &'static str) -> Result<Vec<String>, dns::LookupError> {
        if *self.silent.lock().unwrap() {
            return Err(dns::LookupError::Refused { name: name.to_owned() });
        }
        Ok(self.records.lock().unwrap().get(&(name.to_owned(), kind)).cloned().unwrap_or_default())
    }
}

#[tonic::async_trait]
impl Zone for FakeZone {
    async fn txt(&self, name: &str) -> Result<Vec<String>, dns::LookupError> {
        self.get(name, "TXT")
    }

    async fn mx(&self, name: &str) -> Result<Vec<String>, dns::LookupError> {
        self.get(name, "MX")
    }
}
