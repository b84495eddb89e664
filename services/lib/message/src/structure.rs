//! The tree of MIME parts (RFC 2046), by one pass over the message.
//!
//! Boundaries of all open multiparts are looked for at once, the innermost first, so that a part
//! whose final boundary is missing ends where the outer one goes on (RFC 2046 §5.1.2).

use std::ops::Range;

use crate::{
    envelope::{Envelope, value},
    header::{Field, fields, is_empty_line},
    media::{Disposition, MediaType, language_tags},
};

/// Deeper parts are shown as one opaque part.
pub const MAX_DEPTH: usize = 50;
/// More parts than this are not told apart.
pub const MAX_PARTS: usize = 1000;
/// Addresses kept in all envelopes of a message together.
const MAX_ADDRESSES: usize = 20_000;
/// Octets of Content-* values kept for a whole message.
const MAX_KEPT: usize = 4 * 1024 * 1024;

/// What IMAP shows of a message without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    pub envelope: Envelope,
    pub root: Part,
}

/// One entity: header and body. Offsets count from the start of the whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub header_start: usize,
    /// After the empty line.
    pub body_start: usize,
    /// Before the line end that belongs to the next boundary.
    pub end: usize,
    /// Line feeds in the body.
    pub lines: usize,
    pub media: MediaType,
    pub id: Option<Vec<u8>>,
    pub description: Option<Vec<u8>>,
    /// Content-Transfer-Encoding as it came.
    pub encoding: Option<Vec<u8>>,
    pub md5: Option<Vec<u8>>,
    pub disposition: Option<Disposition>,
    pub language: Vec<Vec<u8>>,
    pub location: Option<Vec<u8>>,
    pub kind: PartKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartKind {
    Leaf,
    /// Empty when no boundary line was found.
    Multipart(Vec<Part>),
    /// message/rfc822 and message/global: the message inside.
    Message(Box<Structure>),
}

impl Part {
    pub fn header(&self) -> Range<usize> {
        self.header_start..self.body_start
    }

    pub fn body(&self) -> Range<usize> {
        self.body_start..self.end
    }

    /// Octets of the body in its transfer encoding.
    pub fn size(&self) -> usize {
        self.end - self.body_start
    }
}

impl Structure {
    /// Reads a whole message. Never fails; depth, number of parts and copied values are bounded.
    pub fn parse(raw: &[u8]) -> Self {
        let mut parser = Parser {
            raw,
            boundaries: Vec::new(),
            stop: None,
            parts: 0,
            addresses: MAX_ADDRESSES,
            kept: MAX_KEPT,
            dashes: memchr::memmem::Finder::new(b"\n--"),
        };
        parser.message(0, 0)
    }

    /// All leaves in order, those of inner messages too.
    pub fn leaves(&self) -> Vec<&Part> {
        let mut out = Vec::new();
        let mut todo = vec![&self.root];
        while let Some(part) = todo.pop() {
            match &part.kind {
                PartKind::Leaf => out.push(part),
                PartKind::Multipart(children) => todo.extend(children.iter().rev()),
                PartKind::Message(inner) => todo.push(&inner.root),
            }
        }
        out
    }
}

/// The boundary line at which reading stopped.
#[derive(Debug, Clone, Copy)]
struct Stop {
    /// Index into the open boundaries.
    level: usize,
    closing: bool,
    /// Offset of the line.
    line: usize,
    /// Offset after the line.
    after: usize,
}

struct Parser<'a> {
    raw: &'a [u8],
    boundaries: Vec<Vec<u8>>,
    stop: Option<Stop>,
    parts: usize,
    addresses: usize,
    kept: usize,
    dashes: memchr::memmem::Finder<'static>,
}

/// What the header of an entity says about it.
#[derive(Default)]
struct Described {
    envelope: Envelope,
    media: Option<MediaType>,
    has_type: bool,
    id: Option<Vec<u8>>,
    description: Option<Vec<u8>>,
    encoding: Option<Vec<u8>>,
    md5: Option<Vec<u8>>,
    disposition: Option<Disposition>,
    language: Vec<Vec<u8>>,
    location: Option<Vec<u8>>,
}

impl Parser<'_> {
    fn message(&mut self, start: usize, depth: usize) -> Structure {
        let (root, envelope) = self.entity(start, depth, false, true);
        Structure { envelope, root }
    }

    /// Reads the entity at `start` up to the next boundary of an open multipart, which it leaves
    /// in `stop`.
    fn entity(&mut self, start: usize, depth: usize, in_digest: bool, is_message: bool) -> (Part, Envelope) {
        self.parts += 1;
        self.stop = None;
        let body_start = self.header_end(start);
        let said = self.describe(start..body_start, is_message);
        let mut media = match said.media {
            Some(media) => media,
            // RFC 2046 §5.1.5: a digest's parts are messages.
            None if in_digest && !said.has_type => MediaType::new("message", "rfc822"),
            None => MediaType::plain_text(),
        };
        let may_nest = depth < MAX_DEPTH && self.parts < MAX_PARTS;
        let is_multipart = media.kind == "multipart";
        let is_inner = media.kind == "message" && matches!(media.subtype.as_str(), "rfc822" | "global");
        let boundary = media.parameter("boundary").map(|b| b.trim_ascii_end().to_vec()).filter(|b| !b.is_empty());
        if !may_nest && (is_multipart || is_inner) {
            media = MediaType::new("application", "octet-stream");
        } else if is_multipart && boundary.is_none() {
            media = MediaType::plain_text();
        }
        let kind = match boundary {
            _ if self.stop.is_some() || !may_nest => PartKind::Leaf,
            Some(boundary) if is_multipart => {
                let digest = media.subtype == "digest";
                PartKind::Multipart(self.children(body_start, boundary, depth, digest))
            }
            _ if is_inner => PartKind::Message(Box::new(self.message(body_start, depth + 1))),
            _ => PartKind::Leaf,
        };
        let kind = match kind {
            // The header ran into a boundary: the body is empty, but the media type stands.
            PartKind::Leaf if is_multipart && media.kind == "multipart" => PartKind::Multipart(Vec::new()),
            PartKind::Leaf if is_inner && media.kind == "message" => {
                PartKind::Message(Box::new(empty_message(body_start)))
            }
            PartKind::Leaf => {
                if self.stop.is_none() {
                    self.stop = self.next_boundary(body_start);
                }
                PartKind::Leaf
            }
            other => other,
        };
        let end = self.stop.map_or(self.raw.len(), |stop| self.before_line(stop.line, body_start));
        let lines = memchr::memchr_iter(b'\n', &self.raw[body_start..end]).count();
        let part = Part {
            header_start: start,
            body_start,
            end,
            lines,
            media,
            id: said.id,
            description: said.description,
            encoding: said.encoding,
            md5: said.md5,
            disposition: said.disposition,
            language: said.language,
            location: said.location,
            kind,
        };
        (part, said.envelope)
    }

    /// The parts of a multipart whose body begins at `at`.
    fn children(&mut self, at: usize, boundary: Vec<u8>, depth: usize, digest: bool) -> Vec<Part> {
        let level = self.boundaries.len();
        self.boundaries.push(boundary);
        let mut children = Vec::new();
        self.stop = self.next_boundary(at);
        while let Some(stop) = self.stop.filter(|stop| stop.level == level) {
            if stop.closing || self.parts >= MAX_PARTS {
                // What follows is the epilogue, which ends with the outer multipart's part.
                self.boundaries.truncate(level);
                self.stop = self.next_boundary(stop.after);
                break;
            }
            children.push(self.entity(stop.after, depth + 1, digest, false).0);
        }
        self.boundaries.truncate(level);
        children
    }

    /// The end of the header that begins at `start`: after the empty line, or where a boundary
    /// cuts it short, which is left in `stop`.
    fn header_end(&mut self, start: usize) -> usize {
        let mut at = start;
        while at < self.raw.len() {
            let end = memchr::memchr(b'\n', &self.raw[at..]).map_or(self.raw.len(), |lf| at + lf + 1);
            let line = &self.raw[at..end];
            if is_empty_line(line) {
                return end;
            }
            if let Some((level, closing)) = self.boundary_at(line) {
                self.stop = Some(Stop { level, closing, line: at, after: end });
                return self.before_line(at, start);
            }
            at = end;
        }
        self.raw.len()
    }

    /// The offset before the line end that precedes the boundary line at `line`, which belongs to
    /// the boundary (RFC 2046 §5.1.1); not before `floor`.
    fn before_line(&self, line: usize, floor: usize) -> usize {
        let text = self.raw.get(floor..line).unwrap_or_default();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        floor + text.strip_suffix(b"\r").unwrap_or(text).len()
    }

    /// The first boundary line at or after `at`, which is the start of a line.
    fn next_boundary(&self, at: usize) -> Option<Stop> {
        if self.boundaries.is_empty() {
            return None;
        }
        let mut line = at;
        loop {
            let rest = self.raw.get(line..)?;
            if rest.starts_with(b"--") {
                let len = memchr::memchr(b'\n', rest).map_or(rest.len(), |lf| lf + 1);
                if let Some((level, closing)) = self.boundary_at(&rest[..len]) {
                    return Some(Stop { level, closing, line, after: line + len });
                }
            }
            line += self.dashes.find(rest)? + 1;
        }
    }

    /// Which open multipart the line delimits, the innermost first, and whether it closes it.
    ///
    /// It is sufficient that a line begins with the boundary (RFC 2046 §5.1.1). One boundary may be
    /// the beginning of another, so a line that is a boundary as a whole comes first, and then the
    /// longest that it begins with.
    fn boundary_at(&self, line: &[u8]) -> Option<(usize, bool)> {
        let text = line.strip_prefix(b"--")?.trim_ascii_end();
        let mut found: Option<(usize, bool)> = None;
        let mut longest = 0;
        for (level, boundary) in self.boundaries.iter().enumerate().rev() {
            match text.strip_prefix(boundary.as_slice()) {
                Some(b"") => return Some((level, false)),
                Some(b"--") => return Some((level, true)),
                Some(rest) if boundary.len() > longest => {
                    longest = boundary.len();
                    found = Some((level, rest.starts_with(b"--")));
                }
                _ => {}
            }
        }
        found
    }

    fn describe(&mut self, header: Range<usize>, is_message: bool) -> Described {
        let raw = self.raw;
        let mut said = Described::default();
        for field in fields(&raw[header]) {
            if is_message {
                said.envelope.take(&field, &mut self.addresses);
            }
            let is_content = field.name.get(..8).is_some_and(|p| p.eq_ignore_ascii_case(b"Content-"));
            if is_content && self.kept > 0 {
                said.take(&field, &mut self.kept);
            }
        }
        said.envelope.finish();
        said
    }
}

impl Described {
    /// The first field of each name counts.
    fn take(&mut self, field: &Field<'_>, kept: &mut usize) {
        let mut name = [0u8; 25];
        let Some(lower) = name.get_mut(..field.name.len()) else { return };
        lower.copy_from_slice(field.name);
        lower.make_ascii_lowercase();
        let text = value(field.value);
        *kept = kept.saturating_sub(text.len());
        match &*lower {
            b"content-type" if !self.has_type => {
                self.has_type = true;
                self.media = MediaType::parse(&text);
            }
            b"content-id" => set(&mut self.id, text),
            b"content-description" => set(&mut self.description, text),
            b"content-transfer-encoding" => set(&mut self.encoding, encoding_token(&text)),
            b"content-md5" => set(&mut self.md5, text),
            b"content-disposition" if self.disposition.is_none() => self.disposition = Disposition::parse(&text),
            b"content-language" if self.language.is_empty() => self.language = language_tags(&text),
            b"content-location" => set(&mut self.location, text),
            _ => {}
        }
    }
}

fn set(slot: &mut Option<Vec<u8>>, text: Vec<u8>) {
    if slot.is_none() && !text.is_empty() {
        *slot = Some(text);
    }
}

/// The mechanism alone: some mailers put a comment or a semicolon after it.
fn encoding_token(text: &[u8]) -> Vec<u8> {
    let end = text.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b';' | b'(')).unwrap_or(text.len());
    text[..end].to_vec()
}

fn empty_message(at: usize) -> Structure {
    let root = Part {
        header_start: at,
        body_start: at,
        end: at,
        lines: 0,
        media: MediaType::plain_text(),
        id: None,
        description: None,
        encoding: None,
        md5: None,
        disposition: None,
        language: Vec::new(),
        location: None,
        kind: PartKind::Leaf,
    };
    Structure { envelope: Envelope::default(), root }
}

#[cfg(test)]
#[path = "structure_tests.rs"]
mod tests;
