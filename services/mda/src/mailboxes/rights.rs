//! Who may do what in a mailbox that is not its own (RFC 4314 §2.1, §4).
//!
//! The owner has all rights and costs no look. Everybody else's are looked up first; then a change
//! proves under its lock that they still hold ([`Granted`]), and what was read is only told to who
//! may still read it ([`Reader`]).

use proto::mailboxes::{
    AclEntry, Flags, GetAclRequest, GetAclResponse, ListSharedRequest, ListSharedResponse, Mailbox, SetAclRequest,
    SetAclResponse, SharedMailbox, StoreRequest, set_acl_request::Mode,
};
use sqlx::{PgConnection, PgPool};
use tonic::{Code, Request, Status};

use super::account;
use crate::{database::status, ids};

/// In the order of RFC 4314 §2.1.
const RIGHTS: &str = "lrswipkxtea";
const ANYONE: &str = "anyone";
/// Of one mailbox; more is an attempt to fill the table.
const MAX_GRANTEES: i64 = 1_000;

#[derive(Clone, Copy)]
pub enum Which<'n> {
    Id(u64),
    Name(&'n str),
}

/// Who asks, if it says so.
pub fn actor<T>(request: &Request<T>) -> Result<Option<i64>, Status> {
    let Some(value) = request.metadata().get(proto::ACTOR) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    ids::signed(number.ok_or_else(|| Status::invalid_argument("postroad-actor: expected an account id"))?).map(Some)
}

/// What a look found, so that who acts on it can tell whether it still holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// `mailboxes.rights_version` when it was looked up; `None` for the owner.
    version: Option<i64>,
}

const CHANGED: &str = "rights have changed";

impl Granted {
    /// To be asked with the row under the lock of the change: it rises with every SETACL.
    pub fn holds(&self, rights_version: i64) -> Result<(), Status> {
        match self.version {
            Some(looked_up) if looked_up != rights_version => Err(Status::aborted(CHANGED)),
            _ => Ok(()),
        }
    }

    /// Of a statement that compared the version itself.
    pub fn changed(&self, has_changed: bool) -> Result<(), Status> {
        if has_changed { Err(Status::aborted(CHANGED)) } else { Ok(()) }
    }

    pub fn version(&self) -> Option<i64> {
        self.version
    }

    /// For a change that locks no such row by itself; nobody changes the rights until it commits.
    pub async fn prove(&self, tx: &mut PgConnection, owner: i64, name: &str) -> Result<(), Status> {
        if self.version.is_none() {
            return Ok(());
        }
        let version: Option<i64> =
            sqlx::query_scalar("select rights_version from mailboxes where account_id = $1 and name = $2 for share")
                .bind(owner)
                .bind(name)
                .fetch_optional(tx)
                .await
                .map_err(status)?;
        self.holds(version.unwrap_or_default())
    }
}

/// Makes a change again whose rights changed between the look and the deed.
pub async fn looked_up<T, F>(mut change: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        match change().await {
            Err(status) if status.code() == Code::Aborted && status.message() == CHANGED => continue,
            done => return done,
        }
    }
    Err(Status::unavailable(CHANGED))
}

/// Who reads in a mailbox. Asked after what it wants was read: what it might read then is no secret.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    pub actor: Option<i64>,
    pub owner: u64,
    pub mailbox_id: u64,
}

impl Reader {
    pub async fn may_still(&self, pool: &PgPool) -> Result<(), Status> {
        require(pool, self.actor, self.owner, Which::Id(self.mailbox_id), "r").await.map(drop)
    }
}

/// What an actor may do in a mailbox; `None` for the owner, who may do everything.
pub async fn rights_in(
    pool: &PgPool,
    actor: Option<i64>,
    owner: u64,
    which: Which<'_>,
) -> Result<Option<(String, Granted)>, Status> {
    let owner = account(owner)?;
    let Some(actor) = actor.filter(|actor| *actor != owner) else { return Ok(None) };
    let (id, name) = match which {
        Which::Id(id) => (Some(ids::signed(id)?), None),
        Which::Name(name) => (None, Some(name)),
    };
    let found: Option<(Option<String>, i64)> = sqlx::query_as(
        "select (select string_agg(r.rights, '')
                 from accounts o
                 join accounts a on a.id = $4 and a.tenant_id = o.tenant_id
                 join mailbox_rights r
                   on r.account_id = m.account_id and r.mailbox_id = m.id and r.grantee_id in (0, a.id)
                 where o.id = m.account_id), m.rights_version
         from mailboxes m
         where m.account_id = $1 and (m.id = $2 or m.name = $3)",
    )
    .bind(owner)
    .bind(id)
    .bind(name)
    .bind(actor)
    .fetch_optional(pool)
    .await
    .map_err(status)?;
    let (rights, version) = found.unwrap_or_default();
    Ok(Some((rights.unwrap_or_default(), Granted { version: Some(version) })))
}

/// All of `needed`; who may not even see the mailbox is told that there is none.
pub async fn require(
    pool: &PgPool,
    actor: Option<i64>,
    owner: u64,
    which: Which<'_>,
    needed: &str,
) -> Result<Granted, Status> {
    match rights_in(pool, actor, owner, which).await? {
        None => Ok(Granted::default()),
        Some((rights, granted)) if needed.chars().all(|right| rights.contains(right)) => Ok(granted),
        Some((rights, _)) if rights.contains(['l', 'r']) => Err(Status::permission_denied(proto::NO_RIGHT)),
        Some(_) => Err(Status::not_found("no such mailbox")),
    }
}

/// Whether anything of the owner may be read, so that its changes may be watched.
pub async fn may_watch(pool: &PgPool, actor: Option<i64>, owner: u64) -> Result<(), Status> {
    let owner = account(owner)?;
    let Some(actor) = actor.filter(|actor| *actor != owner) else { return Ok(()) };
    let may: bool = sqlx::query_scalar(
        "select exists (select from accounts a
                        join mailbox_rights r on r.grantee_id in (0, a.id) and r.account_id = $1
                        join accounts o on o.id = r.account_id and o.tenant_id = a.tenant_id
                        where a.id = $2 and r.rights like '%r%')",
    )
    .bind(owner)
    .bind(actor)
    .fetch_one(pool)
    .await
    .map_err(status)?;
    if may { Ok(()) } else { Err(Status::permission_denied(proto::NO_RIGHT)) }
}

/// `k` in the nearest parent there is: a tree without one is the owner's alone.
pub async fn require_parent(pool: &PgPool, actor: Option<i64>, owner: u64, name: &str) -> Result<Granted, Status> {
    if rights_in(pool, actor, owner, Which::Name(name)).await?.is_none() {
        return Ok(Granted::default());
    }
    let parent = parent(name);
    require(pool, actor, owner, Which::Name(parent), "k").await
}

pub fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Which flags of these the rights allow to change (RFC 4314 §4, STORE).
fn allowed(rights: &str, flags: &Flags) -> Flags {
    const SEEN: u32 = 1;
    const DELETED: u32 = 8;
    let mut mask = 0;
    mask |= if rights.contains('s') { SEEN } else { 0 };
    mask |= if rights.contains('t') { DELETED } else { 0 };
    mask |= if rights.contains('w') { !(SEEN | DELETED) } else { 0 };
    let keywords = if rights.contains('w') { flags.keywords.clone() } else { Vec::new() };
    Flags { system: flags.system & mask, keywords }
}

/// STORE with a part of the rights changes that part; with none of them it is refused.
pub async fn for_store(pool: &PgPool, actor: Option<i64>, request: &mut StoreRequest) -> Result<Granted, Status> {
    let which = Which::Id(request.mailbox_id);
    let Some((rights, granted)) = rights_in(pool, actor, request.account_id, which).await? else {
        return Ok(Granted::default());
    };
    if !rights.contains('r') {
        return require(pool, actor, request.account_id, which, "r").await;
    }
    let wanted = request.flags.clone().unwrap_or_default();
    let flags = allowed(&rights, &wanted);
    let replaces = matches!(request.mode(), proto::mailboxes::store_request::Mode::Replace);
    // What FLAGS without plus or minus would take away needs its right too.
    let covers = |right: char| rights.contains(right);
    if replaces && !(covers('s') && covers('t') && covers('w')) {
        return Err(Status::permission_denied(proto::NO_RIGHT));
    }
    if flags == Flags::default() && wanted != Flags::default() {
        return Err(Status::permission_denied(proto::NO_RIGHT));
    }
    request.flags = Some(flags);
    Ok(granted)
}

/// `i`, and of the flags those that may be set.
pub async fn for_append(
    pool: &PgPool,
    actor: Option<i64>,
    owner: u64,
    name: &str,
) -> Result<(Granted, Option<impl Fn(&Flags) -> Flags + use<>>), Status> {
    let granted = require(pool, actor, owner, Which::Name(name), "i").await?;
    let rights = rights_in(pool, actor, owner, Which::Name(name)).await?;
    // Between the two looks they may have changed: the statement proves the first one.
    Ok((granted, rights.map(|(rights, _)| move |flags: &Flags| allowed(&rights, flags))))
}

/// Owner and address, mailbox and name, rights, whether subscribed.
type Shared = (i64, String, i64, String, String, bool);

pub async fn list_shared(pool: &PgPool, request: ListSharedRequest) -> Result<ListSharedResponse, Status> {
    let rows: Vec<Shared> = sqlx::query_as(
        "select o.id, o.address, m.id, m.name, string_agg(r.rights, ''),
                exists (select from shared_subscriptions s
                        where s.account_id = $1 and s.owner_id = o.id and s.mailbox_id = m.id)
         from accounts a
         join mailbox_rights r on r.grantee_id in (0, a.id) and r.account_id <> a.id
         join accounts o on o.id = r.account_id and o.tenant_id = a.tenant_id
         join mailboxes m on m.account_id = r.account_id and m.id = r.mailbox_id
         where a.id = $1
         group by o.id, o.address, m.id, m.name
         order by o.address collate \"C\", m.name <> 'INBOX', m.name collate \"C\"",
    )
    .bind(account(request.account_id)?)
    .fetch_all(pool)
    .await
    .map_err(status)?;
    let mailbox = |(owner, address, id, name, rights, subscribed): Shared| SharedMailbox {
        owner_id: ids::unsigned(owner),
        owner: address,
        mailbox: Some(Mailbox { mailbox_id: ids::unsigned(id), name, special_use: String::new(), subscribed }),
        rights: settled(&rights),
    };
    Ok(ListSharedResponse { mailboxes: rows.into_iter().map(mailbox).collect() })
}

/// Each once, in their order.
fn settled(rights: &str) -> String {
    RIGHTS.chars().filter(|right| rights.contains(*right)).collect()
}

pub async fn get_acl(pool: &PgPool, granted: Granted, request: GetAclRequest) -> Result<GetAclResponse, Status> {
    let owner = account(request.account_id)?;
    let mut tx = pool.begin().await.map_err(status)?;
    let (id, address) = target(&mut tx, &granted, owner, &request.name).await?;
    let rows: Vec<(Option<String>, String)> = sqlx::query_as(
        "select a.address, r.rights from mailbox_rights r left join accounts a on a.id = r.grantee_id
         where r.account_id = $1 and r.mailbox_id = $2 and (r.grantee_id = 0 or a.id is not null)
         order by a.address collate \"C\" nulls last",
    )
    .bind(owner)
    .bind(id)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    tx.rollback().await.map_err(status)?;
    let entry = |(address, rights): (Option<String>, String)| AclEntry {
        identifier: address.unwrap_or_else(|| ANYONE.to_owned()),
        rights,
    };
    Ok(GetAclResponse { entries: rows.into_iter().map(entry).collect(), owner: address })
}

/// The mailbox, locked, and its owner's address.
async fn target(tx: &mut PgConnection, granted: &Granted, owner: i64, name: &str) -> Result<(i64, String), Status> {
    let found: Option<(i64, String, i64)> = sqlx::query_as(
        "select m.id, a.address, m.rights_version from mailboxes m join accounts a on a.id = m.account_id
         where m.account_id = $1 and m.name = $2 for no key update of m",
    )
    .bind(owner)
    .bind(name)
    .fetch_optional(tx)
    .await
    .map_err(status)?;
    let (id, address, rights_version) = found.ok_or_else(|| Status::not_found("no such mailbox"))?;
    granted.holds(rights_version)?;
    Ok((id, address))
}

pub async fn set_acl(pool: &PgPool, granted: Granted, request: SetAclRequest) -> Result<SetAclResponse, Status> {
    let owner = account(request.account_id)?;
    if !request.rights.chars().all(|right| RIGHTS.contains(right)) {
        return Err(Status::invalid_argument(format!("rights: expected letters of {RIGHTS}")));
    }
    let mut tx = pool.begin().await.map_err(status)?;
    let (id, _) = target(&mut tx, &granted, owner, &request.name).await?;
    let identifier = request.identifier.to_lowercase();
    let grantee: Option<i64> = if identifier == ANYONE {
        Some(0)
    } else {
        sqlx::query_scalar(
            "select a.id from accounts a join accounts o on o.tenant_id = a.tenant_id where o.id = $1 and a.address = $2",
        )
        .bind(owner)
        .bind(&identifier)
        .fetch_optional(&mut *tx)
        .await
        .map_err(status)?
    };
    let grantee = grantee.ok_or_else(|| Status::not_found("no such identifier"))?;
    if grantee == owner {
        return Err(Status::failed_precondition("the owner has all rights"));
    }
    let before: Option<String> = sqlx::query_scalar(
        "select rights from mailbox_rights where account_id = $1 and mailbox_id = $2 and grantee_id = $3",
    )
    .bind(owner)
    .bind(id)
    .bind(grantee)
    .fetch_optional(&mut *tx)
    .await
    .map_err(status)?;
    let before = before.unwrap_or_default();
    let after = match request.mode() {
        Mode::Replace | Mode::Unspecified => settled(&request.rights),
        Mode::Add => settled(&format!("{before}{}", request.rights)),
        Mode::Remove => before.chars().filter(|right| !request.rights.contains(*right)).collect(),
    };
    let query = if after.is_empty() {
        sqlx::query(
            "delete from mailbox_rights where account_id = $1 and mailbox_id = $2 and grantee_id = $3 and $4 = ''",
        )
    } else {
        sqlx::query(
            "insert into mailbox_rights (account_id, mailbox_id, grantee_id, rights) values ($1, $2, $3, $4)
             on conflict (account_id, mailbox_id, grantee_id) do update set rights = excluded.rights",
        )
    };
    query.bind(owner).bind(id).bind(grantee).bind(&after).execute(&mut *tx).await.map_err(status)?;
    let grantees: i64 =
        sqlx::query_scalar("select count(*) from mailbox_rights where account_id = $1 and mailbox_id = $2")
            .bind(owner)
            .bind(id)
            .fetch_one(&mut *tx)
            .await
            .map_err(status)?;
    if grantees > MAX_GRANTEES {
        return Err(Status::failed_precondition(format!("more than {MAX_GRANTEES} identifiers")));
    }
    tx.commit().await.map_err(status)?;
    Ok(SetAclResponse {})
}

/// A new mailbox has the rights of the one above it (RFC 4314 §4, CREATE).
pub async fn inherit(tx: &mut PgConnection, owner: i64, name: &str) -> Result<(), sqlx::Error> {
    let Some((parent, _)) = name.rsplit_once('/') else { return Ok(()) };
    sqlx::query(
        "insert into mailbox_rights (account_id, mailbox_id, grantee_id, rights)
         select r.account_id, new.id, r.grantee_id, r.rights
         from mailboxes above
         join mailbox_rights r on r.account_id = above.account_id and r.mailbox_id = above.id
         join mailboxes new on new.account_id = above.account_id and new.name = $3
         where above.account_id = $1 and above.name = $2
         on conflict do nothing",
    )
    .bind(owner)
    .bind(parent)
    .bind(name)
    .execute(tx)
    .await?;
    Ok(())
}

/// What is not the owner's own flag in the row: who is subscribed to another's mailbox.
pub async fn subscribe(pool: &PgPool, actor: i64, owner: u64, name: &str, subscribed: bool) -> Result<(), Status> {
    let statement = if subscribed {
        "insert into shared_subscriptions (account_id, owner_id, mailbox_id)
         select $1, account_id, id from mailboxes where account_id = $2 and name = $3 on conflict do nothing"
    } else {
        "delete from shared_subscriptions s using mailboxes m
         where s.account_id = $1 and s.owner_id = $2 and m.account_id = s.owner_id and m.id = s.mailbox_id and m.name = $3"
    };
    let query = sqlx::query(statement).bind(actor).bind(account(owner)?).bind(name);
    query.execute(pool).await.map_err(status)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_looked_up_is_proved_and_looked_up_again() {
        let old = Granted { version: Some(3) };
        assert!(old.holds(3).is_ok() && old.holds(4).is_err());
        assert!(Granted::default().holds(9).is_ok(), "the owner's never change");
        let versions = std::cell::Cell::new(0);
        let done = looked_up(|| {
            versions.set(versions.get() + 1);
            let granted = Granted { version: Some(versions.get()) };
            async move { granted.holds(3) }
        });
        assert!(done.await.is_ok());
        assert_eq!(versions.get(), 3);
        let refused = looked_up(|| async { Err::<(), _>(Status::not_found("no such mailbox")) }).await;
        assert_eq!(refused.expect_err("no look helps").code(), Code::NotFound);
    }

    #[test]
    fn flags_need_their_rights() {
        let flags = Flags { system: 1 | 4 | 8, keywords: vec!["x".into()] };
        assert_eq!(allowed("lrs", &flags), Flags { system: 1, keywords: vec![] });
        assert_eq!(allowed("lrt", &flags), Flags { system: 8, keywords: vec![] });
        assert_eq!(allowed("lrw", &flags), Flags { system: 4, keywords: vec!["x".into()] });
        assert_eq!(allowed("lr", &flags), Flags::default());
        assert_eq!(settled("alrr"), "lra");
    }
}
