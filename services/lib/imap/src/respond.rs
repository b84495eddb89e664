//! What the server says (RFC 9051 §7), written into a buffer.

use std::{fmt::Display, io::Write as _};

use crate::{
    Flags, StatusItem, UidRanges,
    cursor::is_atom_char,
    date::internal_date,
    mailbox_name::encode_utf7,
    section::{Extract, Section},
};

/// Longer strings are literals: no client has to buffer a long line.
const MAX_QUOTED: usize = 1000;

/// A string: quoted if it can be, else a literal. NUL has no place in either and is left out.
pub fn string(out: &mut Vec<u8>, value: &[u8]) {
    let quotable = value.len() <= MAX_QUOTED && value.iter().all(|b| matches!(b, b'\t' | 0x20..=0x7e));
    if quotable {
        out.push(b'"');
        for b in value {
            if matches!(b, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(*b);
        }
        out.push(b'"');
    } else if memchr::memchr(0, value).is_some() {
        let clean: Vec<u8> = value.iter().copied().filter(|b| *b != 0).collect();
        literal(out, &clean, &[]);
    } else {
        literal(out, value, &[]);
    }
}

pub fn nstring(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => string(out, value),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// What may hold any octet, so a literal8 when it holds NUL (RFC 9051 §4.3).
pub fn binary_nstring(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) if memchr::memchr(0, value).is_some() => {
            out.push(b'~');
            literal(out, value, &[]);
        }
        value => nstring(out, value),
    }
}

/// An atom where possible, else a string.
pub fn astring(out: &mut Vec<u8>, value: &[u8]) {
    if !value.is_empty()
        && value.iter().all(|b| is_atom_char(*b) && b.is_ascii())
        && !value.eq_ignore_ascii_case(b"NIL")
    {
        out.extend_from_slice(value);
    } else {
        string(out, value);
    }
}

fn literal(out: &mut Vec<u8>, first: &[u8], second: &[u8]) {
    out.push(b'{');
    number(out, (first.len() + second.len()) as u64);
    out.extend_from_slice(b"}\r\n");
    out.extend_from_slice(first);
    out.extend_from_slice(second);
}

/// A mailbox name: UTF-7 for IMAP4rev1, UTF-8 after ENABLE IMAP4rev2.
pub fn mailbox(out: &mut Vec<u8>, name: &str, utf8: bool) {
    if utf8 && !name.is_ascii() && name.len() <= MAX_QUOTED && !name.contains(['\r', '\n', '\0']) {
        out.push(b'"');
        out.extend_from_slice(name.replace('\\', "\\\\").replace('"', "\\\"").as_bytes());
        out.push(b'"');
    } else if utf8 {
        string(out, name.as_bytes());
    } else {
        string(out, encode_utf7(name).as_bytes());
    }
}

fn text(out: &mut Vec<u8>, text: impl Display) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{text}");
}

/// Most of what FETCH writes is numbers: without the detour over the formatter.
fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// `tag text CRLF`, with the text `OK [CODE] …` or alike; `*` as tag for untagged responses.
pub fn line(out: &mut Vec<u8>, tag: &str, rest: impl Display) {
    text(out, format_args!("{tag} {rest}\r\n"));
}

/// `* 3 EXISTS` and alike.
pub fn numbered(out: &mut Vec<u8>, n: u32, name: &str) {
    text(out, format_args!("* {n} {name}\r\n"));
}

/// `* FLAGS (…)` and `* OK [PERMANENTFLAGS (…)] …` (RFC 9051 §7.1). Without write access nothing
/// is permanent.
pub fn flag_lists(out: &mut Vec<u8>, keywords: &[String], permanent: Permanent) {
    let all = Flags { system: !Flags::RECENT, keywords: keywords.to_vec() };
    out.extend_from_slice(b"* FLAGS ");
    all.write(out);
    out.extend_from_slice(b"\r\n* OK [PERMANENTFLAGS ");
    let kept = if permanent.keywords { keywords.to_vec() } else { Vec::new() };
    Flags { system: permanent.system & !Flags::RECENT, keywords: kept }.write(out);
    if permanent.keywords {
        out.pop();
        out.extend_from_slice(b" \\*)");
    }
    out.extend_from_slice(b"] Flags permitted.\r\n");
}

/// What the client may change for good (RFC 9051 §7.1, PERMANENTFLAGS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permanent {
    pub system: u32,
    pub keywords: bool,
}

impl Permanent {
    pub const ALL: Self = Self { system: u32::MAX, keywords: true };
    pub const NONE: Self = Self { system: 0, keywords: false };

    /// By the rights of RFC 4314 §4, STORE.
    pub fn by(rights: &str) -> Self {
        let bit = |right: char, bits: u32| if rights.contains(right) { bits } else { 0 };
        let system = bit('s', Flags::SEEN) | bit('t', Flags::DELETED) | bit('w', !(Flags::SEEN | Flags::DELETED));
        Self { system, keywords: rights.contains('w') }
    }
}

/// One line of LIST or LSUB. `child_info`: subscribed children of a name that was not itself
/// selected (RFC 5258 §3.5).
pub fn list(out: &mut Vec<u8>, command: &str, attributes: &[&str], name: &str, utf8: bool, child_info: bool) {
    text(out, format_args!("* {command} ({}) \"/\" ", attributes.join(" ")));
    mailbox(out, name, utf8);
    if child_info {
        out.extend_from_slice(b" (\"CHILDINFO\" (\"SUBSCRIBED\"))");
    }
    out.extend_from_slice(b"\r\n");
}

/// LIST of a mailbox that was renamed (RFC 5258 §3.5, RFC 5465 §5.4).
pub fn list_renamed(out: &mut Vec<u8>, name: &str, old: &str, utf8: bool) {
    out.extend_from_slice(b"* LIST () \"/\" ");
    mailbox(out, name, utf8);
    out.extend_from_slice(b" (\"OLDNAME\" (");
    mailbox(out, old, utf8);
    out.extend_from_slice(b"))\r\n");
}

/// `* STATUS name (…)`.
pub fn status(out: &mut Vec<u8>, name: &str, utf8: bool, items: &[(StatusItem, String)]) {
    out.extend_from_slice(b"* STATUS ");
    mailbox(out, name, utf8);
    let items: Vec<String> = items.iter().map(|(item, value)| format!("{} {value}", item.name())).collect();
    text(out, format_args!(" ({})\r\n", items.join(" ")));
}

/// `* VANISHED (EARLIER) 1:3` (RFC 7162 §3.2.10).
pub fn vanished(out: &mut Vec<u8>, uids: &UidRanges, earlier: bool) {
    if !uids.is_empty() {
        text(out, format_args!("* VANISHED {}{uids}\r\n", if earlier { "(EARLIER) " } else { "" }));
    }
}

/// What SEARCH found, ascending, or SORT in its order.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    pub tag: &'a str,
    pub uid: bool,
    /// Sequence numbers, or UIDs when `uid`.
    pub numbers: &'a [u32],
    /// The highest among the found, when the search asked for MODSEQ and found any.
    pub modseq: Option<u64>,
    /// In an order of their own (RFC 5267 §3), not ascending.
    pub sorted: bool,
}

impl Found<'_> {
    /// `* SEARCH 2 5 (MODSEQ 7)` (RFC 3501 §7.2.5, RFC 7162 §3.1.5), or SORT (RFC 5256 §4).
    pub fn write_search(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.sorted { b"* SORT" } else { b"* SEARCH" });
        for n in self.numbers {
            out.push(b' ');
            number(out, u64::from(*n));
        }
        if let Some(modseq) = self.modseq {
            text(out, format_args!(" (MODSEQ {modseq})"));
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Sorted results keep their order (RFC 5267 §3.2), others are told as few ranges.
    fn set(&self, numbers: &[u32]) -> String {
        if !self.sorted {
            return UidRanges::from_numbers(numbers.iter().copied()).to_string();
        }
        let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
        let run = |r: &[u32]| match r {
            [first, .., last] => format!("{first}:{last}"),
            one => one.iter().map(u32::to_string).collect(),
        };
        runs.map(run).collect::<Vec<_>>().join(",")
    }

    /// `* ESEARCH (TAG "a") UID COUNT 2 ALL 2,5` (RFC 9051 §7.3.4).
    pub fn write_esearch(&self, out: &mut Vec<u8>, wanted: crate::SearchReturn) {
        out.extend_from_slice(b"* ESEARCH (TAG ");
        string(out, self.tag.as_bytes());
        out.push(b')');
        if self.uid {
            out.extend_from_slice(b" UID");
        }
        if let (Some(min), Some(max)) = (self.numbers.first(), self.numbers.last()) {
            if wanted.min {
                text(out, format_args!(" MIN {min}"));
            }
            if wanted.max {
                text(out, format_args!(" MAX {max}"));
            }
            if wanted.all {
                text(out, format_args!(" ALL {}", self.set(self.numbers)));
            }
        }
        if let Some(partial) = wanted.partial {
            // An empty window is NIL (RFC 9394 §3.1).
            let part = Some(partial.of(self.numbers)).filter(|p| !p.is_empty());
            text(out, format_args!(" PARTIAL ({partial} {})", part.map_or("NIL".to_owned(), |p| self.set(p))));
        }
        if wanted.count {
            text(out, format_args!(" COUNT {}", self.numbers.len()));
        }
        if let Some(modseq) = self.modseq {
            text(out, format_args!(" MODSEQ {modseq}"));
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// One FETCH response, written item by item; [`Fetch::end`] closes it.
#[derive(Debug)]
pub struct Fetch<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Fetch<'o> {
    pub fn begin(out: &'o mut Vec<u8>, seq: u32) -> Self {
        out.extend_from_slice(b"* ");
        number(out, seq.into());
        out.extend_from_slice(b" FETCH (");
        Self { out, first: true }
    }

    /// `* 42 UIDFETCH (`, for clients that know no sequence numbers (RFC 9586 §3.2).
    pub fn begin_uid(out: &'o mut Vec<u8>, uid: u32) -> Self {
        text(out, format_args!("* {uid} UIDFETCH ("));
        Self { out, first: true }
    }

    /// The buffer, for a literal that comes in pieces.
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Goes on with a response whose beginning was written before.
    pub fn resume(out: &'o mut Vec<u8>, first: bool) -> Self {
        Self { out, first }
    }

    /// `EMAILID (M1)`, `THREADID (T1)`, or NIL for an empty one (RFC 8474 §5).
    pub fn object_id(&mut self, name: &str, prefix: char, id: &str) {
        self.item(name);
        if id.is_empty() {
            self.out.extend_from_slice(b" NIL");
        } else {
            text(self.out, format_args!(" ({prefix}{id})"));
        }
    }

    /// Milliseconds since 1970; 0 is unknown: NIL (RFC 8514 §4.2).
    pub fn save_date(&mut self, ms: i64) {
        self.item("SAVEDATE ");
        if ms == 0 {
            self.out.extend_from_slice(b"NIL");
        } else {
            text(self.out, format_args!("\"{}\"", internal_date(ms)));
        }
    }

    pub fn preview(&mut self, preview: Option<&str>) {
        self.item("PREVIEW ");
        nstring(self.out, preview.map(str::as_bytes));
    }

    /// The item's name and the announcement of its literal; the octets follow.
    pub fn section_literal(&mut self, section: &Section, size: u64) {
        self.item("");
        section.write_name(self.out);
        text(self.out, format_args!(" {{{size}}}\r\n"));
    }

    fn item(&mut self, name: &str) {
        if !self.first {
            self.out.push(b' ');
        }
        self.first = false;
        self.out.extend_from_slice(name.as_bytes());
    }

    pub fn uid(&mut self, uid: u32) {
        self.item("UID ");
        number(self.out, uid.into());
    }

    pub fn flags(&mut self, flags: &Flags) {
        self.item("FLAGS ");
        flags.write(self.out);
    }

    pub fn modseq(&mut self, modseq: u64) {
        self.item("MODSEQ (");
        number(self.out, modseq);
        self.out.push(b')');
    }

    pub fn size(&mut self, size: u32) {
        self.item("RFC822.SIZE ");
        number(self.out, size.into());
    }

    /// Milliseconds since 1970.
    pub fn internal_date(&mut self, ms: i64) {
        self.item("INTERNALDATE ");
        text(self.out, format_args!("\"{}\"", internal_date(ms)));
    }

    /// ENVELOPE, BODY or BODYSTRUCTURE, as [`crate::structure`] wrote it.
    pub fn stored(&mut self, name: &str, stored: &[u8]) {
        self.item(name);
        self.out.push(b' ');
        self.out.extend_from_slice(stored);
    }

    pub fn section(&mut self, section: &Section, extract: &Extract<'_>) {
        self.item("");
        section.write_name(self.out);
        self.out.push(b' ');
        match extract {
            Extract::Missing => self.out.extend_from_slice(b"NIL"),
            Extract::Pieces(first, second) => literal(self.out, first, second),
            Extract::Made(made) => literal(self.out, made, &[]),
        }
    }

    /// `BINARY[1]<0> ~{5}CRLF…`: a literal8, for it may hold NUL (RFC 9051 §4.3).
    pub fn binary(&mut self, path: &[u32], first: Option<u32>, value: Option<&[u8]>) {
        self.item("BINARY[");
        text(self.out, format_args!("{}]", crate::section::dotted(path)));
        if let Some(first) = first {
            text(self.out, format_args!("<{first}>"));
        }
        match value {
            None => self.out.extend_from_slice(b" NIL"),
            Some(value) => {
                self.out.extend_from_slice(if value.contains(&0) { b" ~" } else { b" " });
                literal(self.out, value, &[]);
            }
        }
    }

    pub fn binary_size(&mut self, path: &[u32], size: usize) {
        self.item("BINARY.SIZE[");
        text(self.out, format_args!("{}] {size}", crate::section::dotted(path)));
    }

    pub fn end(self) {
        self.out.extend_from_slice(b")\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SearchReturn;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn numbers_are_decimal() {
        for n in [0, 7, 10, 4_294_967_295, u64::MAX] {
            assert_eq!(written(|o| number(o, n)), n.to_string());
        }
    }

    #[test]
    fn strings_are_quoted_or_literals() {
        assert_eq!(written(|o| string(o, b"a \"b\\")), r#""a \"b\\""#);
        assert_eq!(written(|o| string(o, b"")), "\"\"");
        assert_eq!(written(|o| string(o, "ä\0".as_bytes())), "{2}\r\nä");
        assert_eq!(written(|o| string(o, b"a\r\nb")), "{4}\r\na\r\nb");
        assert!(written(|o| string(o, &[b'x'; 1001])).starts_with("{1001}\r\n"));
        assert_eq!(written(|o| astring(o, b"nil")), "\"nil\"");
        assert_eq!(written(|o| astring(o, b"Subject")), "Subject");
    }

    #[test]
    fn names_for_both_revisions() {
        assert_eq!(written(|o| mailbox(o, "Entwürfe", false)), "\"Entw&APw-rfe\"");
        assert_eq!(written(|o| mailbox(o, "Entwürfe \"x", true)), "\"Entwürfe \\\"x\"");
    }

    #[test]
    fn lines() {
        assert_eq!(
            written(|o| list(o, "LIST", &["\\HasNoChildren", "\\Sent"], "Sent", false, true)),
            "* LIST (\\HasNoChildren \\Sent) \"/\" \"Sent\" (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n"
        );
        assert_eq!(
            written(|o| status(
                o,
                "INBOX",
                false,
                &[(StatusItem::Messages, "3".into()), (StatusItem::MailboxId, "(F7)".into())]
            )),
            "* STATUS \"INBOX\" (MESSAGES 3 MAILBOXID (F7))\r\n"
        );
        assert_eq!(
            written(|o| flag_lists(o, &["$Forwarded".to_owned()], Permanent::ALL)),
            "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded)\r\n* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft $Forwarded \\*)] Flags permitted.\r\n"
        );
    }

    #[test]
    fn search_results() {
        let found = Found { tag: "a1", uid: true, numbers: &[2, 3, 9], modseq: Some(7), sorted: false };
        assert_eq!(written(|o| found.write_search(o)), "* SEARCH 2 3 9 (MODSEQ 7)\r\n");
        let wanted = SearchReturn { min: true, max: true, all: true, count: true, ..SearchReturn::default() };
        assert_eq!(
            written(|o| found.write_esearch(o, wanted)),
            "* ESEARCH (TAG \"a1\") UID MIN 2 MAX 9 ALL 2:3,9 COUNT 3 MODSEQ 7\r\n"
        );
        let sorted = Found { numbers: &[9, 2, 3, 4, 1], sorted: true, modseq: None, ..found };
        assert_eq!(written(|o| sorted.write_search(o)), "* SORT 9 2 3 4 1\r\n");
        let window = crate::Partial { low: 2, high: 4, from_end: false };
        let part = SearchReturn { partial: Some(window), ..SearchReturn::default() };
        assert_eq!(written(|o| sorted.write_esearch(o, part)), "* ESEARCH (TAG \"a1\") UID PARTIAL (2:4 2:4)\r\n");
        let back = SearchReturn { partial: Some(crate::Partial { from_end: true, low: 1, high: 2 }), ..part };
        assert_eq!(
            written(|o| found.write_esearch(o, back)),
            "* ESEARCH (TAG \"a1\") UID PARTIAL (-1:-2 3,9) MODSEQ 7\r\n"
        );
        let none = Found { tag: "a1", uid: false, numbers: &[], modseq: None, sorted: false };
        assert_eq!(written(|o| none.write_esearch(o, part)), "* ESEARCH (TAG \"a1\") PARTIAL (2:4 NIL)\r\n");
        assert_eq!(written(|o| none.write_esearch(o, wanted)), "* ESEARCH (TAG \"a1\") COUNT 0\r\n");
    }

    #[test]
    fn a_fetch_response() {
        let text = written(|o| {
            let mut fetch = Fetch::begin(o, 3);
            fetch.uid(7);
            fetch.flags(&Flags { system: Flags::SEEN, keywords: vec!["$x".to_owned()] });
            fetch.modseq(5);
            fetch.size(9);
            fetch.internal_date(0);
            fetch.stored("ENVELOPE", b"(NIL)");
            fetch.binary(&[1], None, Some(b"a\0"));
            fetch.end();
        });
        assert_eq!(
            text,
            "* 3 FETCH (UID 7 FLAGS (\\Seen $x) MODSEQ (5) RFC822.SIZE 9 INTERNALDATE \"01-Jan-1970 00:00:00 +0000\" ENVELOPE (NIL) BINARY[1] ~{2}\r\na\0)\r\n"
        );
    }
}
