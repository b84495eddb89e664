//! INBOX as POP3 sees it: which messages are shown, their unique-ids, and the end of a session.

use proto::mailboxes::{
    CopyRequest, ExpungeRequest, ListMaildropRequest, ListMaildropResponse, UpdateMaildropRequest,
    UpdateMaildropResponse,
};
use sqlx::{PgConnection, PgPool};
use tokio::sync::mpsc;
use tonic::Status;

use super::{account, change, gone, uid};
use crate::{database::status, ids};

/// Messages of one response.
const BATCH: usize = 10_000;

/// What an account chose, as the table `accounts` has it.
#[derive(sqlx::FromRow)]
struct Choice {
    pop3_dele: String,
    pop3_show: String,
}

impl Choice {
    async fn of(tx: &mut PgConnection, account_id: i64) -> Result<Self, Status> {
        sqlx::query_as("select pop3_dele, pop3_show from accounts where id = $1")
            .bind(account_id)
            .fetch_optional(tx)
            .await
            .map_err(status)?
            .ok_or_else(|| Status::not_found("no such account"))
    }

    /// Flags that keep a message out.
    fn hidden(&self) -> i16 {
        match self.pop3_show.as_str() {
            "undeleted" => change::DELETED,
            "unseen" => change::SEEN | change::DELETED,
            _ => 0,
        }
    }
}

pub async fn list(
    pool: PgPool,
    request: ListMaildropRequest,
    answers: mpsc::Sender<Result<ListMaildropResponse, Status>>,
) -> Result<(), Status> {
    let account_id = account(request.account_id)?;
    let mut tx = pool.begin_with("begin isolation level repeatable read read only").await.map_err(status)?;
    let choice = Choice::of(&mut tx, account_id).await?;
    let (mailbox_id, uid_validity): (i64, i64) =
        sqlx::query_as("select id, uid_validity from mailboxes where account_id = $1 and name = 'INBOX'")
            .bind(account_id)
            .fetch_optional(&mut *tx)
            .await
            .map_err(status)?
            .ok_or_else(|| Status::not_found("no INBOX"))?;
    // Few octets a message: the whole list is small, and holding the snapshot open for a slow
    // reader would be dear.
    let rows: Vec<(i64, i32, Option<String>)> = sqlx::query_as(
        "select uid, size, uidl from messages
         where account_id = $1 and mailbox_id = $2 and flags & $3 = 0 order by uid",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(choice.hidden())
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    tx.rollback().await.map_err(status)?;
    for batch in rows.chunks(BATCH).chain(rows.is_empty().then_some(&[][..])) {
        let is_imported = batch.iter().any(|(.., uidl)| uidl.is_some());
        let uidls = batch.iter().filter(|_| is_imported).map(|(.., uidl)| uidl.clone().unwrap_or_default());
        let answer = ListMaildropResponse {
            mailbox_id: ids::unsigned(mailbox_id),
            uid_validity: uid(uid_validity),
            uids: batch.iter().map(|(u, ..)| uid(*u)).collect(),
            sizes: batch.iter().map(|(_, size, _)| size.unsigned_abs()).collect(),
            uidls: uidls.collect(),
        };
        answers.send(Ok(answer)).await.map_err(gone)?;
    }
    Ok(())
}

/// One transaction: whoever dies in it, all of the messages are removed or none.
pub async fn update(pool: &PgPool, request: UpdateMaildropRequest) -> Result<UpdateMaildropResponse, Status> {
    let account_id = account(request.account_id)?;
    let mut tx = pool.begin().await.map_err(status)?;
    // A session that lost the maildrop deletes nothing: another one may be reading it.
    let held: Option<i32> = sqlx::query_scalar(
        "select 1 from maildrop_locks where account_id = $1 and token = $2 and until > now() for update",
    )
    .bind(account_id)
    .bind(&request.token)
    .fetch_optional(&mut *tx)
    .await
    .map_err(status)?;
    if held.is_none() {
        return Err(Status::failed_precondition("the maildrop is not locked by this session"));
    }
    let removed = if request.uids.is_empty() {
        0
    } else if Choice::of(&mut tx, account_id).await?.pop3_dele == "trash" {
        let move_to = CopyRequest {
            account_id: request.account_id,
            mailbox_id: request.mailbox_id,
            uids: request.uids,
            target: trash(&mut tx, account_id).await.map_err(status)?,
            r#move: true,
            ..CopyRequest::default()
        };
        change::copy_in(&mut tx, &move_to).await?.source_uids.len()
    } else {
        let expunge = ExpungeRequest {
            account_id: request.account_id,
            mailbox_id: request.mailbox_id,
            uids: request.uids,
            regardless: true,
        };
        let expunged = change::expunge_in(&mut tx, &expunge).await?.expunged;
        expunged.iter().map(|r| r.last.abs_diff(r.first) as usize + 1).sum()
    };
    tx.commit().await.map_err(status)?;
    Ok(UpdateMaildropResponse { removed: u32::try_from(removed).unwrap_or(u32::MAX) })
}

/// The account's Trash (RFC 6154 §2); made when somebody has deleted it.
async fn trash(tx: &mut PgConnection, account_id: i64) -> Result<String, sqlx::Error> {
    sqlx::query(
        "insert into mailboxes (account_id, name, special_use)
         select $1, 'Trash', '\\Trash'
         where not exists (select from mailboxes where account_id = $1 and special_use = '\\Trash')
         on conflict do nothing",
    )
    .bind(account_id)
    .execute(&mut *tx)
    .await?;
    sqlx::query_scalar(
        "select name from mailboxes where account_id = $1 and (special_use = '\\Trash' or name = 'Trash')
         order by special_use <> '\\Trash', id limit 1",
    )
    .bind(account_id)
    .fetch_one(tx)
    .await
}
