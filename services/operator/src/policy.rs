//! What a `Domain` says besides its name: DMARC, catch-all, DKIM rotation.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use proto::admin::{
    DeleteAliasRequest, DkimKey, DkimKeys, ListDkimKeysRequest, RotateDkimRequest, SetAliasRequest,
    SetDmarcOverrideRequest, dkim_key::State as KeyState,
};
use tonic::{Code, Status};

use crate::{
    crd::{Dkim, DkimStatus, Domain, OfDomain, SigningKey},
    domain::Context,
    status::condition,
};

const DAY: u64 = 86_400;

/// What became of it.
pub(crate) struct Applied {
    pub dkim: Option<(DkimStatus, Condition)>,
    /// There are records that were not there before.
    pub rotated: bool,
}

/// What the resource does not say is left as it is. Everything may be written twice.
pub(crate) async fn apply(domain: &Domain, context: &Context) -> Result<Applied, Status> {
    let name = &domain.spec.name;
    if let Some(mind) = domain.spec.dmarc_override {
        let request = SetDmarcOverrideRequest {
            domain: name.clone(),
            quarantine: mind == OfDomain::Quarantine,
            inherit: mind == OfDomain::Inherit,
            ..SetDmarcOverrideRequest::default()
        };
        context.admin.clone().set_dmarc_override(request).await?;
    }
    match &domain.spec.catch_all {
        Some(targets) if targets.is_empty() => remove_catch_all(name, context).await?,
        Some(targets) => {
            let request = SetAliasRequest { address: format!("@{name}"), targets: targets.clone() };
            context.admin.clone().set_alias(request).await?;
        }
        None => (),
    }
    match &domain.spec.dkim {
        Some(dkim) => keep_keys(domain, dkim, context).await,
        None => Ok(Applied { dkim: None, rotated: false }),
    }
}

pub(crate) async fn remove_catch_all(name: &str, context: &Context) -> Result<(), Status> {
    match context.admin.clone().delete_alias(DeleteAliasRequest { address: format!("@{name}") }).await {
        Err(status) if status.code() != Code::NotFound => Err(status),
        _ => Ok(()),
    }
}

/// Rotates when the number was raised or the keys are old enough. A rotation that is under way is the
/// one that is wanted: so a crash before the status is written makes no second one.
async fn keep_keys(domain: &Domain, wanted: &Dkim, context: &Context) -> Result<Applied, Status> {
    let name = &domain.spec.name;
    let request = ListDkimKeysRequest { domain: name.clone() };
    let mut keys = context.admin.clone().list_dkim_keys(request).await?.into_inner();
    let is_pending = keys.keys.iter().any(|k| k.state() == KeyState::Pending);
    let is_due = is_asked(domain, wanted) || is_old(&keys, wanted, Timestamp::now().as_millisecond());
    let rotated = is_due && !is_pending;
    if rotated {
        let request = RotateDkimRequest {
            domain: name.clone(),
            publish_seconds: Some(u64::from(wanted.publish_days) * DAY),
            overlap_seconds: Some(u64::from(wanted.overlap_days) * DAY),
        };
        keys = context.admin.clone().rotate_dkim(request).await?.into_inner();
    }
    let status = DkimStatus { rotation: wanted.rotation, keys: keys.keys.iter().map(signing_key).collect() };
    let condition = told(domain, &status);
    Ok(Applied { dkim: Some((status, condition)), rotated })
}

/// A resource that was never looked at comes from a copy: its number stands for what was done elsewhere.
fn is_asked(domain: &Domain, wanted: &Dkim) -> bool {
    let Some(status) = domain.status.as_ref().filter(|s| s.observed_generation.is_some()) else { return false };
    wanted.rotation > status.dkim.as_ref().map_or(0, |d| d.rotation)
}

fn is_old(keys: &DkimKeys, wanted: &Dkim, now_ms: i64) -> bool {
    let newest = keys.keys.iter().map(|k| k.created_at_ms).max();
    match (wanted.rotate_every_days, newest) {
        (0, _) | (_, None) => false,
        (days, Some(newest)) => now_ms - newest >= i64::from(days) * 86_400_000,
    }
}

fn signing_key(key: &DkimKey) -> SigningKey {
    let state = match key.state() {
        KeyState::Pending => "Pending",
        KeyState::Signing => "Signing",
        KeyState::Retired => "Retired",
        KeyState::Unspecified => "Unknown",
    };
    SigningKey { selector: key.selector.clone(), state: state.into(), signs_from: time(key.active_from_ms) }
}

/// RFC 3339, in seconds.
fn time(ms: i64) -> String {
    Timestamp::from_second(ms.div_euclid(1000)).map_or_else(|_| String::new(), |at| at.to_string())
}

fn told(domain: &Domain, status: &DkimStatus) -> Condition {
    let of = |state: &str| -> Vec<&SigningKey> { status.keys.iter().filter(|k| k.state == state).collect() };
    let names = |keys: &[&SigningKey]| keys.iter().map(|k| k.selector.as_str()).collect::<Vec<_>>().join(", ");
    let (pending, signing) = (of("Pending"), of("Signing"));
    match (pending.first(), signing.is_empty()) {
        (Some(next), _) => {
            let words = format!("{} sign from {}: publish their records before", names(&pending), next.signs_from);
            condition(domain, "DKIM", "True", "Rotating", &words)
        }
        (None, false) => condition(domain, "DKIM", "True", "Signing", &format!("{} sign", names(&signing))),
        (None, true) => condition(domain, "DKIM", "False", "NoKey", "no key signs"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_old_after_their_days() {
        let keys = |created: &[i64]| DkimKeys {
            keys: created.iter().map(|at| DkimKey { created_at_ms: *at, ..DkimKey::default() }).collect(),
            ..DkimKeys::default()
        };
        let every =
            |days: u32| -> Dkim { serde_json::from_value(serde_json::json!({ "rotateEveryDays": days })).unwrap() };
        let day = 86_400_000;
        assert!(is_old(&keys(&[0, day]), &every(30), 31 * day));
        assert!(!is_old(&keys(&[0, 2 * day]), &every(30), 31 * day), "the newest counts");
        assert!(!is_old(&keys(&[0]), &every(0), 1000 * day), "no schedule");
        assert!(!is_old(&keys(&[]), &every(30), 1000 * day), "mda makes the first ones");
    }
}
