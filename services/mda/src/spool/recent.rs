//! Contents accepted a moment ago that are about to be relayed: a claim that comes soon needs not
//! read them back. Postgres has them all; whatever is not here is read there.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use sqlx::types::Uuid;

/// Of one content; larger ones are streamed anyway.
const LARGEST: usize = 64 << 10;
/// Of all.
const ROOM: usize = 16 << 20;

#[derive(Clone, Default)]
pub struct Recent(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    by_id: HashMap<Uuid, Bytes>,
    /// Oldest first; may name what has been taken.
    order: VecDeque<Uuid>,
    bytes: usize,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only what is committed: a message with this queue id has this content for ever.
    pub fn keep(&self, id: Uuid, content: Bytes) {
        if content.len() > LARGEST {
            return;
        }
        let mut contents = self.lock();
        contents.bytes += content.len();
        match contents.by_id.insert(id, content) {
            Some(old) => contents.bytes -= old.len(),
            None => contents.order.push_back(id),
        }
        while contents.bytes > ROOM || contents.order.len() > 2 * contents.by_id.len() + 64 {
            let Some(oldest) = contents.order.pop_front() else { break };
            if let Some(old) = contents.by_id.remove(&oldest) {
                contents.bytes -= old.len();
            }
        }
    }

    /// For its one claim; a further attempt reads Postgres.
    pub fn take(&self, id: &Uuid) -> Option<Bytes> {
        let mut contents = self.lock();
        let content = contents.by_id.remove(id)?;
        contents.bytes -= content.len();
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_the_oldest_and_never_grows() {
        let recent = Recent::default();
        let ids: Vec<Uuid> = (0..2_000).map(|_| Uuid::now_v7()).collect();
        for id in &ids {
            recent.keep(*id, Bytes::from(vec![0; 32 << 10]));
        }
        assert!(recent.lock().bytes <= ROOM && recent.lock().by_id.len() == ROOM >> 15);
        assert_eq!(recent.take(&ids[0]), None);
        assert!(recent.take(&ids[1_999]).is_some());
        assert_eq!(recent.take(&ids[1_999]), None, "once");
        recent.keep(ids[0], Bytes::from(vec![0; LARGEST + 1]));
        assert_eq!(recent.take(&ids[0]), None, "large ones are streamed");
        for id in ids.iter().cycle().take(20_000) {
            recent.keep(*id, Bytes::from_static(b"x"));
            recent.take(id);
        }
        let contents = recent.lock();
        // As of the last that was kept.
        assert!(contents.order.len() <= 2 * (contents.by_id.len() + 1) + 64, "{}", contents.order.len());
    }
}
