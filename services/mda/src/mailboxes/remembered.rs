//! Contents that were read lately: several devices of a person ask for the same new mail, and so do
//! the recipients of one message. A content never changes, so what is kept is true as long as
//! somebody's row leads to it.

use bytes::Bytes;
use sqlx::types::Uuid;

/// Octets of a header, structure or body above which it is not kept.
const LARGEST: usize = 64 << 10;

/// Unpacked, each only if it was asked for.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    pub header: Option<Bytes>,
    pub body: Option<Bytes>,
    /// As the table has it.
    pub structure: Option<Bytes>,
}

impl Kept {
    fn weight(&self) -> usize {
        let parts = [&self.header, &self.body, &self.structure];
        parts.into_iter().flatten().map(Bytes::len).sum::<usize>() + 200
    }

    /// What either has.
    fn with(self, other: Self) -> Self {
        Self {
            header: self.header.or(other.header),
            body: self.body.or(other.body),
            structure: self.structure.or(other.structure),
        }
    }
}

/// The least used go first.
#[derive(Clone)]
pub struct Remembered(moka::sync::Cache<Uuid, Kept>);

impl Remembered {
    /// `bytes`: what they may have together; 0 keeps none.
    pub fn new(bytes: u64) -> Self {
        let weight = |_: &Uuid, kept: &Kept| u32::try_from(kept.weight()).unwrap_or(u32::MAX);
        Self(moka::sync::Cache::builder().max_capacity(bytes).weigher(weight).build())
    }

    pub fn get(&self, id: Uuid) -> Kept {
        self.0.get(&id).unwrap_or_default()
    }

    pub fn put(&self, id: Uuid, read: &Kept) {
        let small = |part: &Option<Bytes>| part.clone().filter(|octets| octets.len() <= LARGEST);
        let kept = Kept { header: small(&read.header), body: small(&read.body), structure: small(&read.structure) };
        if kept.header.is_some() || kept.body.is_some() || kept.structure.is_some() {
            self.0.insert(id, kept.with(self.get(id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_together_and_large_ones_stay_out() {
        let remembered = Remembered::new(1 << 20);
        let id = Uuid::from_u128(1);
        let octets = |n| Some(Bytes::from(vec![b'x'; n]));
        remembered.put(id, &Kept { header: octets(10), ..Kept::default() });
        remembered.put(id, &Kept { body: octets(20), structure: octets(LARGEST + 1), ..Kept::default() });
        let kept = remembered.get(id);
        assert_eq!((kept.header.map(|h| h.len()), kept.body.map(|b| b.len())), (Some(10), Some(20)));
        assert!(kept.structure.is_none());
        let none = Remembered::new(0);
        none.put(id, &Kept { header: octets(10), ..Kept::default() });
        none.0.run_pending_tasks();
        assert!(none.get(id).header.is_none(), "0 keeps nothing");
    }
}
