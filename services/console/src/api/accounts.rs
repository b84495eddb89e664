use proto::admin::{
    Account as Wire, CreateAccountRequest, DeleteAccountRequest, ListAccountsRequest, SetAccountDisabledRequest,
    SetPasswordRequest, SetQuotaRequest,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::domains::domain;
use crate::{
    App,
    caller::Caller,
    problem::Problem,
    route::{Call, Created, Json, NoContent, Nothing},
};

const MAX_PASSWORD: usize = 1024;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OfDomain {
    /// Empty means all.
    pub domain: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Account {
    address: String,
    disabled: bool,
    /// Bytes; 0 means no limit.
    quota_bytes: u64,
    used_bytes: u64,
}

impl From<Wire> for Account {
    fn from(a: Wire) -> Self {
        Self { address: a.address, disabled: a.disabled, quota_bytes: a.quota_bytes, used_bytes: a.used_bytes }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct New {
    address: String,
    password: String,
    /// Bytes; 0 means no limit.
    #[serde(default)]
    quota_bytes: u64,
}

/// What is absent stays as it is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    disabled: Option<bool>,
    /// Bytes; 0 means no limit.
    #[serde(default)]
    quota_bytes: Option<u64>,
}

/// The domains to list: the one that is asked for, or all of the caller's.
pub async fn domains_of(app: &App, caller: &Caller, asked: &str) -> Result<Vec<String>, Problem> {
    if !asked.is_empty() {
        let domain = domain(asked)?;
        caller.must_own(app, &domain).await?;
        return Ok(vec![domain.to_string()]);
    }
    if caller.tenant.is_empty() {
        return Ok(vec![String::new()]);
    }
    let request = proto::console::ListDomainsRequest { tenant: caller.tenant.clone() };
    let domains = app.console.clone().list_domains(request).await?.into_inner().domains;
    Ok(domains.into_iter().map(|d| d.name).collect())
}

fn password(text: String) -> Result<String, Problem> {
    match text.len() {
        1..=MAX_PASSWORD => Ok(text),
        _ => Err(Problem::bad_request(format!("password: expected 1 to {MAX_PASSWORD} bytes"))),
    }
}

pub async fn list(call: Call, of: OfDomain, _: Nothing) -> Result<Json<Vec<Account>>, Problem> {
    let mut accounts = Vec::new();
    for domain in domains_of(&call.app, call.caller()?, &of.domain).await? {
        let request = ListAccountsRequest { domain, ..ListAccountsRequest::default() };
        let found = call.app.admin.clone().list_accounts(call.scoped(request)?).await?.into_inner().accounts;
        accounts.extend(found.into_iter().map(Account::from));
    }
    Ok(Json(accounts))
}

pub async fn create(call: Call, _: Nothing, new: New) -> Result<Created<Account>, Problem> {
    let address = call.caller()?.must_own_address(&call.app, &new.address).await?;
    let request = CreateAccountRequest {
        address: address.to_string(),
        password: password(new.password)?,
        quota_bytes: new.quota_bytes,
        ..CreateAccountRequest::default()
    };
    Ok(Created(call.app.admin.clone().create_account(call.scoped(request)?).await?.into_inner().into()))
}

pub async fn change(call: Call, _: Nothing, change: Change) -> Result<Json<Account>, Problem> {
    let address = call.caller()?.must_own_address(&call.app, call.part("address")).await?.to_string();
    let mut account = None;
    if let Some(text) = change.password {
        let request = SetPasswordRequest { address: address.clone(), password: password(text)?, ..Default::default() };
        account = Some(call.app.admin.clone().set_password(call.scoped(request)?).await?.into_inner());
    }
    if let Some(quota_bytes) = change.quota_bytes {
        // The limit of messages stays.
        let request = ListAccountsRequest { domain: String::new(), address: address.clone() };
        let found = call.app.admin.clone().list_accounts(call.scoped(request)?).await?.into_inner().accounts;
        let quota_messages = found.first().map_or(0, |a| a.quota_messages);
        let request = SetQuotaRequest { address: address.clone(), quota_bytes, quota_messages };
        account = Some(call.app.admin.clone().set_quota(call.scoped(request)?).await?.into_inner());
    }
    if let Some(disabled) = change.disabled {
        let request = SetAccountDisabledRequest { address, disabled };
        account = Some(call.app.admin.clone().set_account_disabled(call.scoped(request)?).await?.into_inner());
    }
    account.map(|a| Json(a.into())).ok_or_else(|| Problem::bad_request("expected password, disabled or quota_bytes"))
}

pub async fn delete(call: Call, _: Nothing, _: Nothing) -> Result<NoContent, Problem> {
    let address = call.caller()?.must_own_address(&call.app, call.part("address")).await?;
    call.app.admin.clone().delete_account(call.scoped(DeleteAccountRequest { address: address.to_string() })?).await?;
    Ok(NoContent)
}
