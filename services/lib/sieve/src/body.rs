//! The body test (RFC 5173).

use std::borrow::Cow;

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
        let texts = parts.into_iter().map(|part| decoded(part, content, is_text));
        self.compare(texts, matching, false)
    }
}

/// The parts of these types, also within messages that are parts themselves; multiparts have no
/// text of their own.
fn collect<'p>(part: &'p Part, types: &[String], out: &mut Vec<&'p Part>) {
    let is_wanted = types.iter().any(|wanted| is_type(part, wanted));
    match &part.kind {
        PartKind::Multipart(children) => children.iter().for_each(|child| collect(child, types, out)),
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

fn decoded<'c>(part: &Part, content: &'c [u8], plain: bool) -> Cow<'c, str> {
    let range = match &part.kind {
        // §5.2: of a message its header; its parts are looked at by themselves.
        PartKind::Message(inner) => inner.root.header(),
        _ => part.body(),
    };
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
