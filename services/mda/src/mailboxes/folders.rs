//! LIST, CREATE, DELETE, RENAME, SUBSCRIBE.

use proto::mailboxes::{
    CreateRequest, CreateResponse, DeleteRequest, DeleteResponse, ListRequest, ListResponse, Mailbox, RenameRequest,
    RenameResponse, SubscribeRequest, SubscribeResponse,
};
use sqlx::{PgConnection, PgPool, types::Uuid};
use tonic::Status;

use super::{
    account,
    rights::{Granted, inherit, parent},
};
use crate::{database::status, ids, spool::release};

const INBOX: &str = "INBOX";
const MAX_NAME: usize = 1_000;
const MAX_LEVELS: usize = 32;
/// What a new account has (RFC 6154 §2).
const DEFAULTS: [(&str, &str); 6] = [
    (INBOX, ""),
    ("Archive", "\\Archive"),
    ("Drafts", "\\Drafts"),
    ("Junk", "\\Junk"),
    ("Sent", "\\Sent"),
    ("Trash", "\\Trash"),
];

pub async fn create_defaults(tx: &mut PgConnection, account_id: i64) -> Result<(), sqlx::Error> {
    let (names, uses): (Vec<&str>, Vec<&str>) = DEFAULTS.into_iter().unzip();
    sqlx::query(
        "insert into mailboxes (account_id, name, special_use)
         select $1, name, special_use from unnest($2::text[], $3::text[]) as d (name, special_use)",
    )
    .bind(account_id)
    .bind(names)
    .bind(uses)
    .execute(tx)
    .await?;
    Ok(())
}

pub async fn list(pool: &PgPool, request: ListRequest) -> Result<ListResponse, Status> {
    let rows: Vec<(i64, String, String, bool)> = sqlx::query_as(
        "select id, name, special_use, subscribed from mailboxes
         where account_id = $1 order by name <> 'INBOX', name collate \"C\"",
    )
    .bind(account(request.account_id)?)
    .fetch_all(pool)
    .await
    .map_err(status)?;
    let mailbox =
        |(id, name, special_use, subscribed)| Mailbox { mailbox_id: ids::unsigned(id), name, special_use, subscribed };
    Ok(ListResponse { mailboxes: rows.into_iter().map(mailbox).collect() })
}

/// A name that IMAP can say and a tree can hold.
fn check_name(name: &str) -> Result<(), Status> {
    let levels = name.split('/').count();
    let is_valid = name.len() <= MAX_NAME
        && levels <= MAX_LEVELS
        && name.split('/').all(|level| !level.is_empty())
        && !name.chars().any(|c| c.is_control() || c == '%' || c == '*');
    if is_valid { Ok(()) } else { Err(Status::invalid_argument("not a mailbox name")) }
}

/// `a`, `a/b` for `a/b/c`.
fn parents(name: &str) -> Vec<String> {
    name.match_indices('/').map(|(at, _)| name[..at].to_owned()).collect()
}

pub async fn create(pool: &PgPool, granted: Granted, request: CreateRequest) -> Result<CreateResponse, Status> {
    let account_id = account(request.account_id)?;
    let name = request.name.strip_suffix('/').unwrap_or(&request.name);
    check_name(name)?;
    let mut tx = pool.begin().await.map_err(status)?;
    granted.prove(&mut tx, account_id, parent(name)).await?;
    create_parents(&mut tx, account_id, name).await.map_err(status)?;
    let id: Option<i64> = sqlx::query_scalar(
        "insert into mailboxes (account_id, name, special_use) values ($1, $2, $3)
         on conflict do nothing returning id",
    )
    .bind(account_id)
    .bind(name)
    .bind(&request.special_use)
    .fetch_optional(&mut *tx)
    .await
    .map_err(status)?;
    let id = id.ok_or_else(|| Status::already_exists("mailbox exists"))?;
    inherit(&mut tx, account_id, name).await.map_err(status)?;
    tx.commit().await.map_err(status)?;
    Ok(CreateResponse { mailbox_id: ids::unsigned(id) })
}

/// The mailbox of that name, made when it is not there; `None` when it cannot be one.
pub async fn ensure(tx: &mut PgConnection, account_id: i64, name: &str) -> Result<Option<i64>, sqlx::Error> {
    if check_name(name).is_err() {
        return Ok(None);
    }
    create_parents(tx, account_id, name).await?;
    sqlx::query("insert into mailboxes (account_id, name) values ($1, $2) on conflict do nothing")
        .bind(account_id)
        .bind(name)
        .execute(&mut *tx)
        .await?;
    sqlx::query_scalar("select id from mailboxes where account_id = $1 and name = $2")
        .bind(account_id)
        .bind(name)
        .fetch_optional(tx)
        .await
}

async fn create_parents(tx: &mut PgConnection, account_id: i64, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query("insert into mailboxes (account_id, name) select $1, unnest($2::text[]) on conflict do nothing")
        .bind(account_id)
        .bind(parents(name))
        .execute(tx)
        .await?;
    Ok(())
}

pub async fn delete(pool: &PgPool, granted: Granted, request: DeleteRequest) -> Result<DeleteResponse, Status> {
    if request.name == INBOX {
        return Err(Status::failed_precondition("INBOX cannot be deleted"));
    }
    let account_id = account(request.account_id)?;
    let mut tx = pool.begin().await.map_err(status)?;
    // Inferiors stay; their parent is then a name without mailbox (RFC 9051 §6.3.5).
    let gone: Option<(i64, i64)> =
        sqlx::query_as("delete from mailboxes where account_id = $1 and name = $2 returning id, rights_version")
            .bind(account_id)
            .bind(&request.name)
            .fetch_optional(&mut *tx)
            .await
            .map_err(status)?;
    let (id, rights_version) = gone.ok_or_else(|| Status::not_found("no such mailbox"))?;
    granted.holds(rights_version)?;
    empty(&mut tx, account_id, &[id]).await.map_err(status)?;
    tx.commit().await.map_err(status)?;
    Ok(DeleteResponse {})
}

/// Takes the messages of mailboxes that are gone.
pub async fn empty(tx: &mut PgConnection, account_id: i64, mailboxes: &[i64]) -> Result<(), sqlx::Error> {
    let contents: Vec<Uuid> = sqlx::query_scalar(
        "with vanished as (delete from expunged where account_id = $1 and mailbox_id = any ($2)),
              annotated as (delete from metadata where account_id = $1 and mailbox_id = any ($2)),
              shared as (delete from mailbox_rights where account_id = $1 and mailbox_id = any ($2)),
              followed as (delete from shared_subscriptions where owner_id = $1 and mailbox_id = any ($2))
         delete from messages where account_id = $1 and mailbox_id = any ($2) returning content_id",
    )
    .bind(account_id)
    .bind(mailboxes)
    .fetch_all(&mut *tx)
    .await?;
    release(&mut *tx, &contents).await
}

/// What was looked up: of the mailbox, and of the one above its new name.
pub async fn rename(
    pool: &PgPool,
    granted: (Granted, Granted),
    request: RenameRequest,
) -> Result<RenameResponse, Status> {
    let account_id = account(request.account_id)?;
    let to = request.to.strip_suffix('/').unwrap_or(&request.to);
    check_name(to)?;
    if to.starts_with(&format!("{}/", request.from)) && request.from != INBOX {
        return Err(Status::invalid_argument("a mailbox cannot become its own inferior"));
    }
    let mut tx = pool.begin().await.map_err(status)?;
    granted.0.prove(&mut tx, account_id, &request.from).await?;
    granted.1.prove(&mut tx, account_id, parent(to)).await?;
    let taken: bool = sqlx::query_scalar("select exists (select from mailboxes where account_id = $1 and name = $2)")
        .bind(account_id)
        .bind(to)
        .fetch_one(&mut *tx)
        .await
        .map_err(status)?;
    if taken {
        return Err(Status::already_exists("mailbox exists"));
    }
    create_parents(&mut tx, account_id, to).await.map_err(status)?;
    let renamed = if request.from == INBOX {
        rename_inbox(&mut tx, account_id, to).await
    } else {
        // The mailbox and its inferiors, in one go; the lock order is that of the ids.
        sqlx::query(
            "with tree as (
                 select id from mailboxes where account_id = $1 and (name = $2 or starts_with(name, $2 || '/'))
                 order by id for update
             )
             update mailboxes m set name = $3 || substr(name, length($2) + 1)
             from tree where m.account_id = $1 and m.id = tree.id",
        )
        .bind(account_id)
        .bind(&request.from)
        .bind(to)
        .execute(&mut *tx)
        .await
        .map(|done| done.rows_affected())
    };
    match renamed {
        Ok(0) => Err(Status::not_found("no such mailbox")),
        Ok(_) => tx.commit().await.map(|()| RenameResponse {}).map_err(status),
        Err(sqlx::Error::Database(e)) if e.is_unique_violation() => Err(Status::already_exists("mailbox exists")),
        Err(e) => Err(status(e)),
    }
}

/// INBOX keeps its name and becomes empty: the mailbox with its messages, UIDs and all takes the
/// new name, and a new INBOX takes its place (RFC 9051 §6.3.6).
async fn rename_inbox(tx: &mut PgConnection, account_id: i64, to: &str) -> Result<u64, sqlx::Error> {
    let renamed = sqlx::query("update mailboxes set name = $2 where account_id = $1 and name = 'INBOX'")
        .bind(account_id)
        .bind(to)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    sqlx::query("insert into mailboxes (account_id, name) values ($1, 'INBOX')")
        .bind(account_id)
        .execute(&mut *tx)
        .await?;
    Ok(renamed)
}

pub async fn subscribe(pool: &PgPool, request: SubscribeRequest) -> Result<SubscribeResponse, Status> {
    let done = sqlx::query("update mailboxes set subscribed = $3 where account_id = $1 and name = $2")
        .bind(account(request.account_id)?)
        .bind(&request.name)
        .bind(request.subscribed)
        .execute(pool)
        .await
        .map_err(status)?;
    match done.rows_affected() {
        0 => Err(Status::not_found("no such mailbox")),
        _ => Ok(SubscribeResponse {}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "a/b/c", "Entwürfe", "a b"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a//b", "/a", "a/", "a%", "a*", "a\0b", "a\nb"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name(&vec!["x"; MAX_LEVELS + 1].join("/")).is_err());
        assert_eq!(parents("a/b/c"), ["a", "a/b"]);
        assert!(parents("a").is_empty());
    }
}
