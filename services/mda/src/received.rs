//! Reports that others send about our domains (RFC 9990, RFC 8460): the INBOX of some accounts is
//! read for them. The mail stays where it is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use report::{Aggregate, Document, Tls};
use serde_json::Value;
use sqlx::{PgConnection, PgPool, types::Uuid};
use tokio_util::sync::CancellationToken;

use crate::{content, metrics::Metrics, objects::Objects};

const EVERY: Duration = Duration::from_secs(10);
/// Messages of one look.
const BATCH: i64 = 20;
/// Packed; nobody's day of mail needs more.
const MAX_MESSAGE: i32 = 10 << 20;

pub struct Reader {
    pub pool: PgPool,
    /// Addresses, in lower case.
    pub accounts: Vec<String>,
    pub days: u32,
    pub metrics: Metrics,
    pub objects: Objects,
}

/// What of a message goes into the table.
struct Found {
    kind: &'static str,
    organisation: String,
    report_id: String,
    domain: String,
    begin: i64,
    end: i64,
    good: u64,
    bad: u64,
    detail: String,
}

impl Reader {
    /// Runs until shutdown. Of several processes one reads an account at a time.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            for account in &self.accounts {
                loop {
                    match self.look(account).await {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(e) => {
                            tracing::warn!(error = %e, "reports not read, will be later");
                            break;
                        }
                    }
                }
            }
            if let Err(e) = self.forget().await {
                tracing::warn!(error = %e, "old reports not removed");
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => (),
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn forget(&self) -> Result<(), sqlx::Error> {
        sqlx::query("delete from received_reports where received_at < now() - make_interval(days => $1)")
            .bind(i32::try_from(self.days).unwrap_or(i32::MAX))
            .execute(&self.pool)
            .await
            .map(drop)
    }

    /// Reports and cursor change together, so that none is read twice or left out. False when
    /// there is nothing more.
    async fn look(&self, account: &str) -> anyhow::Result<bool> {
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "insert into report_cursors (account_id, mailbox_id, uid)
             select a.id, m.id, 0 from accounts a join mailboxes m on m.account_id = a.id and m.name = 'INBOX'
             where a.address = $1
             on conflict (account_id) do update set mailbox_id = excluded.mailbox_id, uid = 0
             where report_cursors.mailbox_id <> excluded.mailbox_id",
        )
        .bind(account)
        .execute(&mut *tx)
        .await?;
        let cursor: Option<(i64, i64, i64)> = sqlx::query_as(
            "select c.account_id, c.mailbox_id, c.uid from report_cursors c join accounts a on a.id = c.account_id
             where a.address = $1 for update of c skip locked",
        )
        .bind(account)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((account_id, mailbox_id, uid)) = cursor else { return Ok(false) };
        let messages: Vec<(i64, Uuid, i32)> = sqlx::query_as(
            "select uid, content_id, size from messages
             where account_id = $1 and mailbox_id = $2 and uid > $3 order by uid limit $4",
        )
        .bind(account_id)
        .bind(mailbox_id)
        .bind(uid)
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await?;
        let Some((last, ..)) = messages.last() else { return Ok(false) };
        for (_, content_id, size) in messages.iter().filter(|(.., size)| *size <= MAX_MESSAGE) {
            self.read(&mut tx, *content_id, *size).await?;
        }
        sqlx::query("update report_cursors set uid = $2 where account_id = $1")
            .bind(account_id)
            .bind(last)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn read(&self, tx: &mut PgConnection, content_id: Uuid, size: i32) -> anyhow::Result<()> {
        let stored: Option<(Vec<u8>, Vec<u8>, Option<String>)> =
            sqlx::query_as("select header, body, object from contents where id = $1")
                .bind(content_id)
                .fetch_optional(&mut *tx)
                .await?;
        let Some((header, body, object)) = stored else { return Ok(()) };
        let body = match self.objects.body(body, object.as_deref()).await {
            Ok(body) => body,
            Err(e) if e.code() == tonic::Code::DataLoss => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let size = usize::try_from(size).unwrap_or_default();
        let (Ok(header), Ok(body)) = (content::decompress(&header, size), content::decompress(&body, size)) else {
            return Ok(());
        };
        let raw = [&header[..], &body[..]].concat();
        // Unpacking and parsing many megabytes is nothing for an async thread.
        let found = tokio::task::spawn_blocking(move || find(&raw)).await.unwrap_or_default();
        if found.is_empty() {
            self.metrics.report_received("unreadable");
        }
        for report in found {
            insert(tx, &report).await?;
            self.metrics.report_received(report.kind);
        }
        Ok(())
    }
}

/// A report that was sent twice is one.
async fn insert(tx: &mut PgConnection, report: &Found) -> Result<(), sqlx::Error> {
    let time = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::UNIX_EPOCH);
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    sqlx::query(
        "insert into received_reports (kind, organisation, report_id, domain, begin_at, end_at, good, bad, detail)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing",
    )
    .bind(report.kind)
    .bind(content::plain(&report.organisation))
    .bind(content::plain(&report.report_id))
    .bind(content::plain(&report.domain))
    .bind(time(report.begin))
    .bind(time(report.end))
    .bind(count(report.good))
    .bind(count(report.bad))
    .bind(content::plain(&report.detail))
    .execute(tx)
    .await
    .map(drop)
}

fn find(raw: &[u8]) -> Vec<Found> {
    let reports = report::documents(raw).into_iter().map(|document| match document {
        Document::Xml(xml) => Aggregate::parse(&xml).map(|report| vec![aggregate(&report)]),
        Document::Json(json) => Tls::parse(&json).map(|report| tls(&report)),
    });
    reports.filter_map(Result::ok).flatten().collect()
}

fn aggregate(report: &Aggregate) -> Found {
    let (good, bad) = report.totals();
    Found {
        kind: "dmarc",
        organisation: report.organisation.clone(),
        report_id: report.report_id.clone(),
        domain: report.policy.domain.clone(),
        begin: report.begin,
        end: report.end,
        good,
        bad,
        detail: serde_json::to_value(report).unwrap_or(Value::Null).to_string(),
    }
}

/// One for each policy's domain.
fn tls(report: &Tls) -> Vec<Found> {
    let found = report.policies.iter().map(|policy| Found {
        kind: "tls",
        organisation: report.organisation.clone(),
        report_id: report.report_id.clone(),
        domain: policy.domain.clone(),
        begin: report.begin,
        end: report.end,
        good: policy.successful,
        bad: policy.failed,
        detail: serde_json::to_value(policy).unwrap_or(Value::Null).to_string(),
    });
    found.collect()
}
