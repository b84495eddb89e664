//! Deliveries that nobody can work on are set aside, with an alarm, instead of coming for ever.
//!
//! A try that fails because the database is away counts for nothing. What counts is that the
//! database refuses the delivery itself, that its worker ended over it, or (for those to other
//! hosts, in `spool`'s Claim) that one lease after another ended without a word. An operator looks
//! at it (`postroad queue list --set-aside`) and retries, redirects or bounces it.

use proto::spool::DeliveryId;
use sqlx::{PgPool, types::Uuid};
use tonic::Status;

use crate::{content::plain, database::status, spool};

/// Handed out so often, a delivery is counted before it is tried.
pub const SUSPICIOUS: u32 = 3;
/// Counted so often, it is set aside.
pub const LIMIT: i16 = 5;
/// A lease also ends without a word when a relay is killed for another reason.
pub const LOST_LEASES: i16 = 20;

const COUNT: &str = "
with counted as (
    update deliveries d
    set lost = d.lost + 1, last_text = $3, held = d.lost + 1 >= $4,
        set_aside_at = case when d.lost + 1 >= $4 then now() end
    from (select distinct * from unnest($1::uuid[], $2::int[]) as w (queue_id, number)) w
    where d.queue_id = w.queue_id and d.number = w.number and not d.held
    returning d.queue_id, d.number, d.recipient, d.lost, d.held
), told as (
    insert into journey (queue_id, name, service, recipient, text, detail)
    select queue_id, 'set aside', 'mda', recipient, $3, '' from counted where held
)
select queue_id, number from counted where lost > 1";

/// Counts a try of each, and sets those aside that had enough. Returns those with earlier ones.
pub async fn count(pool: &PgPool, deliveries: &[DeliveryId], why: &str) -> Result<Vec<DeliveryId>, Status> {
    let (queue_ids, numbers) = spool::columns(deliveries)?;
    let rows: Vec<(Uuid, i32)> = sqlx::query_as(COUNT)
        .bind(queue_ids)
        .bind(numbers)
        .bind(plain(why))
        .bind(LIMIT)
        .fetch_all(pool)
        .await
        .map_err(status)?;
    Ok(rows.into_iter().map(|(queue_id, number)| spool::delivery_id(queue_id, number)).collect())
}

/// The database refused it, and it alone.
pub async fn refused(pool: &PgPool, delivery: &DeliveryId, why: &str) {
    let words = format!("the database refuses it: {why}");
    if let Err(e) = count(pool, std::slice::from_ref(delivery), &words).await {
        tracing::warn!(error = %e, "refused delivery not counted");
    }
}

/// Takes a count back, of those that are still open.
pub async fn uncount(pool: &PgPool, deliveries: &[DeliveryId]) -> Result<(), Status> {
    let (queue_ids, numbers) = spool::columns(deliveries)?;
    sqlx::query(
        "update deliveries d set lost = greatest(d.lost - 1, 0)
         from (select distinct * from unnest($1::uuid[], $2::int[]) as w (queue_id, number)) w
         where d.queue_id = w.queue_id and d.number = w.number and not d.held",
    )
    .bind(queue_ids)
    .bind(numbers)
    .execute(pool)
    .await
    .map_err(status)?;
    Ok(())
}
