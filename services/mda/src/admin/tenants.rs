//! Tenants: customers whose domains, accounts and limits are kept apart.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proto::admin::{
    DeleteTenantResponse, ExportTenantResponse, ListTenantsResponse, SetTenantLimitsRequest, SetTenantQuotaRequest,
    Tenant,
};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgPool};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    database::status,
    ids,
    vault::{self, Vault},
};

const MAX_NAME: usize = 64;
/// Lines on their way to a reader that may be slow.
const IN_FLIGHT: usize = 64;

#[derive(FromRow)]
struct Row {
    name: String,
    quota_bytes: i64,
    quota_messages: i64,
    used_bytes: i64,
    used_messages: i64,
    domains: i64,
    accounts: i64,
    max_accounts: i64,
    daily_recipients: i64,
    dmarc_quarantine: bool,
}

impl From<Row> for Tenant {
    fn from(row: Row) -> Self {
        Self {
            name: row.name,
            quota_bytes: ids::unsigned(row.quota_bytes),
            quota_messages: ids::unsigned(row.quota_messages),
            used_bytes: ids::unsigned(row.used_bytes),
            used_messages: ids::unsigned(row.used_messages),
            domains: u32::try_from(row.domains).unwrap_or(u32::MAX),
            accounts: u32::try_from(row.accounts).unwrap_or(u32::MAX),
            max_accounts: ids::unsigned(row.max_accounts),
            daily_recipients: ids::unsigned(row.daily_recipients),
            dmarc_quarantine: row.dmarc_quarantine,
        }
    }
}

const TENANTS: &str = "
select t.name, t.quota_bytes, t.quota_messages, t.max_accounts, t.daily_recipients, t.dmarc_quarantine, u.used_bytes, u.used_messages,
       (select count(*) from domains d where d.tenant_id = t.id) as domains,
       (select count(*) from accounts a where a.tenant_id = t.id) as accounts
from tenants t cross join lateral (
    select coalesce(sum(m.size), 0)::bigint as used_bytes, coalesce(sum(m.messages), 0)::bigint as used_messages
    from accounts a join mailboxes m on m.account_id = a.id where a.tenant_id = t.id) u
where $1::text is null or t.name = $1 order by t.name";

async fn one(pool: &PgPool, name: &str) -> Result<Tenant, Status> {
    let row: Option<Row> = sqlx::query_as(TENANTS).bind(name).fetch_optional(pool).await.map_err(status)?;
    row.map(Into::into).ok_or_else(|| no_tenant(name))
}

fn no_tenant(name: &str) -> Status {
    Status::not_found(format!("tenant {name:?} does not exist"))
}

/// One that exists is left as it is.
pub async fn create(pool: &PgPool, name: &str) -> Result<Tenant, Status> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_valid) {
        return Err(Status::invalid_argument(format!(
            "tenant {name:?}: expected up to {MAX_NAME} letters, digits, dashes, dots and underscores"
        )));
    }
    sqlx::query("insert into tenants (name) values ($1) on conflict do nothing")
        .bind(name)
        .execute(pool)
        .await
        .map_err(status)?;
    one(pool, name).await
}

pub async fn set_quota(pool: &PgPool, request: SetTenantQuotaRequest) -> Result<Tenant, Status> {
    sqlx::query("update tenants set quota_bytes = $2, quota_messages = $3 where name = $1")
        .bind(&request.name)
        .bind(ids::signed(request.quota_bytes)?)
        .bind(ids::signed(request.quota_messages)?)
        .execute(pool)
        .await
        .map_err(status)?;
    one(pool, &request.name).await
}

pub async fn set_limits(pool: &PgPool, request: SetTenantLimitsRequest) -> Result<Tenant, Status> {
    sqlx::query(
        "update tenants set max_accounts = coalesce($2, max_accounts), daily_recipients = coalesce($3, daily_recipients)
         where name = $1",
    )
    .bind(&request.name)
    .bind(request.max_accounts.map(ids::signed).transpose()?)
    .bind(request.daily_recipients.map(ids::signed).transpose()?)
    .execute(pool)
    .await
    .map_err(status)?;
    one(pool, &request.name).await
}

/// Refuses one account more than the tenant of a domain may have. Two that come at once take turns.
pub async fn room_for_account(tx: &mut PgConnection, domain: &str) -> Result<(), Status> {
    // NO KEY: an account that is made meanwhile by others holds the key of the row.
    let limited: Option<(i64, String, i64)> = sqlx::query_as(
        "select id, name, max_accounts from tenants
         where max_accounts > 0 and id = (select tenant_id from domains where name = $1) for no key update",
    )
    .bind(domain)
    .fetch_optional(&mut *tx)
    .await
    .map_err(status)?;
    let Some((id, name, limit)) = limited else { return Ok(()) };
    let accounts: i64 = sqlx::query_scalar("select count(*) from accounts where tenant_id = $1")
        .bind(id)
        .fetch_one(&mut *tx)
        .await
        .map_err(status)?;
    if accounts < limit {
        return Ok(());
    }
    Err(Status::failed_precondition(format!("tenant {name:?} has {accounts} of {limit} accounts")))
}

pub async fn list(pool: &PgPool) -> Result<ListTenantsResponse, Status> {
    let rows: Vec<Row> = sqlx::query_as(TENANTS).bind(None::<&str>).fetch_all(pool).await.map_err(status)?;
    Ok(ListTenantsResponse { tenants: rows.into_iter().map(Into::into).collect() })
}

pub async fn delete(pool: &PgPool, name: &str) -> Result<DeleteTenantResponse, Status> {
    if name == "default" {
        return Err(Status::failed_precondition("tenant \"default\" stays: it has what belongs to nobody else"));
    }
    let deleted = sqlx::query(
        "with t as (delete from tenants where name = $1 returning id)
         delete from quotas q using t where q.tenant_id = t.id and q.account_id = 0",
    );
    let known = one(pool, name).await?;
    match deleted.bind(name).execute(pool).await {
        Ok(_) => Ok(DeleteTenantResponse {}),
        Err(sqlx::Error::Database(e)) if e.is_foreign_key_violation() => {
            Err(Status::failed_precondition(format!("tenant {name:?} still has {} domains", known.domains)))
        }
        Err(e) => Err(status(e)),
    }
}

/// One JSON object a line, in an order in which they can be made again.
const EXPORT: [&str; 5] = [
    "select json_build_object('tenant', name, 'quota_bytes', quota_bytes, 'quota_messages', quota_messages,
         'max_accounts', max_accounts, 'daily_recipients', daily_recipients)::text
     from tenants where id = $1",
    "select json_build_object('domain', name, 'dkim', (
         select coalesce(json_agg(json_build_object('selector', selector, 'algorithm', algorithm,
             'private_key', encode(private_key, 'base64'), 'public_key', public_key) order by selector), '[]')
         from dkim_keys k where k.domain = d.name))::text
     from domains d where tenant_id = $1 order by name",
    "select json_build_object('account', address, 'password_hash', password, 'scram', scram, 'disabled', disabled,
         'send_only', send_only, 'quota_bytes', quota_bytes, 'quota_messages', quota_messages,
         'daily_recipients', daily_recipients, 'pop3_dele', pop3_dele, 'pop3_show', pop3_show,
         'created_at', created_at)::text
     from accounts where tenant_id = $1 order by address",
    "select json_build_object('app_password', p.name, 'account', a.address, 'digest', encode(p.digest, 'hex'),
         'services', p.services)::text
     from app_passwords p join accounts a on a.id = p.account_id where a.tenant_id = $1 order by a.address, p.id",
    "select json_build_object('alias', address, 'kind', kind, 'targets', targets)::text
     from aliases al join domains d on d.name = al.domain where d.tenant_id = $1 order by address",
];

type Lines = mpsc::Receiver<Result<ExportTenantResponse, Status>>;

pub async fn export(pool: &PgPool, vault: &Arc<Vault>, name: &str) -> Result<Lines, Status> {
    let id: Option<i64> = sqlx::query_scalar("select id from tenants where name = $1")
        .bind(name)
        .fetch_optional(pool)
        .await
        .map_err(status)?;
    let id = id.ok_or_else(|| no_tenant(name))?;
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let (pool, vault) = (pool.clone(), vault.clone());
    tokio::spawn(async move {
        if let Err(e) = lines(&pool, &vault, id, &sender).await {
            let _ = sender.send(Err(status(e))).await;
        }
    });
    Ok(receiver)
}

async fn lines(
    pool: &PgPool,
    vault: &Vault,
    id: i64,
    answers: &mpsc::Sender<Result<ExportTenantResponse, Status>>,
) -> Result<(), sqlx::Error> {
    use futures::TryStreamExt as _;
    for part in EXPORT {
        let mut rows = sqlx::query_scalar::<_, String>(part).bind(id).fetch(pool);
        while let Some(line) = rows.try_next().await? {
            let line = with_open_keys(vault, line);
            // The reader is gone: nothing more to do for it.
            if answers.send(Ok(ExportTenantResponse { line })).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Private keys as others can use them; one that cannot be opened stays ciphertext.
fn with_open_keys(vault: &Vault, line: String) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(&line) else { return line };
    let Some(domain) = value["domain"].as_str().map(str::to_owned) else { return line };
    for key in value["dkim"].as_array_mut().into_iter().flatten() {
        let row = vault::dkim_row(&domain, key["selector"].as_str().unwrap_or_default());
        // Postgres folds base64.
        let stored: String = key["private_key"].as_str().unwrap_or_default().split_whitespace().collect();
        if let Some(plain) = STANDARD.decode(stored).ok().and_then(|stored| vault.open(&row, &stored).ok()) {
            key["private_key"] = STANDARD.encode(plain).into();
        }
    }
    value.to_string()
}
