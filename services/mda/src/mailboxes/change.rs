//! STORE, COPY, MOVE and EXPUNGE.
//!
//! Each takes the lock of its mailboxes first, in the order of their ids, and reads after it:
//! so UIDs and mod-sequences rise in the order of the commits (Invariant 5).

use proto::mailboxes::{
    CopyRequest, CopyResponse, ExpungeRequest, ExpungeResponse, Flags, Message, StoreRequest, StoreResponse,
    store_request::Mode,
};
use sqlx::{FromRow, PgConnection, PgPool, types::Uuid};
use tonic::Status;

use super::{account, bounds, ranges, rights::Granted, uid};
use crate::{database::status, ids, spool::release};

pub const SEEN: i16 = 1;
pub const DELETED: i16 = 8;
const SYSTEM: u32 = 31;
/// Keywords of one message; more is a client gone wild.
const MAX_KEYWORDS: usize = 200;
const MAX_KEYWORD_LENGTH: usize = 255;

/// A mailbox under our lock, until the transaction ends.
#[derive(FromRow)]
struct Locked {
    account_id: i64,
    id: i64,
    name: String,
    uid_validity: i64,
    uid_next: i64,
    highest_modseq: i64,
    rights_version: i64,
}

async fn lock(
    tx: &mut PgConnection,
    account_id: i64,
    mailbox_id: i64,
    and: Option<(i64, &str)>,
) -> Result<Vec<Locked>, Status> {
    sqlx::query_as(
        "select account_id, id, name, uid_validity, uid_next, highest_modseq, rights_version from mailboxes
         where (account_id = $1 and id = $2) or (account_id = $3 and name = $4) order by account_id, id for update",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(and.map(|(account, _)| account))
    .bind(and.map(|(_, name)| name))
    .fetch_all(tx)
    .await
    .map_err(status)
}

async fn lock_one(tx: &mut PgConnection, account_id: i64, mailbox_id: i64) -> Result<Locked, Status> {
    lock(tx, account_id, mailbox_id, None).await?.pop().ok_or_else(|| Status::not_found("no such mailbox"))
}

/// Validates what a client may set; also used by APPEND.
pub fn check_flags(flags: &Flags) -> Result<(i16, Vec<String>), Status> {
    let mut keywords: Vec<String> = flags.keywords.clone();
    settle(&mut keywords);
    let valid = |k: &String| !k.is_empty() && k.len() <= MAX_KEYWORD_LENGTH && !k.contains('\0');
    if keywords.len() > MAX_KEYWORDS || !keywords.iter().all(valid) {
        return Err(Status::invalid_argument(format!("keywords: expected at most {MAX_KEYWORDS} of 1 to 255 octets")));
    }
    Ok((i16::try_from(flags.system & SYSTEM).unwrap_or_default(), keywords))
}

/// Sorted, each once: keywords do not know case (RFC 9051 §2.3.2). The first spelling stays.
fn settle(keywords: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    keywords.retain(|k| seen.insert(k.to_ascii_lowercase()));
    keywords.sort_unstable();
}

fn has(keywords: &[String], keyword: &str) -> bool {
    keywords.iter().any(|k| k.eq_ignore_ascii_case(keyword))
}

#[derive(FromRow)]
struct Stored {
    uid: i64,
    modseq: i64,
    flags: i16,
    keywords: Vec<String>,
}

pub async fn store(pool: &PgPool, granted: Granted, request: StoreRequest) -> Result<StoreResponse, Status> {
    let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let (flags, keywords) = check_flags(&request.flags.clone().unwrap_or_default())?;
    let mut tx = pool.begin().await.map_err(status)?;
    let mailbox = lock_one(&mut tx, account_id, mailbox_id).await?;
    granted.holds(mailbox.rights_version)?;
    let (first, last) = bounds(&request.uids);
    let before: Vec<Stored> = sqlx::query_as(
        "select m.uid, m.modseq, m.flags, m.keywords from messages m
         where m.account_id = $1 and m.mailbox_id = $2
           and exists (select from unnest($3::bigint[], $4::bigint[]) r (first, last)
                       where m.uid between r.first and r.last)
           and m.uid between (select min(f) from unnest($3::bigint[]) f) and (select max(l) from unnest($4::bigint[]) l)
         order by m.uid",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(first)
    .bind(last)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    let unchanged_since = request.unchanged_since.map(ids::signed).transpose()?;
    let (eligible, failed): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|m| unchanged_since.is_none_or(|limit| m.modseq <= limit));
    let after: Vec<(Stored, Stored)> =
        eligible.into_iter().map(|m| (apply(&m, request.mode(), flags, &keywords), m)).collect();
    let modseq = mailbox.highest_modseq + 1;
    let changed: Vec<&(Stored, Stored)> = after.iter().filter(|(new, old)| differ(new, old)).collect();
    if !changed.is_empty() {
        write_flags(&mut tx, account_id, &mailbox, modseq, &changed).await.map_err(status)?;
    }
    let has_changed = !changed.is_empty();
    drop(changed);
    tx.commit().await.map_err(status)?;
    let message = |(new, old): (Stored, Stored)| Message {
        uid: uid(new.uid),
        modseq: ids::unsigned(if differ(&new, &old) { modseq } else { old.modseq }),
        flags: Some(Flags { system: u32::from(new.flags.unsigned_abs()), keywords: new.keywords }),
        ..Message::default()
    };
    Ok(StoreResponse {
        messages: after.into_iter().map(message).collect(),
        modified: ranges(failed.into_iter().map(|m| uid(m.uid))),
        highest_modseq: ids::unsigned(if has_changed { modseq } else { mailbox.highest_modseq }),
    })
}

fn differ(a: &Stored, b: &Stored) -> bool {
    a.flags != b.flags || a.keywords != b.keywords
}

fn apply(message: &Stored, mode: Mode, flags: i16, keywords: &[String]) -> Stored {
    let kept = |keep: bool| message.keywords.iter().filter(move |k| has(keywords, k) == keep);
    // What the message has keeps its spelling: another one is no change.
    let mut words: Vec<String> = match mode {
        Mode::Replace | Mode::Unspecified => kept(true).chain(keywords).cloned().collect(),
        Mode::Add => message.keywords.iter().chain(keywords).cloned().collect(),
        Mode::Remove => kept(false).cloned().collect(),
    };
    settle(&mut words);
    words.truncate(MAX_KEYWORDS);
    let bits = match mode {
        Mode::Replace | Mode::Unspecified => flags,
        Mode::Add => message.flags | flags,
        Mode::Remove => message.flags & !flags,
    };
    Stored { uid: message.uid, modseq: message.modseq, flags: bits, keywords: words }
}

async fn write_flags(
    tx: &mut PgConnection,
    account_id: i64,
    mailbox: &Locked,
    modseq: i64,
    changed: &[&(Stored, Stored)],
) -> Result<(), sqlx::Error> {
    // Keywords travel joined, because UNNEST flattens arrays of arrays.
    sqlx::query(
        "update messages m
         set flags = c.flags, modseq = $3,
             keywords = case when c.keywords = '' then '{}' else string_to_array(c.keywords, ' ') end
         from unnest($4::bigint[], $5::smallint[], $6::text[]) c (uid, flags, keywords)
         where m.account_id = $1 and m.mailbox_id = $2 and m.uid = c.uid",
    )
    .bind(account_id)
    .bind(mailbox.id)
    .bind(modseq)
    .bind(changed.iter().map(|(new, _)| new.uid).collect::<Vec<_>>())
    .bind(changed.iter().map(|(new, _)| new.flags).collect::<Vec<_>>())
    .bind(changed.iter().map(|(new, _)| new.keywords.join(" ")).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    let gained = |bit: i16| -> i32 {
        changed.iter().map(|(new, old)| i32::from(new.flags & bit != 0) - i32::from(old.flags & bit != 0)).sum()
    };
    sqlx::query(
        "update mailboxes set highest_modseq = $3, unseen = unseen - $4, deleted = deleted + $5
         where account_id = $1 and id = $2",
    )
    .bind(account_id)
    .bind(mailbox.id)
    .bind(modseq)
    .bind(gained(SEEN))
    .bind(gained(DELETED))
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// What was looked up of the source and of the target.
pub type Both = (Granted, Granted);

pub async fn copy(pool: &PgPool, granted: Both, request: CopyRequest) -> Result<CopyResponse, Status> {
    let mut tx = pool.begin().await.map_err(status)?;
    let answer = copy_in(&mut tx, &granted, &request).await?;
    tx.commit().await.map_err(status)?;
    Ok(answer)
}

/// Within the caller's transaction.
pub async fn copy_in(tx: &mut PgConnection, granted: &Both, request: &CopyRequest) -> Result<CopyResponse, Status> {
    let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let target_account = if request.target_account_id == 0 { account_id } else { account(request.target_account_id)? };
    let locked = lock(&mut *tx, account_id, mailbox_id, Some((target_account, &request.target))).await?;
    let source = locked.iter().find(|m| m.id == mailbox_id).ok_or_else(|| Status::not_found("no such mailbox"))?;
    let target = locked
        .iter()
        .find(|m| m.account_id == target_account && m.name == request.target)
        .ok_or_else(|| Status::failed_precondition("no such target mailbox"))?;
    granted.0.holds(source.rights_version)?;
    granted.1.holds(target.rights_version)?;
    let (first, last) = bounds(&request.uids);
    if !request.r#move || target_account != account_id {
        room_for_copy(&mut *tx, target_account, (account_id, mailbox_id), &first, &last).await?;
    }
    let copied: Vec<(i64, i64)> = sqlx::query_as(
        "with picked as (
             select m.*, row_number() over (order by m.uid) as k from messages m
             where m.account_id = $1 and m.mailbox_id = $2
               and exists (select from unnest($3::bigint[], $4::bigint[]) r (first, last)
                           where m.uid between r.first and r.last)
         ), copied as (
             insert into messages (account_id, mailbox_id, uid, modseq, content_id, internal_date, size, flags, keywords)
             select $8, $5, $6 - 1 + k, $7, content_id, internal_date, size, flags, keywords from picked
             returning size, flags
         ), counted as (
             update mailboxes
             set uid_next = uid_next + (select count(*) from copied), highest_modseq = $7,
                 messages = messages + (select count(*) from copied),
                 unseen = unseen + (select count(*) from copied where flags & 1 = 0),
                 deleted = deleted + (select count(*) from copied where flags & 8 <> 0),
                 size = size + (select coalesce(sum(size), 0) from copied)
             where account_id = $8 and id = $5 and exists (select from picked)
         )
         select uid, $6 - 1 + k from picked order by uid",
    )
    .bind(account_id)
    .bind(source.id)
    .bind(&first)
    .bind(&last)
    .bind(target.id)
    .bind(target.uid_next)
    .bind(target.highest_modseq + 1)
    .bind(target_account)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    let mut highest_modseq = 0;
    if request.r#move && !copied.is_empty() {
        // Within one mailbox the copy has already taken the next mod-sequence.
        let modseq = source.highest_modseq + if source.id == target.id { 2 } else { 1 };
        let uids: Vec<i64> = copied.iter().map(|(from, _)| *from).collect();
        remove(&mut *tx, account_id, source.id, modseq, &uids).await.map_err(status)?;
        highest_modseq = ids::unsigned(modseq);
    }
    let uid_validity = uid(target.uid_validity);
    let (source_uids, target_uids) = copied.into_iter().map(|(from, to)| (uid(from), uid(to))).unzip();
    Ok(CopyResponse { uid_validity, source_uids, target_uids, highest_modseq })
}

/// PERMISSION_DENIED when the copies would not fit into the account (RFC 9208 §4.4).
async fn room_for_copy(
    tx: &mut PgConnection,
    account_id: i64,
    (source_account, source): (i64, i64),
    first: &[i64],
    last: &[i64],
) -> Result<(), Status> {
    // Locks what counts the account, if anything does: nobody takes the room before we commit.
    let is_limited: bool = sqlx::query_scalar("select exists (select from quotas where account_id = $1)")
        .bind(account_id)
        .fetch_one(&mut *tx)
        .await
        .map_err(status)?;
    if !is_limited {
        return Ok(());
    }
    let has_room: bool = sqlx::query_scalar(
        "select coalesce(c.bytes <= r.room_bytes, true) and coalesce(c.messages <= r.room_messages, true)
         from (select coalesce(sum(m.size), 0) as bytes, count(*) as messages from messages m
               where m.account_id = $5 and m.mailbox_id = $2
                 and exists (select from unnest($3::bigint[], $4::bigint[]) r (first, last)
                             where m.uid between r.first and r.last)) c
         cross join quota_room($1) r",
    )
    .bind(account_id)
    .bind(source)
    .bind(first)
    .bind(last)
    .bind(source_account)
    .fetch_one(&mut *tx)
    .await
    .map_err(status)?;
    if has_room { Ok(()) } else { Err(Status::permission_denied("quota exceeded")) }
}

pub async fn expunge(pool: &PgPool, granted: Granted, request: ExpungeRequest) -> Result<ExpungeResponse, Status> {
    let mut tx = pool.begin().await.map_err(status)?;
    let answer = expunge_in(&mut tx, &granted, &request).await?;
    tx.commit().await.map_err(status)?;
    Ok(answer)
}

/// Within the caller's transaction.
pub async fn expunge_in(
    tx: &mut PgConnection,
    granted: &Granted,
    request: &ExpungeRequest,
) -> Result<ExpungeResponse, Status> {
    let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let mailbox = lock_one(&mut *tx, account_id, mailbox_id).await?;
    granted.holds(mailbox.rights_version)?;
    let (first, last) = bounds(&request.uids);
    let uids: Vec<i64> = sqlx::query_scalar(
        "select m.uid from messages m
         where m.account_id = $1 and m.mailbox_id = $2 and (m.flags & 8 <> 0 or $5)
           and (cardinality($3::bigint[]) = 0
                or exists (select from unnest($3::bigint[], $4::bigint[]) r (first, last)
                           where m.uid between r.first and r.last))
         order by m.uid",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(&first)
    .bind(&last)
    // Without a list, "regardless" would be everything.
    .bind(request.regardless && !request.uids.is_empty())
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    let mut highest_modseq = mailbox.highest_modseq;
    if !uids.is_empty() {
        highest_modseq += 1;
        remove(&mut *tx, account_id, mailbox_id, highest_modseq, &uids).await.map_err(status)?;
    }
    Ok(ExpungeResponse { expunged: ranges(uids.into_iter().map(uid)), highest_modseq: ids::unsigned(highest_modseq) })
}

/// Takes messages out of a locked mailbox, tells so to those who were away, lets go of contents.
pub async fn remove(
    tx: &mut PgConnection,
    account_id: i64,
    mailbox_id: i64,
    modseq: i64,
    uids: &[i64],
) -> Result<(), sqlx::Error> {
    let contents: Vec<Uuid> = sqlx::query_scalar(
        "with gone as (
             delete from messages where account_id = $1 and mailbox_id = $2 and uid = any ($4)
             returning uid, content_id, flags, size
         ), told as (
             insert into expunged (account_id, mailbox_id, modseq, uid) select $1, $2, $3, uid from gone
         ), counted as (
             update mailboxes
             set highest_modseq = $3, messages = messages - (select count(*) from gone),
                 unseen = unseen - (select count(*) from gone where flags & 1 = 0),
                 deleted = deleted - (select count(*) from gone where flags & 8 <> 0),
                 size = size - (select coalesce(sum(size), 0) from gone)
             where account_id = $1 and id = $2
         )
         select content_id from gone",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(modseq)
    .bind(uids)
    .fetch_all(&mut *tx)
    .await?;
    release(&mut *tx, &contents).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|k| (*k).to_owned()).collect()
    }

    #[test]
    fn keywords_do_not_know_case() {
        let message = Stored { uid: 1, modseq: 1, flags: 0, keywords: words(&["$Forwarded", "Work"]) };
        let after = |mode, given: &[&str]| {
            let (_, keywords) = check_flags(&Flags { system: 0, keywords: words(given) }).expect("valid");
            apply(&message, mode, 0, &keywords).keywords
        };
        assert_eq!(after(Mode::Add, &["$FORWARDED", "new", "NEW"]), words(&["$Forwarded", "Work", "new"]));
        assert_eq!(after(Mode::Remove, &["work"]), words(&["$Forwarded"]));
        assert_eq!(after(Mode::Replace, &["WORK", "x"]), words(&["Work", "x"]));
    }
}
