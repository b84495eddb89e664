//! INBOX as POP3 sees it: which messages are shown, their unique-ids, and the end of a session.

use std::sync::Arc;

use proto::mailboxes::{
    CopyRequest, ExpungeRequest, ListMaildropRequest, ListMaildropResponse, UpdateMaildropRequest,
    UpdateMaildropResponse,
};
use sqlx::{PgConnection, PgPool};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    Memory, account, change, gone,
    index::{self, Entry, Index},
    rights::Granted,
    state::{self, Mailbox},
    uid,
};
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
    memory: Memory,
    request: ListMaildropRequest,
    answers: mpsc::Sender<Result<ListMaildropResponse, Status>>,
) -> Result<(), Status> {
    let account_id = account(request.account_id)?;
    let choice = Choice::of(&mut *pool.acquire().await.map_err(status)?, account_id).await?;
    let mailbox = state::by_name(&pool, account_id, "INBOX").await?;
    let (mailbox, index) = match memory.indexes.known(&mailbox) {
        Some(index) => (mailbox, index),
        None => read(&pool, &memory, account_id).await?,
    };
    let shown: Vec<&Entry> = index.entries().iter().filter(|e| e.flags & choice.hidden() == 0).collect();
    for batch in shown.chunks(BATCH).chain(shown.is_empty().then_some(&[][..])) {
        let uidl = |e: &&Entry| index.uidl_of(e.uid);
        let is_imported = index.has_uidls() && batch.iter().any(|e| uidl(e).is_some());
        let uidls = batch.iter().filter(|_| is_imported).map(|e| uidl(e).unwrap_or_default().to_owned());
        let answer = ListMaildropResponse {
            mailbox_id: ids::unsigned(mailbox.id),
            uid_validity: uid(mailbox.uid_validity),
            uids: batch.iter().map(|e| e.uid).collect(),
            sizes: batch.iter().map(|e| e.size).collect(),
            uidls: uidls.collect(),
        };
        answers.send(Ok(answer)).await.map_err(gone)?;
    }
    Ok(())
}

/// Few octets a message: the whole list is small, and holding the snapshot open for a slow reader
/// would be dear.
async fn read(pool: &PgPool, memory: &Memory, account_id: i64) -> Result<(Mailbox, Arc<Index>), Status> {
    let mut tx = state::snapshot(pool).await?;
    let mailbox = state::by_name(&mut *tx, account_id, "INBOX").await?;
    let index = match memory.indexes.read(&mut tx, &mailbox).await.map_err(status)? {
        Some(index) => index,
        None => Arc::new(index::whole(&mut tx, &mailbox).await.map_err(status)?),
    };
    tx.rollback().await.map_err(status)?;
    Ok((mailbox, index))
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
        change::copy_in(&mut tx, &Default::default(), &move_to).await?.source_uids.len()
    } else {
        let expunge = ExpungeRequest {
            account_id: request.account_id,
            mailbox_id: request.mailbox_id,
            uids: request.uids,
            regardless: true,
        };
        let expunged = change::expunge_in(&mut tx, &Granted::default(), &expunge).await?.expunged;
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
