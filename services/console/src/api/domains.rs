//! Domains, and whether the DNS says what it should.

use address::Domain;
use dns::{
    LookupError,
    published::{State, Wanted, compare},
};
use proto::{
    admin::{CreateDomainRequest, DeleteDomainRequest, GetDomainRequest},
    console::ListDomainsRequest,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    App,
    problem::Problem,
    route::{Call, Created, Json, NoContent, Nothing},
};

#[derive(Serialize, JsonSchema)]
pub struct Listed {
    name: String,
    tenant: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct New {
    name: String,
    /// Whose it is; the default tenant's when absent.
    #[serde(default)]
    tenant: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Shown {
    name: String,
    records: Vec<Record>,
}

/// What to publish, and what is published.
#[derive(Serialize, JsonSchema)]
pub struct Record {
    name: String,
    r#type: String,
    value: String,
    state: State,
    /// What stands there now.
    found: Vec<String>,
}

pub async fn list(call: Call, _: Nothing, _: Nothing) -> Result<Json<Vec<Listed>>, Problem> {
    let request = ListDomainsRequest { tenant: call.caller()?.tenant.clone() };
    let domains = call.app.console.clone().list_domains(request).await?.into_inner().domains;
    Ok(Json(domains.into_iter().map(|d| Listed { name: d.name, tenant: d.tenant }).collect()))
}

pub async fn create(call: Call, _: Nothing, new: New) -> Result<Created<Listed>, Problem> {
    let app = &call.app;
    let domain: Domain = domain(&new.name)?;
    let known = app.console.clone().list_domains(ListDomainsRequest::default()).await?.into_inner().domains;
    if let Some(there) = known.into_iter().find(|d| d.name.eq_ignore_ascii_case(domain.as_str())) {
        return Err(Problem::new(
            axum::http::StatusCode::CONFLICT,
            format!("domain {} is there, of tenant {}", there.name, there.tenant),
        ));
    }
    let request = CreateDomainRequest { name: domain.to_string(), tenant: new.tenant };
    let made = app.admin.clone().create_domain(call.scoped(request)?).await?.into_inner();
    Ok(Created(Listed { name: made.name, tenant: made.tenant }))
}

pub fn domain(text: &str) -> Result<Domain, Problem> {
    text.parse().map_err(|e| Problem::bad_request(format!("domain {text:?}: {e}")))
}

pub async fn show(call: Call, _: Nothing, _: Nothing) -> Result<Json<Shown>, Problem> {
    let app = &call.app;
    let domain = domain(call.part("domain"))?;
    call.caller()?.must_own(app, &domain).await?;
    let request = GetDomainRequest { name: domain.to_string() };
    let mut wanted = app.admin.clone().get_domain(call.scoped(request)?).await?.into_inner();
    let mx = proto::admin::DnsRecord {
        name: wanted.name.clone(),
        r#type: "MX".into(),
        value: format!("10 {}", app.config.hostname),
    };
    wanted.records.insert(0, mx);
    let records = futures::future::join_all(wanted.records.into_iter().map(|r| judge(app, r))).await;
    Ok(Json(Shown { name: wanted.name, records }))
}

async fn judge(app: &App, record: proto::admin::DnsRecord) -> Record {
    let (wanted, found) = if record.r#type == "MX" {
        let hosts =
            app.resolver.mx(&record.name).await.map(|all| all.into_iter().map(|mx| mx.host).collect::<Vec<_>>());
        (Wanted::Mx { hosts: vec![app.config.hostname.clone()] }, hosts)
    } else {
        let texts = app.resolver.txt(&record.name).await;
        let texts = texts.map(|all| all.iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect::<Vec<_>>());
        (Wanted::txt(&record.name, &record.value), texts)
    };
    let (state, found): (State, Vec<String>) = match found {
        Ok(found) => (compare(&wanted, &found), found),
        Err(LookupError::NoSuchName { .. } | LookupError::NoData { .. }) => (State::Missing, Vec::new()),
        Err(_) => (State::Unknown, Vec::new()),
    };
    Record { name: record.name, r#type: record.r#type, value: record.value, state, found }
}

pub async fn delete(call: Call, _: Nothing, _: Nothing) -> Result<NoContent, Problem> {
    let request = DeleteDomainRequest { name: domain(call.part("domain"))?.to_string() };
    call.app.admin.clone().delete_domain(call.scoped(request)?).await?;
    Ok(NoContent)
}
