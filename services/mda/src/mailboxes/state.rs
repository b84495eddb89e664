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
    recent_uid: i64,
}

impl Row {
    fn first_recent(&self) -> u32 {
        if self.recent_uid < self.uid_next { uid(self.recent_uid) } else { 0 }
    }
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
            ..Self::default()
        }
    }
}

const STATE: &str =
    "select id, name, uid_validity, uid_next, highest_modseq, messages, unseen, deleted, size, recent_uid
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
    let mut states: Vec<NamedState> = request.names.iter().filter_map(named).collect();
    if request.details {
        add_details(pool, account(request.account_id)?, &mut states).await.map_err(status)?;
    }
    Ok(StatusResponse { states })
}

/// What no counter tells; both are about few messages, as a rule.
async fn add_details(pool: &PgPool, account_id: i64, states: &mut [NamedState]) -> Result<(), sqlx::Error> {
    let details: Vec<(String, i64, i64)> = sqlx::query_as(
        "select b.name,
                (select count(*) from messages m
                 where m.account_id = b.account_id and m.mailbox_id = b.id and m.uid >= b.recent_uid),
                (select coalesce(sum(m.size), 0)::bigint from messages m
                 where b.deleted > 0 and m.account_id = b.account_id and m.mailbox_id = b.id and m.flags & 8 <> 0)
         from mailboxes b where b.account_id = $1 and b.name = any ($2)",
    )
    .bind(account_id)
    .bind(states.iter().map(|s| s.name.clone()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    for (name, recent, deleted_size) in details {
        if let Some(state) = states.iter_mut().filter(|s| s.name == name).find_map(|s| s.state.as_mut()) {
            state.recent = uid(recent);
            state.deleted_size = ids::unsigned(deleted_size);
        }
    }
    Ok(())
}

/// Takes what is \\Recent for one session, so that no other is told (RFC 3501 §2.3.2). 0: nothing.
/// Lost in a crash it would be told twice, which is no reason to wait for the disk.
async fn claim_recent(pool: &PgPool, account_id: i64, mailbox_id: i64) -> Result<u32, sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("set local synchronous_commit = off").execute(&mut *tx).await?;
    let first: Option<i64> = sqlx::query_scalar(
        "update mailboxes m set recent_uid = m.uid_next
         from (select recent_uid from mailboxes
               where account_id = $1 and id = $2 and recent_uid < uid_next for update) old
         where m.account_id = $1 and m.id = $2 returning old.recent_uid",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .fetch_optional(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(first.map_or(0, uid))
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
        "select distinct on (lower(k)) k from messages, unnest(keywords) k
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
    let first_recent = match request.claim_recent {
        true => claim_recent(&pool, account_id, row.id).await.map_err(status)?,
        false => row.first_recent(),
    };
    let mut head = Some((MailboxState::from(&row), keywords));
    // An empty mailbox has one batch too.
    let batches = uids.chunks(SELECT_BATCH).chain(uids.is_empty().then_some(&[][..]));
    for batch in batches {
        let is_first = head.is_some();
        let (state, keywords) = head.take().map_or_else(Default::default, |(s, k)| (Some(s), k));
        let answer = SelectResponse {
            state,
            uids: batch.iter().map(|(u, _)| uid(*u)).collect(),
            sizes: batch.iter().map(|(_, s)| s.unsigned_abs()).collect(),
            keywords,
            first_recent: if is_first { first_recent } else { 0 },
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
    let mut answer = changes_in(&mut tx, &request).await?;
    tx.rollback().await.map_err(status)?;
    if request.claim_recent && answer.first_recent > 0 {
        let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
        answer.first_recent = claim_recent(pool, account_id, mailbox_id).await.map_err(status)?;
    }
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
        return Ok(ChangesResponse {
            state: Some((&row).into()),
            first_recent: row.first_recent(),
            ..ChangesResponse::default()
        });
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
        first_recent: row.first_recent(),
    })
}
