use address::Address;
use proto::admin::{Alias, DeleteAliasResponse, ListAliasesResponse, SetAliasRequest};
use sqlx::PgPool;
use tonic::Status;

use super::{accounts::lock_address, address};
use crate::database::status;

const MAX_TARGETS: usize = 10_000;

pub async fn set(pool: &PgPool, request: SetAliasRequest) -> Result<Alias, Status> {
    let alias = address(&request.address)?;
    let targets = request.targets.iter().map(|t| address(t).map(|a| a.key())).collect::<Result<Vec<_>, _>>()?;
    if targets.is_empty() || targets.len() > MAX_TARGETS {
        return Err(Status::invalid_argument(format!("alias {alias}: expected 1 to {MAX_TARGETS} targets")));
    }
    let mut tx = pool.begin().await.map_err(status)?;
    let changed = sqlx::query("update aliases set targets = $2 where address = $1")
        .bind(alias.key())
        .bind(&targets)
        .execute(&mut *tx)
        .await
        .map_err(status)?
        .rows_affected();
    if changed == 0 {
        create(&mut tx, &alias, &targets).await?;
    }
    tx.commit().await.map_err(status)?;
    Ok(Alias { address: alias.key(), targets })
}

async fn create(tx: &mut sqlx::PgConnection, alias: &Address, targets: &[String]) -> Result<(), Status> {
    lock_address(tx, alias).await?;
    let created = sqlx::query("insert into aliases select $2, name, $3 from domains where name = $1")
        .bind(alias.domain().as_str())
        .bind(alias.key())
        .bind(targets)
        .execute(tx)
        .await
        .map_err(status)?;
    match created.rows_affected() {
        0 => Err(Status::failed_precondition(format!("domain {} is not ours", alias.domain()))),
        _ => Ok(()),
    }
}

pub async fn list(pool: &PgPool, domain: &str) -> Result<ListAliasesResponse, Status> {
    let rows: Vec<(String, Vec<String>)> =
        sqlx::query_as("select address, targets from aliases where $1 = '' or domain = $1 order by address")
            .bind(domain.to_ascii_lowercase())
            .fetch_all(pool)
            .await
            .map_err(status)?;
    Ok(ListAliasesResponse { aliases: rows.into_iter().map(|(address, targets)| Alias { address, targets }).collect() })
}

pub async fn delete(pool: &PgPool, alias: &Address) -> Result<DeleteAliasResponse, Status> {
    let done =
        sqlx::query("delete from aliases where address = $1").bind(alias.key()).execute(pool).await.map_err(status)?;
    match done.rows_affected() {
        0 => Err(Status::not_found(format!("alias {alias} does not exist"))),
        _ => Ok(DeleteAliasResponse {}),
    }
}
