//! An account's INBOX as a maildrop: locked, listed, read, emptied.

use std::time::Duration;

use pop3::{Message, Refusal, UniqueId};
use proto::mailboxes::{
    ListMaildropRequest, LockMaildropRequest, UidRange, UnlockMaildropRequest, UpdateMaildropRequest,
    mailboxes_client::MailboxesClient,
};
use runtime::grpc::{Channel, is_transient};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{Instrument as _, warn};

use crate::content::{Content, Place};

/// An open maildrop, whose lock is renewed until it is closed or dropped.
pub(crate) struct Maildrop {
    lock: Lock,
    mailbox_id: u64,
}

impl Maildrop {
    /// Locks and lists. [`Refusal::InUse`] when another session holds it (RFC 1939 §4).
    pub async fn open(
        mailboxes: MailboxesClient<Channel>,
        account_id: u64,
        lease: Duration,
    ) -> Result<(Self, Vec<Message>), Refusal> {
        let mut lock = Lock::take(mailboxes, account_id, lease).await?;
        match lock.list().await {
            Ok((mailbox_id, messages)) => Ok((Self { lock, mailbox_id }, messages)),
            Err(status) => {
                lock.release().await;
                Err(refusal("maildrop cannot be listed", &status))
            }
        }
    }

    /// Cancelled when the lock was lost: another session may be working on the maildrop.
    pub fn lost(&self) -> CancellationToken {
        self.lock.lost.clone()
    }

    pub fn place(&self, uid: u32, size: u64) -> Place {
        Place { account_id: self.lock.account_id, mailbox_id: self.mailbox_id, uid, size }
    }

    /// The message as stored. [`Refusal::Gone`] when it was expunged by an IMAP session meanwhile.
    pub async fn read(
        &self,
        contents: MailboxesClient<Channel>,
        place: Place,
        timeout: Duration,
    ) -> Result<Content, Refusal> {
        Content::open(contents, place, timeout).await.map_err(|status| match status.code() {
            Code::NotFound => Refusal::Gone,
            _ => refusal("message cannot be read", &status),
        })
    }

    /// Removes all of them in one transaction, or none; what that means is the account's choice.
    pub async fn update(&mut self, uids: &[u32]) -> Result<(), Refusal> {
        if self.lock.lost.is_cancelled() {
            return Err(Refusal::ShuttingDown);
        }
        let request = UpdateMaildropRequest {
            account_id: self.lock.account_id,
            mailbox_id: self.mailbox_id,
            token: self.lock.token.clone(),
            uids: ranges(uids),
        };
        match self.lock.mailboxes.update_maildrop(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => Err(Refusal::ShuttingDown),
            Err(status) => Err(refusal("messages cannot be deleted", &status)),
        }
    }

    /// Gives the maildrop free, so that the client's next session finds it so.
    pub async fn close(self) {
        self.lock.release().await;
    }
}

/// The exclusive lock: a lease under a token of this session.
struct Lock {
    mailboxes: MailboxesClient<Channel>,
    account_id: u64,
    token: String,
    lost: CancellationToken,
    /// Ends the renewal; its drop tells that nobody released the lock.
    held: Option<CancellationToken>,
}

impl Lock {
    async fn take(mut mailboxes: MailboxesClient<Channel>, account_id: u64, lease: Duration) -> Result<Self, Refusal> {
        let token = uuid::Uuid::new_v4().to_string();
        let request = LockMaildropRequest {
            account_id,
            token: token.clone(),
            lease_ms: lease.as_millis().try_into().unwrap_or(u32::MAX),
        };
        match mailboxes.lock_maildrop(request.clone()).await {
            Ok(_) => (),
            Err(status) if status.code() == Code::AlreadyExists => return Err(Refusal::InUse),
            Err(status) => {
                // It may have been taken although the answer was lost.
                tokio::spawn(unlock(mailboxes, account_id, token));
                return Err(refusal("maildrop cannot be locked", &status));
            }
        }
        let (lost, held) = (CancellationToken::new(), CancellationToken::new());
        let renewing = renew(mailboxes.clone(), request, lease, lost.clone());
        tokio::spawn(held.clone().run_until_cancelled_owned(renewing).in_current_span());
        Ok(Self { mailboxes, account_id, token, lost, held: Some(held) })
    }

    async fn list(&mut self) -> Result<(u64, Vec<Message>), Status> {
        let request = ListMaildropRequest { account_id: self.account_id };
        let mut batches = self.mailboxes.list_maildrop(request).await?.into_inner();
        let mut mailbox_id = 0;
        let mut messages = Vec::new();
        while let Some(batch) = batches.message().await? {
            mailbox_id = batch.mailbox_id;
            let imported = batch.uidls.into_iter().map(Some).chain(std::iter::repeat(None));
            let rows = batch.uids.into_iter().zip(batch.sizes).zip(imported);
            messages.extend(rows.map(|((uid, size), imported)| Message {
                uid,
                size: size.into(),
                uidl: match imported.filter(|id| !id.is_empty()) {
                    Some(id) => UniqueId::Imported(id.into()),
                    None => UniqueId::Own(batch.uid_validity),
                },
            }));
        }
        Ok((mailbox_id, messages))
    }

    async fn release(mut self) {
        if let Some(held) = self.held.take() {
            held.cancel();
            unlock(self.mailboxes.clone(), self.account_id, self.token.clone()).await;
        }
    }
}

impl Drop for Lock {
    /// A session that was cut: without this, the client would wait for the lease to end.
    fn drop(&mut self) {
        if let (Some(held), Ok(runtime)) = (self.held.take(), tokio::runtime::Handle::try_current()) {
            held.cancel();
            runtime.spawn(unlock(self.mailboxes.clone(), self.account_id, self.token.clone()));
        }
    }
}

/// Asks three times a lease. An `mda` that is away is asked again until the lease is over.
async fn renew(
    mut mailboxes: MailboxesClient<Channel>,
    request: LockMaildropRequest,
    lease: Duration,
    lost: CancellationToken,
) {
    let mut renewed = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(lease / 3).await;
        let asked = tokio::time::Instant::now();
        match mailboxes.lock_maildrop(request.clone()).await {
            Ok(_) => renewed = asked,
            Err(status) if is_transient(&status) && renewed.elapsed() < lease => (),
            Err(status) => {
                warn!(error = %status, "lock of the maildrop is lost");
                lost.cancel();
                return;
            }
        }
    }
}

async fn unlock(mut mailboxes: MailboxesClient<Channel>, account_id: u64, token: String) {
    // The lease ends it when this fails.
    if let Err(status) = mailboxes.unlock_maildrop(UnlockMaildropRequest { account_id, token }).await {
        warn!(error = %status, "maildrop stays locked until its lease ends");
    }
}

/// Transient and permanent are never confused: the client's program acts on it.
pub(crate) fn refusal(what: &'static str, status: &Status) -> Refusal {
    warn!(error = %status, what);
    if is_transient(status) { Refusal::Temporary } else { Refusal::Permanent }
}

/// Ascending UIDs as ranges.
pub(crate) fn ranges(uids: &[u32]) -> Vec<UidRange> {
    let mut ranges: Vec<UidRange> = Vec::new();
    for uid in uids {
        match ranges.last_mut() {
            Some(range) if range.last.checked_add(1) == Some(*uid) => range.last = *uid,
            _ => ranges.push(UidRange { first: *uid, last: *uid }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_ranges() {
        let pairs = |uids: &[u32]| ranges(uids).iter().map(|r| (r.first, r.last)).collect::<Vec<_>>();
        assert_eq!(pairs(&[1, 2, 3, 7, 9, 10]), [(1, 3), (7, 7), (9, 10)]);
        assert_eq!(pairs(&[u32::MAX]), [(u32::MAX, u32::MAX)]);
        assert!(pairs(&[]).is_empty());
    }
}
