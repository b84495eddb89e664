//! The body test (RFC 5173).

use std::{borrow::Cow, ops::Range};

use message::{Part, PartKind, Structure};

use crate::{
    compare::Matching,
    interpreter::{Fact, Run, Stop, World},
    program::Transform,
};

impl<W: World> Run<'_, W> {
    /// Wildcards set no match variables here (§6).
    pub fn body(&mut self, transform: &Transform, matching: &Matching) -> Result<bool, Stop> {
        let world = self.world;
        let Some(content) = world.content() else { return Err(Stop::Needs(Fact::Content)) };
        self.spend(1 + content.len() / 256)?;
        let types = match transform {
            Transform::Raw => {
                let body = content.get(message::split(content)..).unwrap_or_default();
                return self.compare([String::from_utf8_lossy(body)].into_iter(), matching, false);
            }
            Transform::Text => vec!["text".to_owned()],
            Transform::Content(types) => self.expand_all(types)?,
        };
        let structure = Structure::parse(content);
        let mut parts = Vec::new();
        collect(&structure.root, &types, &mut parts);
        let is_text = matches!(transform, Transform::Text);
        let texts = parts
            .into_iter()
            .flat_map(|part| sections(part, content).map(move |range| decoded(part, range, content, is_text)));
        self.compare(texts, matching, false)
    }
}

/// The parts of these types, also within messages that are parts themselves.
fn collect<'p>(part: &'p Part, types: &[String], out: &mut Vec<&'p Part>) {
    let is_wanted = types.iter().any(|wanted| is_type(part, wanted));
    match &part.kind {
        PartKind::Multipart(children) => {
            if is_wanted {
                out.push(part);
            }
            children.iter().for_each(|child| collect(child, types, out));
        }
        PartKind::Message(inner) => {
            if is_wanted {
                out.push(part);
            }
            collect(&inner.root, types, out);
        }
        PartKind::Leaf if is_wanted => out.push(part),
        PartKind::Leaf => {}
    }
}

/// §5.2: `""` is anything, `text` all of `text/*`, else exactly this one.
fn is_type(part: &Part, wanted: &str) -> bool {
    match wanted.split_once('/') {
        None => wanted.is_empty() || part.media.kind.eq_ignore_ascii_case(wanted),
        Some((kind, subtype)) => {
            part.media.kind.eq_ignore_ascii_case(kind) && part.media.subtype.eq_ignore_ascii_case(subtype)
        }
    }
}

/// §5.2: what is searched of a part itself, each by itself. Of a message it is the header, of a multipart
/// prologue and epilogue; their parts are looked at by themselves.
fn sections(part: &Part, content: &[u8]) -> impl Iterator<Item = Range<usize>> + use<> {
    let (first, second) = match &part.kind {
        PartKind::Message(inner) => (inner.root.header(), None),
        PartKind::Multipart(children) => match (children.first(), children.last()) {
            (Some(first), Some(last)) => {
                let prologue = part.body_start..before_delimiter(content, part.body_start, first.header_start);
                (prologue, Some(after_delimiter(content, last.end, part.end)..part.end))
            }
            _ => (part.body(), None),
        },
        PartKind::Leaf => (part.body(), None),
    };
    [Some(first), second].into_iter().flatten()
}

/// The line end before a delimiter is the delimiter's (RFC 2046 §5.1.1).
fn before_delimiter(content: &[u8], start: usize, next: usize) -> usize {
    let text = content.get(start..next).unwrap_or_default();
    let line = |text: &[u8]| text.iter().rposition(|b| *b == b'\n');
    // Its own line end, then that of the line before.
    let Some(end) = line(text).and_then(|own| line(&text[..own])) else { return start };
    start + text[..end].strip_suffix(b"\r").map_or(end, <[u8]>::len)
}

/// What follows the line of the closing delimiter; nothing without one.
fn after_delimiter(content: &[u8], last: usize, end: usize) -> usize {
    let text = content.get(last..end).unwrap_or_default();
    let Some(start) = text.windows(2).position(|two| two == b"--") else { return end };
    match text[start..].iter().position(|b| *b == b'\n') {
        Some(line) => last + start + line + 1,
        None => end,
    }
}

fn decoded<'c>(part: &Part, range: Range<usize>, content: &'c [u8], plain: bool) -> Cow<'c, str> {
    let octets = content.get(range).unwrap_or_default();
    let charset = part.media.parameter("charset").unwrap_or(b"utf-8");
    let text = match message::decode_transfer(octets, part.encoding.as_deref()) {
        Cow::Borrowed(octets) => message::charset_to_utf8(octets, charset),
        Cow::Owned(octets) => Cow::Owned(message::charset_to_utf8(&octets, charset).into_owned()),
    };
    if plain && part.media.is("text", "html") { Cow::Owned(without_tags(&text)) } else { text }
}

/// What stands between the tags (§5.3); a reader sees no more.
fn without_tags(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        match rest[open..].find('>') {
            Some(close) => rest = &rest[open + close + 1..],
            None => return out,
        }
    }
    out.push_str(rest);
    out
}
