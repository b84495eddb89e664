//! Reports of success (RFC 3461 §5.2.2 and §6.3) about mail in mailboxes of ours.
//!
//! The promise was written with the delivery, so that no crash swallows it; its report has a queue
//! id that follows from the delivery, so that none doubles it.

use std::time::Duration;

use dsn::Action;
use sqlx::{FromRow, types::Uuid};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Bouncer, Ending};
use crate::{database::status, ids};

const BATCH: i64 = 200;
/// What a process that died has left is found after this long.
const EVERY: Duration = Duration::from_secs(10);

/// A message may have been deleted from its mailbox since: then the report returns no header.
const DUE: &str = "
select r.queue_id, r.number, r.recipient, '' as notify, r.orcpt, s.reverse_path, s.envid, s.traceparent, s.accepted_at,
       coalesce(c.size, 0) as size, coalesce(c.header, ''::bytea) as header, ''::bytea as body, null::text as object,
       r.mailbox
from success_reports r join spool s using (queue_id) left join contents c on c.id = r.queue_id
order by r.delivered_at limit $1";

/// A message that is forgotten as a whole needs no report.
const FINISH: &str = "
with gone as (
    delete from success_reports where queue_id = $1 and number = $2 returning queue_id, recipient
)
insert into journey (queue_id, name, service, recipient, text, detail)
select queue_id, 'reported', 'mda', recipient, $3, '' from gone";

#[derive(FromRow)]
struct Due {
    #[sqlx(flatten)]
    ending: Ending,
    mailbox: String,
}

impl Bouncer {
    /// Runs until shutdown. Several processes may do the same work: it comes to the same.
    pub async fn report_successes(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = self.successes.notified() => (),
                () = tokio::time::sleep(EVERY) => (),
                () = shutdown.cancelled() => return,
            }
            while match self.report_due().await {
                Ok(count) => count == BATCH,
                Err(e) => {
                    tracing::warn!(error = %e, "reports of success put off");
                    false
                }
            } {}
        }
    }

    async fn report_due(&self) -> Result<i64, Status> {
        let due: Vec<Due> = sqlx::query_as(DUE).bind(BATCH).fetch_all(&self.pool).await.map_err(status)?;
        let count = i64::try_from(due.len()).unwrap_or(BATCH);
        for Due { ending, mailbox } in due {
            let words = format!("delivered to the mailbox {mailbox}");
            let told = match self.send_report(&ending, Action::Delivered, "2.0.0", &words).await {
                Ok(Some(id)) => format!("delivery reported as {id}"),
                Ok(None) => "delivery not reported: sender takes no mail".to_owned(),
                Err(e) if runtime::grpc::is_transient(&e) => return Err(e),
                Err(e) => {
                    tracing::error!(mail.queue_id = %ids::show(ending.queue_id), error = %e, "report refused");
                    "delivery not reported: the report was refused".to_owned()
                }
            };
            self.finish(ending.queue_id, ending.number, &told).await.map_err(status)?;
        }
        Ok(count)
    }

    async fn finish(&self, queue_id: Uuid, number: i32, told: &str) -> Result<(), sqlx::Error> {
        sqlx::query(FINISH).bind(queue_id).bind(number).bind(told).execute(&self.pool).await.map(drop)
    }
}
