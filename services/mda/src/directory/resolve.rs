//! From a forward-path to mailboxes: domains, accounts, sub-addresses, aliases, groups, catch-all.

use std::collections::{HashMap, HashSet};

use address::Address;
use proto::directory::{Resolution, Target, resolution::Kind, target::To};
use sqlx::{FromRow, PgPool};
use tonic::Status;

use crate::{database::status, forward::Forwarder, ids};

/// An alias of an alias of … : deeper is a mistake or a loop.
const MAX_ALIAS_DEPTH: usize = 8;
const MAX_TARGETS: usize = 10_000;

/// What the tables say about a set of addresses; one query for all of them.
#[derive(Default)]
struct Facts {
    domains: HashSet<String>,
    /// Those whose tenants want in Junk what DMARC would refuse.
    quarantining: HashSet<String>,
    accounts: HashMap<String, Account>,
    aliases: HashMap<String, Vec<String>>,
    asked: HashSet<String>,
}

#[derive(Clone, Copy)]
struct Account {
    id: i64,
    is_disabled: bool,
    /// Bytes that it still takes; `None`: no limit.
    room: Option<i64>,
}

#[derive(FromRow)]
struct Row {
    kind: String,
    key: String,
    id: i64,
    disabled: bool,
    room: Option<i64>,
    targets: Vec<String>,
}

/// Asked for every recipient. Into these arrays the planner cannot look, so one plan does for all calls: to make
/// one costs five times as much as to follow it.
const LOOK_UP: &str = "
select 'domain' as kind, d.name as key, 0::bigint as id,
       coalesce(d.dmarc_quarantine, (select t.dmarc_quarantine from tenants t where t.id = d.tenant_id)) as disabled,
       null::bigint as room, '{}'::text[] as targets
from domains d where d.name = any ((select $1)::text[])
union all
select 'account', a.address, a.id, a.disabled or a.send_only,
       (select min(case when q.limit_messages > 0 and q.messages >= q.limit_messages then 0
                        when q.limit_bytes > 0 then q.limit_bytes - q.bytes end)
        from quotas mine join quotas q on q.tenant_id = mine.tenant_id and q.account_id in (0, a.id)
        where mine.account_id = a.id),
       '{}'
from accounts a where a.address = any ((select $2)::text[])
union all
select 'alias', address, 0, false, null, targets from aliases where address = any ((select $2)::text[])";

impl Facts {
    async fn learn(&mut self, pool: &PgPool, addresses: &[Address]) -> Result<(), Status> {
        let mut keys: HashSet<String> = HashSet::new();
        for address in addresses {
            keys.extend(candidates(address).filter(|k| !self.asked.contains(k)));
        }
        if keys.is_empty() {
            return Ok(());
        }
        let domains: HashSet<String> = addresses.iter().map(|a| a.domain().to_string()).collect();
        let rows: Vec<Row> = sqlx::query_as(LOOK_UP)
            .bind(domains.into_iter().collect::<Vec<_>>())
            .bind(keys.iter().cloned().collect::<Vec<_>>())
            .fetch_all(pool)
            .await
            .map_err(status)?;
        self.asked.extend(keys);
        for row in rows {
            match row.kind.as_str() {
                "domain" => {
                    if row.disabled {
                        self.quarantining.insert(row.key.clone());
                    }
                    self.domains.insert(row.key);
                }
                "account" => {
                    let account = Account { id: row.id, is_disabled: row.disabled, room: row.room };
                    self.accounts.insert(row.key, account);
                }
                _ => drop(self.aliases.insert(row.key, row.targets)),
            }
        }
        Ok(())
    }
}

/// The address itself goes before its sub-address's base, and that before the domain's catch-all.
fn candidates(address: &Address) -> impl Iterator<Item = String> {
    let catch_all = format!("@{}", address.domain());
    [Some(address.key()), address.without_subaddress().map(|a| a.key()), Some(catch_all)].into_iter().flatten()
}

pub async fn resolve(pool: &PgPool, forwarder: &Forwarder, recipients: &[String]) -> Result<Vec<Resolution>, Status> {
    let addresses: Vec<Option<Address>> = recipients.iter().map(|r| r.parse().ok()).collect();
    let mut facts = Facts::default();
    let mut wave: Vec<Address> = addresses.iter().flatten().cloned().collect();
    for _ in 0..MAX_ALIAS_DEPTH {
        facts.learn(pool, &wave).await?;
        wave = next_wave(&facts, &wave);
        if wave.is_empty() {
            break;
        }
    }
    let mut resolutions = Vec::with_capacity(addresses.len());
    for address in &addresses {
        let Some(address) = address else {
            resolutions.push(plain(Kind::Unknown));
            continue;
        };
        let mut resolution = decide(&facts, address);
        if resolution.kind() == Kind::Unknown
            && let Some(origin) = forwarder.origin(address).await?
        {
            let target = Target { to: Some(To::Remote(origin.to_string())) };
            resolution = Resolution { kind: Kind::Local.into(), targets: vec![target], ..Resolution::default() };
        }
        resolution.dmarc_quarantine = facts.quarantining.contains(address.domain().as_str());
        resolutions.push(resolution);
    }
    Ok(resolutions)
}

/// Where a message of ours goes, such as a DSN: no targets when there is nobody.
pub async fn targets_of(
    pool: &PgPool,
    forwarder: &Forwarder,
    address: &Address,
) -> Result<Vec<proto::spool::Target>, Status> {
    destination(pool, forwarder, address).await.map(|(_, targets)| targets)
}

/// The same with what it is.
pub async fn destination(
    pool: &PgPool,
    forwarder: &Forwarder,
    address: &Address,
) -> Result<(Kind, Vec<proto::spool::Target>), Status> {
    let resolution = resolve(pool, forwarder, &[address.to_string()]).await?.pop().unwrap_or_default();
    let to = |target: Target| match target.to {
        Some(To::AccountId(id)) => proto::spool::target::To::AccountId(id),
        Some(To::Remote(path)) => proto::spool::target::To::Remote(path),
        None => proto::spool::target::To::Remote(address.to_string()),
    };
    let kind = resolution.kind();
    Ok((kind, resolution.targets.into_iter().map(|t| proto::spool::Target { to: Some(to(t)) }).collect()))
}

fn next_wave(facts: &Facts, wave: &[Address]) -> Vec<Address> {
    let targets = wave.iter().flat_map(candidates).filter_map(|key| facts.aliases.get(&key)).flatten();
    let unknown = |a: &Address| candidates(a).any(|key| !facts.asked.contains(&key));
    targets.filter_map(|t| t.parse().ok()).filter(unknown).take(MAX_TARGETS).collect()
}

fn decide(facts: &Facts, address: &Address) -> Resolution {
    if !facts.domains.contains(address.domain().as_str()) {
        let target = Target { to: Some(To::Remote(address.to_string())) };
        return Resolution { kind: Kind::Remote.into(), targets: vec![target], ..Resolution::default() };
    }
    let mut found = Expansion::default();
    expand(facts, address, 0, &mut found);
    match found {
        Expansion { mut targets, full, room, .. } if !targets.is_empty() => {
            let room = room.filter(|_| targets.len() == 1).map(ids::unsigned);
            // Others take it: for a full one its sender hears from us (Invariant 6).
            targets.extend(full);
            Resolution { kind: Kind::Local.into(), targets, room, ..Resolution::default() }
        }
        Expansion { full, .. } if !full.is_empty() => plain(Kind::OverQuota),
        Expansion { is_disabled: true, .. } => plain(Kind::Disabled),
        _ => plain(Kind::Unknown),
    }
}

fn plain(kind: Kind) -> Resolution {
    Resolution { kind: kind.into(), ..Resolution::default() }
}

#[derive(Default)]
struct Expansion {
    targets: Vec<Target>,
    seen: HashSet<String>,
    is_disabled: bool,
    full: Vec<Target>,
    room: Option<i64>,
}

fn expand(facts: &Facts, address: &Address, depth: usize, found: &mut Expansion) {
    if depth > MAX_ALIAS_DEPTH || found.targets.len() >= MAX_TARGETS || !found.seen.insert(address.key()) {
        return;
    }
    if !facts.domains.contains(address.domain().as_str()) {
        found.targets.push(Target { to: Some(To::Remote(address.to_string())) });
        return;
    }
    for key in candidates(address) {
        if let Some(account) = facts.accounts.get(&key) {
            let target = Target { to: Some(To::AccountId(ids::unsigned(account.id))) };
            if account.is_disabled {
                found.is_disabled = true;
            } else {
                let is_full = account.room.is_some_and(|room| room <= 0);
                let among = if is_full { &mut found.full } else { &mut found.targets };
                // Two ways to one mailbox are one delivery.
                if !among.contains(&target) {
                    among.push(target);
                    found.room = account.room;
                }
            }
            return;
        }
        if let Some(targets) = facts.aliases.get(&key) {
            for target in targets.iter().filter_map(|t| t.parse::<Address>().ok()) {
                expand(facts, &target, depth + 1, found);
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let account = |id| Account { id, is_disabled: id == 3, room: (id == 4).then_some(0) };
        let alias = |name: &str, targets: &[&str]| (name.to_owned(), targets.iter().map(|t| (*t).to_owned()).collect());
        Facts {
            domains: HashSet::from(["ex.com".to_owned(), "all.org".to_owned()]),
            accounts: HashMap::from([
                ("bob@ex.com".to_owned(), account(1)),
                ("ann@ex.com".to_owned(), account(2)),
                ("off@ex.com".to_owned(), account(3)),
                ("full@ex.com".to_owned(), account(4)),
            ]),
            aliases: HashMap::from([
                alias("all@ex.com", &["bob@ex.com", "team@ex.com", "Eve@Else.org"]),
                alias("team@ex.com", &["ann@ex.com", "bob+x@ex.com", "all@ex.com"]),
                alias("some@ex.com", &["off@ex.com", "full@ex.com", "ann@ex.com"]),
                alias("@all.org", &["bob@ex.com", "lost@all.org"]),
                alias("named@all.org", &["ann@ex.com"]),
            ]),
            asked: HashSet::new(),
            quarantining: HashSet::new(),
        }
    }

    fn outcome(address: &str) -> (Kind, Vec<String>) {
        let resolution = decide(&facts(), &address.parse().expect("valid"));
        let show = |t: &Target| match &t.to {
            Some(To::AccountId(id)) => id.to_string(),
            Some(To::Remote(path)) => path.clone(),
            None => String::new(),
        };
        (resolution.kind(), resolution.targets.iter().map(show).collect())
    }

    #[test]
    fn accounts_subaddresses_and_strangers() {
        assert_eq!(outcome("Bob@EX.com"), (Kind::Local, vec!["1".into()]));
        assert_eq!(outcome("bob+news@ex.com"), (Kind::Local, vec!["1".into()]));
        assert_eq!(outcome("nobody@ex.com"), (Kind::Unknown, vec![]));
        assert_eq!(outcome("off@ex.com"), (Kind::Disabled, vec![]));
        assert_eq!(outcome("full@ex.com"), (Kind::OverQuota, vec![]));
        assert_eq!(outcome("x@else.org"), (Kind::Remote, vec!["x@else.org".into()]));
    }

    #[test]
    fn a_catch_all_takes_what_has_no_other_address() {
        assert_eq!(outcome("anybody@all.org"), (Kind::Local, vec!["1".into()]));
        assert_eq!(outcome("named+x@all.org"), (Kind::Local, vec!["2".into()]));
    }

    #[test]
    fn a_full_mailbox_among_others_is_not_passed_over_in_silence() {
        assert_eq!(outcome("some@ex.com"), (Kind::Local, vec!["2".into(), "4".into()]));
    }

    #[test]
    fn aliases_reach_each_mailbox_once_and_end() {
        assert_eq!(outcome("all@ex.com"), (Kind::Local, vec!["1".into(), "2".into(), "Eve@else.org".into()]));
    }
}
