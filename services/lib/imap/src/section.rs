//! `BODY[section]<partial>` (RFC 9051 §6.4.5.1): which octets of a message it names.

use message::{PartSpan, decode_transfer, fields};

/// What stands between the brackets, and the partial after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Part number, `[1, 2]` for `1.2`; empty means the message itself.
    pub path: Vec<u32>,
    pub text: SectionText,
    /// Does not set \Seen.
    pub peek: bool,
    /// First octet and how many.
    pub partial: Option<(u32, u32)>,
    pub(crate) form: SectionForm,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SectionText {
    /// The part, or the whole message.
    All,
    Header,
    /// HEADER.FIELDS, or HEADER.FIELDS.NOT.
    Fields {
        not: bool,
        names: Vec<Vec<u8>>,
    },
    Text,
    Mime,
}

/// The name the client used, and wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SectionForm {
    Body,
    Rfc822,
    Rfc822Header,
    Rfc822Text,
}

/// Columns of a message that a section needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The parts' places.
    pub structure: bool,
    pub header: bool,
    pub body: bool,
}

/// A message: `header` up to and with the empty line, then `body`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Content<'a> {
    pub header: &'a [u8],
    pub body: &'a [u8],
}

/// The octets of a section, borrowed where they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extract<'a> {
    /// There is no such part: NIL.
    Missing,
    /// One after the other.
    Pieces(&'a [u8], &'a [u8]),
    Made(Vec<u8>),
}

/// Where a section is: `start` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Missing,
    Octets(u64, u64),
    /// The header of which [`Section::fields_of`] takes some.
    Fields(u64, u64),
}

/// The octets of BINARY[part] in their transfer encoding, and which one it is.
pub fn binary_place<'s>(spans: &'s [PartSpan], path: &[u32], size: u64) -> Option<(u64, u64, &'s str)> {
    if path.is_empty() {
        return Some((0, size, ""));
    }
    find(spans, path).map(|span| (span.body_start.into(), u64::from(span.end).min(size), span.encoding.as_str()))
}

impl Section {
    pub fn needs(&self) -> Needs {
        if !self.path.is_empty() {
            return Needs { structure: true, header: true, body: true };
        }
        let (header, body) = match self.text {
            SectionText::All => (true, true),
            SectionText::Text => (false, true),
            _ => (true, false),
        };
        Needs { structure: false, header, body }
    }

    /// Where the octets stand in a message of `size` octets whose header has `header_len`, for a
    /// message that is not at hand; the partial is already taken into account.
    pub fn place(&self, spans: &[PartSpan], header_len: u64, size: u64) -> Place {
        let (start, end) = match (self.path.is_empty(), &self.text) {
            (true, SectionText::All) => (0, size),
            (true, SectionText::Text) => (header_len, size),
            (true, SectionText::Mime) => return Place::Missing,
            (true, _) => (0, header_len),
            (false, _) => match self.range(spans) {
                Some((start, end)) => (start.into(), u64::from(end).min(size)),
                None => return Place::Missing,
            },
        };
        if let SectionText::Fields { .. } = self.text {
            return Place::Fields(start, end.max(start));
        }
        let (start, end) = match self.partial {
            Some((first, count)) => {
                let from = start.saturating_add(first.into()).min(end);
                (from, from.saturating_add(count.into()).min(end))
            }
            None => (start, end),
        };
        Place::Octets(start, end.max(start))
    }

    /// Of [`Place::Fields`]: the fields of that header.
    pub fn fields_of(&self, header: &[u8]) -> Vec<u8> {
        let SectionText::Fields { not, names } = &self.text else { return Vec::new() };
        let made = Extract::Made(select_fields(header, *not, names));
        match self.partial.map_or(made.clone(), |(first, count)| made.partial(first, count)) {
            Extract::Made(made) => made,
            _ => Vec::new(),
        }
    }

    fn range(&self, spans: &[PartSpan]) -> Option<(u32, u32)> {
        let span = find(spans, &self.path)?;
        let is_message = span.inner_body_start > 0;
        match &self.text {
            SectionText::All => Some((span.body_start, span.end)),
            SectionText::Mime => Some((span.header_start, span.body_start)),
            SectionText::Text if is_message => Some((span.inner_body_start, span.end)),
            SectionText::Header | SectionText::Fields { .. } if is_message => {
                Some((span.body_start, span.inner_body_start))
            }
            _ => None,
        }
    }

    /// `spans` and the columns of `content` count only as far as [`Section::needs`] asks.
    pub fn extract<'a>(&self, spans: &[PartSpan], content: Content<'a>) -> Extract<'a> {
        let whole = if self.path.is_empty() { self.of_message(content) } else { self.of_part(spans, content) };
        match self.partial {
            Some((first, count)) => whole.partial(first, count),
            None => whole,
        }
    }

    fn of_message<'a>(&self, content: Content<'a>) -> Extract<'a> {
        match &self.text {
            SectionText::All => Extract::Pieces(content.header, content.body),
            SectionText::Text => Extract::Pieces(content.body, &[]),
            SectionText::Header => Extract::Pieces(content.header, &[]),
            SectionText::Fields { not, names } => Extract::Made(select_fields(content.header, *not, names)),
            SectionText::Mime => Extract::Missing,
        }
    }

    fn of_part<'a>(&self, spans: &[PartSpan], content: Content<'a>) -> Extract<'a> {
        let Some(range) = self.range(spans) else { return Extract::Missing };
        let (first, second) = content.slice(range.0, range.1);
        match &self.text {
            SectionText::Fields { not, names } => Extract::Made(select_fields(&[first, second].concat(), *not, names)),
            _ => Extract::Pieces(first, second),
        }
    }

    /// The item's name in the response, `BODY[1.MIME]<0>`.
    pub fn write_name(&self, out: &mut Vec<u8>) {
        let old: &[u8] = match self.form {
            SectionForm::Rfc822 => b"RFC822",
            SectionForm::Rfc822Header => b"RFC822.HEADER",
            SectionForm::Rfc822Text => b"RFC822.TEXT",
            SectionForm::Body => b"",
        };
        if !old.is_empty() {
            return out.extend_from_slice(old);
        }
        out.extend_from_slice(b"BODY[");
        out.extend_from_slice(dotted(&self.path).as_bytes());
        let text: &[u8] = match &self.text {
            SectionText::All => b"",
            SectionText::Header => b"HEADER",
            SectionText::Fields { not: false, .. } => b"HEADER.FIELDS",
            SectionText::Fields { not: true, .. } => b"HEADER.FIELDS.NOT",
            SectionText::Text => b"TEXT",
            SectionText::Mime => b"MIME",
        };
        if !self.path.is_empty() && !text.is_empty() {
            out.push(b'.');
        }
        out.extend_from_slice(text);
        if let SectionText::Fields { names, .. } = &self.text {
            out.extend_from_slice(b" (");
            for (i, name) in names.iter().enumerate() {
                if i > 0 {
                    out.push(b' ');
                }
                crate::respond::astring(out, name);
            }
            out.push(b')');
        }
        out.push(b']');
        if let Some((first, _)) = self.partial {
            out.extend_from_slice(format!("<{first}>").as_bytes());
        }
    }
}

impl<'a> Content<'a> {
    /// The octets from `start` to `end` of the message; what lies beyond it is left out.
    pub fn slice(&self, start: u32, end: u32) -> (&'a [u8], &'a [u8]) {
        let (start, end) = (start as usize, end as usize);
        let cut = self.header.len();
        let clamp = |text: &'a [u8], from: usize, to: usize| -> &'a [u8] {
            let to = to.min(text.len());
            text.get(from.min(to)..to).unwrap_or_default()
        };
        (clamp(self.header, start, end), clamp(self.body, start.saturating_sub(cut), end.saturating_sub(cut)))
    }
}

impl Extract<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Pieces(first, second) => first.len() + second.len(),
            Self::Made(made) => made.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A partial beyond the end is empty, not missing (RFC 9051 §6.4.5).
    fn partial(self, first: u32, count: u32) -> Self {
        let (from, count) = (first as usize, count as usize);
        match self {
            Self::Missing => Self::Missing,
            Self::Pieces(a, b) => {
                let end = from.saturating_add(count);
                let of = |text: &'_ [u8], shift: usize| {
                    let to = end.saturating_sub(shift).min(text.len());
                    (from.saturating_sub(shift).min(to), to)
                };
                let (a1, a2) = of(a, 0);
                let (b1, b2) = of(b, a.len());
                Self::Pieces(&a[a1..a2], &b[b1..b2])
            }
            Self::Made(made) => Self::Made(made.into_iter().skip(from).take(count).collect()),
        }
    }
}

/// BINARY[part]: the part without its transfer encoding (RFC 9051 §6.4.5.2); `None` when there
/// is no such part.
pub fn binary(spans: &[PartSpan], path: &[u32], content: Content<'_>) -> Option<Vec<u8>> {
    if path.is_empty() {
        return Some([content.header, content.body].concat());
    }
    let span = find(spans, path)?;
    let (first, second) = content.slice(span.body_start, span.end);
    Some(decode_transfer(&[first, second].concat(), Some(span.encoding.as_bytes())).into_owned())
}

/// Whether BINARY can decode that part: else UNKNOWN-CTE (RFC 9051 §7.1).
pub fn can_decode(spans: &[PartSpan], path: &[u32]) -> bool {
    let known = ["", "7bit", "8bit", "binary", "base64", "quoted-printable"];
    find(spans, path).is_none_or(|span| known.contains(&span.encoding.as_str()))
}

fn find<'s>(spans: &'s [PartSpan], path: &[u32]) -> Option<&'s PartSpan> {
    let section = dotted(path);
    spans.iter().find(|span| span.section == section)
}

/// `1.2`.
pub(crate) fn dotted(path: &[u32]) -> String {
    path.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

/// The named fields, or all others, and the empty line (RFC 9051 §6.4.5.1).
fn select_fields(header: &[u8], not: bool, names: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields(header) {
        let named = names.iter().any(|name| name.eq_ignore_ascii_case(field.name));
        if named != not {
            out.extend_from_slice(&header[field.range.clone()]);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommandBody, FetchItem, Names, parse};

    const RAW: &str = "From: a@b\r\nSubject: s\r\n two\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\nX: y\r\n\r\nin text\r\n--b\r\nContent-Transfer-Encoding: BASE64\r\n\r\naGVsbG8=\r\n--b--\r\n";

    fn fetch(item: &str) -> (String, Option<String>) {
        let line = format!("a FETCH 1 {item}");
        let CommandBody::Fetch { items, .. } = parse(line.as_bytes(), Names::Utf7).expect("valid").body else {
            panic!("FETCH")
        };
        let FetchItem::Section(section) = &items[0] else { panic!("section") };
        let spans = message::Structure::parse(RAW.as_bytes()).spans();
        let (header, body) = RAW.as_bytes().split_at(message::split(RAW.as_bytes()));
        let mut name = Vec::new();
        section.write_name(&mut name);
        let text = match section.extract(&spans, Content { header, body }) {
            Extract::Missing => None,
            Extract::Pieces(a, b) => Some([a, b].concat()),
            Extract::Made(made) => Some(made),
        };
        let utf8 = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (utf8(name), text.map(utf8))
    }

    #[test]
    fn sections_of_the_message() {
        assert_eq!(fetch("BODY[]"), ("BODY[]".into(), Some(RAW.into())));
        assert_eq!(fetch("RFC822").1.as_deref(), Some(RAW));
        assert_eq!(fetch("BODY[TEXT]").1, Some(RAW[RAW.find("--b").expect("body")..].into()));
        assert_eq!(fetch("BODY.PEEK[HEADER]").1, Some(RAW[..RAW.find("--b").expect("body")].into()));
        let (name, text) = fetch("body[header.fields (subject \"X\")]");
        assert_eq!(name, "BODY[HEADER.FIELDS (subject X)]");
        assert_eq!(text.as_deref(), Some("Subject: s\r\n two\r\n\r\n"));
        assert_eq!(fetch("BODY[HEADER.FIELDS.NOT (Subject Content-Type)]").1.as_deref(), Some("From: a@b\r\n\r\n"));
    }

    #[test]
    fn sections_of_parts() {
        assert_eq!(fetch("BODY[1]"), ("BODY[1]".into(), Some("one".into())));
        assert_eq!(fetch("BODY[2.MIME]").1.as_deref(), Some("Content-Type: message/rfc822\r\n\r\n"));
        assert_eq!(fetch("BODY[2.HEADER]").1.as_deref(), Some("Subject: in\r\nX: y\r\n\r\n"));
        assert_eq!(
            fetch("BODY[2.HEADER.FIELDS (X)]"),
            ("BODY[2.HEADER.FIELDS (X)]".into(), Some("X: y\r\n\r\n".into()))
        );
        assert_eq!(fetch("BODY[2.TEXT]").1.as_deref(), Some("in text"));
        assert_eq!(fetch("BODY[2.1]").1.as_deref(), Some("in text"));
        for missing in ["BODY[4]", "BODY[1.HEADER]", "BODY[1.1]", "BODY[3.TEXT]"] {
            assert_eq!(fetch(missing).1, None, "{missing}");
        }
    }

    #[test]
    fn partials() {
        assert_eq!(fetch("BODY[]<0.4>"), ("BODY[]<0>".into(), Some("From".into())));
        let header = RAW.find("--b").expect("body");
        assert_eq!(fetch(&format!("BODY[]<{}.4>", header - 2)).1.as_deref(), Some("\r\n--"));
        assert_eq!(fetch("BODY[]<100000.4>").1.as_deref(), Some(""));
        assert_eq!(fetch("BODY[1]<1.4294967295>").1.as_deref(), Some("ne"));
        assert_eq!(fetch("BODY[HEADER.FIELDS (FROM)]<6.3>").1.as_deref(), Some("a@b"));
    }

    #[test]
    fn places_are_where_the_octets_are() {
        let spans = message::Structure::parse(RAW.as_bytes()).spans();
        let header = message::split(RAW.as_bytes());
        for item in [
            "BODY[]",
            "BODY[TEXT]",
            "BODY[HEADER]",
            "BODY[HEADER.FIELDS (SUBJECT)]<3.5>",
            "BODY[1]",
            "BODY[2.MIME]",
            "BODY[2.HEADER]",
            "BODY[2.HEADER.FIELDS.NOT (X)]",
            "BODY[2.TEXT]",
            "BODY[9]",
            "BODY[]<5.20>",
            "BODY[2]<3.4>",
            "BODY[1]<100.4>",
            "BODY[TEXT]<1.4294967295>",
        ] {
            let line = format!("a FETCH 1 {item}");
            let CommandBody::Fetch { items, .. } = parse(line.as_bytes(), Names::Utf7).expect("valid").body else {
                panic!("FETCH")
            };
            let FetchItem::Section(section) = &items[0] else { panic!("section") };
            let text = |start: u64, end: u64| &RAW.as_bytes()[start as usize..end as usize];
            let found = match section.place(&spans, header as u64, RAW.len() as u64) {
                Place::Missing => None,
                Place::Octets(start, end) => Some(text(start, end).to_vec()),
                Place::Fields(start, end) => Some(section.fields_of(text(start, end))),
            };
            assert_eq!(found.map(|f| String::from_utf8(f).expect("UTF-8")), fetch(item).1, "{item}");
        }
    }

    #[test]
    fn binary_decodes() {
        let spans = message::Structure::parse(RAW.as_bytes()).spans();
        let (header, body) = RAW.as_bytes().split_at(message::split(RAW.as_bytes()));
        let content = Content { header, body };
        assert_eq!(binary(&spans, &[3], content).as_deref(), Some(&b"hello"[..]));
        assert_eq!(binary(&spans, &[9], content), None);
        assert!(can_decode(&spans, &[3]));
    }
}
