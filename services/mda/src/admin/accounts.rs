use address::Address;
use proto::admin::{Account, CreateAccountRequest, DeleteAccountResponse, ListAccountsResponse, SetPasswordRequest};
use sqlx::{FromRow, PgPool};
use tonic::Status;

use super::address;
use crate::{
    database::status,
    directory::Passwords,
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
    pop3_dele: String,
    pop3_show: String,
}

impl From<Row> for Account {
    fn from(row: Row) -> Self {
        Self {
            account_id: ids::unsigned(row.id),
            address: row.address,
            disabled: row.disabled,
            quota_bytes: ids::unsigned(row.quota_bytes),
            used_bytes: ids::unsigned(row.used_bytes),
            pop3: Some(super::pop3::from_row(&row.pop3_dele, &row.pop3_show)),
        }
    }
}

pub async fn create(pool: &PgPool, passwords: &Passwords, request: CreateAccountRequest) -> Result<Account, Status> {
    let address = address(&request.address)?;
    if request.password.is_empty() {
        return Err(Status::invalid_argument("password is empty"));
    }
    let secrets = passwords.secrets(request.password).await?;
    let mut tx = pool.begin().await.map_err(status)?;
    // One at a time for this address, whether account or alias.
    lock_address(&mut tx, &address).await?;
    let id: Option<i64> = sqlx::query_scalar(
        "insert into accounts (tenant_id, domain, address, password, quota_bytes, scram)
         select tenant_id, name, $2, $3, $4, $5 from domains where name = $1 returning id",
    )
    .bind(address.domain().as_str())
    .bind(address.key())
    .bind(secrets.hash)
    .bind(ids::signed(request.quota_bytes)?)
    .bind(secrets.scram)
    .fetch_optional(&mut *tx)
    .await
    .map_err(status)?;
    let id = id.ok_or_else(|| Status::failed_precondition(format!("domain {} is not ours", address.domain())))?;
    create_defaults(&mut tx, id).await.map_err(status)?;
    tx.commit().await.map_err(status)?;
    one(pool, &address).await
}

/// Refuses an address that is taken.
pub async fn lock_address(tx: &mut sqlx::PgConnection, address: &Address) -> Result<(), Status> {
    let taken: bool = sqlx::query_scalar(
        "select exists (select from accounts where address = $1)
             or exists (select from aliases where address = $1)
         from (select pg_advisory_xact_lock(hashtextextended($1, 0))) l",
    )
    .bind(address.key())
    .fetch_one(tx)
    .await
    .map_err(status)?;
    if taken { Err(Status::already_exists(format!("{address} exists"))) } else { Ok(()) }
}

pub async fn set_password(
    pool: &PgPool,
    passwords: &Passwords,
    request: SetPasswordRequest,
) -> Result<Account, Status> {
    let address = address(&request.address)?;
    if request.password.is_empty() {
        return Err(Status::invalid_argument("password is empty"));
    }
    let secrets = passwords.secrets(request.password).await?;
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

const ACCOUNTS: &str = "
select id, address, disabled, quota_bytes, pop3_dele, pop3_show,
       (select coalesce(sum(size), 0)::bigint from mailboxes m where m.account_id = a.id) as used_bytes
from accounts a";

pub async fn one(pool: &PgPool, address: &Address) -> Result<Account, Status> {
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{ACCOUNTS} where address = $1")))
        .bind(address.key())
        .fetch_optional(pool)
        .await
        .map_err(status)?;
    row.map(Into::into).ok_or_else(|| no_account(address))
}

fn no_account(address: &Address) -> Status {
    Status::not_found(format!("account {address} does not exist"))
}

pub async fn list(pool: &PgPool, domain: &str) -> Result<ListAccountsResponse, Status> {
    let rows: Vec<Row> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("{ACCOUNTS} where $1 = '' or domain = $1 order by address")))
            .bind(domain.to_ascii_lowercase())
            .fetch_all(pool)
            .await
            .map_err(status)?;
    Ok(ListAccountsResponse { accounts: rows.into_iter().map(Into::into).collect() })
}

/// Its mail goes in the same transaction; deliveries still on their way to it will bounce.
pub async fn delete(pool: &PgPool, address: &Address) -> Result<DeleteAccountResponse, Status> {
    let mut tx = pool.begin().await.map_err(status)?;
    let id: Option<i64> = sqlx::query_scalar("delete from accounts where address = $1 returning id")
        .bind(address.key())
        .fetch_optional(&mut *tx)
        .await
        .map_err(status)?;
    let id = id.ok_or_else(|| no_account(address))?;
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
