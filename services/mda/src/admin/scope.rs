//! Whose things a caller may see: one tenant's, or all.

use address::Domain;
use sqlx::PgPool;
use tonic::{Request, Status};

use crate::database::status;

const KEY: &str = "postroad-tenant";

/// Of a call; `None` is the operator of the whole.
pub struct Scope(Option<String>);

impl Scope {
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let name = request.metadata().get(KEY).map(|value| value.to_str());
        let name =
            name.transpose().map_err(|_| Status::invalid_argument("postroad-tenant: expected a tenant's name"))?;
        Ok(Self(name.map(str::to_owned)))
    }

    pub fn tenant(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// For what concerns everybody.
    pub fn all_tenants(&self) -> Result<(), Status> {
        match self.0 {
            None => Ok(()),
            Some(_) => Err(Status::permission_denied("this is for the operator of all tenants")),
        }
    }

    /// Another tenant's domain looks as if it were not there.
    pub async fn sees(&self, pool: &PgPool, domain: &Domain) -> Result<(), Status> {
        let Some(tenant) = &self.0 else { return Ok(()) };
        let is_theirs: bool = sqlx::query_scalar(
            "select exists (select from domains d join tenants t on t.id = d.tenant_id where d.name = $1 and t.name = $2)",
        )
        .bind(domain.as_str())
        .bind(tenant)
        .fetch_one(pool)
        .await
        .map_err(status)?;
        if is_theirs { Ok(()) } else { Err(Status::not_found(format!("domain {domain} is not ours"))) }
    }
}
