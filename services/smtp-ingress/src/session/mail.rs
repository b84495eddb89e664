//! A transaction: sender, recipients, message.

use std::time::Instant;

use smtp::server::{MailFrom, RcptTo};
use tonic::Status;
use tracing::Instrument as _;

use super::Driver;
use crate::{budget::Reservation, directory::Route, receive::Arrival, refusal::Refusal, transaction::Transaction};

impl Driver {
    pub(super) async fn sender(&mut self, mail: MailFrom) {
        let transaction = Transaction::begin(mail, self.role);
        match self.check_sender(&transaction).instrument(transaction.span.clone()).await {
            Ok(()) => {
                self.transaction = Some(transaction);
                self.session.sender_accepted();
            }
            Err(refusal) => {
                let reply = self.refuse(refusal);
                self.session.sender_refused(reply);
            }
        }
    }

    async fn check_sender(&self, transaction: &Transaction) -> Result<(), Refusal> {
        // What cannot fit is not even sent.
        if transaction.mail.size.is_some_and(|size| !self.parts.budget.has_room(size)) {
            return Err(Refusal::no_room());
        }
        // The null reverse-path is everybody's: read receipts have it (RFC 8098 §3).
        if let (Some(account), Some(address)) = (&self.account, &transaction.mail.address) {
            let allowed = self.parts.directory.may_send_as(account.account_id, &address.to_string()).await;
            if !allowed.map_err(|status| Refusal::of_status(&status))? {
                return Err(Refusal::sender_not_owned());
            }
        }
        self.parts.guard.message(self.peer, self.account.as_ref()).await
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
        match self.check_recipient(&transaction, &address).instrument(span).await {
            Ok(route) => {
                transaction.add(&address, rcpt, route);
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
    ) -> Result<Route, Refusal> {
        let (directory, policy) = (&self.parts.directory, self.parts.config.over_quota);
        let route = directory.resolve(address, self.account.is_some(), policy).await?;
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
        Ok(route)
    }

    /// Asked once a session, when there is somebody to write to.
    async fn blocklist(&mut self) -> Option<String> {
        if self.blocklisted.is_none() {
            self.blocklisted = Some(self.parts.guard.blocklist(self.peer).await.map(str::to_owned));
        }
        self.blocklisted.clone().flatten()
    }

    pub(super) async fn message(&mut self, content: Vec<u8>) {
        let started = Instant::now();
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
                let received = self.parts.receive(arrival, content).instrument(transaction.span.clone()).await;
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
