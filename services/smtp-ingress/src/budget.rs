use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const UNIT: usize = 64 * 1024;

/// Bounds the bytes of all messages in flight, so that many large ones at once end in an
/// honest 452 and not in the process's death.
#[derive(Debug, Clone)]
pub struct Budget {
    room: Arc<Semaphore>,
    /// Bytes that are reserved.
    reserved: Gauge,
}

impl Budget {
    /// Tells in `reserved` how much of it is in use.
    pub fn new(bytes: usize, reserved: Gauge) -> Self {
        Self { room: Arc::new(Semaphore::new((bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS))), reserved }
    }

    /// Whether a message of so many bytes would fit now.
    pub fn has_room(&self, bytes: u64) -> bool {
        bytes.div_ceil(UNIT as u64) <= self.room.available_permits() as u64
    }

    /// Grows `reservation` to at least `bytes`; `false` when there is no room.
    pub fn reserve(&self, reservation: &mut Reservation, bytes: usize) -> bool {
        let held = reservation.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = bytes.div_ceil(UNIT).checked_sub(held).filter(|m| *m > 0) else { return true };
        let Ok(missing) = u32::try_from(missing) else { return false };
        let Ok(permit) = self.room.clone().try_acquire_many_owned(missing) else { return false };
        self.reserved.inc_by(i64::from(missing) * UNIT as i64);
        reservation.reserved = self.reserved.clone();
        match &mut reservation.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        true
    }
}

/// A session's share, given back on drop.
#[derive(Debug, Default)]
pub struct Reservation {
    permit: Option<OwnedSemaphorePermit>,
    reserved: Gauge,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let units = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.reserved.dec_by(i64::try_from(units * UNIT).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_comes_back() {
        let reserved = Gauge::default();
        let budget = Budget::new(4 * UNIT, reserved.clone());
        let (mut a, mut b) = (Reservation::default(), Reservation::default());
        assert!(budget.reserve(&mut a, 1));
        assert!(budget.reserve(&mut a, UNIT));
        assert!(budget.reserve(&mut a, 2 * UNIT + 1));
        assert!(budget.reserve(&mut b, UNIT));
        assert!(!budget.reserve(&mut b, UNIT + 1));
        assert!(!budget.has_room(1) && budget.has_room(0));
        assert_eq!(reserved.get(), 4 * UNIT as i64);
        drop(a);
        assert_eq!(reserved.get(), UNIT as i64);
        assert!(budget.reserve(&mut b, 4 * UNIT));
        b = Reservation::default();
        assert_eq!((reserved.get(), b.permit.is_none()), (0, true));
    }
}
