//! The gRPC service Egress: whose mail leaves from where.

use std::net::IpAddr;

use proto::relay::{
    DeletePoolRequest, DeletePoolResponse, EgressPool, EgressSource, ListPoolsRequest, ListPoolsResponse, egress_server,
};
use sqlx::{FromRow, PgPool};
use tonic::{Request, Response, Status};

use crate::database::status;

const MAX_SOURCES: usize = 256;

pub struct Egress {
    pub pool: PgPool,
}

const POOLS: &str = "
select p.name, p.addresses, p.hostnames,
       coalesce((select array_agg(t.name order by t.name) from egress_tenants e join tenants t on t.id = e.tenant_id
                 where e.pool = p.name), '{}') as tenants
from egress_pools p where $1 is null or p.name = $1 order by p.name";

const SET: &str = "
insert into egress_pools (name, addresses, hostnames) values ($1, $2, $3)
on conflict (name) do update set addresses = excluded.addresses, hostnames = excluded.hostnames";

#[derive(FromRow)]
struct Row {
    name: String,
    addresses: Vec<String>,
    hostnames: Vec<String>,
    tenants: Vec<String>,
}

impl From<Row> for EgressPool {
    fn from(row: Row) -> Self {
        let pairs = row.addresses.into_iter().zip(row.hostnames);
        let sources = pairs.map(|(address, hostname)| EgressSource { address, hostname }).collect();
        Self { name: row.name, sources, tenants: row.tenants }
    }
}

#[tonic::async_trait]
impl egress_server::Egress for Egress {
    async fn set_pool(&self, request: Request<EgressPool>) -> Result<Response<EgressPool>, Status> {
        let pool = checked(request.into_inner())?;
        let mut tx = self.pool.begin().await.map_err(status)?;
        sqlx::query(SET)
            .bind(&pool.name)
            .bind(pool.sources.iter().map(|s| s.address.as_str()).collect::<Vec<_>>())
            .bind(pool.sources.iter().map(|s| s.hostname.as_str()).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await
            .map_err(status)?;
        assign(&mut tx, &pool.name, &pool.tenants).await?;
        tx.commit().await.map_err(status)?;
        Ok(Response::new(pool))
    }

    async fn delete_pool(&self, request: Request<DeletePoolRequest>) -> Result<Response<DeletePoolResponse>, Status> {
        let name = request.into_inner().name;
        let gone = sqlx::query("delete from egress_pools where name = $1")
            .bind(&name)
            .execute(&self.pool)
            .await
            .map_err(status)?
            .rows_affected();
        match gone {
            0 => Err(Status::not_found(format!("there is no egress pool {name:?}"))),
            _ => Ok(Response::new(DeletePoolResponse {})),
        }
    }

    async fn list_pools(&self, _: Request<ListPoolsRequest>) -> Result<Response<ListPoolsResponse>, Status> {
        let rows: Vec<Row> = sqlx::query_as(POOLS).bind(None::<&str>).fetch_all(&self.pool).await.map_err(status)?;
        Ok(Response::new(ListPoolsResponse { pools: rows.into_iter().map(Into::into).collect() }))
    }
}

/// Gives the pool these tenants and no others.
async fn assign(tx: &mut sqlx::PgConnection, pool: &str, tenants: &[String]) -> Result<(), Status> {
    sqlx::query(
        "delete from egress_tenants e using tenants t
         where t.id = e.tenant_id and e.pool = $1 and t.name <> all ($2)",
    )
    .bind(pool)
    .bind(tenants)
    .execute(&mut *tx)
    .await
    .map_err(status)?;
    // The conflicting row is locked, so that two pools cannot both believe that they have a tenant.
    let mine: Vec<String> = sqlx::query_scalar(
        "with mine as (
             insert into egress_tenants (tenant_id, pool) select id, $1 from tenants where name = any ($2) order by id
             on conflict (tenant_id) do update set pool = excluded.pool where egress_tenants.pool = excluded.pool
             returning tenant_id
         )
         select t.name from mine join tenants t on t.id = mine.tenant_id",
    )
    .bind(pool)
    .bind(tenants)
    .fetch_all(&mut *tx)
    .await
    .map_err(status)?;
    let Some(other) = tenants.iter().find(|t| !mine.contains(t)) else { return Ok(()) };
    let theirs: Option<String> = sqlx::query_scalar(
        "select e.pool from egress_tenants e join tenants t on t.id = e.tenant_id where t.name = $1",
    )
    .bind(other)
    .fetch_optional(tx)
    .await
    .map_err(status)?;
    Err(match theirs {
        Some(theirs) => Status::failed_precondition(format!("tenant {other:?} leaves from the egress pool {theirs:?}")),
        None => Status::not_found(format!("tenant {other:?} does not exist")),
    })
}

fn checked(mut pool: EgressPool) -> Result<EgressPool, Status> {
    let refuse = |words: String| Err(Status::invalid_argument(format!("egress pool {:?}: {words}", pool.name)));
    let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if pool.name.is_empty() || pool.name.len() > 253 || !pool.name.chars().all(is_fine) {
        return refuse("expected a name of lower-case letters, digits, dashes and dots".into());
    }
    if pool.sources.is_empty() || pool.sources.len() > MAX_SOURCES {
        return refuse(format!("{} sources, expected 1 to {MAX_SOURCES}", pool.sources.len()));
    }
    for source in &pool.sources {
        let address = source.address.parse::<IpAddr>();
        if !address.is_ok_and(|a| !a.is_unspecified() && !a.is_multicast()) {
            return refuse(format!("address {:?}, expected an IP address", source.address));
        }
        if !source.hostname.is_empty() && source.hostname.parse::<address::Domain>().is_err() {
            return refuse(format!("hostname {:?}, expected a host name", source.hostname));
        }
    }
    pool.tenants.sort();
    pool.tenants.dedup();
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let pool = |name: &str, address: &str, hostname: &str| {
            let source = EgressSource { address: address.into(), hostname: hostname.into() };
            checked(EgressPool { name: name.into(), sources: vec![source], tenants: Vec::new() })
        };
        assert!(pool("bulk-1", "192.0.2.7", "bulk.example.net").is_ok());
        assert!(pool("bulk", "2001:db8::7", "").is_ok());
        for (name, address, hostname, word) in [
            ("", "192.0.2.7", "", "name"),
            ("Bulk", "192.0.2.7", "", "name"),
            ("bulk", "host", "", "\"host\""),
            ("bulk", "0.0.0.0", "", "0.0.0.0"),
            ("bulk", "192.0.2.7", "a b", "\"a b\""),
        ] {
            let words = pool(name, address, hostname).expect_err("refused").message().to_owned();
            assert!(words.contains(word), "{words}");
        }
        assert!(checked(EgressPool { name: "bulk".into(), ..EgressPool::default() }).is_err());
    }
}
