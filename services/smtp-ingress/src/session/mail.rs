//! A transaction: sender, recipients, message.

use std::time::Instant;

use bytes::Bytes;
use smtp::server::{MailFrom, RcptTo};
use tonic::Status;
use tracing::Instrument as _;

use super::Driver;
use crate::{
    budget::Reservation,
    filters::{Filters, Opening},
    receive::Arrival,
    refusal::Refusal,
    transaction::Transaction,
};

impl Driver {
    pub(super) async fn sender(&mut self, mail: MailFrom) {
        let transaction = Transaction::begin(mail, self.role);
        self.filters = Filters::default();
        match self.check_sender(&transaction).instrument(transaction.span.clone()).await {
            Ok(filters) => {
                self.filters = filters;
                self.transaction = Some(transaction);
                self.session.sender_accepted();
            }
            Err(refusal) => {
                let reply = self.refuse(refusal);
                self.session.sender_refused(reply);
            }
        }
    }

    async fn check_sender(&self, transaction: &Transaction) -> Result<Filters, Refusal> {
        // What cannot fit is not even sent.
        if transaction.mail.size.is_some_and(|size| !self.parts.budget.has_room(size.saturating_add(size / 8))) {
            return Err(Refusal::no_room());
        }
        // The null reverse-path is everybody's: read receipts have it (RFC 8098 §3).
        if let (Some(account), Some(address)) = (&self.account, &transaction.mail.address) {
            let allowed = self.parts.directory.may_send_as(account.account_id, &address.to_string()).await;
            if !allowed.map_err(|status| Refusal::of_status(&status))? {
                return Err(Refusal::sender_not_owned());
            }
        }
        self.parts.guard.message(self.peer, self.account.as_ref()).await?;
        let opening = Opening {
            hostname: &self.parts.config.hostname,
            peer: self.peer,
            helo: self.session.hello().map_or("", |hello| &hello.name),
            tls: self.tls.as_ref().map(|t| (t.version, t.cipher.as_str())),
            account: self.account.as_ref().map(|a| a.address.as_str()),
            queue_id: &transaction.queue_id.to_string(),
            mail: &transaction.mail,
        };
        self.parts.guard.filters(&opening).await
    }

    pub(super) async fn recipient(&mut self, mut rcpt: RcptTo) {
        let postmaster = || format!("postmaster@{}", self.parts.config.hostname).parse().ok();
        let Some(address) = rcpt.address.take().or_else(postmaster) else {
            return self.session.recipient_refused(Refusal::unknown_recipient().reply);
        };
        let Some(mut transaction) = self.transaction.take() else {
            return self.session.recipient_refused(Refusal::of_status(&Status::internal("no transaction")).reply);
        };
        let span = transaction.span.clone();
        match self.check_recipient(&transaction, &address, &rcpt).instrument(span).await {
            Ok(targets) => {
                transaction.add(&address, rcpt, targets);
                self.session.recipient_accepted();
            }
            Err(refusal) => {
                let reply = self.refuse(refusal);
                self.session.recipient_refused(reply);
            }
        }
        self.transaction = Some(transaction);
    }

    async fn check_recipient(
        &mut self,
        transaction: &Transaction,
        address: &address::Address,
        rcpt: &RcptTo,
    ) -> Result<Vec<proto::spool::Target>, Refusal> {
        let (directory, policy) = (&self.parts.directory, self.parts.config.over_quota);
        let targets = directory.resolve(address, self.account.is_some(), policy, transaction.mail.size).await?;
        match &self.account {
            Some(account) => self.parts.guard.submitted_recipient(account).await?,
            // RFC 5321 §4.5.1: whoever is blocked can complain.
            None if address.local_part().eq_ignore_ascii_case("postmaster") => {}
            None => {
                if let Some(zone) = self.blocklist().await {
                    return Err(Refusal::blocklisted(&zone));
                }
                let (sender, recipient) = (transaction.reverse_path(), address.to_string());
                self.parts.guard.greylist(self.peer, &sender, &recipient).await?;
            }
        }
        self.filters.recipient(&self.parts.metrics, &address.to_string(), rcpt).await?;
        Ok(targets)
    }

    /// Asked once a session, when there is somebody to write to.
    async fn blocklist(&mut self) -> Option<String> {
        if self.blocklisted.is_none() {
            self.blocklisted = Some(self.parts.guard.blocklist(self.peer).await.map(str::to_owned));
        }
        self.blocklisted.clone().flatten()
    }

    pub(super) async fn message(&mut self, content: Vec<Bytes>) {
        let started = Instant::now();
        let mut filters = std::mem::take(&mut self.filters);
        let outcome = match (self.transaction.take(), self.session.hello()) {
            (Some(transaction), Some(hello)) => {
                let arrival = Arrival {
                    role: self.role,
                    peer: self.peer,
                    tls: self.tls.as_ref(),
                    account: self.account.as_ref(),
                    hello,
                    transaction: &transaction,
                    dialogue: self.session.transcript().lines().map(String::from).collect(),
                };
                let received = self.parts.receive(arrival, content, &mut filters).instrument(transaction.span.clone()).await;
                received.map(|()| transaction.queue_id.to_string())
            }
            _ => Err(Refusal::of_status(&Status::internal("no transaction"))),
        };
        match outcome {
            Ok(queue_id) => self.session.committed(&queue_id),
            Err(refusal) => {
                let reply = self.refuse(refusal);
                self.session.message_refused(reply);
            }
        }
        self.reservation = Reservation::default();
        self.parts.metrics.answered(self.role, started);
    }
}
