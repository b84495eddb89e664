//! Header fields (RFC 5322 §2.2), read where they stand.
//!
//! Lines end with LF, with or without the CR that the standard asks for: a message may have been
//! appended by anything.

use std::{borrow::Cow, ops::Range};

/// The offset at which the header ends; the empty line after it counts as header.
/// Without an empty line everything is header.
pub fn split(raw: &[u8]) -> usize {
    let mut start = 0;
    for lf in memchr::memchr_iter(b'\n', raw) {
        if is_empty_line(&raw[start..=lf]) {
            return lf + 1;
        }
        start = lf + 1;
    }
    raw.len()
}

/// Whether a line (with its line end) has nothing in it.
pub fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

/// One header field as it stands in the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// Without the colon and the blanks before it. Empty for a line that is no field at all.
    pub name: &'a [u8],
    /// What follows the colon, folded as it came, without the final line end.
    pub value: &'a [u8],
    /// The whole field with its line ends, as offsets into the header.
    pub range: Range<usize>,
}

impl Field<'_> {
    /// Field names do not know case (RFC 5322 §1.2.2).
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a header in their order; stops at the empty line.
pub fn fields(header: &[u8]) -> Fields<'_> {
    Fields { header, at: 0 }
}

/// See [`fields`].
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    header: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let start = self.at;
        let mut end = line_end(self.header, start)?;
        if is_empty_line(&self.header[start..end]) {
            self.at = self.header.len();
            return None;
        }
        // A line that begins with a blank continues the field (RFC 5322 §2.2.3).
        while matches!(self.header.get(end), Some(b' ' | b'\t')) {
            end = line_end(self.header, end).unwrap_or(end + 1);
        }
        self.at = end;
        let text = trim_line_end(&self.header[start..end]);
        let (name, value) = match memchr::memchr(b':', text) {
            Some(colon) if is_field_name(text[..colon].trim_ascii_end()) => {
                (text[..colon].trim_ascii_end(), &text[colon + 1..])
            }
            _ => (&text[..0], text),
        };
        Some(Field { name, value, range: start..end })
    }
}

fn is_field_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|b| (0x21..0x7f).contains(b))
}

/// The offset after the line that begins at `start`; `None` at the end of the text.
fn line_end(text: &[u8], start: usize) -> Option<usize> {
    let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
    Some(memchr::memchr(b'\n', rest).map_or(text.len(), |lf| start + lf + 1))
}

fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The value of the first field of that name, folded as it came, without blanks around it.
pub fn field<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    fields(header).find(|f| f.is(name)).map(|f| f.value.trim_ascii())
}

/// How many fields have that name; many `Received:` are a loop (RFC 5321 §6.3).
pub fn count_fields(header: &[u8], name: &str) -> usize {
    fields(header).filter(|f| f.is(name)).count()
}

/// Takes the line ends out of a folded value (RFC 5322 §2.2.3). Blanks stay.
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\r', b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect())
}

/// The header without the fields that `unwanted` picks; borrowed when it picks none.
/// Everything else stays byte for byte (invariant 10).
pub fn remove_fields<'a>(header: &'a [u8], mut unwanted: impl FnMut(&Field<'_>) -> bool) -> Cow<'a, [u8]> {
    let mut kept: Option<Vec<u8>> = None;
    let mut copied = 0;
    for field in fields(header).filter(|f| unwanted(f)) {
        let out = kept.get_or_insert_with(|| Vec::with_capacity(header.len()));
        out.extend_from_slice(&header[copied..field.range.start]);
        copied = field.range.end;
    }
    match kept {
        None => Cow::Borrowed(header),
        Some(mut out) => {
            out.extend_from_slice(&header[copied..]);
            Cow::Owned(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] =
        b"Received: one\r\n\tby two\r\nSubject : Hi\r\n there\r\nreceived: three\r\nnot a field\r\nX:\r\n\r\n";

    #[test]
    fn the_header_ends_after_the_empty_line() {
        assert_eq!(split(b"A: b\r\n\r\nbody"), 8);
        assert_eq!(split(b"A: b\n\nbody"), 6);
        assert_eq!(split(b"A: b\r\n\nbody"), 7);
        assert_eq!(split(b"\r\nbody"), 2);
        assert_eq!(split(b"A: b\r\nC: d"), 10);
        assert_eq!(split(b""), 0);
    }

    #[test]
    fn fields_keep_their_folding_and_their_place() {
        let all: Vec<_> = fields(HEADER).collect();
        assert_eq!(all.len(), 5);
        assert_eq!(all[0].value, b" one\r\n\tby two");
        assert_eq!(unfold(all[0].value).as_ref(), b" one\tby two");
        assert_eq!((all[1].name, all[1].value), (&b"Subject"[..], &b" Hi\r\n there"[..]));
        assert_eq!((all[3].name, all[3].value), (&b""[..], &b"not a field"[..]));
        assert_eq!(all[4].value, b"");
        let joined: Vec<u8> = all.iter().flat_map(|f| HEADER[f.range.clone()].to_vec()).collect();
        assert_eq!(joined, &HEADER[..HEADER.len() - 2]);
    }

    #[test]
    fn finds_and_counts_without_case() {
        assert_eq!(field(HEADER, "subject"), Some(&b"Hi\r\n there"[..]));
        assert_eq!(field(HEADER, "x"), Some(&b""[..]));
        assert_eq!(field(HEADER, "To"), None);
        assert_eq!(count_fields(HEADER, "RECEIVED"), 2);
    }

    #[test]
    fn removes_only_what_was_picked() {
        let out = remove_fields(HEADER, |f| f.is("Received"));
        assert_eq!(out.as_ref(), b"Subject : Hi\r\n there\r\nnot a field\r\nX:\r\n\r\n");
        assert!(matches!(remove_fields(HEADER, |_| false), Cow::Borrowed(_)));
    }
}
