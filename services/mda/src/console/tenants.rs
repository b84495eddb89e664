//! Tenants, and which domains are theirs.

use proto::console::{AssignDomainRequest, Domain, ListDomainsResponse, ListTenantsResponse, Tenant};
use sqlx::PgPool;
use tonic::Status;

use crate::database::status;

const MAX_NAME: usize = 100;

pub async fn create(pool: &PgPool, name: &str) -> Result<Tenant, Status> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fits) {
        return Err(Status::invalid_argument(format!(
            "tenant {name:?}: expected lower case letters, digits, '-' and '.', at most {MAX_NAME}"
        )));
    }
    let made = sqlx::query("insert into tenants (name) values ($1) on conflict do nothing")
        .bind(name)
        .execute(pool)
        .await
        .map_err(status)?;
    match made.rows_affected() {
        0 => Err(Status::already_exists(format!("tenant {name} exists"))),
        _ => Ok(Tenant { name: name.to_owned() }),
    }
}

pub async fn list(pool: &PgPool) -> Result<ListTenantsResponse, Status> {
    let names: Vec<String> =
        sqlx::query_scalar("select name from tenants order by name").fetch_all(pool).await.map_err(status)?;
    Ok(ListTenantsResponse { tenants: names.into_iter().map(|name| Tenant { name }).collect() })
}

pub async fn domains(pool: &PgPool, tenant: &str) -> Result<ListDomainsResponse, Status> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select d.name, t.name from domains d join tenants t on t.id = d.tenant_id
         where $1 = '' or t.name = $1 order by d.name",
    )
    .bind(tenant)
    .fetch_all(pool)
    .await
    .map_err(status)?;
    Ok(ListDomainsResponse { domains: rows.into_iter().map(|(name, tenant)| Domain { name, tenant }).collect() })
}

/// Only a domain without accounts: what they have and may have is counted by tenant.
pub async fn assign(pool: &PgPool, request: AssignDomainRequest) -> Result<Domain, Status> {
    let name = request.name.to_lowercase();
    let moved = sqlx::query(
        "update domains d set tenant_id = t.id from tenants t
         where d.name = $1 and t.name = $2
           and (d.tenant_id = t.id or not exists (select from accounts a where a.domain = d.name))",
    )
    .bind(&name)
    .bind(&request.tenant)
    .execute(pool)
    .await
    .map_err(status)?;
    if moved.rows_affected() == 1 {
        return Ok(Domain { name, tenant: request.tenant });
    }
    let is_there: bool = sqlx::query_scalar(
        "select exists (select from domains where name = $1) and exists (select from tenants where name = $2)",
    )
    .bind(&name)
    .bind(&request.tenant)
    .fetch_one(pool)
    .await
    .map_err(status)?;
    if is_there {
        return Err(Status::failed_precondition(format!("domain {name} has accounts: it stays with its tenant")));
    }
    Err(Status::not_found(format!("domain {name} or tenant {} does not exist", request.tenant)))
}
