//! What FETCH asks for (RFC 9051 §6.4.5).

use crate::{
    command::{FetchItem, Partial},
    cursor::{Cursor, Result},
    parse_search::partial as range,
    section::{Section, SectionForm, SectionText},
};

/// Deeper than any structure we keep.
const MAX_PATH: usize = 60;
/// Enough for every item there is, several times.
const MAX_ITEMS: usize = 256;

/// One item, a list of them, or one of the macros.
pub(crate) fn fetch_items(c: &mut Cursor<'_>) -> Result<Vec<FetchItem>> {
    if c.peek() == Some(b'(') {
        let items = c.list(item)?;
        return if items.is_empty() || items.len() > MAX_ITEMS { Err("FETCH item expected") } else { Ok(items) };
    }
    let before = c.clone();
    let mut items = match c.word()?.as_str() {
        "ALL" | "FAST" | "FULL" => vec![FetchItem::Flags, FetchItem::InternalDate, FetchItem::Size],
        _ => {
            *c = before;
            return Ok(vec![item(c)?]);
        }
    };
    let word = before.rest();
    if !word.get(..4).is_some_and(|w| w.eq_ignore_ascii_case(b"FAST")) {
        items.push(FetchItem::Envelope);
    }
    if word.get(..4).is_some_and(|w| w.eq_ignore_ascii_case(b"FULL")) {
        items.push(FetchItem::Body);
    }
    Ok(items)
}

/// `(CHANGEDSINCE 5 VANISHED PARTIAL 1:100)` (RFC 7162 §3.1.4.1, §3.2.6, RFC 9394 §3.4), or nothing.
pub(crate) fn fetch_modifiers(c: &mut Cursor<'_>, uid: bool) -> Result<(Option<u64>, bool, Option<Partial>)> {
    let (mut changed_since, mut vanished, mut partial) = (None, false, None);
    if !c.eat(b' ') {
        return Ok((None, false, None));
    }
    c.list(|c| {
        match c.word()?.as_str() {
            "CHANGEDSINCE" => {
                c.space()?;
                changed_since = Some(c.number64()?);
            }
            "VANISHED" if uid => vanished = true,
            "PARTIAL" if uid => {
                c.space()?;
                partial = Some(range(c)?);
            }
            _ => return Err("unknown FETCH modifier"),
        }
        Ok(())
    })?;
    if vanished && changed_since.is_none() {
        return Err("VANISHED needs CHANGEDSINCE");
    }
    Ok((changed_since, vanished, partial))
}

fn item(c: &mut Cursor<'_>) -> Result<FetchItem> {
    let name = c.run(|b| b.is_ascii_alphanumeric() || b == b'.').to_ascii_uppercase();
    let with_section = c.peek() == Some(b'[');
    Ok(match (name.as_slice(), with_section) {
        (b"UID", false) => FetchItem::Uid,
        (b"FLAGS", false) => FetchItem::Flags,
        (b"INTERNALDATE", false) => FetchItem::InternalDate,
        (b"RFC822.SIZE", false) => FetchItem::Size,
        (b"ENVELOPE", false) => FetchItem::Envelope,
        (b"BODY", false) => FetchItem::Body,
        (b"BODYSTRUCTURE", false) => FetchItem::BodyStructure,
        (b"MODSEQ", false) => FetchItem::ModSeq,
        (b"EMAILID", false) => FetchItem::EmailId,
        (b"THREADID", false) => FetchItem::ThreadId,
        (b"SAVEDATE", false) => FetchItem::SaveDate,
        (b"PREVIEW", false) => {
            if c.eat_word(" (") && !c.eat_word("LAZY)") {
                return Err("LAZY expected");
            }
            FetchItem::Preview
        }
        (b"RFC822", false) => old(SectionText::All, SectionForm::Rfc822, false),
        (b"RFC822.HEADER", false) => old(SectionText::Header, SectionForm::Rfc822Header, true),
        (b"RFC822.TEXT", false) => old(SectionText::Text, SectionForm::Rfc822Text, false),
        (b"BODY", true) => FetchItem::Section(section(c, false)?),
        (b"BODY.PEEK", true) => FetchItem::Section(section(c, true)?),
        (b"BINARY", true) => binary(c, false)?,
        (b"BINARY.PEEK", true) => binary(c, true)?,
        (b"BINARY.SIZE", true) => {
            c.expect(b'[')?;
            let path = path(c)?.0;
            c.expect(b']')?;
            FetchItem::BinarySize(path)
        }
        _ => return Err("unknown FETCH item"),
    })
}

fn old(text: SectionText, form: SectionForm, peek: bool) -> FetchItem {
    FetchItem::Section(Section { path: Vec::new(), text, peek, partial: None, form })
}

fn binary(c: &mut Cursor<'_>, peek: bool) -> Result<FetchItem> {
    c.expect(b'[')?;
    let path = path(c)?.0;
    c.expect(b']')?;
    Ok(FetchItem::Binary { path, peek, partial: partial(c)? })
}

fn section(c: &mut Cursor<'_>, peek: bool) -> Result<Section> {
    c.expect(b'[')?;
    let (path, dangling) = path(c)?;
    let named = c.run(|b| b.is_ascii_alphabetic() || b == b'.').to_ascii_uppercase();
    let text = match named.as_slice() {
        b"" if !dangling => SectionText::All,
        _ if !path.is_empty() && !dangling => return Err("section expected"),
        b"HEADER" => SectionText::Header,
        b"TEXT" => SectionText::Text,
        b"MIME" if !path.is_empty() => SectionText::Mime,
        b"HEADER.FIELDS" | b"HEADER.FIELDS.NOT" => {
            c.space()?;
            let names = c.list(Cursor::astring)?;
            if names.is_empty() {
                return Err("field name expected");
            }
            SectionText::Fields { not: named.ends_with(b".NOT"), names }
        }
        _ => return Err("unknown section"),
    };
    c.expect(b']')?;
    Ok(Section { path, text, peek, partial: partial(c)?, form: SectionForm::Body })
}

/// `1.2.3`, and whether a dot follows.
fn path(c: &mut Cursor<'_>) -> Result<(Vec<u32>, bool)> {
    let mut path = Vec::new();
    while c.peek().is_some_and(|b| b.is_ascii_digit()) {
        path.push(c.nz_number()?);
        if path.len() > MAX_PATH {
            return Err("section is too deep");
        }
        if !c.eat(b'.') {
            return Ok((path, false));
        }
    }
    let dangling = !path.is_empty();
    Ok((path, dangling))
}

/// `<0.1024>`: first octet and how many.
fn partial(c: &mut Cursor<'_>) -> Result<Option<(u32, u32)>> {
    if !c.eat(b'<') {
        return Ok(None);
    }
    let first = c.number()?;
    c.expect(b'.')?;
    let count = c.nz_number()?;
    c.expect(b'>')?;
    Ok(Some((first, count)))
}
