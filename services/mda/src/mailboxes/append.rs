//! APPEND, MULTIAPPEND (RFC 3502), REPLACE (RFC 8508).
//!
//! Appends that arrive while a commit is in flight share the next one, as Accepts do: one
//! statement over arrays, one commit.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use proto::mailboxes::{AppendRequest, AppendResponse, AppendTarget, Flags, Replaced};
use sqlx::{FromRow, PgConnection, PgPool};
use tokio::sync::oneshot;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use super::{
    Mailboxes, account, change,
    rights::{Granted, looked_up},
    uid,
};
use crate::{
    content::{self, Gathered, Prepared},
    database::status,
    ids,
    objects::Objects,
    spool::batch::{Batcher, Job},
};

/// Messages of one MULTIAPPEND; all of them are held until the last has come.
const MAX_MESSAGES: usize = 1_000;

/// Mailbox rows are locked in one order by everybody; UIDs come from the locked row (Invariant 5).
/// The messages of one group have one mailbox and one fate.
const APPEND: &str = "
with wanted as (
    select * from unnest($1::int[], $2::int[], $3::bigint[], $4::text[], $5::uuid[], $6::int[], $7::smallint[],
                         $8::text[], $9::timestamptz[], $10::bytea[], $11::bytea[], $12::bytea[], $13::text[],
                         $14::bigint[], $15::text[])
        as w (k, grp, account_id, name, content_id, size, flags, keywords, internal_date, header, body, structure, uidl,
              rights_version, object)
), locked as materialized (
    select account_id, id, name, limited, rights_version from mailboxes
    where (account_id, name) in (select account_id, name from wanted)
    order by account_id, id
    for update
), counted as materialized (
    select lock_quotas(array_agg(account_id)) from locked where limited having count(*) > 0
), free as materialized (
    select account_id, (quota_room(account_id)).* from (select distinct account_id from locked where limited) l
    where (select count(*) from counted) >= 0
), room as (
    -- What others of this batch want is taken as theirs: a group that then has no room gets a batch of its own.
    select grp from (
        select w.grp, w.account_id, sum(sum(w.size)) over others as bytes, sum(count(*)) over others as messages
        from wanted w left join quotas q on q.account_id = w.account_id
        group by w.grp, w.account_id, q.tenant_id window others as (partition by q.tenant_id order by w.grp)) w
    left join free using (account_id)
    where (room_bytes is null or bytes <= room_bytes) and (room_messages is null or messages <= room_messages)
), placed as materialized (
    select w.*, l.id as mailbox_id, row_number() over (partition by l.account_id, l.id order by w.k) - 1 as nth,
           row_number() over (partition by l.account_id, l.id, w.uidl order by w.k) = 1 as is_first_of_uidl
    from wanted w join room using (grp) join locked l on l.account_id = w.account_id and l.name = w.name
    -- The rights by which it may be there are those that were looked up, or it is the owner's.
    where w.rights_version is null or w.rights_version = l.rights_version
), growth as (
    select account_id, mailbox_id, count(*) as messages, count(*) filter (where flags & 1 = 0) as unseen,
           count(*) filter (where flags & 8 <> 0) as deleted, sum(size) as size
    from placed group by 1, 2
), grown as (
    update mailboxes m
    set uid_next = m.uid_next + g.messages, highest_modseq = m.highest_modseq + 1, messages = m.messages + g.messages,
        unseen = m.unseen + g.unseen, deleted = m.deleted + g.deleted, size = m.size + g.size
    from growth g join locked l on l.account_id = g.account_id and l.id = g.mailbox_id
    where m.account_id = g.account_id and m.id = g.mailbox_id
    returning m.account_id, m.id as mailbox_id, m.uid_next - g.messages as first_uid, m.highest_modseq, m.uid_validity
), content as (
    insert into contents (id, size, header, body, structure, object)
    select content_id, size, header, body, structure, object from placed
), message as (
    insert into messages (account_id, mailbox_id, uid, modseq, content_id, internal_date, size, flags, keywords, uidl)
    select p.account_id, p.mailbox_id, g.first_uid + p.nth, g.highest_modseq, p.content_id,
           coalesce(p.internal_date, now()), p.size, p.flags,
           case when p.keywords = '' then '{}' else string_to_array(p.keywords, ' ') end,
           -- Each once, and none that looks like one of ours (RFC 1939 §7).
           case when p.uidl <> '' and p.is_first_of_uidl and not starts_with(p.uidl, g.uid_validity || '.')
                 and not exists (select from messages o where o.account_id = p.account_id
                                 and o.mailbox_id = p.mailbox_id and o.uidl = p.uidl)
                then p.uidl end
    from placed p join grown g using (account_id, mailbox_id)
)
select w.k, room.grp is not null as has_room, g.uid_validity, g.first_uid + p.nth as uid,
       exists (select from locked l where l.account_id = w.account_id and l.name = w.name
               and l.rights_version <> w.rights_version) as rights_changed
from wanted w left join room using (grp) left join placed p using (k)
left join grown g on g.account_id = p.account_id and g.mailbox_id = p.mailbox_id
order by w.k";

#[derive(FromRow)]
struct Placed {
    k: i32,
    has_room: bool,
    uid_validity: Option<i64>,
    uid: Option<i64>,
    /// Since they were looked up.
    rights_changed: bool,
}

/// One message, ready for its row.
#[derive(Clone)]
pub struct Message {
    flags: i16,
    keywords: Vec<String>,
    internal_date: Option<DateTime<Utc>>,
    /// Empty: none.
    uidl: String,
    content_id: Uuid,
    stored: Arc<Prepared>,
}

/// What one call appends.
pub struct Group {
    account_id: i64,
    mailbox: String,
    granted: Granted,
    messages: Vec<Message>,
    /// For the answer, since a batch tells its jobs only how they ended.
    answer: oneshot::Sender<AppendResponse>,
}

pub fn batcher(pool: PgPool) -> Batcher<Group> {
    Batcher::start(2, move |jobs: Vec<Job<Group>>| {
        let pool = pool.clone();
        async move { write(&pool, jobs).await }
    })
}

async fn write(pool: &PgPool, jobs: Vec<Job<Group>>) {
    let groups: Vec<&Group> = jobs.iter().map(|job| &job.work).collect();
    let written = match pool.acquire().await {
        Ok(mut connection) => insert(&mut connection, &groups).await,
        Err(e) => Err(e),
    };
    let mut outcomes = match written {
        Ok(rows) => outcomes(&groups, &rows),
        Err(e) if jobs.len() > 1 && !crate::database::is_away(&e) => {
            // One of them may be what the database refuses.
            for job in jobs {
                Box::pin(write(pool, vec![job])).await;
            }
            return;
        }
        Err(e) => {
            let status = status(e);
            groups.iter().map(|_| Err(status.clone())).collect()
        }
    }
    .into_iter();
    let is_batch = jobs.len() > 1;
    for mut job in jobs {
        let outcome = outcomes.next().unwrap_or_else(|| Err(Status::internal("append without an outcome")));
        if is_batch && outcome.as_ref().is_err_and(|s| s.code() == Code::PermissionDenied) {
            Box::pin(write(pool, vec![job])).await;
            continue;
        }
        let (answer, _) = oneshot::channel();
        let answer = std::mem::replace(&mut job.work.answer, answer);
        job.finish(outcome.map(|response| {
            let _ = answer.send(response);
        }));
    }
}

/// One statement, whatever the number of messages.
async fn insert(connection: &mut PgConnection, groups: &[&Group]) -> Result<Vec<Placed>, sqlx::Error> {
    let all: Vec<(usize, &Group, &Message)> =
        groups.iter().enumerate().flat_map(|(g, group)| group.messages.iter().map(move |m| (g, *group, m))).collect();
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query_as(APPEND)
        .bind((0..all.len()).map(number).collect::<Vec<_>>())
        .bind(all.iter().map(|(g, ..)| number(*g)).collect::<Vec<_>>())
        .bind(all.iter().map(|(_, group, _)| group.account_id).collect::<Vec<_>>())
        .bind(all.iter().map(|(_, group, _)| group.mailbox.as_str()).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.content_id).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.stored.size).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.flags).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.keywords.join(" ")).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.internal_date).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.stored.header.as_slice()).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.stored.body.as_slice()).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.stored.structure.as_slice()).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.uidl.as_str()).collect::<Vec<_>>())
        .bind(all.iter().map(|(_, group, _)| group.granted.version()).collect::<Vec<_>>())
        .bind(all.iter().map(|(.., m)| m.stored.object.as_deref()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

fn outcomes(groups: &[&Group], rows: &[Placed]) -> Vec<Result<AppendResponse, Status>> {
    let mut rows = rows.iter();
    let outcome = |group: &&Group| {
        let mut answer = AppendResponse::default();
        let mut failed = None;
        for row in rows.by_ref().take(group.messages.len()) {
            if let Err(changed) = group.granted.changed(row.rights_changed) {
                failed = Some(changed);
                continue;
            }
            match (row.has_room, row.uid_validity, row.uid) {
                (false, ..) => failed = Some(Status::permission_denied("quota exceeded")),
                (true, Some(uid_validity), Some(new)) => {
                    answer.uid_validity = uid(uid_validity);
                    answer.uids.push(uid(new));
                }
                _ => {
                    tracing::debug!(number = row.k, "append without its mailbox");
                    failed = Some(Status::not_found("no such mailbox"));
                }
            }
        }
        answer.uid = answer.uids.first().copied().unwrap_or_default();
        failed.map_or(Ok(answer), Err)
    };
    groups.iter().map(outcome).collect()
}

/// The account, for its wake, and where the messages are.
pub async fn append(
    mailboxes: &Mailboxes,
    actor: Option<i64>,
    stream: Streaming<AppendRequest>,
) -> Result<(u64, AppendResponse), Status> {
    let Read { target, messages } = read(stream, &mailboxes.objects, mailboxes.max_message_size).await?;
    let account_id = target.account_id;
    let response = looked_up(|| {
        let (target, messages) = (target.clone(), messages.clone());
        async move { append_as(&mailboxes.pool, &mailboxes.appends, actor, target, messages).await }
    });
    Ok((account_id, response.await?))
}

/// With the actor's rights as they are now.
async fn append_as(
    pool: &PgPool,
    batcher: &Batcher<Group>,
    actor: Option<i64>,
    target: AppendTarget,
    mut messages: Vec<Message>,
) -> Result<AppendResponse, Status> {
    let (granted, allowed) = super::rights::for_append(pool, actor, target.account_id, &target.mailbox).await?;
    if let Some(allowed) = allowed {
        for message in &mut messages {
            let system = u32::from(message.flags.unsigned_abs());
            let flags = allowed(&Flags { system, keywords: std::mem::take(&mut message.keywords) });
            (message.flags, message.keywords) = change::check_flags(&flags)?;
        }
    }
    let bytes = messages.iter().map(|m| m.stored.body.len() + m.stored.header.len()).sum();
    let (answer, answered) = oneshot::channel();
    let group = Group { account_id: account(target.account_id)?, mailbox: target.mailbox, granted, messages, answer };
    match target.replaces {
        None => {
            batcher.run(group, bytes).await?;
            answered.await.map_err(|_| Status::unavailable("the writer ended"))
        }
        Some(replaced) => {
            // What REPLACE removes is expunged (RFC 8508 §4).
            let which = super::Which::Id(replaced.mailbox_id);
            let granted = super::require(pool, actor, target.account_id, which, "te").await?;
            replace(pool, &group, &granted, &replaced).await
        }
    }
}

/// The new message comes and the old one goes in one transaction.
async fn replace(
    pool: &PgPool,
    group: &Group,
    granted: &Granted,
    replaced: &Replaced,
) -> Result<AppendResponse, Status> {
    let mailbox_id = ids::signed(replaced.mailbox_id)?;
    let mut tx = pool.begin().await.map_err(status)?;
    // Both mailboxes in the order in which everybody locks; the statements then find them locked.
    let locked: Vec<(i64, String, i64)> = sqlx::query_as(
        "select id, name, rights_version from mailboxes where account_id = $1 and (id = $2 or name = $3) order by id for update",
    )
    .bind(group.account_id)
    .bind(mailbox_id)
    .bind(&group.mailbox)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    for (.., rights_version) in locked.iter().filter(|(id, ..)| *id == mailbox_id) {
        granted.holds(*rights_version)?;
    }
    if !locked.iter().any(|(_, name, _)| *name == group.mailbox) {
        return Err(Status::failed_precondition("no such target mailbox"));
    }
    let old = i64::from(replaced.uid);
    let exists: bool = sqlx::query_scalar(
        "select exists (select from messages where account_id = $1 and mailbox_id = $2 and uid = $3)",
    )
    .bind(group.account_id)
    .bind(mailbox_id)
    .bind(old)
    .fetch_one(&mut *tx)
    .await
    .map_err(status)?;
    if !exists {
        return Err(Status::aborted("the message to be replaced is gone"));
    }
    let rows = insert(&mut tx, &[group]).await.map_err(status)?;
    let mut response =
        outcomes(&[group], &rows).pop().ok_or_else(|| Status::internal("append without an outcome"))??;
    let modseq: i64 = sqlx::query_scalar("select highest_modseq + 1 from mailboxes where account_id = $1 and id = $2")
        .bind(group.account_id)
        .bind(mailbox_id)
        .fetch_one(&mut *tx)
        .await
        .map_err(status)?;
    change::remove(&mut tx, group.account_id, mailbox_id, modseq, &[old]).await.map_err(status)?;
    tx.commit().await.map_err(status)?;
    response.highest_modseq = ids::unsigned(modseq);
    Ok(response)
}

struct Read {
    target: AppendTarget,
    messages: Vec<Message>,
}

/// The messages of the stream. Their compressed form is what is kept while the next one comes.
async fn read(mut stream: Streaming<AppendRequest>, objects: &Objects, limit: usize) -> Result<Read, Status> {
    let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("empty stream"))?;
    let target = first.target.ok_or_else(|| Status::invalid_argument("the first request has no target"))?;
    let mut open = (target.clone(), Gathered::new(first.content, limit));
    let mut messages: Vec<Message> = Vec::new();
    let mut kept = 0;
    while let Some(next) = stream.message().await? {
        if let Some(next_target) = next.target {
            let done = std::mem::replace(&mut open, (next_target, Gathered::new(next.content, limit)));
            let message = prepare(done.0, done.1, objects).await?;
            kept += message.stored.body.len() + message.stored.header.len();
            messages.push(message);
            if messages.len() >= MAX_MESSAGES || kept > limit {
                return Err(Status::out_of_range("too much for one append"));
            }
        } else {
            open.1.push(&next.content)?;
        }
    }
    messages.push(prepare(open.0, open.1, objects).await?);
    Ok(Read { target, messages })
}

async fn prepare(target: AppendTarget, content: Gathered, objects: &Objects) -> Result<Message, Status> {
    let (flags, keywords) = change::check_flags(&target.flags.unwrap_or_default())?;
    let internal_date = match target.internal_date_ms {
        0 => None,
        ms => {
            Some(DateTime::<Utc>::from_timestamp_millis(ms).ok_or_else(|| Status::invalid_argument("internal date"))?)
        }
    };
    // RFC 1939 §7.
    if target.uidl.len() > 70 || !target.uidl.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Status::invalid_argument("uidl: expected at most 70 octets from 0x21 to 0x7E"));
    }
    let (content_id, mut stored) = (Uuid::now_v7(), content::prepare(content.finish()).await?);
    objects.take_out(content_id, &mut stored).await?;
    Ok(Message { flags, keywords, internal_date, uidl: target.uidl, content_id, stored: Arc::new(stored) })
}
