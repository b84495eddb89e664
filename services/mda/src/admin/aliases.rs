use address::Domain;
use proto::admin::{Alias, ChangeGroupRequest, DeleteAliasResponse, ListAliasesResponse, SetAliasRequest};
use sqlx::PgPool;
use tonic::Status;

use super::{accounts::lock_address, address, domain, scope::Scope};
use crate::database::status;

const MAX_TARGETS: usize = 10_000;

/// `@example.com` is a domain's catch-all, which no client can write as an address.
pub struct Name {
    pub key: String,
    pub domain: Domain,
}

pub fn name(text: &str) -> Result<Name, Status> {
    match text.strip_prefix('@') {
        Some(rest) => {
            let domain = domain(rest)?;
            Ok(Name { key: format!("@{domain}"), domain })
        }
        None => address(text).map(|a| Name { key: a.key(), domain: a.domain().clone() }),
    }
}

pub async fn set(pool: &PgPool, request: SetAliasRequest) -> Result<Alias, Status> {
    let alias = name(&request.address)?;
    let targets = request.targets.iter().map(|t| address(t).map(|a| a.key())).collect::<Result<Vec<_>, _>>()?;
    if targets.is_empty() || targets.len() > MAX_TARGETS {
        return Err(Status::invalid_argument(format!("alias {}: expected 1 to {MAX_TARGETS} targets", alias.key)));
    }
    let mut tx = pool.begin().await.map_err(status)?;
    let changed = sqlx::query("update aliases set targets = $2, kind = 'alias' where address = $1")
        .bind(&alias.key)
        .bind(&targets)
        .execute(&mut *tx)
        .await
        .map_err(status)?
        .rows_affected();
    if changed == 0 {
        create(&mut tx, &alias, &targets, "alias").await?;
    }
    tx.commit().await.map_err(status)?;
    Ok(Alias { address: alias.key, targets, group: false })
}

/// Members come and go one by one, whoever else changes the group at the same time.
pub async fn change_group(pool: &PgPool, request: ChangeGroupRequest) -> Result<Alias, Status> {
    let group = name(&request.address)?;
    let keys = |all: &[String]| all.iter().map(|t| address(t).map(|a| a.key())).collect::<Result<Vec<_>, _>>();
    let (add, remove) = (keys(&request.add)?, keys(&request.remove)?);
    let mut tx = pool.begin().await.map_err(status)?;
    let changed: Option<Vec<String>> = sqlx::query_scalar(
        "update aliases set kind = 'group', targets = (
             select coalesce(array_agg(t order by t), '{}') from (
                 select unnest(targets) t union select unnest($2::text[])) u
             where t <> all ($3))
         where address = $1 returning targets",
    )
    .bind(&group.key)
    .bind(&add)
    .bind(&remove)
    .fetch_optional(&mut *tx)
    .await
    .map_err(status)?;
    let targets = match changed {
        Some(targets) => targets,
        None => {
            let mut members: Vec<String> = add.into_iter().filter(|a| !remove.contains(a)).collect();
            members.sort_unstable();
            members.dedup();
            create(&mut tx, &group, &members, "group").await?;
            members
        }
    };
    if targets.len() > MAX_TARGETS {
        return Err(Status::invalid_argument(format!("group {}: expected at most {MAX_TARGETS} members", group.key)));
    }
    tx.commit().await.map_err(status)?;
    Ok(Alias { address: group.key, targets, group: true })
}

async fn create(tx: &mut sqlx::PgConnection, alias: &Name, targets: &[String], kind: &str) -> Result<(), Status> {
    lock_address(tx, &alias.key).await?;
    let created = sqlx::query(
        "insert into aliases (address, domain, targets, kind) select $2, name, $3, $4 from domains where name = $1",
    )
    .bind(alias.domain.as_str())
    .bind(&alias.key)
    .bind(targets)
    .bind(kind)
    .execute(tx)
    .await
    .map_err(status)?;
    match created.rows_affected() {
        0 => Err(Status::failed_precondition(format!("domain {} is not ours", alias.domain))),
        _ => Ok(()),
    }
}

pub async fn list(pool: &PgPool, domain: &str, scope: &Scope) -> Result<ListAliasesResponse, Status> {
    let rows: Vec<(String, Vec<String>, bool)> = sqlx::query_as(
        "select a.address, a.targets, a.kind = 'group' from aliases a
         join domains d on d.name = a.domain join tenants t on t.id = d.tenant_id
         where ($1 = '' or a.domain = $1) and ($2::text is null or t.name = $2) order by a.address",
    )
    .bind(domain.to_ascii_lowercase())
    .bind(scope.tenant())
    .fetch_all(pool)
    .await
    .map_err(status)?;
    let alias = |(address, targets, group)| Alias { address, targets, group };
    Ok(ListAliasesResponse { aliases: rows.into_iter().map(alias).collect() })
}

pub async fn delete(pool: &PgPool, alias: &Name) -> Result<DeleteAliasResponse, Status> {
    let done =
        sqlx::query("delete from aliases where address = $1").bind(&alias.key).execute(pool).await.map_err(status)?;
    match done.rows_affected() {
        0 => Err(Status::not_found(format!("alias {} does not exist", alias.key))),
        _ => Ok(DeleteAliasResponse {}),
    }
}
