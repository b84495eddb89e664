use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use address::QueueId;
use proto::spool::{Envelope, Event, Recipient, target::To};
use smtp::server::{MailFrom, RcptTo};
use tracing::{Span, field::Empty};

use crate::{Role, directory::Route};

/// A transaction from MAIL to the end of data.
#[derive(Debug)]
pub struct Transaction {
    pub queue_id: QueueId,
    /// Of this message, its trace's root here.
    pub span: Span,
    pub mail: MailFrom,
    began: jiff::Timestamp,
    recipients: Vec<Recipient>,
    /// Recipients whose tenants want in Junk what DMARC would refuse.
    quarantining: usize,
    keys: HashSet<String>,
    told: Mutex<Told>,
}

/// For the journey, before it is known what becomes of it.
#[derive(Debug, Default)]
struct Told {
    events: Vec<Event>,
    /// At the latest refusal.
    dialogue: Vec<String>,
}

/// A client may be told no a thousand times.
const MAX_TOLD: usize = 100;

impl Transaction {
    pub fn begin(mail: MailFrom, role: Role) -> Self {
        // A UUIDv7 sorts by time, which is good for the tables it becomes a key of.
        let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes());
        let span = tracing::info_span!(
            parent: None,
            "SMTP transaction",
            otel.kind = "server",
            otel.status_code = Empty,
            mail.queue_id = %queue_id,
            mail.tenant_id = Empty,
            mail.spf = Empty,
            mail.dkim = Empty,
            mail.dmarc = Empty,
            mail.action = Empty,
            mail.recipients = Empty,
            smtp.port = role.name(),
            smtp.reply_code = Empty,
            smtp.refusal = Empty,
            tls.protocol.version = Empty,
        );
        let (began, told) = (jiff::Timestamp::now(), Mutex::default());
        Self { queue_id, span, mail, began, recipients: Vec::new(), quarantining: 0, keys: HashSet::new(), told }
    }

    /// The same recipient twice is one delivery.
    pub fn add(&mut self, forward_path: &address::Address, rcpt: RcptTo, route: Route) {
        if self.keys.insert(forward_path.key()) {
            let forward_path = forward_path.to_string();
            self.quarantining += usize::from(route.quarantine_rejects);
            let targets = route.targets;
            self.recipients.push(Recipient { forward_path, notify: rcpt.notify, orcpt: rcpt.orcpt, targets });
        }
    }

    pub fn tell(&self, event: Event) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.events.len() < MAX_TOLD {
            told.events.push(event);
        }
    }

    /// A refusal, and what was said until then.
    pub fn refused(&self, event: Event, dialogue: Vec<String>) {
        self.tell(event);
        self.told.lock().unwrap_or_else(PoisonError::into_inner).dialogue = dialogue;
    }

    pub fn take_told(&self) -> (Vec<Event>, Vec<String>) {
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        (told.events, told.dialogue)
    }

    pub fn reverse_path(&self) -> String {
        self.mail.address.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    pub fn sole_recipient(&self) -> Option<&str> {
        match self.recipients.as_slice() {
            [only] => Some(&only.forward_path),
            _ => None,
        }
    }

    pub fn recipients(&self) -> impl Iterator<Item = &str> {
        self.recipients.iter().map(|r| r.forward_path.as_str())
    }

    pub fn leaves_us(&self) -> bool {
        self.recipients.iter().flat_map(|r| &r.targets).any(|t| matches!(t.to, Some(To::Remote(_))))
    }

    /// The domain whose alias leads elsewhere: it answers for the forward.
    pub fn forwarder(&self) -> Option<String> {
        let is_forward = |r: &&Recipient| r.targets.iter().any(|t| matches!(t.to, Some(To::Remote(_))));
        let forwarded = self.recipients.iter().find(is_forward)?;
        forwarded.forward_path.rsplit_once('@').map(|(_, domain)| domain.to_owned())
    }

    /// One reply is for all recipients, so all of their tenants must want it.
    pub fn quarantine_rejects(&self) -> bool {
        self.quarantining > 0 && self.quarantining == self.recipients.len()
    }

    pub fn count(&self) -> usize {
        self.recipients.len()
    }

    /// RFC 4865: held back from MAIL on, not from the end of data.
    fn not_before_ms(&self) -> i64 {
        let now = self.began.as_second();
        let hold = self.mail.hold.map(|hold| i64::try_from(hold.seconds(now)).unwrap_or(i64::MAX));
        hold.filter(|seconds| *seconds > 0).map_or(0, |seconds| now.saturating_add(seconds).saturating_mul(1000))
    }

    /// What Accept commits, without its events.
    pub fn envelope(&self) -> Envelope {
        Envelope {
            queue_id: self.queue_id.to_string(),
            reverse_path: self.reverse_path(),
            recipients: self.recipients.clone(),
            eight_bit: self.mail.eight_bit,
            smtputf8: self.mail.smtputf8,
            envid: self.mail.envid.clone(),
            ret: self.mail.ret.clone(),
            require_tls: self.mail.require_tls,
            priority: self.mail.priority.unwrap_or_default().into(),
            not_before_ms: self.not_before_ms(),
            traceparent: runtime::telemetry::traceparent(&self.span),
            ..Envelope::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_counts_once() {
        let mut transaction = Transaction::begin(MailFrom::default(), Role::Mx);
        for path in ["b@x.example", "B@X.example", "c@x.example"] {
            let route = Route { targets: Vec::new(), quarantine_rejects: path.starts_with('b') };
            transaction.add(&path.parse().expect("valid"), RcptTo::default(), route);
            assert!(transaction.count() == 2 || transaction.quarantine_rejects());
            assert_eq!(transaction.sole_recipient().is_some(), transaction.count() == 1);
        }
        assert!(!transaction.quarantine_rejects(), "one of two");
        let envelope = transaction.envelope();
        assert_eq!((envelope.recipients.len(), envelope.reverse_path.as_str()), (2, ""));
        assert_eq!(envelope.queue_id.parse(), Ok(transaction.queue_id));
    }
}
