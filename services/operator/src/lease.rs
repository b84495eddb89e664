//! One leader at a time, by a Lease (coordination.k8s.io).

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const NAME: &str = "postroad-operator";

/// Our hand on the Lease.
pub struct Lease {
    api: Api<Object>,
    me: String,
    time: Duration,
}

impl Lease {
    pub fn new(client: Client, namespace: &str, me: &str, time: Duration) -> Self {
        Self { api: Api::namespaced(client, namespace), me: me.to_owned(), time }
    }

    /// Takes or renews it; `false` while somebody else holds it. A write is refused when another
    /// one came between (resourceVersion), so two never both succeed.
    async fn take(&self) -> Result<bool, kube::Error> {
        let now = Timestamp::now();
        let seconds = i32::try_from(self.time.as_secs()).unwrap_or(i32::MAX);
        let spec = |transitions: i32, since: Option<MicroTime>| LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: Some(since.unwrap_or(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        let written = match self.api.get_opt(NAME).await? {
            None => {
                let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
                let lease = Object { metadata, spec: Some(spec(0, None)) };
                self.api.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                let old = lease.spec.take().unwrap_or_default();
                let holder = old.holder_identity.as_deref().unwrap_or_default();
                let is_mine = holder == self.me;
                let age = old.renew_time.as_ref().map_or(i64::MAX, |t| now.duration_since(t.0).as_secs());
                if !is_mine && !holder.is_empty() && age < i64::from(old.lease_duration_seconds.unwrap_or(seconds)) {
                    return Ok(false);
                }
                let transitions = old.lease_transitions.unwrap_or(0).saturating_add(i32::from(!is_mine));
                lease.spec = Some(spec(transitions, old.acquire_time.filter(|_| is_mine)));
                self.api.replace(NAME, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Gives it back, so that the next one need not wait.
    async fn release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(NAME).await else { return };
        if let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&self.me)) {
            spec.holder_identity = None;
            spec.renew_time = None;
            let _ = self.api.replace(NAME, &PostParams::default(), &lease).await;
        }
    }
}

/// Runs `work` whenever we lead, until shutdown. Its token is cancelled when the lease is lost,
/// before anybody else can take it.
pub async fn lead<F: Future<Output = ()>>(
    lease: &Lease,
    shutdown: &CancellationToken,
    mut work: impl FnMut(CancellationToken) -> F,
) {
    let pause = lease.time / 3;
    while !shutdown.is_cancelled() {
        match lease.take().await {
            Ok(true) => {
                tracing::info!("leading");
                let lost = shutdown.child_token();
                tokio::join!(work(lost.clone()), renew(lease, &lost));
                tracing::info!("not leading any more");
            }
            Ok(false) => (),
            Err(e) => tracing::warn!(error = %e, "the lease cannot be read"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = shutdown.cancelled() => (),
        }
    }
    lease.release().await;
}

/// Cancels `lost` when another one holds the lease, or when it could not be renewed for two
/// thirds of its time.
async fn renew(lease: &Lease, lost: &CancellationToken) {
    let mut last = Instant::now();
    while !lost.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(lease.time / 4) => (),
            () = lost.cancelled() => return,
        }
        let before = Instant::now();
        match tokio::time::timeout(lease.time / 3, lease.take()).await {
            Ok(Ok(true)) => last = before,
            Ok(Ok(false)) => lost.cancel(),
            Ok(Err(_)) | Err(_) if last.elapsed() > lease.time * 2 / 3 => lost.cancel(),
            Ok(Err(_)) | Err(_) => (),
        }
    }
}
