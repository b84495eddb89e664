//! Partitions: made some days ahead, dropped when their time is over.

use chrono::{Days, NaiveDate, Utc};
use sqlx::{PgPool, Postgres, Transaction};

/// Tables of the journey, and whether dialogues' retention is theirs.
const TABLES: [(&str, bool); 3] = [("journey", false), ("journey_dialogues", true), ("journey_recipients", false)];
/// With nobody to make more, mail goes on: into the default partition.
const AHEAD: u64 = 3;

#[derive(Debug, Clone, Copy)]
pub struct Retention {
    pub days: u32,
    pub dialogue_days: u32,
}

/// A message whose deliveries are still open keeps its head however old it is, and so does one whose
/// last word is younger than itself.
const FORGET: &str = "
delete from spool where queue_id in (
    select queue_id from spool s
    where accepted_at < $1
      and not exists (select from deliveries d where d.queue_id = s.queue_id)
      and not exists (select from journey j where j.queue_id = s.queue_id and j.at >= $1)
    order by accepted_at limit $2 for update skip locked)";
const BATCH: u64 = 1_000;
/// Of heads in one round: the rest waits for the next.
const ROUNDS: usize = 100;

/// Safe to run at any time, also several at once.
pub async fn keep(pool: &PgPool, retention: Retention) -> Result<(), sqlx::Error> {
    let today = Utc::now().date_naive();
    let days: Vec<NaiveDate> = (0..=AHEAD).filter_map(|ahead| today.checked_add_days(Days::new(ahead))).collect();
    for (table, _) in TABLES {
        let mut tx = patient(pool).await?;
        sqlx::query("select journey_day($1, day) from unnest($2::date[]) day")
            .bind(table)
            .bind(&days)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
    }
    for (table, of_dialogues) in TABLES {
        let kept = if of_dialogues { retention.dialogue_days.min(retention.days) } else { retention.days };
        let Some(day) = today.checked_sub_days(Days::new(kept.into())) else { continue };
        let mut tx = patient(pool).await?;
        let dropped: i32 =
            sqlx::query_scalar("select journey_forget($1, $2)").bind(table).bind(day).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        if dropped > 0 {
            tracing::info!(table, dropped, "days of the journey forgotten");
        }
    }
    let Some(day) = today.checked_sub_days(Days::new(retention.days.into())) else { return Ok(()) };
    for _ in 0..ROUNDS {
        let forgotten = sqlx::query(FORGET)
            .bind(day.and_hms_opt(0, 0, 0).map(|at| at.and_utc()))
            .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
            .execute(pool)
            .await?
            .rows_affected();
        if forgotten < BATCH {
            return Ok(());
        }
    }
    Ok(())
}

/// Everybody who writes a journey waits behind us when we wait for a lock: not for long.
async fn patient(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("set local lock_timeout = '500ms'").execute(&mut *tx).await?;
    Ok(tx)
}
