use address::Domain;
use proto::admin::{DeleteDomainResponse, DnsRecord, Domain as Answer, ListDomainsResponse};
use sqlx::PgPool;
use tonic::Status;

use super::{dkim, scope::Scope};
use crate::{database::status, vault::Vault};

pub async fn create(pool: &PgPool, vault: &Vault, domain: &Domain, tenant: &str) -> Result<Answer, Status> {
    let tenant = if tenant.is_empty() { "default" } else { tenant };
    let created = sqlx::query(
        "insert into domains (name, tenant_id) select $1, id from tenants where name = $2 on conflict do nothing",
    )
    .bind(domain.as_str())
    .bind(tenant)
    .execute(pool)
    .await
    .map_err(status)?
    .rows_affected();
    let owner = owner(pool, domain).await?;
    if owner.is_none() {
        return Err(Status::failed_precondition(format!("tenant {tenant:?} does not exist")));
    }
    let has_keys: bool = sqlx::query_scalar("select exists (select from dkim_keys where domain = $1)")
        .bind(domain.as_str())
        .fetch_one(pool)
        .await
        .map_err(status)?;
    // Keys are missing too when an earlier call was cut short.
    if created == 1 || !has_keys {
        dkim::create(pool, vault, domain).await?;
    }
    get(pool, domain).await
}

/// The tenant that it belongs to.
async fn owner(pool: &PgPool, domain: &Domain) -> Result<Option<String>, Status> {
    sqlx::query_scalar("select t.name from domains d join tenants t on t.id = d.tenant_id where d.name = $1")
        .bind(domain.as_str())
        .fetch_optional(pool)
        .await
        .map_err(status)
}

pub async fn get(pool: &PgPool, domain: &Domain) -> Result<Answer, Status> {
    let tenant = owner(pool, domain).await?;
    let tenant = tenant.ok_or_else(|| Status::not_found(format!("domain {domain} is not ours")))?;
    let keys: Vec<(String, String, String)> =
        sqlx::query_as("select selector, algorithm, public_key from dkim_keys where domain = $1 order by selector")
            .bind(domain.as_str())
            .fetch_all(pool)
            .await
            .map_err(status)?;
    let txt = |name: String, value: String| DnsRecord { name, r#type: "TXT".into(), value };
    let dkim =
        keys.into_iter().map(|(selector, algorithm, public)| dkim::record(domain, &selector, &algorithm, &public));
    let policies = [
        txt(domain.to_string(), "v=spf1 mx -all".into()),
        txt(format!("_dmarc.{domain}"), format!("v=DMARC1; p=reject; rua=mailto:postmaster@{domain}")),
    ];
    Ok(Answer { name: domain.to_string(), records: dkim.chain(policies).collect(), tenant })
}

pub async fn list(pool: &PgPool, scope: &Scope) -> Result<ListDomainsResponse, Status> {
    let names = sqlx::query_scalar(
        "select d.name from domains d join tenants t on t.id = d.tenant_id
         where $1::text is null or t.name = $1 order by d.name",
    )
    .bind(scope.tenant())
    .fetch_all(pool)
    .await
    .map_err(status)?;
    Ok(ListDomainsResponse { names })
}

pub async fn delete(pool: &PgPool, domain: &Domain) -> Result<DeleteDomainResponse, Status> {
    match sqlx::query("delete from domains where name = $1").bind(domain.as_str()).execute(pool).await {
        Ok(done) if done.rows_affected() == 0 => Err(Status::not_found(format!("domain {domain} is not ours"))),
        Ok(_) => Ok(DeleteDomainResponse {}),
        Err(sqlx::Error::Database(e)) if e.is_foreign_key_violation() => {
            Err(Status::failed_precondition(format!("domain {domain} still has accounts or aliases")))
        }
        Err(e) => Err(status(e)),
    }
}
