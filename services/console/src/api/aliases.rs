use proto::admin::{DeleteAliasRequest, ListAliasesRequest, SetAliasRequest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::accounts::{OfDomain, domains_of};
use crate::{
    problem::Problem,
    route::{Call, Json, NoContent, Nothing},
};

#[derive(Serialize, JsonSchema)]
pub struct Alias {
    address: String,
    targets: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// Accounts of ours or addresses elsewhere.
    targets: Vec<String>,
}

pub async fn list(call: Call, of: OfDomain, _: Nothing) -> Result<Json<Vec<Alias>>, Problem> {
    let mut aliases = Vec::new();
    for domain in domains_of(&call.app, call.caller()?, &of.domain).await? {
        let found = call
            .app
            .admin
            .clone()
            .list_aliases(call.scoped(ListAliasesRequest { domain })?)
            .await?
            .into_inner()
            .aliases;
        aliases.extend(found.into_iter().map(|a| Alias { address: a.address, targets: a.targets }));
    }
    Ok(Json(aliases))
}

pub async fn set(call: Call, _: Nothing, new: Targets) -> Result<Json<Alias>, Problem> {
    let address = call.caller()?.must_own_address(&call.app, call.part("address")).await?;
    let request = SetAliasRequest { address: address.to_string(), targets: new.targets };
    let alias = call.app.admin.clone().set_alias(call.scoped(request)?).await?.into_inner();
    Ok(Json(Alias { address: alias.address, targets: alias.targets }))
}

pub async fn delete(call: Call, _: Nothing, _: Nothing) -> Result<NoContent, Problem> {
    let address = call.caller()?.must_own_address(&call.app, call.part("address")).await?;
    call.app.admin.clone().delete_alias(call.scoped(DeleteAliasRequest { address: address.to_string() })?).await?;
    Ok(NoContent)
}
