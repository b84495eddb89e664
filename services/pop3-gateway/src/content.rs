//! One message on its way from `mda`: a large one is nowhere held whole.

use std::{collections::VecDeque, io, time::Duration};

use bytes::Bytes;
use proto::mailboxes::{ContentRequest, ContentResponse, mailboxes_client::MailboxesClient};
use runtime::grpc::Channel;
use tonic::{Status, Streaming};

/// A header longer than this is sent as it is.
const MAX_HEADER: usize = 512 << 10;

#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub account_id: u64,
    pub mailbox_id: u64,
    pub uid: u32,
    pub size: u64,
}

pub(crate) struct Content {
    contents: MailboxesClient<Channel>,
    place: Place,
    /// For one piece.
    timeout: Duration,
    /// Read already, in order.
    ready: VecDeque<Bytes>,
    /// Where `pieces` goes on.
    at: u64,
    pieces: Option<Streaming<ContentResponse>>,
}

impl Content {
    /// With its first piece, which tells whether there is such a message.
    pub async fn open(contents: MailboxesClient<Channel>, place: Place, timeout: Duration) -> Result<Self, Status> {
        let mut content = Self { contents, place, timeout, ready: VecDeque::new(), at: 0, pieces: None };
        let first = content.more().await?;
        content.ready.extend(first);
        Ok(content)
    }

    /// Of which all is here already.
    pub fn complete(contents: MailboxesClient<Channel>, place: Place, pieces: [Bytes; 2], timeout: Duration) -> Self {
        Self { contents, place, timeout, ready: pieces.into(), at: place.size, pieces: None }
    }

    /// The next octets; `None` after the last.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self.ready.pop_front() {
            Some(piece) => Ok(Some(piece)),
            None => self.more().await.map_err(io::Error::other),
        }
    }

    /// Takes the header off, with the empty line that ends it; nothing when it has none of a
    /// reasonable length.
    pub async fn take_header(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut gathered = Vec::new();
        let mut end = None;
        while let Some(piece) = self.next().await? {
            // The empty line may begin in the piece before.
            let from = gathered.len().saturating_sub(4);
            gathered.extend_from_slice(&piece);
            end = header_end(&gathered, from);
            if end.is_some() || gathered.len() > MAX_HEADER {
                break;
            }
        }
        let header = end.map(|end| gathered.drain(..end).collect());
        self.ready.push_front(gathered.into());
        Ok(header)
    }

    /// Asks no more until the next piece is wanted. A client that stopped reading would otherwise
    /// keep a part of the window that all sessions share.
    pub fn let_go(&mut self) {
        self.pieces = None;
    }

    async fn more(&mut self) -> Result<Option<Bytes>, Status> {
        if self.at >= self.place.size {
            return Ok(None);
        }
        let late = || Status::unavailable("mda sends nothing");
        let pieces = match &mut self.pieces {
            Some(pieces) => pieces,
            none => {
                let Place { account_id, mailbox_id, uid, size } = self.place;
                let (start, reader) = (self.at, "pop3".to_owned());
                let request = ContentRequest { account_id, mailbox_id, uid, start, end: size, reader };
                none.insert(self.contents.content(request).await?.into_inner())
            }
        };
        let piece = tokio::time::timeout(self.timeout, pieces.message()).await.map_err(|_| late())??;
        // Ended before its size: the rest is missing, and the client must see that.
        let chunk = piece.ok_or_else(|| Status::data_loss("message is shorter than its size"))?.chunk;
        self.at = self.at.saturating_add(chunk.len() as u64);
        Ok(Some(chunk))
    }
}

/// Where the body begins, if the empty line is there; the search begins at `from`.
fn header_end(octets: &[u8], from: usize) -> Option<usize> {
    if octets.starts_with(b"\r\n") {
        return Some(2);
    }
    octets.get(from..)?.windows(4).position(|w| w == b"\r\n\r\n").map(|at| from + at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_ends_with_the_first_empty_line() {
        assert_eq!(header_end(b"A: b\r\n\r\nc\r\n\r\n", 0), Some(8));
        assert_eq!(header_end(b"A: b\r\n\r\nc", 4), Some(8));
        assert_eq!(header_end(b"\r\nA: b", 0), Some(2));
        assert_eq!(header_end(b"A: b\r\n", 0), None);
    }
}
