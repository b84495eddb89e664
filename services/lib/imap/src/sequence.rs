//! Sequence sets (RFC 9051 §9), kept as ranges: `1:4294967295` costs what `1` costs.

use std::fmt::Write as _;

/// A number, or `*`: the largest in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Number(u32),
    Largest,
}

/// As the client wrote it: what it means depends on the mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SequenceSet {
    Ranges(Vec<(Bound, Bound)>),
    /// `$`: the result that SEARCH saved (RFC 5182).
    Saved,
}

impl SequenceSet {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text == b"$" {
            return Some(Self::Saved);
        }
        let ranges: Option<Vec<_>> = text.split(|b| *b == b',').map(parse_range).collect();
        ranges.map(Self::Ranges)
    }

    /// The numbers as sorted ranges; `*` is `largest`. A range may be written backwards
    /// (RFC 9051 §9, seq-range).
    pub(crate) fn resolve(&self, largest: u32) -> Vec<(u32, u32)> {
        let Self::Ranges(ranges) = self else { return Vec::new() };
        let value = |bound: &Bound| match bound {
            Bound::Number(n) => *n,
            Bound::Largest => largest,
        };
        let ordered = |(a, b): &(Bound, Bound)| {
            let (a, b) = (value(a), value(b));
            (a.min(b), a.max(b))
        };
        ranges.iter().map(ordered).collect()
    }
}

fn parse_range(text: &[u8]) -> Option<(Bound, Bound)> {
    let mut bounds = text.splitn(2, |b| *b == b':').map(parse_bound);
    let first = bounds.next()??;
    match bounds.next() {
        None => Some((first, first)),
        Some(second) => Some((first, second?)),
    }
}

fn parse_bound(text: &[u8]) -> Option<Bound> {
    if text == b"*" {
        return Some(Bound::Largest);
    }
    let text = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok().filter(|n| *n > 0).map(Bound::Number)
}

/// UIDs as sorted ranges that do not touch; both ends belong to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UidRanges(Vec<(u32, u32)>);

impl UidRanges {
    /// Sorts and joins; ranges whose ends are swapped are empty.
    pub fn new(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    pub fn from_numbers(numbers: impl IntoIterator<Item = u32>) -> Self {
        Self::new(numbers.into_iter().map(|n| (n, n)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_slice(&self) -> &[(u32, u32)] {
        &self.0
    }

    pub fn contains(&self, n: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= n);
        after.checked_sub(1).and_then(|i| self.0.get(i)).is_some_and(|(_, last)| n <= *last)
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut out = Vec::new();
        while let (Some((a1, a2)), Some((b1, b2))) = (a.peek().copied(), b.peek().copied()) {
            if a1.max(b1) <= a2.min(b2) {
                out.push((*a1.max(b1), *a2.min(b2)));
            }
            if a2 < b2 {
                a.next()
            } else {
                b.next()
            };
        }
        Self(out)
    }
}

/// `1:3,5`.
impl std::fmt::Display for UidRanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_char(',')?;
            }
            write!(f, "{first}")?;
            if last > first {
                write!(f, ":{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_grammar_allows() {
        let set = SequenceSet::parse(b"2,4:7,9,12:*").expect("valid");
        assert_eq!(set.resolve(15), [(2, 2), (4, 7), (9, 9), (12, 15)]);
        assert_eq!(SequenceSet::parse(b"*:4,5:7").expect("valid").resolve(3), [(3, 4), (5, 7)]);
        assert_eq!(SequenceSet::parse(b"$"), Some(SequenceSet::Saved));
        for wrong in ["", "0", "1,", ",1", "1:", ":1", "1:2:3", "4294967296", "a", "+1", "1 ", "$,1", "**"] {
            assert_eq!(SequenceSet::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn ranges_are_joined_and_searched() {
        let ranges = UidRanges::new(vec![(5, 7), (1, 2), (3, 3), (6, 9), (20, 10)]);
        assert_eq!(ranges.to_string(), "1:3,5:9");
        assert!([1, 3, 5, 9].iter().all(|n| ranges.contains(*n)));
        assert!([0, 4, 10, u32::MAX].iter().all(|n| !ranges.contains(*n)));
        let other = UidRanges::new(vec![(2, 5), (8, u32::MAX)]);
        assert_eq!(ranges.intersection(&other).to_string(), "2:3,5,8:9");
        assert_eq!(UidRanges::from_numbers([3, 1, 2]).to_string(), "1:3");
        assert!(UidRanges::default().intersection(&other).is_empty());
    }
}
