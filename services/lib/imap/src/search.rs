//! Whether a message matches a SEARCH (RFC 9051 §6.4.4).

use std::cell::OnceCell;

use message::{Day, Part, PartKind, Structure, charset_to_utf8, decode_transfer, decode_words, fields, sent_day};

use crate::{Flags, SequenceSet, UidRanges, View, date::day_of};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    All,
    /// A bit of [`Flags`].
    Flag(u32),
    Keyword(String),
    /// INTERNALDATE.
    Received(DateKey),
    /// The `Date:` field.
    Sent(DateKey),
    /// Name and text; an empty text means that the field is there.
    Header(String, Needle),
    Body(Needle),
    Text(Needle),
    /// SAVEDATE (RFC 8514 §4.3).
    Saved(DateKey),
    /// INTERNALDATE within so many seconds before now (RFC 5032).
    Younger(u32),
    /// INTERNALDATE at least so many seconds before now (RFC 5032).
    Older(u32),
    /// INTERNALDATE from this moment on, and until it: what the two become by [`Key::resolve`].
    From(i64),
    Until(i64),
    EmailId(String),
    ThreadId(String),
    Larger(u64),
    Smaller(u64),
    /// Mod-sequence equal or higher (RFC 7162 §3.1.5).
    ModSeq(u64),
    Sequence(SequenceSet),
    Uid(SequenceSet),
    /// A set after [`Key::resolve`].
    In(UidRanges),
    Not(Box<Key>),
    Or(Box<Key>, Box<Key>),
    And(Vec<Key>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateKey {
    Before(Day),
    On(Day),
    Since(Day),
}

impl DateKey {
    fn matches(self, day: Day) -> bool {
        match self {
            Self::Before(limit) => day < limit,
            Self::On(limit) => day == limit,
            Self::Since(limit) => day >= limit,
        }
    }
}

/// Text to look for, whatever its case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needle {
    lower: String,
}

impl Needle {
    pub fn new(text: &[u8]) -> Self {
        Self { lower: String::from_utf8_lossy(text).to_lowercase() }
    }

    /// In lower case.
    pub fn as_str(&self) -> &str {
        &self.lower
    }

    fn is_in(&self, text: &str) -> bool {
        if !self.lower.is_ascii() {
            return text.to_lowercase().contains(&self.lower);
        }
        let needle = self.lower.as_bytes();
        let Some(first) = needle.first().copied() else { return true };
        let text = text.as_bytes();
        memchr::memchr2_iter(first, first.to_ascii_uppercase(), text)
            .any(|at| text.get(at..at + needle.len()).is_some_and(|t| t.eq_ignore_ascii_case(needle)))
    }
}

/// A key that looks into the message itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentKey<'k> {
    /// The field's name.
    Header(&'k str, &'k Needle),
    Body(&'k Needle),
    Text(&'k Needle),
}

/// Columns that a search needs of every message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    pub header: bool,
    pub body: bool,
    /// EMAILID and SAVEDATE.
    pub object_ids: bool,
    /// THREADID.
    pub structure: bool,
}

/// What is known of one message. Columns that were not fetched are empty.
#[derive(Debug)]
pub struct Facts<'a> {
    pub uid: u32,
    pub flags: &'a Flags,
    pub internal_date_ms: i64,
    pub size: u64,
    pub modseq: u64,
    pub header: &'a [u8],
    pub body: &'a [u8],
    pub email_id: &'a str,
    pub thread_id: &'a str,
    /// 0 means unknown.
    pub save_date_ms: i64,
    texts: OnceCell<Texts>,
}

/// What there is to read in a message beside its own header.
#[derive(Debug, Default)]
struct Texts {
    /// The headers of all parts and of messages inside, encoded words decoded.
    headers: Vec<String>,
    /// The texts of all parts, decoded.
    bodies: Vec<String>,
}

impl<'a> Facts<'a> {
    pub fn new(uid: u32, flags: &'a Flags, internal_date_ms: i64, size: u64, modseq: u64) -> Self {
        Self {
            uid,
            flags,
            internal_date_ms,
            size,
            modseq,
            header: &[],
            body: &[],
            email_id: "",
            thread_id: "",
            save_date_ms: 0,
            texts: OnceCell::new(),
        }
    }

    /// Made once, however many keys ask.
    fn texts(&self) -> &Texts {
        self.texts.get_or_init(|| {
            let raw = [self.header, self.body].concat();
            let structure = Structure::parse(&raw);
            let mut texts = Texts::default();
            let mut todo = vec![&structure.root];
            while let Some(part) = todo.pop() {
                texts.take(part, &raw);
                match &part.kind {
                    PartKind::Leaf => {}
                    PartKind::Multipart(children) => todo.extend(children),
                    PartKind::Message(inner) => todo.push(&inner.root),
                }
            }
            texts
        })
    }
}

impl Texts {
    fn take(&mut self, part: &Part, raw: &[u8]) {
        // The message's own header is looked at field by field.
        if part.header_start > 0 {
            self.headers.push(decode_words(raw.get(part.header()).unwrap_or_default()));
        }
        // A delivery-status (RFC 3464) and its kin are written for people too.
        if part.kind == PartKind::Leaf && matches!(part.media.kind.as_str(), "text" | "message") {
            let octets = decode_transfer(raw.get(part.body()).unwrap_or_default(), part.encoding.as_deref());
            let charset = part.media.parameter("charset").unwrap_or(b"utf-8");
            self.bodies.push(charset_to_utf8(&octets, charset).into_owned());
        }
    }

    fn body_has(&self, needle: &Needle) -> bool {
        self.bodies.iter().any(|text| needle.is_in(text))
    }

    /// With MIME header fields (RFC 9051 §6.4.4, TEXT), which BODY does not look at.
    fn has(&self, needle: &Needle) -> bool {
        self.headers.iter().any(|text| needle.is_in(text)) || self.body_has(needle)
    }
}

impl Key {
    /// Replaces sets by the UIDs they mean in this mailbox, and ages by moments. `None` when a
    /// sequence number is not there: BAD.
    pub fn resolve(self, view: &View, now_ms: i64) -> Option<Self> {
        Some(match self {
            Self::Younger(seconds) => Self::From(now_ms - i64::from(seconds) * 1000),
            Self::Older(seconds) => Self::Until(now_ms - i64::from(seconds) * 1000),
            Self::Sequence(set) => Self::In(view.resolve(&set, false)?),
            Self::Uid(set) => Self::In(view.resolve(&set, true)?),
            Self::Not(key) => Self::Not(Box::new(key.resolve(view, now_ms)?)),
            Self::Or(a, b) => Self::Or(Box::new(a.resolve(view, now_ms)?), Box::new(b.resolve(view, now_ms)?)),
            Self::And(keys) => Self::And(keys.into_iter().map(|k| k.resolve(view, now_ms)).collect::<Option<_>>()?),
            key => key,
        })
    }

    pub fn needs(&self) -> Needs {
        match self {
            Self::Header(..) | Self::Sent(_) => Needs { header: true, ..Needs::default() },
            Self::Body(_) | Self::Text(_) => Needs { header: true, body: true, ..Needs::default() },
            Self::EmailId(_) | Self::Saved(_) => Needs { object_ids: true, ..Needs::default() },
            Self::ThreadId(_) => Needs { structure: true, ..Needs::default() },
            Self::Not(key) => key.needs(),
            Self::Or(a, b) => a.needs().with(b.needs()),
            Self::And(keys) => keys.iter().fold(Needs::default(), |n, key| n.with(key.needs())),
            _ => Needs::default(),
        }
    }

    /// The keys about a message's own text that all have to match, for who has the messages at hand,
    /// and what is left to decide of those that do.
    pub fn split(&self) -> (Vec<ContentKey<'_>>, Self) {
        match self {
            Self::Header(name, needle) => (vec![ContentKey::Header(name, needle)], Self::All),
            Self::Body(needle) => (vec![ContentKey::Body(needle)], Self::All),
            Self::Text(needle) => (vec![ContentKey::Text(needle)], Self::All),
            Self::And(keys) => {
                let (content, rest): (Vec<_>, Vec<_>) = keys.iter().map(Self::split).unzip();
                let rest: Vec<_> = rest.into_iter().filter(|key| *key != Self::All).collect();
                let rest = if rest.is_empty() { Self::All } else { Self::And(rest) };
                (content.into_iter().flatten().collect(), rest)
            }
            key => (Vec::new(), key.clone()),
        }
    }

    /// The UIDs outside of which nothing can match, if the search says so.
    pub fn within(&self) -> Option<UidRanges> {
        match self {
            Self::In(ranges) => Some(ranges.clone()),
            Self::And(keys) => keys.iter().filter_map(Self::within).reduce(|a, b| a.intersection(&b)),
            _ => None,
        }
    }

    /// Whether sets alone decide, so that nothing has to be known of a message but its UID.
    pub fn is_only_sets(&self) -> bool {
        match self {
            Self::All | Self::In(_) => true,
            Self::Not(key) => key.is_only_sets(),
            Self::Or(a, b) => a.is_only_sets() && b.is_only_sets(),
            Self::And(keys) => keys.iter().all(Self::is_only_sets),
            _ => false,
        }
    }

    /// Whether a sequence number stands in it, which UIDONLY forbids (RFC 9586 §3.3).
    pub fn has_sequence(&self) -> bool {
        match self {
            Self::Sequence(SequenceSet::Ranges(_)) => true,
            Self::Not(key) => key.has_sequence(),
            Self::Or(a, b) => a.has_sequence() || b.has_sequence(),
            Self::And(keys) => keys.iter().any(Self::has_sequence),
            _ => false,
        }
    }

    /// Whether a key asks for mod-sequences: then the answer carries one (RFC 7162 §3.1.5).
    pub fn asks_modseq(&self) -> bool {
        match self {
            Self::ModSeq(_) => true,
            Self::Not(key) => key.asks_modseq(),
            Self::Or(a, b) => a.asks_modseq() || b.asks_modseq(),
            Self::And(keys) => keys.iter().any(Self::asks_modseq),
            _ => false,
        }
    }

    /// Sets must be resolved; an unresolved one matches nothing.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Flag(bit) => facts.flags.has(*bit),
            Self::Keyword(keyword) => facts.flags.has_keyword(keyword),
            Self::Received(date) => date.matches(day_of(facts.internal_date_ms)),
            Self::Sent(date) => {
                message::field(facts.header, "Date").and_then(sent_day).is_some_and(|day| date.matches(day))
            }
            Self::Header(name, needle) => {
                fields(facts.header).any(|f| f.is(name) && needle.is_in(&decode_words(f.value)))
            }
            Self::Body(needle) => facts.texts().body_has(needle),
            Self::Text(needle) => {
                let in_header = |f: message::Field<'_>| {
                    let line = facts.header.get(f.range).unwrap_or_default();
                    needle.is_in(&decode_words(line))
                };
                fields(facts.header).any(in_header) || facts.texts().has(needle)
            }
            // What was there before SAVEDATE came is as old as its INTERNALDATE says.
            Self::Saved(date) => {
                let saved = Some(facts.save_date_ms).filter(|ms| *ms > 0).unwrap_or(facts.internal_date_ms);
                date.matches(day_of(saved))
            }
            Self::Younger(_) | Self::Older(_) => false,
            Self::From(moment) => facts.internal_date_ms >= *moment,
            Self::Until(moment) => facts.internal_date_ms <= *moment,
            Self::EmailId(id) => facts.email_id == id,
            Self::ThreadId(id) => !id.is_empty() && facts.thread_id == id,
            Self::Larger(size) => facts.size > *size,
            Self::Smaller(size) => facts.size < *size,
            Self::ModSeq(modseq) => facts.modseq >= *modseq,
            Self::Sequence(_) | Self::Uid(_) => false,
            Self::In(ranges) => ranges.contains(facts.uid),
            Self::Not(key) => !key.matches(facts),
            Self::Or(a, b) => a.matches(facts) || b.matches(facts),
            // Cheap keys first would be better still; the order is the client's, and stops at the first miss.
            Self::And(keys) => keys.iter().all(|key| key.matches(facts)),
        }
    }
}

impl Needs {
    fn with(self, other: Self) -> Self {
        Self {
            header: self.header || other.header,
            body: self.body || other.body,
            object_ids: self.object_ids || other.object_ids,
            structure: self.structure || other.structure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommandBody, Names, parse};

    const HEADER: &[u8] = b"Date: Mon, 7 Feb 1994 23:52:25 -0800\r\nFrom: =?utf-8?q?J=C3=B6rg?= <j@x.example>\r\nSubject: Two\r\n words\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: base64\r\n\r\n";
    /// "Grüße" in Latin-1.
    const BODY: &[u8] = b"R3L832U=\r\n";

    fn key(text: &str) -> Key {
        let CommandBody::Search(search) = parse(format!("a SEARCH {text}").as_bytes(), Names::Utf7).expect(text).body
        else {
            panic!("SEARCH")
        };
        search.key.resolve(&View::new(vec![3, 7, 9]), 760_665_660_000).expect("numbers are there")
    }

    #[test]
    fn what_looks_into_messages_is_told_apart() {
        let split = |text| {
            let key = key(text);
            let (content, rest) = key.split();
            (content.len(), rest)
        };
        assert_eq!(split("TEXT x"), (1, Key::All));
        assert_eq!(split("SEEN SUBJECT a (BODY b UID 3)").0, 2);
        let rest = split("SEEN SUBJECT a (BODY b UID 3)").1;
        assert_eq!((rest.needs(), rest.within().is_some()), (Needs::default(), true));
        // A part of an alternative need not match.
        assert_eq!(split("OR TEXT a SEEN").0, 0);
        assert_eq!(split("NOT SUBJECT a").0, 0);
        assert!(split("NOT SUBJECT a").1.needs().header);
    }

    fn matches(text: &str) -> bool {
        let flags = Flags { system: Flags::SEEN, keywords: vec!["$Forwarded".to_owned()] };
        let facts = Facts {
            header: HEADER,
            body: BODY,
            email_id: "e1",
            thread_id: "t1",
            ..Facts::new(7, &flags, 760_665_600_000, 1000, 50)
        };
        key(text).matches(&facts)
    }

    #[test]
    fn keys() {
        for text in [
            "ALL",
            "SEEN",
            "UNANSWERED",
            "KEYWORD $forwarded",
            "UNKEYWORD x",
            "OLD",
            "2",
            "UID 7",
            "1:2 UID 5:8",
            "LARGER 999",
            "SMALLER 1001",
            "MODSEQ 50",
            "MODSEQ \"/flags/x\" all 3",
            "ON 8-Feb-1994",
            "BEFORE 9-Feb-1994",
            "SINCE \"8-Feb-1994\"",
            "SENTON 7-Feb-1994",
            "SENTSINCE 7-Feb-1994",
            "FROM jörg",
            "FROM JÖRG",
            "SUBJECT \"two words\"",
            "HEADER Subject \"\"",
            "BODY grüße",
            "OR TEXT charset= DELETED",
            "OR SEEN DELETED",
            "NOT DELETED",
            "(SEEN NOT (DRAFT))",
            "TEXT x.example",
            "YOUNGER 60",
            "OLDER 60",
            "SAVEDON 8-Feb-1994 SAVEDATESUPPORTED",
            "EMAILID e1 THREADID t1",
            "CHARSET iso-8859-1 SUBJECT two",
            "OR BODY zzz BODY gr",
        ] {
            assert!(matches(text), "{text}");
        }
        for text in [
            "UNSEEN",
            "NEW",
            "RECENT",
            "KEYWORD x",
            "1",
            "UID 1:6",
            "LARGER 1000",
            "SMALLER 1000",
            "MODSEQ 51",
            "BEFORE 8-Feb-1994",
            "SENTBEFORE 7-Feb-1994",
            "FROM bob",
            "YOUNGER 59",
            "OLDER 61",
            "SAVEDBEFORE 8-Feb-1994",
            "THREADID \"\"",
            "HEADER X-None \"\"",
            "BODY R3L8",
            "NOT ALL",
            "OR UNSEEN DRAFT",
            "SEEN UNSEEN",
        ] {
            assert!(!matches(text), "{text}");
        }
    }

    #[test]
    fn text_looks_into_every_header_and_body_into_none() {
        let header = b"Subject: out\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
        let body =
            b"--b\r\nContent-Type: multipart/alternative; boundary=c\r\nContent-Description: nested thing\r\n\r\n\
            --c\r\nContent-Type: image/png; name=\"=?utf-8?q?gr=C3=BCn?=.png\"\r\n\r\nhidden\r\n--c--\r\n\
            --b\r\nContent-Type: message/rfc822\r\nContent-Description: wrapped\r\n\r\nSubject: inmost\r\n\r\nwords\r\n\
            --b\r\nContent-Type: message/delivery-status\r\n\r\nAction: failed\r\n--b--\r\n";
        let flags = Flags::default();
        let facts = Facts { header, body, ..Facts::new(7, &flags, 0, 0, 1) };
        for (text, in_text, in_body) in [
            ("\"nested thing\"", true, false),
            ("gr\u{fc}n.png", true, false),
            ("wrapped", true, false),
            ("inmost", true, false),
            ("words", true, true),
            ("failed", true, true),
            ("out", true, false),
            ("hidden", false, false),
        ] {
            assert_eq!(key(&format!("TEXT {text}")).matches(&facts), in_text, "TEXT {text}");
            assert_eq!(key(&format!("BODY {text}")).matches(&facts), in_body, "BODY {text}");
        }
    }

    #[test]
    fn needs_only_what_is_asked() {
        assert_eq!(key("UNSEEN UID 1:*").needs(), Needs::default());
        assert_eq!(key("OR SEEN NOT FROM x").needs(), Needs { header: true, ..Needs::default() });
        assert_eq!(key("BODY x").needs(), Needs { header: true, body: true, ..Needs::default() });
        assert_eq!(
            key("EMAILID x THREADID y").needs(),
            Needs { object_ids: true, structure: true, ..Needs::default() }
        );
        assert_eq!(key("UID 7:8 UNSEEN 2:3").within().map(|r| r.to_string()).as_deref(), Some("7:8"));
        assert_eq!(key("OR UID 1 UID 7").within(), None);
        assert!(key("NOT MODSEQ 5").asks_modseq());
        assert!(key("UID 1:* NOT (2)").is_only_sets());
        assert!(!key("UID 1:* SEEN").is_only_sets());
    }
}
