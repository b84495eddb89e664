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
    /// What happens to the domain when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
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
    /// `Ready`: mda knows the domain. `DNSPublished`: the records are published and right.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The records to publish.
    #[serde(default)]
    pub records: Vec<PublishedRecord>,
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

/// All of them, as the chart has them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Domain::crd(), EgressPool::crd(), Tenant::crd()]
}
