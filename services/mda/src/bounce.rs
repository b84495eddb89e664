//! Bounces that `mda` decides itself: a mailbox that is gone, an operator's word.

mod success;

use std::sync::Arc;

use address::Address;
use chrono::Utc;
use proto::spool::{DeliveryId, Envelope, Event, Recipient};
use sqlx::{FromRow, PgPool, types::Uuid};
use tonic::Status;

use crate::{
    content,
    database::status,
    directory::resolve,
    forward::Forwarder,
    ids,
    metrics::Metrics,
    sign::Signer,
    spool::{Accepting, Draft, release},
};

#[derive(Clone)]
pub struct Bouncer {
    pub pool: PgPool,
    pub accepting: Accepting,
    pub hostname: String,
    pub metrics: Metrics,
    pub signer: Signer,
    /// Reports of success are due.
    pub successes: Arc<tokio::sync::Notify>,
    pub forwarder: Forwarder,
}

/// A delivery that ends here, and its message.
#[derive(FromRow)]
struct Ending {
    queue_id: Uuid,
    number: i32,
    recipient: String,
    notify: String,
    orcpt: String,
    reverse_path: String,
    envid: String,
    traceparent: String,
    accepted_at: chrono::DateTime<Utc>,
    size: i32,
    header: Vec<u8>,
    body: Vec<u8>,
    /// Where the body is instead.
    object: Option<String>,
}

const ENDING: &str = "
select d.queue_id, d.number, d.recipient, d.notify, d.orcpt, coalesce(d.reverse_path, s.reverse_path) as reverse_path,
       s.envid, s.traceparent,
       s.accepted_at, c.size, c.header, case when s.ret = 'FULL' then c.body else ''::bytea end as body,
       case when s.ret = 'FULL' then c.object end as object
from deliveries d join spool s using (queue_id) join contents c on c.id = d.queue_id
where d.queue_id = $1 and d.number = $2 and (d.lease_until is null or d.lease_until < now())";

impl Bouncer {
    /// Of deliveries that found no mailbox, bounces those whose account is gone or full; the others
    /// are settled, held or another worker's.
    pub async fn bounce_homeless(&self, deliveries: &[DeliveryId]) {
        for delivery in deliveries {
            let outcome = match self.is_homeless(delivery).await {
                Ok((true, _)) => self.bounce(delivery, "5.1.1", "550 5.1.1 mailbox no longer exists").await.map(drop),
                Ok((_, true)) => self.bounce(delivery, "5.2.2", "552 5.2.2 mailbox full").await.map(drop),
                Ok((false, false)) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = outcome {
                tracing::warn!(mail.queue_id = %delivery.queue_id, error = %e, "not bounced, will be later");
            }
        }
    }

    /// Whether its mailbox is gone, and whether it was accepted without room for it.
    async fn is_homeless(&self, delivery: &DeliveryId) -> Result<(bool, bool), Status> {
        let found: Option<(bool, bool)> = sqlx::query_as(
            "select not exists (select from mailboxes m where m.account_id = d.account_id and m.name = 'INBOX'),
                    d.reserved < 0
             from deliveries d where queue_id = $1 and number = $2 and account_id is not null and not held",
        )
        .bind(ids::parse(&delivery.queue_id)?)
        .bind(i32::try_from(delivery.number).unwrap_or(i32::MAX))
        .fetch_optional(&self.pool)
        .await
        .map_err(status)?;
        Ok(found.unwrap_or_default())
    }

    /// Ends one delivery with a DSN to the reverse-path (RFC 3464). The DSN is accepted first and
    /// has a queue id that follows from the delivery, so that a crash in between doubles nothing.
    /// False when there is no such delivery, or it is under a lease.
    pub async fn bounce(&self, delivery: &DeliveryId, code: &str, words: &str) -> Result<bool, Status> {
        let ending: Option<Ending> = sqlx::query_as(ENDING)
            .bind(ids::parse(&delivery.queue_id)?)
            .bind(i32::try_from(delivery.number).unwrap_or(i32::MAX))
            .fetch_optional(&self.pool)
            .await
            .map_err(status)?;
        let Some(ending) = ending else { return Ok(false) };
        if !ending.reverse_path.is_empty() && dsn::wants_failure(&ending.notify) {
            self.send_report(&ending, dsn::Action::Failed, code, words).await?;
        }
        self.settle(&ending, words).await.map_err(status)
    }

    /// The report's queue id, unless there is nobody to tell.
    async fn send_report(
        &self,
        ending: &Ending,
        action: dsn::Action,
        code: &str,
        words: &str,
    ) -> Result<Option<String>, Status> {
        let Ok(reverse_path) = ending.reverse_path.parse::<Address>() else { return Ok(None) };
        let targets = resolve::targets_of(&self.pool, &self.forwarder, &reverse_path).await?;
        if targets.is_empty() {
            // Nobody to tell: the journey says it.
            return Ok(None);
        }
        let numbers = [ending.number.unsigned_abs()];
        let queue_id = ids::show(Uuid::from_bytes(dsn::report_id_of(action, ending.queue_id.as_bytes(), &numbers)));
        let content = self.report(ending, &queue_id, action, code, words).await?;
        let content = self.signer.sign(&self.hostname, content).await;
        let what = if action == dsn::Action::Failed { "bounce" } else { "success report" };
        let envelope = Envelope {
            queue_id: queue_id.clone(),
            recipients: vec![Recipient { forward_path: ending.reverse_path.clone(), targets, ..Recipient::default() }],
            traceparent: ending.traceparent.clone(),
            events: vec![Event {
                name: "received".into(),
                service: "mda".into(),
                text: format!("{what} of {}", ids::show(ending.queue_id)),
                ..Event::default()
            }],
            ..Envelope::default()
        };
        self.accepting.accept(Draft { envelope, content: content.into() }).await?;
        Ok(Some(queue_id))
    }

    async fn report(
        &self,
        ending: &Ending,
        queue_id: &str,
        action: dsn::Action,
        code: &str,
        words: &str,
    ) -> Result<Vec<u8>, Status> {
        let size = usize::try_from(ending.size).unwrap_or_default();
        let header = content::decompress(&ending.header, size)?;
        let body = match (&ending.object, ending.body.is_empty()) {
            (None, true) => None,
            (None, false) => Some(content::decompress(&ending.body, size)?),
            (Some(object), _) => {
                let stored = self.accepting.objects().body(Vec::new(), Some(object)).await?;
                Some(content::decompress(&stored, size)?)
            }
        };
        let full = body.map(|body| [&header[..], &body[..]].concat());
        Ok(dsn::Report {
            reporting_mta: self.hostname.clone(),
            to: ending.reverse_path.clone(),
            message_id: format!("{queue_id}@{}", self.hostname),
            date: Utc::now().to_rfc2822(),
            boundary: format!("=_{queue_id}"),
            arrival_date: ending.accepted_at.to_rfc2822(),
            envelope_id: Some(ending.envid.clone()).filter(|e| !e.is_empty()),
            recipients: vec![dsn::RecipientReport {
                original_recipient: Some(ending.orcpt.clone()).filter(|o| !o.is_empty()),
                final_recipient: ending.recipient.clone(),
                action,
                status: code.to_owned(),
                remote_mta: None,
                diagnostic: Some(words.to_owned()),
                last_attempt: None,
                will_retry_until: None,
            }],
            returned: match &full {
                Some(message) => dsn::Returned::Message(message),
                None => dsn::Returned::Header(&header),
            },
        }
        .to_bytes())
    }

    async fn settle(&self, ending: &Ending, words: &str) -> Result<bool, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let gone = sqlx::query(
            "delete from deliveries
             where queue_id = $1 and number = $2 and (lease_until is null or lease_until < now())",
        )
        .bind(ending.queue_id)
        .bind(ending.number)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if gone == 1 {
            sqlx::query(
                "insert into journey (queue_id, name, service, recipient, text, detail)
                 values ($1, 'bounced', 'mda', $2, $3, '')",
            )
            .bind(ending.queue_id)
            .bind(&ending.recipient)
            .bind(words)
            .execute(&mut *tx)
            .await?;
            release(&mut *tx, &[ending.queue_id]).await?;
        }
        tx.commit().await?;
        if gone == 1 {
            self.metrics.bounced();
        }
        Ok(gone == 1)
    }
}
