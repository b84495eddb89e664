//! Tokens of the console: only their hashes are kept.

use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::console::{
    CreateTokenRequest, CreateTokenResponse, ListTokensResponse, RevokeTokenRequest, RevokeTokenResponse, Role, Token,
};
use sqlx::{FromRow, PgPool};
use tonic::Status;
use uuid::Uuid;

use crate::database::status;

/// Tells what a leaked string is.
const PREFIX: &str = "postroad_";
const MAX_NAME: usize = 200;
/// A hundred years.
const MAX_VALID: u64 = 100 * 366 * 86_400;

#[derive(FromRow)]
struct Row {
    id: Uuid,
    name: String,
    role: String,
    tenant: String,
    created_at_ms: i64,
    expires_at_ms: i64,
    last_used_at_ms: i64,
    session: bool,
}

impl From<Row> for Token {
    fn from(row: Row) -> Self {
        let role = match row.role.as_str() {
            "operator" => Role::Operator,
            "tenant-admin" => Role::TenantAdmin,
            _ => Role::Support,
        };
        Self {
            id: row.id.to_string(),
            name: row.name,
            role: role.into(),
            tenant: row.tenant,
            created_at_ms: row.created_at_ms,
            expires_at_ms: row.expires_at_ms,
            last_used_at_ms: row.last_used_at_ms,
            session: row.session,
        }
    }
}

macro_rules! columns {
    ($table:literal) => {
        concat!(
            "k.id, k.name, k.role, k.session,
             coalesce((select t.name from tenants t where t.id = k.tenant_id), '') as tenant,
             (extract(epoch from k.created_at) * 1000)::bigint as created_at_ms,
             coalesce((extract(epoch from k.expires_at) * 1000)::bigint, 0) as expires_at_ms,
             coalesce((extract(epoch from k.last_used_at) * 1000)::bigint, 0) as last_used_at_ms
             from ",
            $table,
            " k"
        )
    };
}

pub async fn create(pool: &PgPool, request: CreateTokenRequest) -> Result<CreateTokenResponse, Status> {
    let role = match request.role() {
        Role::Operator => "operator",
        Role::TenantAdmin => "tenant-admin",
        Role::Support => "support",
        Role::Unspecified => {
            return Err(Status::invalid_argument("role: expected operator, tenant-admin or support"));
        }
    };
    match (request.role(), request.tenant.is_empty()) {
        (Role::TenantAdmin, true) => return Err(Status::invalid_argument("a tenant admin needs a tenant")),
        (Role::Operator, false) => return Err(Status::invalid_argument("an operator has no tenant")),
        _ => (),
    }
    if request.name.trim().is_empty() || request.name.len() > MAX_NAME {
        return Err(Status::invalid_argument(format!("name: expected 1 to {MAX_NAME} bytes")));
    }
    let parent: Option<Uuid> = match request.parent_id.as_str() {
        "" => None,
        id => Some(parse(id)?),
    };
    let mut random = [0; 32];
    rand::fill(&mut random).map_err(|_| Status::internal("no random numbers"))?;
    let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let hash = digest::digest(&digest::SHA256, secret.as_bytes());
    let valid = i64::try_from(request.valid_seconds.min(MAX_VALID)).unwrap_or(0);
    let row: Option<Row> = sqlx::query_as(concat!(
        "with gone as (delete from console_tokens where expires_at < now() - interval '1 day'),
         made as (
             insert into console_tokens (id, name, hash, role, tenant_id, session, parent_id, expires_at)
             select $1, $2, $3, $4, t.id, $6, $7, now() + nullif($8, 0) * interval '1 second'
             from (select 1) one left join tenants t on t.name = $5
             where $5 = '' or t.id is not null
             returning *)
         select ",
        columns!("made")
    ))
    .bind(Uuid::now_v7())
    .bind(request.name.trim())
    .bind(hash.as_ref())
    .bind(role)
    .bind(&request.tenant)
    .bind(request.session)
    .bind(parent)
    .bind(valid)
    .fetch_optional(pool)
    .await
    .map_err(status)?;
    let row = row.ok_or_else(|| Status::not_found(format!("tenant {} does not exist", request.tenant)))?;
    Ok(CreateTokenResponse { token: Some(row.into()), secret })
}

pub async fn list(pool: &PgPool, tenant: &str) -> Result<ListTokensResponse, Status> {
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "select ",
        columns!("console_tokens"),
        " where not session and (expires_at is null or expires_at > now())
             and ($1 = '' or tenant_id = (select id from tenants where name = $1))
          order by k.id desc limit 1000"
    ))
    .bind(tenant)
    .fetch_all(pool)
    .await
    .map_err(status)?;
    Ok(ListTokensResponse { tokens: rows.into_iter().map(Into::into).collect() })
}

pub async fn revoke(pool: &PgPool, request: RevokeTokenRequest) -> Result<RevokeTokenResponse, Status> {
    let done = sqlx::query(
        "delete from console_tokens
         where id = $1 and ($2 = '' or tenant_id = (select id from tenants where name = $2))",
    )
    .bind(parse(&request.id)?)
    .bind(&request.tenant)
    .execute(pool)
    .await
    .map_err(status)?;
    match done.rows_affected() {
        0 => Err(Status::not_found("no such token")),
        _ => Ok(RevokeTokenResponse {}),
    }
}

/// Written at most once a minute: looking must not cost a commit each time.
const USED: &str = "
update console_tokens set last_used_at = now()
where hash = $1 and (last_used_at is null or last_used_at < now() - interval '1 minute')";

pub async fn check(pool: &PgPool, hash: &[u8]) -> Result<Token, Status> {
    let row: Option<Row> = sqlx::query_as(concat!(
        "select ",
        columns!("console_tokens"),
        " where hash = $1 and (expires_at is null or expires_at > now())"
    ))
    .bind(hash)
    .fetch_optional(pool)
    .await
    .map_err(status)?;
    let token: Token = row.ok_or_else(|| Status::unauthenticated("the token is unknown, revoked or over"))?.into();
    sqlx::query(USED).bind(hash).execute(pool).await.map_err(status)?;
    Ok(token)
}

fn parse(id: &str) -> Result<Uuid, Status> {
    id.parse().map_err(|_| Status::invalid_argument("id: expected a UUID"))
}
