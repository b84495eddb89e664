//! Mailboxes that a message goes to by rules, and its rows in them.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection};

use super::{Line, Loaded};
use crate::{content::plain, mailboxes::ensure};

/// Where a copy goes; no name is where it would go without rules.
#[derive(Debug, Default)]
pub(super) struct Placement {
    pub name: Option<String>,
    pub create: bool,
    pub flags: i16,
    pub keywords: Vec<String>,
}

#[derive(FromRow)]
pub(super) struct Folder {
    pub id: i64,
    pub name: String,
}

pub(super) fn placement(name: Option<&String>, create: bool, flags: &[String]) -> Placement {
    let mut out = Placement { name: name.map(|n| plain(n)), create, ..Placement::default() };
    for flag in flags {
        match flag.as_str() {
            "\\Seen" => out.flags |= 1,
            "\\Answered" => out.flags |= 2,
            "\\Flagged" => out.flags |= 4,
            "\\Deleted" => out.flags |= 8,
            "\\Draft" => out.flags |= 16,
            keyword => out.keywords.push(keyword.to_owned()),
        }
    }
    out.keywords.sort_unstable();
    out
}

/// Where the message goes without rules.
pub(super) async fn default_box(tx: &mut PgConnection, row: &Loaded) -> Result<Option<Folder>, sqlx::Error> {
    sqlx::query_as(
        r"select id, name from mailboxes
          where account_id = $1 and (name = 'INBOX' or ($2 and special_use = '\Junk'))
          order by special_use = '\Junk' desc limit 1",
    )
    .bind(row.account_id)
    .bind(row.junk)
    .fetch_optional(tx)
    .await
}

pub(super) async fn find_box(
    tx: &mut PgConnection,
    row: &Loaded,
    placement: &Placement,
) -> Result<Option<Folder>, sqlx::Error> {
    let Some(name) = &placement.name else { return Ok(None) };
    let name = if name.eq_ignore_ascii_case("INBOX") { "INBOX" } else { name.as_str() };
    let id: Option<i64> = match placement.create {
        true => ensure(tx, row.account_id, name).await?,
        false => {
            sqlx::query_scalar("select id from mailboxes where account_id = $1 and name = $2")
                .bind(row.account_id)
                .bind(name)
                .fetch_optional(tx)
                .await?
        }
    };
    Ok(id.map(|id| Folder { id, name: name.to_owned() }))
}

/// Locks the mailboxes, all before the first is changed, and then the quota, in the order that everybody
/// keeps. The delivery has room set aside for one copy; further ones need their own.
pub(super) async fn leave_what_fits(
    tx: &mut PgConnection,
    row: &Loaded,
    places: &mut BTreeMap<i64, (String, Placement)>,
    lines: &mut Vec<Line>,
) -> Result<(), sqlx::Error> {
    sqlx::query("select from mailboxes where account_id = $1 and id = any ($2) order by account_id, id for update")
        .bind(row.account_id)
        .bind(places.keys().copied().collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    if places.len() < 2 {
        return Ok(());
    }
    let (bytes, messages): (Option<i64>, Option<i64>) =
        sqlx::query_as("select room_bytes, room_messages from quota_room($1)")
            .bind(row.account_id)
            .fetch_one(&mut *tx)
            .await?;
    let fit = bytes.map(|b| b / i64::from(row.size.max(1))).into_iter().chain(messages).min().unwrap_or(i64::MAX);
    while i64::try_from(places.len()).unwrap_or(i64::MAX) - 1 > fit.max(0) {
        let Some((_, (name, _))) = places.pop_last() else { break };
        lines.push(("rule", format!("no room for a copy in {name}")));
    }
    Ok(())
}

/// A row in each mailbox; UIDs come from the locked one (Invariant 5).
pub(super) async fn insert(
    tx: &mut PgConnection,
    row: &Loaded,
    places: &BTreeMap<i64, (String, Placement)>,
) -> Result<(), sqlx::Error> {
    for (id, (_, placement)) in places {
        sqlx::query(
            "with grown as (
                 update mailboxes
                 set uid_next = uid_next + 1, highest_modseq = highest_modseq + 1, messages = messages + 1,
                     unseen = unseen + case when $4 & 1 = 0 then 1 else 0 end,
                     deleted = deleted + case when $4 & 8 <> 0 then 1 else 0 end, size = size + $6
                 where account_id = $1 and id = $2
                 returning uid_next - 1 as uid, highest_modseq
             )
             insert into messages (account_id, mailbox_id, uid, modseq, content_id, internal_date, size, flags, keywords)
             select $1, $2, uid, highest_modseq, queue_id, accepted_at, $6, $4, $5
             from grown, spool where queue_id = $3",
        )
        .bind(row.account_id)
        .bind(id)
        .bind(row.queue_id)
        .bind(placement.flags)
        .bind(&placement.keywords)
        .bind(row.size)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}
