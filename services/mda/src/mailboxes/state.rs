//! Reading a mailbox's state: one snapshot each, so that counts, UIDs and mod-sequences agree.

use chrono::{DateTime, Utc};
use proto::mailboxes::{
    ChangesRequest, ChangesResponse, Flags, MailboxState, Message, NamedState, SelectRequest, SelectResponse,
    StatusRequest, StatusResponse, UidRange,
};
use sqlx::{FromRow, PgConnection, PgExecutor, PgPool, Postgres, Transaction};
use tokio::sync::mpsc;
use tonic::Status;

use super::{Memory, Which, account, change::SEEN, gone, index::Index, ranges, rights::require, uid};
use crate::{database::status, ids};

/// UIDs of one SelectResponse.
const SELECT_BATCH: usize = 10_000;
/// A mailbox of so many messages takes a while to list.
const LARGE: i32 = 20_000;

/// A mailbox's row.
#[derive(FromRow)]
pub struct Mailbox {
    account_id: i64,
    pub id: i64,
    name: String,
    pub uid_validity: i64,
    uid_next: i64,
    pub highest_modseq: i64,
    pub messages: i32,
    unseen: i32,
    deleted: i32,
    size: i64,
    recent_uid: i64,
    /// What went at this mod-sequence or before is not known any more.
    pub forgotten_modseq: i64,
}

impl Mailbox {
    pub fn key(&self) -> (i64, i64) {
        (self.account_id, self.id)
    }

    fn first_recent(&self) -> u32 {
        if self.recent_uid < self.uid_next { uid(self.recent_uid) } else { 0 }
    }
}

impl From<&Mailbox> for MailboxState {
    fn from(row: &Mailbox) -> Self {
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

const STATE: &str = "select account_id, id, name, uid_validity, uid_next, highest_modseq, messages, unseen, deleted,
                            size, recent_uid, forgotten_modseq
                     from mailboxes where account_id = $1";

pub async fn by_id<'e>(executor: impl PgExecutor<'e>, (account_id, id): (i64, i64)) -> Result<Mailbox, Status> {
    let found = sqlx::query_as(sqlx::AssertSqlSafe(format!("{STATE} and id = $2"))).bind(account_id).bind(id);
    found.fetch_optional(executor).await.map_err(status)?.ok_or_else(|| Status::not_found("no such mailbox"))
}

pub async fn by_name<'e>(executor: impl PgExecutor<'e>, account_id: i64, name: &str) -> Result<Mailbox, Status> {
    let found = sqlx::query_as(sqlx::AssertSqlSafe(format!("{STATE} and name = $2"))).bind(account_id).bind(name);
    found.fetch_optional(executor).await.map_err(status)?.ok_or_else(|| Status::not_found("no such mailbox"))
}

/// Sees one moment, whatever commits meanwhile.
pub async fn snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, Status> {
    pool.begin_with("begin isolation level repeatable read read only").await.map_err(status)
}

pub async fn states(pool: &PgPool, request: StatusRequest) -> Result<StatusResponse, Status> {
    let rows: Vec<Mailbox> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{STATE} and name = any ($2)")))
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

pub struct Select {
    pub pool: PgPool,
    pub memory: Memory,
    pub actor: Option<i64>,
    pub request: SelectRequest,
}

type Answers = mpsc::Sender<Result<SelectResponse, Status>>;

pub async fn select(asked: Select, answers: Answers) -> Result<(), Status> {
    let Select { pool, memory, actor, request } = &asked;
    let account_id = account(request.account_id)?;
    let row = by_name(pool, account_id, &request.name).await?;
    let known = memory.indexes.known(&row);
    if known.is_none() && row.messages >= LARGE && actor.is_none_or(|actor| actor == account_id) {
        return select_large(asked, row, answers).await;
    }
    let (row, listed) = match known {
        Some(index) => (row, Listed::of(&index)),
        None => {
            let mut tx = snapshot(pool).await?;
            let row = by_name(&mut *tx, account_id, &request.name).await?;
            let listed = list(tx, memory, &row).await?;
            (row, listed)
        }
    };
    // What was read when the right was there may be told (RFC 4314 §4).
    require(pool, *actor, request.account_id, Which::Id(ids::unsigned(row.id)), "r").await?;
    let head = Head { state: MailboxState::from(&row), first_recent: first_recent(pool, request, &row).await? };
    tell(Some(head), &listed, &answers).await
}

/// Counts and UIDVALIDITY are told at once, and the list when it is read: nobody needs it before the next command.
async fn select_large(asked: Select, row: Mailbox, answers: Answers) -> Result<(), Status> {
    let Select { pool, memory, request, .. } = asked;
    let first_recent = first_recent(&pool, &request, &row).await?;
    let mut tx = snapshot(&pool).await?;
    let row = by_id(&mut *tx, row.key()).await?;
    let mut state = MailboxState::from(&row);
    if first_recent > 0 {
        let recent: i64 =
            sqlx::query_scalar("select count(*) from messages where account_id = $1 and mailbox_id = $2 and uid >= $3")
                .bind(row.account_id)
                .bind(row.id)
                .bind(i64::from(first_recent))
                .fetch_one(&mut *tx)
                .await
                .map_err(status)?;
        state.recent = uid(recent);
    }
    tell(Some(Head { state, first_recent }), &Listed::default(), &answers).await?;
    tell(None, &list(tx, &memory, &row).await?, &answers).await
}

async fn first_recent(pool: &PgPool, request: &SelectRequest, row: &Mailbox) -> Result<u32, Status> {
    match request.claim_recent && row.first_recent() > 0 {
        true => claim_recent(pool, row.account_id, row.id).await.map_err(status),
        false => Ok(row.first_recent()),
    }
}

struct Head {
    state: MailboxState,
    first_recent: u32,
}

/// A head is told without UIDs too.
async fn tell(mut head: Option<Head>, listed: &Listed, answers: &Answers) -> Result<(), Status> {
    let (mut keywords, mut first_unseen) = (listed.keywords.clone(), listed.first_unseen);
    let alone = (head.is_some() && listed.uids.is_empty()).then_some((&[][..], &[][..]));
    let batches = listed.uids.chunks(SELECT_BATCH).zip(listed.sizes.chunks(SELECT_BATCH));
    for (uids, sizes) in batches.chain(alone) {
        let (state, first_recent) = head.take().map_or((None, 0), |h| (Some(h.state), h.first_recent));
        let (uids, sizes) = (uids.to_vec(), sizes.to_vec());
        let (keywords, first_unseen) = (std::mem::take(&mut keywords), std::mem::take(&mut first_unseen));
        let answer = SelectResponse { state, uids, sizes, keywords, first_recent, first_unseen };
        answers.send(Ok(answer)).await.map_err(gone)?;
    }
    Ok(())
}

/// Eight bytes a message: the whole list is small, and holding the snapshot open for a slow reader
/// would be dear.
#[derive(Default)]
struct Listed {
    uids: Vec<u32>,
    sizes: Vec<u32>,
    keywords: Vec<String>,
    /// 0: none, or unknown.
    first_unseen: u32,
}

impl Listed {
    fn of(index: &Index) -> Self {
        let (uids, sizes) = index.entries().iter().map(|e| (e.uid, e.size)).unzip();
        let first_unseen = index.entries().iter().find(|e| e.flags & SEEN == 0).map_or(0, |e| e.uid);
        Self { uids, sizes, keywords: index.keywords(), first_unseen }
    }
}

/// Of the mailbox as `tx` sees it.
async fn list(mut tx: Transaction<'static, Postgres>, memory: &Memory, row: &Mailbox) -> Result<Listed, Status> {
    if let Some(index) = memory.indexes.read(&mut tx, row).await.map_err(status)? {
        tx.rollback().await.map_err(status)?;
        return Ok(Listed::of(&index));
    }
    let keywords: Vec<String> = sqlx::query_scalar(
        "select distinct on (lower(k)) k from messages, unnest(keywords) k
         where account_id = $1 and mailbox_id = $2 and keywords <> '{}' limit 200",
    )
    .bind(row.account_id)
    .bind(row.id)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    let rows: Vec<(i64, i32)> =
        sqlx::query_as("select uid, size from messages where account_id = $1 and mailbox_id = $2 order by uid")
            .bind(row.account_id)
            .bind(row.id)
            .fetch_all(&mut *tx)
            .await
            .map_err(status)?;
    tx.rollback().await.map_err(status)?;
    let (uids, sizes) = rows.into_iter().map(|(u, size)| (uid(u), size.unsigned_abs())).unzip();
    // A mailbox that is too large to be held was answered for already.
    Ok(Listed { uids, sizes, keywords, first_unseen: 0 })
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
    // Nothing new, as a rule: then one look is enough.
    let row = by_id(pool, (account(request.account_id)?, ids::signed(request.mailbox_id)?)).await?;
    let claims = request.claim_recent && row.first_recent() > 0;
    if row.highest_modseq <= ids::signed(request.since_modseq)? && !claims {
        let (state, first_recent) = (Some((&row).into()), row.first_recent());
        return Ok(ChangesResponse { state, first_recent, ..ChangesResponse::default() });
    }
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
    let row = by_id(&mut *tx, (account_id, mailbox_id)).await?;
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
    let vanished = if since < row.forgotten_modseq {
        absent(tx, &row).await.map_err(status)?
    } else {
        let vanished: Vec<i64> = sqlx::query_scalar(
            "select uid from expunged where account_id = $1 and mailbox_id = $2 and modseq > $3 order by uid",
        )
        .bind(account_id)
        .bind(mailbox_id)
        .bind(since)
        .fetch_all(&mut *tx)
        .await
        .map_err(status)?;
        ranges(vanished.into_iter().map(uid))
    };
    Ok(ChangesResponse {
        state: Some((&row).into()),
        messages: messages.into_iter().map(Into::into).collect(),
        vanished,
        first_recent: row.first_recent(),
    })
}

/// Every UID that was ever given and is not there: what is told to who was away for longer than we
/// remember (RFC 7162 §3.2.5.2).
async fn absent(tx: &mut PgConnection, row: &Mailbox) -> Result<Vec<UidRange>, sqlx::Error> {
    let gaps: Vec<(i64, i64)> = sqlx::query_as(
        "select first, last
         from (select coalesce(lag(uid) over (order by uid), 0) + 1 as first, uid - 1 as last
               from (select uid from messages where account_id = $1 and mailbox_id = $2
                     union all select $3) all_and_next) gaps
         where first <= last order by first",
    )
    .bind(row.account_id)
    .bind(row.id)
    .bind(row.uid_next)
    .fetch_all(tx)
    .await?;
    Ok(gaps.into_iter().map(|(first, last)| UidRange { first: uid(first), last: uid(last) }).collect())
}
