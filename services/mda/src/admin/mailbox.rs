//! A mailbox as it was on another server, for imports.

use proto::admin::{PrepareMailboxRequest, PrepareMailboxResponse};
use sqlx::PgPool;
use tonic::Status;

use super::{accounts, address};
use crate::{database::status, ids, mailboxes};

/// UIDVALIDITY is taken over while no client can know another one: the mailbox is empty and has
/// never had a message. UIDs only rise (Invariant 5).
const PREPARE: &str = "
update mailboxes m
set uid_validity = case when $3 > 0 and m.uid_next = 1 and m.messages = 0 then $3 else m.uid_validity end,
    uid_next = greatest(m.uid_next, $4), recent_uid = greatest(m.recent_uid, least($4, m.uid_next))
where m.account_id = $1 and m.name = $2
returning m.uid_validity, m.uid_next";

pub async fn prepare(pool: &PgPool, request: PrepareMailboxRequest) -> Result<PrepareMailboxResponse, Status> {
    let account = accounts::one(pool, &address(&request.address)?).await?;
    let create = proto::mailboxes::CreateRequest {
        account_id: account.account_id,
        name: request.mailbox.clone(),
        special_use: String::new(),
    };
    match mailboxes::create(pool, Default::default(), create).await {
        Err(e) if e.code() != tonic::Code::AlreadyExists => return Err(e),
        _ => (),
    }
    let (uid_validity, uid_next): (i64, i64) = sqlx::query_as(PREPARE)
        .bind(ids::signed(account.account_id)?)
        .bind(&request.mailbox)
        .bind(i64::from(request.uid_validity))
        .bind(i64::from(request.uid_next))
        .fetch_optional(pool)
        .await
        .map_err(status)?
        .ok_or_else(|| Status::not_found("no such mailbox"))?;
    Ok(PrepareMailboxResponse {
        uid_validity: u32::try_from(uid_validity).unwrap_or(u32::MAX),
        uid_next: u32::try_from(uid_next).unwrap_or(u32::MAX),
    })
}
