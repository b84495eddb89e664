//! Destinations that an operator has paused: Claim leaves their deliveries alone.

use proto::admin::{
    ListPausedDestinationsResponse, PauseDestinationRequest, PauseDestinationResponse, PausedDestination,
    ResumeDestinationRequest, ResumeDestinationResponse,
};
use sqlx::PgPool;
use tonic::Status;

use crate::{content::plain, database::status};

fn domain(name: &str) -> Result<String, Status> {
    let domain: address::Domain =
        name.parse().map_err(|e| Status::invalid_argument(format!("domain {name:?}: {e}")))?;
    Ok(domain.to_string())
}

pub async fn pause(pool: &PgPool, request: PauseDestinationRequest) -> Result<PauseDestinationResponse, Status> {
    sqlx::query(
        "insert into paused_destinations (domain, reason) values ($1, $2)
         on conflict (domain) do update set reason = excluded.reason",
    )
    .bind(domain(&request.domain)?)
    .bind(plain(&request.reason))
    .execute(pool)
    .await
    .map_err(status)?;
    Ok(PauseDestinationResponse {})
}

/// Its mail is due when it was before, which mostly means now.
pub async fn resume(pool: &PgPool, request: ResumeDestinationRequest) -> Result<ResumeDestinationResponse, Status> {
    let domain = domain(&request.domain)?;
    let mut tx = pool.begin().await.map_err(status)?;
    let gone = sqlx::query("delete from paused_destinations where domain = $1")
        .bind(&domain)
        .execute(&mut *tx)
        .await
        .map_err(status)?
        .rows_affected();
    if gone == 0 {
        return Err(Status::not_found(format!("{domain} is not paused")));
    }
    let released = sqlx::query(
        "update deliveries set due_at = greatest(not_before, now())
         where lower(split_part(coalesce(remote, recipient), '@', -1)) = $1 and remote is not null
           and (lease_until is null or lease_until < now())",
    )
    .bind(&domain)
    .execute(&mut *tx)
    .await
    .map_err(status)?
    .rows_affected();
    tx.commit().await.map_err(status)?;
    Ok(ResumeDestinationResponse { released: u32::try_from(released).unwrap_or(u32::MAX) })
}

pub async fn list(pool: &PgPool) -> Result<ListPausedDestinationsResponse, Status> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "select domain, reason, (extract(epoch from paused_at) * 1000)::bigint from paused_destinations order by domain",
    )
    .fetch_all(pool)
    .await
    .map_err(status)?;
    let destinations =
        rows.into_iter().map(|(domain, reason, paused_at_ms)| PausedDestination { domain, reason, paused_at_ms });
    Ok(ListPausedDestinationsResponse { destinations: destinations.collect() })
}
