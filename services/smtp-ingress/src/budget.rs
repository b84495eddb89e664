use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const UNIT: usize = 64 * 1024;

/// Bounds the bytes of all messages in flight, so that many large ones at once end in an
/// honest 452 and not in the process's death.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS))))
    }

    /// Whether a message of so many bytes would fit now.
    pub fn has_room(&self, bytes: u64) -> bool {
        bytes.div_ceil(UNIT as u64) <= self.0.available_permits() as u64
    }

    /// Grows `reservation` to at least `bytes`; `false` when there is no room.
    pub fn reserve(&self, reservation: &mut Reservation, bytes: usize) -> bool {
        let held = reservation.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = bytes.div_ceil(UNIT).checked_sub(held).filter(|m| *m > 0) else { return true };
        let Ok(missing) = u32::try_from(missing) else { return false };
        let Ok(permit) = self.0.clone().try_acquire_many_owned(missing) else { return false };
        match &mut reservation.0 {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        true
    }
}

/// A session's share, given back on drop.
#[derive(Debug, Default)]
pub struct Reservation(Option<OwnedSemaphorePermit>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_comes_back() {
        let budget = Budget::new(4 * UNIT);
        let (mut a, mut b) = (Reservation::default(), Reservation::default());
        assert!(budget.reserve(&mut a, 1));
        assert!(budget.reserve(&mut a, UNIT));
        assert!(budget.reserve(&mut a, 2 * UNIT + 1));
        assert!(budget.reserve(&mut b, UNIT));
        assert!(!budget.reserve(&mut b, UNIT + 1));
        assert!(!budget.has_room(1) && budget.has_room(0));
        drop(a);
        assert!(budget.reserve(&mut b, 4 * UNIT));
    }
}
