use proto::admin::{CreateTenantRequest, ListTenantsRequest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    problem::Problem,
    route::{Call, Created, Json, Nothing},
};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Lower case letters, digits, `-` and `.`.
    name: String,
}

pub async fn list(call: Call, _: Nothing, _: Nothing) -> Result<Json<Vec<Tenant>>, Problem> {
    let tenants = call.app.admin.clone().list_tenants(ListTenantsRequest {}).await?.into_inner().tenants;
    Ok(Json(tenants.into_iter().map(|t| Tenant { name: t.name }).collect()))
}

pub async fn create(call: Call, _: Nothing, tenant: Tenant) -> Result<Created<Tenant>, Problem> {
    let request = CreateTenantRequest { name: tenant.name };
    let made = call.app.admin.clone().create_tenant(request).await?.into_inner();
    Ok(Created(Tenant { name: made.name }))
}
