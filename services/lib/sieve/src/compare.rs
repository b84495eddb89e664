//! Comparators (RFC 4790, RFC 5228 §2.7.3) and match types (RFC 5228 §2.7.1, RFC 5231).

use std::cmp::Ordering;

use crate::text::Text;

/// How a test's values are held against its keys.
#[derive(Debug, Clone)]
pub(crate) struct Matching {
    pub way: Way,
    pub comparator: Comparator,
    pub keys: Vec<Text>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Is,
    Contains,
    Matches,
    Value(Relation),
    Count(Relation),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Gt,
    Ge,
    Lt,
    Le,
    Eq,
    Ne,
}

impl Relation {
    pub fn of(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "gt" => Self::Gt,
            "ge" => Self::Ge,
            "lt" => Self::Lt,
            "le" => Self::Le,
            "eq" => Self::Eq,
            "ne" => Self::Ne,
            _ => return None,
        })
    }

    pub fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Gt => ordering.is_gt(),
            Self::Ge => ordering.is_ge(),
            Self::Lt => ordering.is_lt(),
            Self::Le => ordering.is_le(),
            Self::Eq => ordering.is_eq(),
            Self::Ne => ordering.is_ne(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparator {
    Octet,
    AsciiCasemap,
    AsciiNumeric,
}

impl Comparator {
    /// RFC 4790 §9.2: compared in upper case.
    pub fn fold(self, text: &str) -> std::borrow::Cow<'_, str> {
        match self {
            Self::AsciiCasemap if text.bytes().any(|b| b.is_ascii_lowercase()) => text.to_ascii_uppercase().into(),
            _ => text.into(),
        }
    }

    pub fn order(self, left: &str, right: &str) -> Ordering {
        match self {
            Self::AsciiNumeric => numeric(left, right),
            Self::Octet | Self::AsciiCasemap => self.fold(left).as_bytes().cmp(self.fold(right).as_bytes()),
        }
    }
}

/// RFC 4790 §9.1: the digits at the beginning count; no digits are more than any number.
fn numeric(left: &str, right: &str) -> Ordering {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let digits = text.get(..end).unwrap_or_default();
        (!digits.is_empty()).then(|| digits.trim_start_matches('0').to_owned())
    };
    match (number(left), number(right)) {
        (Some(left), Some(right)) => left.len().cmp(&right.len()).then_with(|| left.cmp(&right)),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
    }
}

/// `?` is one character, `*` any number, a backslash takes the next as it is.
enum Wild {
    Char(char),
    One,
    Many,
}

fn pattern(text: &str) -> Vec<Wild> {
    let mut out = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '?' => Wild::One,
            '*' => Wild::Many,
            '\\' => Wild::Char(chars.next().unwrap_or('\\')),
            c => Wild::Char(c),
        });
    }
    out
}

/// What each wildcard stood for: offsets into the value.
pub(crate) type Spans = Vec<(usize, usize)>;

/// Holds `value` against a pattern, both folded alike; wildcards stand for as little as they can
/// (RFC 5229 §3.2). `spend` is called for each character that is looked at and may end it.
pub(crate) fn wildcards<E>(
    value: &str,
    pattern_text: &str,
    mut spend: impl FnMut() -> Result<(), E>,
) -> Result<Option<Spans>, E> {
    let pattern = pattern(pattern_text);
    let char_at = |at: usize| value.get(at..).and_then(|rest| rest.chars().next());
    let mut spans: Spans = Vec::new();
    // After the last `*`: the pattern from there, and which span it is.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut v) = (0, 0);
    loop {
        spend()?;
        match (pattern.get(p), char_at(v)) {
            (None, None) => return Ok(Some(spans)),
            (Some(Wild::Many), _) => {
                let end = if p + 1 == pattern.len() { value.len() } else { v };
                spans.push((v, end));
                star = Some((p + 1, spans.len() - 1));
                (p, v) = (p + 1, end);
                continue;
            }
            (Some(Wild::One), Some(c)) => {
                spans.push((v, v + c.len_utf8()));
                (p, v) = (p + 1, v + c.len_utf8());
                continue;
            }
            (Some(Wild::Char(wanted)), Some(c)) if *wanted == c => {
                (p, v) = (p + 1, v + c.len_utf8());
                continue;
            }
            _ => {}
        }
        // Not here: the last `*` takes one more.
        let Some((after, index)) = star else { return Ok(None) };
        spans.truncate(index + 1);
        let Some(span) = spans.last_mut() else { return Ok(None) };
        let Some(c) = char_at(span.1) else { return Ok(None) };
        span.1 += c.len_utf8();
        (p, v) = (after, span.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(value: &str, pattern: &str) -> Option<Vec<String>> {
        let spans = wildcards(value, pattern, || Ok::<_, ()>(())).expect("unlimited")?;
        Some(spans.into_iter().map(|(from, to)| value[from..to].to_owned()).collect())
    }

    fn taken(parts: &[&str]) -> Option<Vec<String>> {
        Some(parts.iter().map(|p| (*p).to_owned()).collect())
    }

    #[test]
    fn wildcards_take_as_little_as_they_can() {
        assert_eq!(
            spans("[acme-users] [fwd] version 1.0 is out", "[*] *"),
            taken(&["acme-users", "[fwd] version 1.0 is out"])
        );
        assert_eq!(spans("coyote@ACME.Example.COM", "??yote@*.*"), taken(&["c", "o", "ACME", "Example.COM"]));
        assert_eq!(spans("aXbXc", "*X?"), taken(&["aXb", "c"]));
        assert_eq!(spans("", "*"), taken(&[""]));
        assert_eq!(spans("", "?"), None);
        assert_eq!(spans("ab", "a"), None);
        assert_eq!(spans("a*?", "a\\*\\?"), taken(&[]));
        assert_eq!(spans("äöü", "?*ü"), taken(&["ä", "ö"]));
        assert_eq!(spans("abcabc", "*abc"), taken(&["abc"]));
    }

    #[test]
    fn numbers_of_rfc_4790() {
        assert_eq!(Comparator::AsciiNumeric.order("0010", "9abc"), Ordering::Greater);
        assert_eq!(Comparator::AsciiNumeric.order("007", "7"), Ordering::Equal);
        assert_eq!(Comparator::AsciiNumeric.order("x", "99999999999999999999999999"), Ordering::Greater);
        assert_eq!(Comparator::AsciiNumeric.order("", "x"), Ordering::Equal);
        assert_eq!(Comparator::AsciiNumeric.order("1", "x"), Ordering::Less);
        assert_eq!(Comparator::AsciiCasemap.order("Abc", "aBC"), Ordering::Equal);
        assert_eq!(Comparator::Octet.order("a", "B"), Ordering::Greater);
    }
}
