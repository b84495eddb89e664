//! Reading ahead: a client that empties its maildrop takes one message after the other, so the small
//! ones behind the one it wants come in the same call.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use proto::mailboxes::{FetchRequest, Message, mailboxes_client::MailboxesClient};
use runtime::grpc::Channel;
use tokio::task::JoinHandle;
use tonic::Status;
use tracing::Instrument as _;

use crate::{content::Place, maildrop::ranges};

/// A larger message is read when it is wanted, piece by piece.
const LARGEST: u64 = 64 << 10;
/// What is read at once. Two such batches are held: one that the client takes, one on its way.
const MAX_BYTES: u64 = 512 << 10;
const MAX_MESSAGES: usize = 200;

/// What was read and not yet wanted, by ascending UID.
#[derive(Default)]
pub(crate) struct Ahead {
    ready: VecDeque<Message>,
    /// What follows `ready`.
    coming: Option<Coming>,
    /// What a client that goes on in order wants next.
    expected: Option<u32>,
}

/// A batch that is being read; ends on drop.
struct Coming {
    first: u32,
    task: JoinHandle<Option<VecDeque<Message>>>,
}

impl Coming {
    fn begin(mailboxes: MailboxesClient<Channel>, place: Place, uids: Vec<u32>, timeout: Duration) -> Option<Self> {
        let first = *uids.first()?;
        // Whatever goes wrong is found out again, and answered, when a message is read for itself.
        let reading = async move {
            let read = tokio::time::timeout(timeout, read(mailboxes, place, &uids)).await;
            Some(read.ok()?.ok()?.into())
        };
        Some(Self { first, task: tokio::spawn(reading.in_current_span()) })
    }

    async fn messages(mut self) -> VecDeque<Message> {
        (&mut self.task).await.ok().flatten().unwrap_or_default()
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ahead {
    /// Header and body of a message; `None` when it has to be read for itself. `following` are the
    /// messages behind it, with their sizes.
    pub async fn take(
        &mut self,
        mailboxes: MailboxesClient<Channel>,
        place: Place,
        following: impl Iterator<Item = (u32, u64)>,
        timeout: Duration,
    ) -> Option<[Bytes; 2]> {
        let mut following = following.peekable();
        let in_order = self.expected == Some(place.uid);
        self.expected = following.peek().map(|(uid, _)| *uid);
        while self.ready.front().is_some_and(|message| message.uid < place.uid) {
            self.ready.pop_front();
        }
        if self.ready.front().is_none_or(|message| message.uid != place.uid) {
            self.ready.clear();
            let coming = self.coming.take().filter(|coming| coming.first == place.uid);
            let coming = match coming {
                Some(coming) => coming,
                None => {
                    let this = std::iter::once((place.uid, place.size));
                    let wanted = if in_order { batch(this.chain(following.by_ref())) } else { Vec::new() };
                    // Alone it comes as a stream, which a slow client does not hold up.
                    if wanted.len() < 2 {
                        return None;
                    }
                    Coming::begin(mailboxes.clone(), place, wanted, timeout)?
                }
            };
            self.ready = coming.messages().await;
        }
        let message = self.ready.pop_front().filter(|message| message.uid == place.uid)?;
        if self.coming.is_none() && self.ready.len() < MAX_MESSAGES / 2 {
            // Asked for before the last of these is taken, so that the client need not wait for it.
            let last = self.ready.back().map_or(place.uid, |message| message.uid);
            let next = batch(following.skip_while(|(uid, _)| *uid <= last));
            self.coming = Coming::begin(mailboxes, place, next, timeout);
        }
        let whole = message.header.len() + message.body.len();
        (u64::try_from(whole) == Ok(place.size)).then_some([message.header, message.body])
    }
}

/// The UIDs that are worth one call.
fn batch(messages: impl Iterator<Item = (u32, u64)>) -> Vec<u32> {
    let mut bytes = 0;
    let small = messages.take(MAX_MESSAGES).take_while(|(_, size)| {
        bytes += size;
        *size <= LARGEST && bytes <= MAX_BYTES
    });
    small.map(|(uid, _)| uid).collect()
}

async fn read(mut mailboxes: MailboxesClient<Channel>, place: Place, uids: &[u32]) -> Result<Vec<Message>, Status> {
    let request = FetchRequest {
        account_id: place.account_id,
        mailbox_id: place.mailbox_id,
        uids: ranges(uids),
        header: true,
        body: true,
        ..FetchRequest::default()
    };
    let mut answers = mailboxes.fetch(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(answer) = answers.message().await? {
        messages.extend(answer.messages);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded() {
        let all = |size| (1..).map(move |uid| (uid, size));
        assert_eq!(batch(all(10)).len(), MAX_MESSAGES);
        assert_eq!(batch(all(60_000)).len(), 8);
        assert_eq!(batch([(1, 10), (2, 10), (3, 70_000), (4, 10)].into_iter()), [1, 2]);
        assert!(batch([(1, 70_000), (2, 10)].into_iter()).is_empty());
    }
}
