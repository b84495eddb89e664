//! APPEND (RFC 9051 §6.3.12) with MULTIAPPEND (RFC 3502), CATENATE (RFC 4469), UTF8 (RFC 6855) and
//! REPLACE (RFC 8508): what stands before, between and after the literals.

use crate::{
    command::{AppendHead, AppendItem, AppendPiece},
    cursor::{Cursor, Names, Result},
    date::parse_internal_date,
    flags::Flags,
    parser::{ParseError, tag},
};

/// URLs between two literals; each may stand for a whole message.
const MAX_PIECES: usize = 100;

/// Where in a message a literal stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Inside {
    /// It is the message.
    #[default]
    Nothing,
    /// `UTF8 (~{n}`: a parenthesis follows.
    Utf8,
    /// `CATENATE (… TEXT {n}`: further parts may follow.
    Catenate,
}

/// What the text ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    BeforeLiteral(Inside),
    Complete,
}

/// Reads an APPEND or a REPLACE up to its first literal, whose announcement is cut off.
pub fn parse_append_head(text: &[u8], names: Names) -> std::result::Result<AppendHead, ParseError> {
    append_head(text, names).map(|(head, _)| head)
}

pub(crate) fn append_head(text: &[u8], names: Names) -> std::result::Result<(AppendHead, Inside), ParseError> {
    let mut cursor = Cursor::new(text, names);
    let tag = tag(&mut cursor).map_err(|text| ParseError { tag: None, text })?;
    let head = head(&mut cursor, &tag).and_then(|(head, ends)| match ends {
        Ends::BeforeLiteral(inside) => Ok((head, inside)),
        Ends::Complete => Err("literal expected"),
    });
    head.map_err(|text| ParseError { tag: Some(tag), text })
}

fn head(c: &mut Cursor<'_>, tag: &str) -> Result<(AppendHead, Ends)> {
    let mut name = c.word()?;
    let uid = name == "UID";
    if uid {
        c.space()?;
        name = c.word()?;
    }
    c.space()?;
    arguments(c, tag, &name, uid)
}

/// One that has no literal at all.
pub(crate) fn append_of_urls(c: &mut Cursor<'_>, tag: &str, name: &str, uid: bool) -> Result<AppendHead> {
    match arguments(c, tag, name, uid)? {
        (head, Ends::Complete) => Ok(head),
        _ => Err("APPEND needs a literal"),
    }
}

fn arguments(c: &mut Cursor<'_>, tag: &str, name: &str, uid: bool) -> Result<(AppendHead, Ends)> {
    let replaces = match name {
        "APPEND" if !uid => None,
        "REPLACE" => {
            let set = c.sequence_set()?;
            c.space()?;
            Some((set, uid))
        }
        _ => return Err("not an APPEND"),
    };
    let mailbox = c.mailbox()?;
    c.space()?;
    let mut pieces = Vec::new();
    let ends = message(c, &mut pieces)?;
    Ok((AppendHead { tag: tag.to_owned(), mailbox, replaces, pieces }, ends))
}

/// What follows a literal.
pub(crate) fn append_next(text: &[u8], names: Names, inside: Inside) -> Result<(Vec<AppendPiece>, Ends)> {
    let mut c = Cursor::new(text, names);
    let mut pieces = Vec::new();
    let ends = match inside {
        Inside::Nothing => next_message(&mut c, &mut pieces)?,
        Inside::Utf8 => {
            c.expect(b')')?;
            next_message(&mut c, &mut pieces)?
        }
        Inside::Catenate if c.eat(b')') => next_message(&mut c, &mut pieces)?,
        Inside::Catenate => {
            c.space()?;
            parts(&mut c, &mut pieces)?
        }
    };
    Ok((pieces, ends))
}

fn next_message(c: &mut Cursor<'_>, pieces: &mut Vec<AppendPiece>) -> Result<Ends> {
    if c.rest().is_empty() {
        return Ok(Ends::Complete);
    }
    c.space()?;
    // Python's IMAPClient writes two.
    c.run(|b| b == b' ');
    message(c, pieces)
}

fn message(c: &mut Cursor<'_>, pieces: &mut Vec<AppendPiece>) -> Result<Ends> {
    let mut item = AppendItem::default();
    if c.peek() == Some(b'(') {
        item.flags = Flags::parse_list(c)?;
        c.space()?;
    }
    if c.peek() == Some(b'"') {
        let date = c.string()?;
        item.internal_date_ms = Some(parse_internal_date(&date).ok_or("date-time expected")?);
        c.space()?;
    }
    let is_catenated = c.eat_word("CATENATE (");
    item.utf8 = !is_catenated && c.eat_word("UTF8 (");
    let inside = if item.utf8 { Inside::Utf8 } else { Inside::Nothing };
    pieces.push(AppendPiece::Message(item));
    if is_catenated {
        return parts(c, pieces);
    }
    c.end()?;
    Ok(Ends::BeforeLiteral(inside))
}

/// `URL "…"` and `TEXT {n}`, within the parentheses of CATENATE.
fn parts(c: &mut Cursor<'_>, pieces: &mut Vec<AppendPiece>) -> Result<Ends> {
    loop {
        if c.eat_word("TEXT ") {
            c.end()?;
            return Ok(Ends::BeforeLiteral(Inside::Catenate));
        }
        if !c.eat_word("URL ") {
            return Err("URL or TEXT expected");
        }
        let url = String::from_utf8(c.astring()?).map_err(|_| "URL is not UTF-8")?;
        pieces.push(AppendPiece::Url(url));
        if pieces.len() > MAX_PIECES {
            return Err("too many URLs");
        }
        if c.eat(b')') {
            // Not by recursion: a message after it reads its own parts.
            return next_message(c, pieces);
        }
        c.space()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let head = parse_append_head(b"a append INBOX ", Names::Utf7).expect("valid");
        assert_eq!(
            (head.mailbox.as_str(), head.pieces.as_slice()),
            ("INBOX", &[AppendPiece::Message(AppendItem::default())][..])
        );
        for wrong in [
            "a APPEND INBOX",
            "a APPEND ",
            "a APPEND INBOX \"x\" ",
            "a LOGIN x ",
            "a UID APPEND x ",
            "a APPEND x CATENATE (",
            "a APPEND x CATENATE (URL \"/y\")",
            "a APPEND x CATENATE (URL  TEXT ",
            "a APPEND x CATENATE (TEXT x ",
        ] {
            assert!(parse_append_head(wrong.as_bytes(), Names::Utf7).is_err(), "{wrong}");
        }
    }

    #[test]
    fn catenate_between_literals() {
        let url = |u: &str| AppendPiece::Url(u.to_owned());
        let (head, inside) =
            append_head(b"a APPEND x (\\Seen) CATENATE (URL \"/i/;UID=1\" TEXT ", Names::Utf7).expect("valid");
        assert_eq!((head.pieces.len(), head.pieces.last(), inside), (2, Some(&url("/i/;UID=1")), Inside::Catenate));
        let next = |text: &str| append_next(text.as_bytes(), Names::Utf7, Inside::Catenate);
        assert_eq!(next(")"), Ok((Vec::new(), Ends::Complete)));
        assert_eq!(next(" TEXT "), Ok((Vec::new(), Ends::BeforeLiteral(Inside::Catenate))));
        assert_eq!(next(" URL a URL b)"), Ok((vec![url("a"), url("b")], Ends::Complete)));
        let another = AppendPiece::Message(AppendItem::default());
        assert_eq!(next(") CATENATE (URL c)"), Ok((vec![another.clone(), url("c")], Ends::Complete)));
        assert_eq!(next(") "), Ok((vec![another], Ends::BeforeLiteral(Inside::Nothing))));
        for wrong in ["", " ", "URL a)", " URL a", ") x", " URL a) TEXT "] {
            assert!(next(wrong).is_err(), "{wrong}");
        }
        assert!(next(&format!("{})", " URL a".repeat(200))).is_err());
    }
}
