//! A transaction: sender, recipients, message.

use std::time::Instant;

use bytes::Bytes;
use proto::spool::Refused;
use runtime::telemetry;
use smtp::{
    Reply,
    server::{MailFrom, RcptTo},
};
use tonic::Status;
use tracing::Instrument as _;

use super::{Caller, Driver};
use crate::{
    budget::Reservation,
    content::Content,
    directory::Route,
    filters::{Filters, Opening},
    receive::Arrival,
    refusal::Refusal,
    refused,
    transaction::Transaction,
};

/// As `mda` finds it in what is accepted.
fn message_id(content: &Content) -> String {
    let header = content.header();
    let value = message::field(&header, "Message-ID").map(message::unfold).unwrap_or_default();
    let value = String::from_utf8_lossy(&value).trim().trim_start_matches('<').trim_end_matches('>').to_owned();
    value.chars().take(500).collect()
}

impl Driver {
    pub(super) async fn sender(&mut self, mail: MailFrom) {
        self.end_transaction();
        let transaction = Transaction::begin(mail, self.role);
        self.filters = Filters::default();
        if let Some(account) = &self.account {
            transaction.span.record("mail.tenant_id", account.tenant_id);
        }
        if let Some(tls) = &self.tls {
            transaction.span.record("tls.protocol.version", tls.version);
        }
        match self.check_sender(&transaction).instrument(transaction.span.clone()).await {
            Ok(filters) => {
                self.filters = filters;
                self.transaction = Some(transaction);
                self.session.sender_accepted();
            }
            Err(refusal) => {
                let reply = self.refuse_of(&transaction, "", refusal);
                self.transaction = Some(transaction);
                self.end_transaction();
                self.session.sender_refused(reply);
            }
        }
    }

    /// A no within a transaction: counted, in its trace, and for the journey.
    fn refuse_of(&self, transaction: &Transaction, recipient: &str, refusal: Refusal) -> Reply {
        let reason = refusal.reason;
        let reply = self.refuse(refusal);
        let caller = Caller {
            role: self.role,
            peer: self.peer,
            helo: self.session.hello().map_or("", |hello| &hello.name),
            tls: self.tls.as_ref(),
            account: self.account.as_ref(),
        };
        let mut dialogue: Vec<String> = self.session.transcript().lines().map(String::from).collect();
        dialogue.extend(reply.to_string().lines().map(|line| format!("S: {line}")));
        transaction.refused(refused::event(&caller, recipient, &reply, reason), dialogue);
        transaction.span.record("smtp.reply_code", reply.code).record("smtp.refusal", reason);
        // Ours, not the client's: such traces are always kept.
        if matches!(reason, "unavailable" | "no_room" | "undecided" | "rejected_inside") {
            telemetry::failed(&transaction.span);
        }
        reply
    }

    /// A transaction that ends without a message may have been refused.
    pub(super) fn end_transaction(&mut self) {
        let account = self.account.as_ref().map_or(0, |a| a.account_id);
        if let Some(refused) = self.transaction.take().and_then(|t| refused::of(&t, account)) {
            self.parts.teller.tell(refused);
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
            Ok(route) => {
                transaction.add(&address, rcpt, route);
                self.session.recipient_accepted();
            }
            Err(refusal) => {
                let reply = self.refuse_of(&transaction, &address.to_string(), refusal);
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
    ) -> Result<Route, Refusal> {
        let (directory, policy) = (&self.parts.directory, self.parts.config.over_quota);
        let route = directory.resolve(address, self.account.is_some(), policy, transaction.mail.size).await?;
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
        Ok(route)
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
        let content = Content::new(content);
        match (self.transaction.take(), self.session.hello()) {
            (Some(transaction), Some(hello)) => {
                transaction.span.record("mail.recipients", transaction.count());
                let arrival = Arrival {
                    role: self.role,
                    peer: self.peer,
                    tls: self.tls.as_ref(),
                    account: self.account.as_ref(),
                    hello,
                    transaction: &transaction,
                    dialogue: self.session.transcript().lines().map(String::from).collect(),
                };
                let received = match &content {
                    Some(content) => {
                        let receive = self.parts.receive(arrival, content, &mut filters);
                        receive.instrument(transaction.span.clone()).await
                    }
                    None => Err(Refusal::header_too_large()),
                };
                match received {
                    Ok(()) => {
                        transaction.span.record("smtp.reply_code", 250);
                        self.session.committed(&transaction.queue_id.to_string());
                    }
                    Err(refusal) => {
                        let reply = self.refuse_of(&transaction, "", refusal);
                        let account = self.account.as_ref().map_or(0, |a| a.account_id);
                        if let Some(refused) = refused::of(&transaction, account) {
                            let (message_id, size) =
                                content.as_ref().map_or((String::new(), 0), |c| (message_id(c), c.len() as u64));
                            self.parts.teller.tell(Refused { message_id, size, ..refused });
                        }
                        self.session.message_refused(reply);
                    }
                }
            }
            _ => {
                let reply = self.refuse(Refusal::of_status(&Status::internal("no transaction")));
                self.session.message_refused(reply);
            }
        }
        self.reservation = Reservation::default();
        self.parts.metrics.answered(self.role, started);
    }
}
