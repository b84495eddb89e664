//! What came to nothing is told to the journey too, so that "it never arrived" has an answer.
//!
//! Nobody waits for it: a client hears its refusal whether or not it can be written down. While
//! `mda` is away it waits here, within bounds.

use std::time::Duration;

use proto::spool::{Event, RefuseRequest, Refused, spool_client::SpoolClient};
use runtime::grpc::Channel;
use serde_json::json;
use smtp::Reply;
use tokio::sync::mpsc;

use crate::{metrics::Metrics, receive::shown_tls, session::Caller, transaction::Transaction};

/// Transactions that wait to be told, and those of one call.
const WAITING: usize = 1_000;
const AT_ONCE: usize = 100;
/// Gathered for so long, and tried again after it: whoever is refused is often refused again.
const PAUSE: Duration = Duration::from_millis(200);
const TROUBLE_PAUSE: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Teller {
    waiting: Option<mpsc::Sender<Refused>>,
    metrics: Metrics,
}

impl Teller {
    /// Must be called inside a tokio runtime. It ends with the last clone, when all is told.
    pub fn start(channel: Channel, is_wanted: bool, metrics: Metrics) -> Self {
        let waiting = is_wanted.then(|| {
            let (sender, receiver) = mpsc::channel(WAITING);
            tokio::spawn(run(SpoolClient::new(channel), receiver, metrics.clone()));
            sender
        });
        Self { waiting, metrics }
    }

    pub fn tell(&self, refused: Refused) {
        if let Some(waiting) = &self.waiting
            && waiting.try_send(refused).is_err()
        {
            self.metrics.untold.inc();
        }
    }
}

async fn run(client: SpoolClient<Channel>, mut receiver: mpsc::Receiver<Refused>, metrics: Metrics) {
    let mut refused = Vec::new();
    while receiver.recv_many(&mut refused, AT_ONCE).await > 0 {
        let request = RefuseRequest { refused: std::mem::take(&mut refused) };
        loop {
            match client.clone().refuse(request.clone()).await {
                Ok(_) => break,
                Err(e) if runtime::grpc::is_transient(&e) && !receiver.is_closed() => {
                    tokio::time::sleep(TROUBLE_PAUSE).await;
                }
                Err(e) => {
                    metrics.untold.inc_by(request.refused.len() as u64);
                    tracing::debug!(error = %e, "refusals not told");
                    break;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A no, to one recipient or (with none) to all of it.
pub fn event(caller: &Caller<'_>, recipient: &str, reply: &Reply, reason: &str) -> Event {
    let detail = json!({
        "peer": caller.peer.to_string(),
        "helo": caller.helo,
        "port": caller.role.name(),
        "tls": shown_tls(caller.tls),
        "account": caller.account.map(|a| &a.address),
        "reason": reason,
    });
    Event {
        name: "refused".into(),
        service: "smtp-ingress".into(),
        recipient: recipient.to_owned(),
        text: reply.to_string().replace('\n', " "),
        detail: detail.to_string(),
        at_ms: jiff::Timestamp::now().as_millisecond(),
        ..Event::default()
    }
}

/// A transaction that is over without a message; nothing when nobody said no to it.
pub fn of(transaction: &Transaction, account_id: u64) -> Option<Refused> {
    let (mut events, dialogue) = transaction.take_told();
    // A mail program that changed its mind was not refused.
    let last = events.iter_mut().rfind(|e| e.name == "refused")?;
    last.dialogue = dialogue;
    let mut recipients: Vec<String> = transaction.recipients().map(str::to_owned).collect();
    recipients.extend(events.iter().map(|e| e.recipient.clone()).filter(|r| !r.is_empty()));
    recipients.truncate(100);
    Some(Refused {
        queue_id: transaction.queue_id.to_string(),
        reverse_path: transaction.reverse_path(),
        recipients,
        account_id,
        traceparent: runtime::telemetry::traceparent(&transaction.span),
        events,
        ..Refused::default()
    })
}
