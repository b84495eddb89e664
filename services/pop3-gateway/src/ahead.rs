//! Reading ahead: a client that empties its maildrop takes one message after the other, so the small
//! ones behind the one it wants come in the same call.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use proto::mailboxes::{FetchRequest, Message, mailboxes_client::MailboxesClient};
use runtime::grpc::Channel;
use tonic::Status;

use crate::{content::Place, maildrop::ranges};

/// A larger message is read when it is wanted, piece by piece.
const LARGEST: u64 = 64 << 10;
/// What is read at once, and held until the client has taken it.
const MAX_BYTES: u64 = 512 << 10;
const MAX_MESSAGES: usize = 100;

/// What was read and not yet wanted, by ascending UID.
#[derive(Default)]
pub(crate) struct Ahead {
    ready: VecDeque<Message>,
    /// What a client that goes on in order wants next.
    expected: Option<u32>,
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
            let wanted = if in_order { batch(place, following) } else { Vec::new() };
            // Alone it comes as a stream, which a slow client does not hold up.
            if wanted.len() < 2 {
                return None;
            }
            // Whatever went wrong is found out again, and answered, when it is read for itself.
            let read = tokio::time::timeout(timeout, read(mailboxes, place, &wanted)).await;
            self.ready = read.ok()?.ok()?.into();
        }
        let message = self.ready.pop_front().filter(|message| message.uid == place.uid)?;
        let whole = message.header.len() + message.body.len();
        (u64::try_from(whole) == Ok(place.size)).then_some([message.header, message.body])
    }
}

/// The UIDs that are worth one call.
fn batch(place: Place, following: impl Iterator<Item = (u32, u64)>) -> Vec<u32> {
    let mut bytes = 0;
    let all = std::iter::once((place.uid, place.size)).chain(following);
    let small = all.take(MAX_MESSAGES).take_while(|(_, size)| {
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
        let place = |size| Place { account_id: 1, mailbox_id: 1, uid: 1, size };
        let following = |size| (2..).map(move |uid| (uid, size));
        assert_eq!(batch(place(10), following(10)).len(), MAX_MESSAGES);
        assert_eq!(batch(place(10), following(60_000)).len(), 9);
        assert_eq!(batch(place(10), [(2, 10), (3, 70_000), (4, 10)].into_iter()), [1, 2]);
        assert!(batch(place(70_000), following(10)).is_empty());
    }
}
