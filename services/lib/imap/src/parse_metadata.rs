//! GETMETADATA and SETMETADATA (RFC 5464 §4.2, §4.3).

use crate::{
    command::MetadataRequest,
    cursor::{Cursor, Result},
};

/// Entries of one command.
const MAX_ENTRIES: usize = 64;

pub(crate) fn get_metadata(c: &mut Cursor<'_>) -> Result<MetadataRequest> {
    let mut request = MetadataRequest { mailbox: String::new(), max_size: None, depth: Some(0), entries: Vec::new() };
    // The options come first in the grammar, and after the mailbox in the RFC's examples.
    options(c, &mut request)?;
    request.mailbox = c.mailbox()?;
    c.space()?;
    options(c, &mut request)?;
    request.entries = match c.peek() {
        Some(b'(') => c.list(entry)?,
        _ => vec![entry(c)?],
    };
    if request.entries.is_empty() || request.entries.len() > MAX_ENTRIES {
        return Err("entry expected");
    }
    Ok(request)
}

/// `(MAXSIZE 1024 DEPTH infinity) `, if that is what comes.
fn options(c: &mut Cursor<'_>, request: &mut MetadataRequest) -> Result<()> {
    let is_option = |text: &[u8]| {
        [&b"(MAXSIZE "[..], b"(DEPTH "].iter().any(|o| text.get(..o.len()).is_some_and(|t| t.eq_ignore_ascii_case(o)))
    };
    if !is_option(c.rest()) {
        return Ok(());
    }
    c.list(|c| {
        let option = c.word()?;
        c.space()?;
        match option.as_str() {
            "MAXSIZE" => request.max_size = Some(c.number64()?),
            "DEPTH" => {
                request.depth = match c.word()?.as_str() {
                    "0" => Some(0),
                    "1" => Some(1),
                    "INFINITY" => None,
                    _ => return Err("0, 1 or infinity expected"),
                }
            }
            _ => return Err("unknown GETMETADATA option"),
        }
        Ok(())
    })?;
    c.space()
}

/// Name, and value or NIL.
type Entries = Vec<(String, Option<Vec<u8>>)>;

pub(crate) fn set_metadata(c: &mut Cursor<'_>) -> Result<(String, Entries)> {
    let mailbox = c.mailbox()?;
    c.space()?;
    let entries = c.list(|c| {
        let name = entry(c)?;
        c.space()?;
        // A literal8 may hold anything (RFC 5464 §5).
        c.eat(b'~');
        Ok((name, c.nstring()?))
    })?;
    if entries.is_empty() || entries.len() > MAX_ENTRIES { Err("entry expected") } else { Ok((mailbox, entries)) }
}

/// `/private/comment`: names do not know case, and have no wildcards, doubled or final slashes
/// (RFC 5464 §3.1).
fn entry(c: &mut Cursor<'_>) -> Result<String> {
    let name = String::from_utf8(c.astring()?).ok().filter(|n| n.is_ascii()).ok_or("entry name must be ASCII")?;
    let name = name.to_ascii_lowercase();
    let is_valid = (name.starts_with("/private/") || name.starts_with("/shared/"))
        && !name.ends_with('/')
        && !name.contains("//")
        && !name.bytes().any(|b| matches!(b, b'*' | b'%') || b.is_ascii_control());
    if is_valid { Ok(name) } else { Err("entry name must begin with /private/ or /shared/") }
}
