//! The selected mailbox as this client knows it (RFC 9051 §2.3.1.2, §5.2).
//!
//! UIDs are the mailbox's, sequence numbers the session's: they move only when the client is
//! told so. A message that vanished keeps its number until an EXPUNGE may be sent, which is
//! never during FETCH, STORE or SEARCH (RFC 9051 §7.5.1).

use std::collections::BTreeSet;

use crate::{SequenceSet, UidRanges, respond};

/// UIDs in ascending order: the message with sequence number n is the n-th.
#[derive(Debug, Clone, Default)]
pub struct View {
    uids: Vec<u32>,
    /// Gone from the mailbox, but the client still counts them.
    vanished: BTreeSet<u32>,
    /// `$`: what SEARCH saved (RFC 5182 §2.1).
    saved: UidRanges,
}

impl View {
    /// From the UIDs of a mailbox; order and doubles do not matter.
    pub fn new(mut uids: Vec<u32>) -> Self {
        uids.sort_unstable();
        uids.dedup();
        Self { uids, ..Self::default() }
    }

    /// What EXISTS says.
    pub fn exists(&self) -> u32 {
        u32::try_from(self.uids.len()).unwrap_or(u32::MAX)
    }

    pub fn uids(&self) -> &[u32] {
        &self.uids
    }

    pub fn last_uid(&self) -> u32 {
        self.uids.last().copied().unwrap_or(0)
    }

    pub fn seq_of(&self, uid: u32) -> Option<u32> {
        let at = self.uids.binary_search(&uid).ok()?;
        u32::try_from(at + 1).ok()
    }

    fn uid_at(&self, seq: u32) -> Option<u32> {
        self.uids.get(usize::try_from(seq).ok()?.checked_sub(1)?).copied()
    }

    /// The UIDs that a set names. Unknown UIDs are passed over (RFC 9051 §6.4.9); an unknown
    /// sequence number is `None`: BAD (RFC 9051 §9, seq-number).
    pub fn resolve(&self, set: &SequenceSet, uid: bool) -> Option<UidRanges> {
        let SequenceSet::Ranges(_) = set else { return Some(self.saved.clone()) };
        if self.uids.is_empty() {
            return if uid { Some(UidRanges::default()) } else { None };
        }
        let all = UidRanges::new(vec![(self.uids[0], self.last_uid())]);
        if uid {
            return Some(UidRanges::new(set.resolve(self.last_uid())).intersection(&all));
        }
        // No message of the mailbox that we do not know lies between two that we know: UIDs only rise.
        let ranges: Option<Vec<_>> = set
            .resolve(self.exists())
            .into_iter()
            .map(|(first, last)| Some((self.uid_at(first)?, self.uid_at(last)?)))
            .collect();
        ranges.map(UidRanges::new)
    }

    /// Of the UIDs that are `among` the vanished, those that a client says it has (`None`: all) and
    /// that are not there any more (RFC 7162 §3.2.6).
    pub fn missing(&self, known: Option<&SequenceSet>, among: &UidRanges) -> UidRanges {
        let known = known.map(|set| UidRanges::new(set.resolve(u32::MAX)));
        let wanted = known.map_or_else(|| among.clone(), |known| known.intersection(among));
        let mut gone = Vec::new();
        for (first, last) in wanted.as_slice() {
            let mut from = *first;
            let at = self.uids.partition_point(|uid| uid < first);
            for there in self.uids.get(at..).unwrap_or_default().iter().take_while(|uid| *uid <= last) {
                if from < *there {
                    gone.push((from, there - 1));
                }
                from = there.saturating_add(1);
            }
            if from <= *last {
                gone.push((from, *last));
            }
        }
        UidRanges::new(gone)
    }

    /// The whole mailbox as far as it is known.
    pub fn all(&self) -> UidRanges {
        match (self.uids.first(), self.uids.last()) {
            (Some(first), Some(last)) => UidRanges::new(vec![(*first, *last)]),
            _ => UidRanges::default(),
        }
    }

    /// Remembers what `$` stands for from now on.
    pub fn save(&mut self, found: UidRanges) {
        self.saved = found;
    }

    /// Takes in a UID from a list of changes. `true` when it is new; then EXISTS has to be sent.
    /// One below the last that we do not know has vanished before we heard of it.
    pub fn learn(&mut self, uid: u32) -> bool {
        let new = uid > self.last_uid();
        if new {
            self.uids.push(uid);
        }
        new
    }

    /// Marks messages as gone; [`View::expunge`] tells the client.
    pub fn vanish(&mut self, first: u32, last: u32) {
        let from = self.uids.partition_point(|uid| *uid < first);
        let to = self.uids.partition_point(|uid| *uid <= last);
        self.vanished.extend(self.uids.get(from..to).unwrap_or_default());
    }

    pub fn has_vanished(&self) -> bool {
        !self.vanished.is_empty()
    }

    /// Writes EXPUNGE for what has vanished, or VANISHED for a client that wants UIDs (RFC 7162
    /// §3.2.10), and renumbers. Only between commands, or within those that may carry it.
    pub fn expunge(&mut self, out: &mut Vec<u8>, by_uid: bool) {
        let gone = std::mem::take(&mut self.vanished);
        if by_uid {
            respond::vanished(out, &UidRanges::from_numbers(gone.iter().copied()), false);
        } else {
            // From the last to the first, so that no number depends on an earlier line.
            for uid in gone.iter().rev() {
                if let Some(seq) = self.seq_of(*uid) {
                    respond::numbered(out, seq, "EXPUNGE");
                }
            }
        }
        if !gone.is_empty() {
            self.uids.retain(|uid| !gone.contains(uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> SequenceSet {
        SequenceSet::parse(text.as_bytes()).expect("valid")
    }

    fn resolved(view: &View, text: &str, uid: bool) -> Option<String> {
        view.resolve(&set(text), uid).map(|r| r.to_string())
    }

    #[test]
    fn numbers_and_uids() {
        let view = View::new(vec![10, 5, 20]);
        assert_eq!((view.exists(), view.seq_of(10), view.seq_of(11)), (3, Some(2), None));
        assert_eq!(resolved(&view, "1:2", false).as_deref(), Some("5:10"));
        assert_eq!(resolved(&view, "*", false).as_deref(), Some("20"));
        assert_eq!(resolved(&view, "1:4", false), None, "no message 4");
        assert_eq!(resolved(&view, "*", true).as_deref(), Some("20"));
        assert_eq!(resolved(&view, "30:*", true).as_deref(), Some("20"), "the last is always within n:*");
        assert_eq!(resolved(&view, "1:4294967295", true).as_deref(), Some("5:20"));
        assert_eq!(resolved(&view, "6:9,11", true).as_deref(), Some("6:9,11"));
    }

    #[test]
    fn an_empty_mailbox_has_no_numbers() {
        let view = View::new(Vec::new());
        assert_eq!(resolved(&view, "1:*", false), None);
        assert_eq!(resolved(&view, "1:*", true).as_deref(), Some(""));
    }

    #[test]
    fn vanished_messages_keep_their_number_until_the_client_is_told() {
        let mut view = View::new(vec![1, 2, 3, 4, 5]);
        view.vanish(2, 3);
        view.vanish(5, 9);
        assert_eq!(view.seq_of(4), Some(4));
        assert!(view.learn(6));
        assert!(!view.learn(6));
        assert_eq!(view.exists(), 6);
        let mut out = Vec::new();
        view.expunge(&mut out, false);
        assert_eq!(out, b"* 5 EXPUNGE\r\n* 3 EXPUNGE\r\n* 2 EXPUNGE\r\n");
        assert_eq!(view.uids(), [1, 4, 6]);
        assert!(!view.has_vanished());
        view.vanish(2, 3);
        assert!(!view.has_vanished(), "told only once");
        view.vanish(1, 4);
        out.clear();
        view.expunge(&mut out, true);
        assert_eq!(out, b"* VANISHED 1,4\r\n");
    }

    #[test]
    fn saved_results() {
        let mut view = View::new(vec![1, 2, 3]);
        assert_eq!(resolved(&view, "$", true).as_deref(), Some(""));
        view.save(UidRanges::from_numbers([1, 3]));
        assert_eq!(resolved(&view, "$", false).as_deref(), Some("1,3"));
    }
}
