//! Accept: the commit behind a 250 (Invariant 1).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::spool::{AcceptRequest, Envelope, spool_client::SpoolClient};
use runtime::grpc::Channel;
use tonic::Status;

/// Pieces up to this size travel in one request.
const SMALL: usize = 64 * 1024;
/// Between the calls that ask for a commit in doubt: a pod that was killed is back before the last.
/// After a 451 the client sends the message a second time, although the first may be there (RFC 5321 §6.1).
const IN_DOUBT: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

#[derive(Clone)]
pub struct Spool(SpoolClient<Channel>);

impl Spool {
    pub fn new(channel: Channel) -> Self {
        Self(SpoolClient::new(channel))
    }

    /// `Ok` means committed. The queue id makes a retry the same message, also when only the
    /// answer to the first try was lost.
    pub async fn accept(&self, envelope: Envelope, pieces: &[Bytes]) -> Result<(), Status> {
        let mut envelope = Some(envelope);
        let requests: Vec<_> =
            chunks(pieces).into_iter().map(|content| AcceptRequest { envelope: envelope.take(), content }).collect();
        let accept = || {
            let (mut client, requests) = (self.0.clone(), requests.clone());
            async move { client.accept(tokio_stream::iter(requests)).await }
        };
        runtime::grpc::again_after(&IN_DOUBT, accept).await.map(drop)
    }
}

/// At least one chunk, each of at most [`proto::CHUNK`] bytes. Only what is small is copied.
pub fn chunks(pieces: &[Bytes]) -> Vec<Bytes> {
    let total: usize = pieces.iter().map(Bytes::len).sum();
    if let [only] = pieces
        && total <= proto::CHUNK
    {
        return vec![only.clone()];
    }
    if total <= SMALL {
        let mut joined = BytesMut::with_capacity(total);
        pieces.iter().for_each(|p| joined.extend_from_slice(p));
        return vec![joined.freeze()];
    }
    let mut chunks = Vec::new();
    for piece in pieces {
        let mut rest = piece.clone();
        while !rest.is_empty() {
            chunks.push(rest.split_to(rest.len().min(proto::CHUNK)));
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_bounded_and_lose_nothing() {
        let pieces = |sizes: &[usize]| sizes.iter().map(|n| Bytes::from(vec![b'x'; *n])).collect::<Vec<_>>();
        for sizes in [&[0][..], &[5], &[1, 2, 3], &[SMALL, 1], &[proto::CHUNK * 2 + 1], &[10, proto::CHUNK + 1], &[]] {
            let chunks = chunks(&pieces(sizes));
            assert!(!chunks.is_empty());
            assert!(chunks.iter().all(|c| c.len() <= proto::CHUNK));
            assert_eq!(chunks.iter().map(Bytes::len).sum::<usize>(), sizes.iter().sum::<usize>());
        }
    }
}
