//! What belongs to the account or a mailbox as a whole: quota (RFC 9208), annotations (RFC 5464).

use proto::mailboxes::{
    Annotation, GetMetadataRequest, GetMetadataResponse, QuotaRequest, QuotaResponse, SetMetadataRequest,
    SetMetadataResponse,
};
use sqlx::{PgConnection, PgPool};
use tonic::Status;

use super::{account, rights::Granted};
use crate::{database::status, ids};

/// Annotations of one mailbox, and octets of one value: they are notes, not a file store.
const MAX_ENTRIES: i64 = 100;
const MAX_ENTRY_NAME: usize = 255;
const MAX_VALUE: usize = 64 << 10;

pub async fn quota(pool: &PgPool, request: QuotaRequest) -> Result<QuotaResponse, Status> {
    let (limit, bytes, messages, mailboxes, limit_messages): (i64, i64, i64, i64, i64) = sqlx::query_as(
        "select a.quota_bytes, coalesce(sum(m.size), 0)::bigint, coalesce(sum(m.messages), 0)::bigint, count(m.id),
                a.quota_messages
         from accounts a left join mailboxes m on m.account_id = a.id where a.id = $1 group by a.id",
    )
    .bind(account(request.account_id)?)
    .fetch_optional(pool)
    .await
    .map_err(status)?
    .ok_or_else(|| Status::not_found("no such account"))?;
    Ok(QuotaResponse {
        used_bytes: ids::unsigned(bytes),
        used_messages: ids::unsigned(messages),
        limit_bytes: ids::unsigned(limit),
        mailboxes: ids::unsigned(mailboxes),
        limit_messages: ids::unsigned(limit_messages),
    })
}

/// 0 for the account's own annotations. Locks the mailbox, so that limits hold.
async fn target(tx: &mut PgConnection, granted: &Granted, account_id: i64, name: &str) -> Result<i64, Status> {
    if name.is_empty() {
        return Ok(0);
    }
    let found: Option<(i64, i64)> = sqlx::query_as(
        "select id, rights_version from mailboxes where account_id = $1 and name = $2 for no key update",
    )
    .bind(account_id)
    .bind(name)
    .fetch_optional(tx)
    .await
    .map_err(status)?;
    let (id, rights_version) = found.ok_or_else(|| Status::not_found("no such mailbox"))?;
    granted.holds(rights_version)?;
    Ok(id)
}

pub async fn get_metadata(
    pool: &PgPool,
    granted: Granted,
    request: GetMetadataRequest,
) -> Result<GetMetadataResponse, Status> {
    let account_id = account(request.account_id)?;
    let mut tx = pool.begin().await.map_err(status)?;
    let mailbox_id = target(&mut tx, &granted, account_id, &request.mailbox).await?;
    let rows: Vec<(String, Vec<u8>)> =
        sqlx::query_as("select entry, value from metadata where account_id = $1 and mailbox_id = $2 order by entry")
            .bind(account_id)
            .bind(mailbox_id)
            .fetch_all(&mut *tx)
            .await
            .map_err(status)?;
    tx.rollback().await.map_err(status)?;
    let entry = |(name, value): (String, Vec<u8>)| Annotation { name, value: Some(value.into()) };
    Ok(GetMetadataResponse { entries: rows.into_iter().map(entry).collect() })
}

pub async fn set_metadata(
    pool: &PgPool,
    granted: Granted,
    request: SetMetadataRequest,
) -> Result<SetMetadataResponse, Status> {
    let account_id = account(request.account_id)?;
    if request.entries.iter().any(|e| e.name.len() > MAX_ENTRY_NAME || e.name.contains('\0')) {
        return Err(Status::invalid_argument("name of an annotation is too long"));
    }
    if request.entries.iter().any(|e| e.value.as_ref().is_some_and(|v| v.len() > MAX_VALUE)) {
        return Err(Status::out_of_range(format!("annotation is larger than {MAX_VALUE} bytes")));
    }
    let mut tx = pool.begin().await.map_err(status)?;
    let mailbox_id = target(&mut tx, &granted, account_id, &request.mailbox).await?;
    for entry in &request.entries {
        let query = match &entry.value {
            None => sqlx::query("delete from metadata where account_id = $1 and mailbox_id = $2 and entry = $3"),
            Some(_) => sqlx::query(
                "insert into metadata (account_id, mailbox_id, entry, value) values ($1, $2, $3, $4)
                 on conflict (account_id, mailbox_id, entry) do update set value = excluded.value",
            ),
        };
        let query = query.bind(account_id).bind(mailbox_id).bind(&entry.name);
        match &entry.value {
            None => query.execute(&mut *tx).await,
            Some(value) => query.bind(value.as_ref()).execute(&mut *tx).await,
        }
        .map_err(status)?;
    }
    let entries: i64 = sqlx::query_scalar("select count(*) from metadata where account_id = $1 and mailbox_id = $2")
        .bind(account_id)
        .bind(mailbox_id)
        .fetch_one(&mut *tx)
        .await
        .map_err(status)?;
    if entries > MAX_ENTRIES {
        return Err(Status::failed_precondition(format!("more than {MAX_ENTRIES} annotations")));
    }
    tx.commit().await.map_err(status)?;
    Ok(SetMetadataResponse {})
}
