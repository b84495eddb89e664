//! Which domains are whose.

use proto::console::{Domain, ListDomainsResponse};
use sqlx::PgPool;
use tonic::Status;

use crate::database::status;

pub async fn list(pool: &PgPool, tenant: &str) -> Result<ListDomainsResponse, Status> {
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
