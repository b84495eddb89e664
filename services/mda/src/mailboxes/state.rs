//! Reading a mailbox's state: one snapshot each, so that counts, UIDs and mod-sequences agree.

use chrono::{DateTime, Utc};
use proto::mailboxes::{
    ChangesRequest, ChangesResponse, Flags, MailboxState, Message, NamedState, SelectRequest, SelectResponse,
    StatusRequest, StatusResponse,
};
use sqlx::{FromRow, PgConnection, PgPool, Postgres, Transaction};
use tokio::sync::mpsc;
use tonic::Status;

use super::{account, gone, ranges, uid};
use crate::{database::status, ids};

/// UIDs of one SelectResponse.
const SELECT_BATCH: usize = 10_000;

#[derive(FromRow)]
struct Row {
    id: i64,
    name: String,
    uid_validity: i64,
    uid_next: i64,
    highest_modseq: i64,
    messages: i32,
    unseen: i32,
    deleted: i32,
    size: i64,
}

impl From<&Row> for MailboxState {
    fn from(row: &Row) -> Self {
        Self {
            mailbox_id: ids::unsigned(row.id),
            uid_validity: uid(row.uid_validity),
            uid_next: uid(row.uid_next),
            highest_modseq: ids::unsigned(row.highest_modseq),
            messages: row.messages.unsigned_abs(),
            unseen: row.unseen.unsigned_abs(),
            size: ids::unsigned(row.size),
            deleted: row.deleted.unsigned_abs(),
        }
    }
}

const STATE: &str = "select id, name, uid_validity, uid_next, highest_modseq, messages, unseen, deleted, size
                     from mailboxes where account_id = $1";

/// Sees one moment, whatever commits meanwhile.
async fn snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Status> {
    pool.begin_with("begin isolation level repeatable read read only").await.map_err(status)
}

pub async fn states(pool: &PgPool, request: StatusRequest) -> Result<StatusResponse, Status> {
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{STATE} and name = any ($2)")))
        .bind(account(request.account_id)?)
        .bind(&request.names)
        .fetch_all(pool)
        .await
        .map_err(status)?;
    let named = |name: &String| {
        let row = rows.iter().find(|r| r.name == *name)?;
        Some(NamedState { name: name.clone(), state: Some(row.into()) })
    };
    Ok(StatusResponse { states: request.names.iter().filter_map(named).collect() })
}

pub async fn select(
    pool: PgPool,
    request: SelectRequest,
    answers: mpsc::Sender<Result<SelectResponse, Status>>,
) -> Result<(), Status> {
    let account_id = account(request.account_id)?;
    let mut tx = snapshot(&pool).await?;
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{STATE} and name = $2")))
        .bind(account_id)
        .bind(&request.name)
        .fetch_optional(&mut *tx)
        .await
        .map_err(status)?;
    let row = row.ok_or_else(|| Status::not_found("no such mailbox"))?;
    let keywords: Vec<String> = sqlx::query_scalar(
        "select distinct k from messages, unnest(keywords) k
         where account_id = $1 and mailbox_id = $2 and keywords <> '{}' limit 200",
    )
    .bind(account_id)
    .bind(row.id)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    // Eight bytes a message: the whole list is small, and holding the snapshot open for a slow
    // reader would be dear.
    let uids: Vec<(i64, i32)> =
        sqlx::query_as("select uid, size from messages where account_id = $1 and mailbox_id = $2 order by uid")
            .bind(account_id)
            .bind(row.id)
            .fetch_all(&mut *tx)
            .await
            .map_err(status)?;
    tx.rollback().await.map_err(status)?;
    let mut head = Some((MailboxState::from(&row), keywords));
    // An empty mailbox has one batch too.
    let batches = uids.chunks(SELECT_BATCH).chain(uids.is_empty().then_some(&[][..]));
    for batch in batches {
        let (state, keywords) = head.take().map_or_else(Default::default, |(s, k)| (Some(s), k));
        let answer = SelectResponse {
            state,
            uids: batch.iter().map(|(u, _)| uid(*u)).collect(),
            sizes: batch.iter().map(|(_, s)| s.unsigned_abs()).collect(),
            keywords,
        };
        answers.send(Ok(answer)).await.map_err(gone)?;
    }
    Ok(())
}

/// A message without its content, as most answers have it.
#[derive(FromRow)]
pub struct MessageRow {
    pub uid: i64,
    pub modseq: i64,
    pub flags: i16,
    pub keywords: Vec<String>,
    pub size: i32,
    pub internal_date: DateTime<Utc>,
}

impl From<MessageRow> for Message {
    fn from(row: MessageRow) -> Self {
        Self {
            uid: uid(row.uid),
            flags: Some(Flags { system: u32::from(row.flags.unsigned_abs()), keywords: row.keywords }),
            modseq: ids::unsigned(row.modseq),
            size: row.size.unsigned_abs(),
            internal_date_ms: row.internal_date.timestamp_millis(),
            ..Self::default()
        }
    }
}

pub async fn changes(pool: &PgPool, request: ChangesRequest) -> Result<ChangesResponse, Status> {
    let mut tx = snapshot(pool).await?;
    let answer = changes_in(&mut tx, &request).await?;
    tx.rollback().await.map_err(status)?;
    Ok(answer)
}

async fn changes_in(tx: &mut PgConnection, request: &ChangesRequest) -> Result<ChangesResponse, Status> {
    let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let since = ids::signed(request.since_modseq)?;
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{STATE} and id = $2")))
        .bind(account_id)
        .bind(mailbox_id)
        .fetch_optional(&mut *tx)
        .await
        .map_err(status)?;
    let row = row.ok_or_else(|| Status::not_found("no such mailbox"))?;
    if row.highest_modseq <= since {
        return Ok(ChangesResponse { state: Some((&row).into()), ..ChangesResponse::default() });
    }
    let messages: Vec<MessageRow> = sqlx::query_as(
        "select uid, modseq, flags, keywords, size, internal_date from messages
         where account_id = $1 and mailbox_id = $2 and modseq > $3 order by uid",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(since)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    let vanished: Vec<i64> = sqlx::query_scalar(
        "select uid from expunged where account_id = $1 and mailbox_id = $2 and modseq > $3 order by uid",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(since)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    Ok(ChangesResponse {
        state: Some((&row).into()),
        messages: messages.into_iter().map(Into::into).collect(),
        vanished: ranges(vanished.into_iter().map(uid)),
    })
}
