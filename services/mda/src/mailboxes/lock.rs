//! POP3's exclusive access, across all gateways, with a lease that dies with its holder.

use proto::mailboxes::{LockMaildropRequest, LockMaildropResponse, UnlockMaildropRequest, UnlockMaildropResponse};
use sqlx::PgPool;
use tonic::Status;

use super::account;
use crate::database::status;

pub async fn lock(pool: &PgPool, request: LockMaildropRequest) -> Result<LockMaildropResponse, Status> {
    let taken = sqlx::query(
        "insert into maildrop_locks (account_id, token, until) values ($1, $2, now() + $3 * interval '1 millisecond')
         on conflict (account_id) do update set token = excluded.token, until = excluded.until
         where maildrop_locks.token = excluded.token or maildrop_locks.until < now()",
    )
    .bind(account(request.account_id)?)
    .bind(&request.token)
    .bind(i32::try_from(request.lease_ms).map_err(|_| Status::invalid_argument("lease"))?)
    .execute(pool)
    .await
    .map_err(status)?;
    match taken.rows_affected() {
        0 => Err(Status::already_exists("maildrop is locked by another session")),
        _ => Ok(LockMaildropResponse {}),
    }
}

pub async fn unlock(pool: &PgPool, request: UnlockMaildropRequest) -> Result<UnlockMaildropResponse, Status> {
    sqlx::query("delete from maildrop_locks where account_id = $1 and token = $2")
        .bind(account(request.account_id)?)
        .bind(&request.token)
        .execute(pool)
        .await
        .map_err(status)?;
    Ok(UnlockMaildropResponse {})
}
