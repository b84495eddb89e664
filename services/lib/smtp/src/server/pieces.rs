use std::sync::{Arc, Mutex};

/// Content is kept in pieces of at most so many octets. A large message then never moves while it
/// grows, and what it gives back fits any other message.
pub const PIECE: usize = 256 * 1024;
/// Pieces that are always kept for the next message. While more are in use as many may wait;
/// what is above that goes back to the allocator.
const KEPT: usize = 64;

/// Where sessions get the room for content from, and give it back to. An allocator keeps what another
/// thread gives back for a while; a flood of large messages would then take more memory than it holds.
#[derive(Debug, Clone, Default)]
pub struct Pieces(Arc<Mutex<Shelf>>);

#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Vec<u8>>,
    in_use: usize,
}

impl Pieces {
    pub(super) fn take(&self) -> Piece {
        let free = self.0.lock().ok().and_then(|mut shelf| {
            shelf.in_use += 1;
            shelf.free.pop()
        });
        Piece { octets: free.unwrap_or_else(|| Vec::with_capacity(PIECE)), home: self.clone() }
    }
}

/// Room for [`PIECE`] octets.
#[derive(Debug)]
pub(super) struct Piece {
    octets: Vec<u8>,
    home: Pieces,
}

impl Piece {
    /// Takes what fits; what does not is handed back.
    pub fn fill<'a>(&mut self, octets: &'a [u8]) -> &'a [u8] {
        let (now, later) = octets.split_at(octets.len().min(PIECE - self.octets.len()));
        self.octets.extend_from_slice(now);
        later
    }

    pub fn is_full(&self) -> bool {
        self.octets.len() == PIECE
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut octets = std::mem::take(&mut self.octets);
        octets.clear();
        if let Ok(mut shelf) = self.home.0.lock() {
            shelf.in_use = shelf.in_use.saturating_sub(1);
            if shelf.free.len() < shelf.in_use.max(KEPT) {
                shelf.free.push(octets);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_used_again_and_not_hoarded() {
        let pieces = Pieces::default();
        let free = || pieces.0.lock().map(|shelf| shelf.free.len()).unwrap_or_default();
        let mut piece = pieces.take();
        assert_eq!(piece.fill(b"secret"), b"");
        let room = piece.as_ref().as_ptr();
        drop(bytes::Bytes::from_owner(piece));
        assert_eq!(free(), 1);
        let mut piece = pieces.take();
        assert_eq!((piece.as_ref().as_ptr(), piece.as_ref().len(), free()), (room, 0, 0));
        assert_eq!(piece.fill(&vec![b'x'; PIECE + 3]), b"xxx");
        assert!(piece.is_full() && piece.fill(b"y") == b"y");
        let mut many: Vec<Piece> = (0..4 * KEPT).map(|_| pieces.take()).collect();
        many.truncate(3 * KEPT);
        assert_eq!(free(), KEPT, "for those that go on");
        drop(many);
        assert!(free() <= 2 * KEPT, "{}", free());
        drop((0..KEPT + 10).map(|_| pieces.take()).collect::<Vec<_>>());
        assert!(free() <= 2 * KEPT, "{}", free());
    }
}
