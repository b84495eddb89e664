//! SORT (RFC 5256 §3, RFC 5957): the order of messages, from their headers.

use std::cmp::Ordering;

use message::{Envelope, EnvelopeAddress, base_subject, decode_words, field, sent_time};
use unicode_normalization::UnicodeNormalization as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// INTERNALDATE.
    Arrival,
    /// The `Date:` field, else INTERNALDATE (RFC 5256 §2.2).
    Date,
    Size,
    Subject,
    From,
    To,
    Cc,
    DisplayFrom,
    DisplayTo,
}

impl SortKey {
    pub(crate) const NAMES: [(&'static str, Self); 9] = [
        ("ARRIVAL", Self::Arrival),
        ("DATE", Self::Date),
        ("SIZE", Self::Size),
        ("SUBJECT", Self::Subject),
        ("FROM", Self::From),
        ("TO", Self::To),
        ("CC", Self::Cc),
        ("DISPLAYFROM", Self::DisplayFrom),
        ("DISPLAYTO", Self::DisplayTo),
    ];

    /// Whether the header has to be known.
    pub fn needs_header(self) -> bool {
        !matches!(self, Self::Arrival | Self::Size)
    }
}

/// One criterion; `reverse` turns only this one around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Criterion {
    pub key: SortKey,
    pub reverse: bool,
}

/// What a message is compared by, one value for each criterion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sortable {
    pub uid: u32,
    pub modseq: u64,
    values: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Number(i64),
    Text(String),
}

/// Longer texts do not differ any more; bounds what a mailbox's keys cost.
const MAX_KEY_CHARS: usize = 512;

impl Sortable {
    /// `header` counts only as far as a criterion needs it.
    pub fn new(criteria: &[Criterion], (uid, modseq): (u32, u64), header: &[u8], arrival_ms: i64, size: u32) -> Self {
        let needs_envelope = |c: &Criterion| c.key.needs_header() && !matches!(c.key, SortKey::Date | SortKey::Subject);
        let envelope = if criteria.iter().any(needs_envelope) { Envelope::parse(header) } else { Envelope::default() };
        let value = |criterion: &Criterion| match criterion.key {
            SortKey::Arrival => Value::Number(arrival_ms),
            SortKey::Size => Value::Number(size.into()),
            SortKey::Date => Value::Number(sent_or_arrival(header, arrival_ms)),
            SortKey::Subject => Value::Text(collated(&base_subject(field(header, "Subject").unwrap_or_default()).0)),
            SortKey::From => Value::Text(mailbox(&envelope.from)),
            SortKey::To => Value::Text(mailbox(&envelope.to)),
            SortKey::Cc => Value::Text(mailbox(&envelope.cc)),
            SortKey::DisplayFrom => Value::Text(display(&envelope.from)),
            SortKey::DisplayTo => Value::Text(display(&envelope.to)),
        };
        Self { uid, modseq, values: criteria.iter().map(value).collect() }
    }
}

/// Sorts; messages that are equal in all criteria stay in the mailbox's order (RFC 5256 §3).
pub fn sort(messages: &mut [Sortable], criteria: &[Criterion]) {
    messages.sort_by(|a, b| {
        let pairs = criteria.iter().zip(a.values.iter().zip(&b.values));
        let by_criteria = pairs.map(|(c, (a, b))| if c.reverse { b.cmp(a) } else { a.cmp(b) });
        by_criteria.fold(Ordering::Equal, Ordering::then).then(a.uid.cmp(&b.uid))
    });
}

pub(crate) fn sent_or_arrival(header: &[u8], arrival_ms: i64) -> i64 {
    field(header, "Date").and_then(sent_time).unwrap_or(arrival_ms)
}

/// i;unicode-casemap (RFC 5051 §2), as far as sorting can tell: without case, and decomposed, so that
/// accents stand with their letters.
fn collated(text: &str) -> String {
    text.chars().take(MAX_KEY_CHARS).flat_map(char::to_uppercase).nfkd().collect()
}

/// The local part of the first address (RFC 5256 §3); a group's name stands for the group.
fn mailbox(list: &[EnvelopeAddress]) -> String {
    let first = list.first().and_then(|a| a.mailbox.as_deref()).unwrap_or_default();
    collated(&String::from_utf8_lossy(first))
}

/// The name that a client would show, else the address (RFC 5957 §3).
fn display(list: &[EnvelopeAddress]) -> String {
    let Some(first) = list.first() else { return String::new() };
    let name = first.name.as_deref().map(decode_words).filter(|n| !n.trim().is_empty());
    let text = |part: &Option<Vec<u8>>| part.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    let address = || match &first.host {
        Some(_) => format!("{}@{}", text(&first.mailbox), text(&first.host)),
        None => text(&first.mailbox),
    };
    collated(name.unwrap_or_else(address).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(keys: &[(SortKey, bool)]) -> Vec<u32> {
        let criteria: Vec<_> = keys.iter().map(|(key, reverse)| Criterion { key: *key, reverse: *reverse }).collect();
        let headers = [
            "From: Zed <alice@x>\r\nSubject: Re: beta\r\nDate: 3 Jan 2020 00:00:00 +0000\r\n\r\n",
            "From: \"amy\" <Bob@x>\r\nSubject: alpha\r\n\r\n",
            "From: carol@x\r\nTo: g: x@y;\r\nSubject: BETA\r\nDate: 1 Jan 2020 00:00:00 -2300\r\n\r\n",
        ];
        let mut messages: Vec<_> = (1u32..)
            .zip(headers)
            .map(|(uid, h)| Sortable::new(&criteria, (uid, 0), h.as_bytes(), i64::from(10 - uid), uid * 10))
            .collect();
        sort(&mut messages, &criteria);
        messages.iter().map(|m| m.uid).collect()
    }

    #[test]
    fn orders() {
        assert_eq!(order(&[(SortKey::Arrival, false)]), [3, 2, 1]);
        assert_eq!(order(&[(SortKey::Arrival, true)]), [1, 2, 3]);
        assert_eq!(order(&[(SortKey::Size, true)]), [3, 2, 1]);
        assert_eq!(order(&[(SortKey::Date, false)]), [2, 3, 1], "no Date: INTERNALDATE");
        assert_eq!(order(&[(SortKey::Subject, false), (SortKey::Date, true)]), [2, 1, 3]);
        assert_eq!(order(&[(SortKey::Subject, true)]), [1, 3, 2], "equal ones stay in order");
        assert_eq!(order(&[(SortKey::From, false)]), [1, 2, 3]);
        assert_eq!(order(&[(SortKey::DisplayFrom, false)]), [2, 3, 1]);
        assert_eq!(order(&[(SortKey::To, true)]), [3, 1, 2]);
        assert!(collated("Öl") < collated("pa") && collated("öl") == collated("O\u{308}L"), "an accent is no letter");
    }
}
