use address::Address;
use proto::admin::{
    Account, CreateAccountRequest, DeleteAccountResponse, ListAccountsRequest, ListAccountsResponse,
    SetPasswordRequest, SetQuotaRequest,
};
use sqlx::{FromRow, PgPool};
use tonic::Status;

use super::{address, scope::Scope};
use crate::{
    database::status,
    directory::{Passwords, Secrets, imported},
    ids,
    mailboxes::{create_defaults, empty},
};

#[derive(FromRow)]
struct Row {
    id: i64,
    address: String,
    disabled: bool,
    quota_bytes: i64,
    used_bytes: i64,
    quota_messages: i64,
    used_messages: i64,
    send_only: bool,
    tenant: String,
    pop3_dele: String,
    pop3_show: String,
    daily_recipients: i64,
}

impl From<Row> for Account {
    fn from(row: Row) -> Self {
        Self {
            account_id: ids::unsigned(row.id),
            address: row.address,
            disabled: row.disabled,
            quota_bytes: ids::unsigned(row.quota_bytes),
            used_bytes: ids::unsigned(row.used_bytes),
            quota_messages: ids::unsigned(row.quota_messages),
            used_messages: ids::unsigned(row.used_messages),
            send_only: row.send_only,
            tenant: row.tenant,
            pop3: Some(super::pop3::from_row(&row.pop3_dele, &row.pop3_show)),
            daily_recipients: ids::unsigned(row.daily_recipients),
        }
    }
}

pub async fn create(pool: &PgPool, passwords: &Passwords, request: CreateAccountRequest) -> Result<Account, Status> {
    let address = address(&request.address)?;
    let secrets = secrets(passwords, request.password, request.password_hash).await?;
    let mut tx = pool.begin().await.map_err(status)?;
    // One at a time for this address, whether account or alias.
    lock_address(&mut tx, &address.key()).await?;
    super::tenants::room_for_account(&mut tx, address.domain().as_str()).await?;
    let id: Option<i64> = sqlx::query_scalar(
        "insert into accounts (tenant_id, domain, address, password, quota_bytes, scram, quota_messages, send_only)
         select tenant_id, name, $2, $3, $4, $5, $6, $7 from domains where name = $1 returning id",
    )
    .bind(address.domain().as_str())
    .bind(address.key())
    .bind(secrets.hash)
    .bind(ids::signed(request.quota_bytes)?)
    .bind(secrets.scram)
    .bind(ids::signed(request.quota_messages)?)
    .bind(request.send_only)
    .fetch_optional(&mut *tx)
    .await
    .map_err(status)?;
    let id = id.ok_or_else(|| Status::failed_precondition(format!("domain {} is not ours", address.domain())))?;
    create_defaults(&mut tx, id).await.map_err(status)?;
    tx.commit().await.map_err(status)?;
    one(pool, &address).await
}

/// Of a password or, when it comes from another server, of its hash.
async fn secrets(passwords: &Passwords, password: String, hash: String) -> Result<Secrets, Status> {
    match (password.is_empty(), hash.is_empty()) {
        (true, true) => Err(Status::invalid_argument("password is empty")),
        (false, true) => passwords.secrets(password).await,
        (true, false) => {
            imported::check(&hash).map_err(|e| Status::invalid_argument(format!("password_hash: {e}")))?;
            // Its SCRAM verifier needs the password, which the first login brings.
            Ok(Secrets { hash, scram: String::new() })
        }
        (false, false) => Err(Status::invalid_argument("expected a password or a hash, not both")),
    }
}

/// Refuses an address that is taken.
pub async fn lock_address(tx: &mut sqlx::PgConnection, key: &str) -> Result<(), Status> {
    let taken: bool = sqlx::query_scalar(
        "select exists (select from accounts where address = $1)
             or exists (select from aliases where address = $1)
         from (select pg_advisory_xact_lock(hashtextextended($1, 0))) l",
    )
    .bind(key)
    .fetch_one(tx)
    .await
    .map_err(status)?;
    if taken { Err(Status::already_exists(format!("{key} exists"))) } else { Ok(()) }
}

pub async fn set_password(
    pool: &PgPool,
    passwords: &Passwords,
    request: SetPasswordRequest,
) -> Result<Account, Status> {
    let address = address(&request.address)?;
    let secrets = secrets(passwords, request.password, request.password_hash).await?;
    sqlx::query("update accounts set password = $2, scram = $3 where address = $1")
        .bind(address.key())
        .bind(secrets.hash)
        .bind(secrets.scram)
        .execute(pool)
        .await
        .map_err(status)?;
    one(pool, &address).await
}

pub async fn set_disabled(pool: &PgPool, address: &Address, disabled: bool) -> Result<Account, Status> {
    sqlx::query("update accounts set disabled = $2 where address = $1")
        .bind(address.key())
        .bind(disabled)
        .execute(pool)
        .await
        .map_err(status)?;
    one(pool, address).await
}

pub async fn set_send_only(pool: &PgPool, address: &Address, send_only: bool) -> Result<Account, Status> {
    sqlx::query("update accounts set send_only = $2 where address = $1")
        .bind(address.key())
        .bind(send_only)
        .execute(pool)
        .await
        .map_err(status)?;
    one(pool, address).await
}

/// The counting is the database's (migration 0030).
pub async fn set_quota(pool: &PgPool, request: SetQuotaRequest) -> Result<Account, Status> {
    let address = address(&request.address)?;
    sqlx::query("update accounts set quota_bytes = $2, quota_messages = $3 where address = $1")
        .bind(address.key())
        .bind(ids::signed(request.quota_bytes)?)
        .bind(ids::signed(request.quota_messages)?)
        .execute(pool)
        .await
        .map_err(status)?;
    one(pool, &address).await
}

const ACCOUNTS: &str = "
select a.id, a.address, a.disabled, a.quota_bytes, a.quota_messages, a.send_only, a.pop3_dele, a.pop3_show,
       a.daily_recipients, t.name as tenant, u.used_bytes, u.used_messages
from accounts a join tenants t on t.id = a.tenant_id
cross join lateral (
    select coalesce(sum(size), 0)::bigint as used_bytes, coalesce(sum(messages), 0)::bigint as used_messages
    from mailboxes m where m.account_id = a.id) u";

pub async fn one(pool: &PgPool, address: &Address) -> Result<Account, Status> {
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{ACCOUNTS} where a.address = $1")))
        .bind(address.key())
        .fetch_optional(pool)
        .await
        .map_err(status)?;
    row.map(Into::into).ok_or_else(|| no_account(address))
}

fn no_account(address: &Address) -> Status {
    Status::not_found(format!("account {address} does not exist"))
}

pub async fn list(pool: &PgPool, request: &ListAccountsRequest, scope: &Scope) -> Result<ListAccountsResponse, Status> {
    let one = Some(&request.address).filter(|a| !a.is_empty()).map(|a| address(a)).transpose()?;
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{ACCOUNTS} where ($1 = '' or a.domain = $1) and ($2::text is null or t.name = $2)
           and ($3::text is null or a.address = $3) order by a.address"
    )))
    .bind(request.domain.to_ascii_lowercase())
    .bind(scope.tenant())
    .bind(one.map(|a| a.key()))
    .fetch_all(pool)
    .await
    .map_err(status)?;
    Ok(ListAccountsResponse { accounts: rows.into_iter().map(Into::into).collect() })
}

/// Its mail goes in the same transaction; deliveries still on their way to it will bounce. Aliases
/// stay: what leads to it alone is unknown from now on.
pub async fn delete(pool: &PgPool, address: &Address) -> Result<DeleteAccountResponse, Status> {
    let mut tx = pool.begin().await.map_err(status)?;
    let id: Option<i64> = sqlx::query_scalar("delete from accounts where address = $1 returning id")
        .bind(address.key())
        .fetch_optional(&mut *tx)
        .await
        .map_err(status)?;
    let id = id.ok_or_else(|| no_account(address))?;
    for belongings in ["delete from metadata where account_id = $1", "delete from maildrop_locks where account_id = $1"]
    {
        sqlx::query(belongings).bind(id).execute(&mut *tx).await.map_err(status)?;
    }
    let mailboxes: Vec<i64> = sqlx::query_scalar("delete from mailboxes where account_id = $1 returning id")
        .bind(id)
        .fetch_all(&mut *tx)
        .await
        .map_err(status)?;
    empty(&mut tx, id, &mailboxes).await.map_err(status)?;
    sqlx::query(
        "with rights as (delete from mailbox_rights where grantee_id = $1)
         delete from shared_subscriptions where account_id = $1",
    )
    .bind(id)
    .execute(&mut *tx)
    .await
    .map_err(status)?;
    tx.commit().await.map_err(status)?;
    Ok(DeleteAccountResponse {})
}
