//! The resources, from which the chart's CRDs are generated (`examples/crds.rs`).

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::records::State;

/// A domain that mail is accepted for.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mail.postroad.dev",
    version = "v1alpha1",
    kind = "Domain",
    plural = "domains",
    shortname = "maildomain",
    category = "postroad",
    namespaced,
    status = "DomainStatus",
    printcolumn = r#"{"name":"Domain","type":"string","jsonPath":".spec.name"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"DNS","type":"string","jsonPath":".status.conditions[?(@.type=='DNSPublished')].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct DomainSpec {
    /// The domain, as it stands behind the @. It cannot be changed: make another resource.
    #[schemars(length(min = 1, max = 253))]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "a domain cannot be renamed"}]))]
    pub name: String,
    /// Whose it is; the name of a tenant that exists. A domain that exists keeps its tenant.
    /// Default: "default".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// Hosts that the MX records should point at; any of them is right. Default: the hostname of
    /// the installation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mx: Vec<String>,
    /// What becomes of mail to this domain that DMARC refuses, whatever the tenant has. Without it
    /// none is set, and one that was set by hand stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dmarc_override: Option<OfDomain>,
    /// Who gets what the domain has no other address for: accounts, or addresses elsewhere. An empty
    /// list is nobody; without it one that was set by hand stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub catch_all: Option<Vec<String>>,
    /// When the keys that sign the domain's mail are replaced. Without it: never by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dkim: Option<Dkim>,
    /// What happens to the domain when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OfDomain {
    /// It is refused, as the sender's domain asks for.
    Reject,
    /// It goes to Junk.
    Quarantine,
    /// As the tenant has it.
    Inherit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OfTenant {
    /// It is refused, as the sender's domain asks for.
    Reject,
    /// It goes to Junk.
    Quarantine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dkim {
    /// New keys are made when the newest are so old. 0 is never.
    #[serde(default)]
    #[schemars(range(max = 3650))]
    pub rotate_every_days: u32,
    /// Raise it to have new keys made now, once.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub rotation: i64,
    /// From the making of new keys until they sign: the time to publish their records. Too short, and
    /// receivers find no key for what they signed.
    #[serde(default = "week")]
    #[schemars(range(max = 365))]
    pub publish_days: u32,
    /// From then on, until the records of the old keys may go: mail under way needs them.
    #[serde(default = "week")]
    #[schemars(range(max = 365))]
    pub overlap_days: u32,
}

fn week() -> u32 {
    7
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// What was made stays: the domain with its keys and its mail, the pool, the tenant.
    #[default]
    Retain,
    /// It is removed; the resource of a domain stays until its last account and alias is gone,
    /// that of a tenant until its last domain is.
    Delete,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainStatus {
    /// The generation that the rest belongs to.
    pub observed_generation: Option<i64>,
    /// `Ready`: mda has the domain as it is wanted. `DNSPublished`: the records are published and
    /// right. `DKIM`, with `spec.dkim`: which keys sign, or will.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// With `spec.dkim`: the domain's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dkim: Option<DkimStatus>,
    /// The records to publish.
    #[serde(default)]
    pub records: Vec<PublishedRecord>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DkimStatus {
    /// The last `spec.dkim.rotation` that was done.
    pub rotation: i64,
    #[serde(default)]
    pub keys: Vec<SigningKey>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningKey {
    pub selector: String,
    /// `Pending` (to be published, does not sign yet), `Signing` or `Retired`.
    pub state: String,
    /// RFC 3339.
    pub signs_from: String,
}

/// A record to publish, and what was found in the DNS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedRecord {
    /// Fully qualified, without the final dot.
    pub name: String,
    /// MX or TXT.
    #[serde(rename = "type")]
    pub kind: String,
    pub value: String,
    pub state: State,
    /// What stands there instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

/// Addresses that the mail of some tenants leaves from, with their names.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mail.postroad.dev",
    version = "v1alpha1",
    kind = "EgressPool",
    plural = "egresspools",
    category = "postroad",
    namespaced,
    status = "AppliedStatus",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EgressPoolSpec {
    /// Used in turn. Mail waits on a relay that has none of these addresses.
    #[schemars(length(min = 1, max = 256))]
    pub sources: Vec<Source>,
    /// Names of the tenants whose mail leaves from here and from nowhere else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// What happens to the pool when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Where connections are made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// An IP address that relays can bind to.
    #[schemars(length(min = 2, max = 45))]
    pub address: String,
    /// The name in EHLO; the address should have it in reverse DNS. Default: the relay's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub hostname: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppliedStatus {
    /// The generation that was applied last.
    pub observed_generation: Option<i64>,
    /// `Ready`: mda has it.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Somebody whose domains, accounts and queue are apart from others', with limits of all together.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mail.postroad.dev",
    version = "v1alpha1",
    kind = "Tenant",
    plural = "tenants",
    category = "postroad",
    namespaced,
    status = "AppliedStatus",
    printcolumn = r#"{"name":"Tenant","type":"string","jsonPath":".spec.name"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// It cannot be changed: make another resource.
    #[schemars(length(min = 1, max = 100))]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "a tenant cannot be renamed"}]))]
    pub name: String,
    /// Of all its accounts together. Without it none is set, and one that was set by hand stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// What is absent is left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What becomes of mail to its domains that DMARC refuses. Without it none is set, and one that was
    /// set by hand stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dmarc_override: Option<OfTenant>,
    /// What happens to the tenant when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// 0 is no limit.
    #[serde(default)]
    pub bytes: u64,
    /// 0 is no limit.
    #[serde(default)]
    pub messages: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// How many accounts its domains may have together; those that are there stay. 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_accounts: Option<u64>,
    /// To how many recipients each account without a limit of its own may send in a day. 0 is what
    /// smtp-ingress is configured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daily_recipients: Option<u64>,
}

/// All of them, as the chart has them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Domain::crd(), EgressPool::crd(), Tenant::crd()]
}
