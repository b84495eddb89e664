//! SEARCH (RFC 9051 §6.4.4) with RETURN (RFC 4731), CHARSET and MODSEQ (RFC 7162 §3.1.5).

use crate::{
    command::{SearchCommand, SearchReturn},
    cursor::{Cursor, Result},
    date::date,
    flags::Flags,
    search::{DateKey, Key, Needle},
};

/// Parentheses, NOT and OR within one another.
const MAX_DEPTH: usize = 32;
/// Keys in one command.
const MAX_KEYS: usize = 1000;

pub(crate) fn search(c: &mut Cursor<'_>, uid: bool) -> Result<SearchCommand> {
    let mut returns = None;
    if c.eat_word("RETURN ") {
        returns = Some(search_return(c)?);
        c.space()?;
    }
    let mut charset = None;
    if c.eat_word("CHARSET ") {
        charset = Some(String::from_utf8_lossy(&c.astring()?).to_ascii_uppercase());
        c.space()?;
    }
    let mut budget = MAX_KEYS;
    let mut keys = vec![key(c, 0, &mut budget)?];
    while c.eat(b' ') {
        keys.push(key(c, 0, &mut budget)?);
    }
    Ok(SearchCommand { uid, returns, charset, key: Key::And(keys) })
}

fn search_return(c: &mut Cursor<'_>) -> Result<SearchReturn> {
    let mut wanted = SearchReturn::default();
    c.list(|c| {
        match c.word()?.as_str() {
            "MIN" => wanted.min = true,
            "MAX" => wanted.max = true,
            "ALL" => wanted.all = true,
            "COUNT" => wanted.count = true,
            "SAVE" => wanted.save = true,
            _ => return Err("unknown SEARCH return option"),
        }
        Ok(())
    })?;
    if wanted == SearchReturn::default() {
        wanted.all = true;
    }
    Ok(wanted)
}

fn key(c: &mut Cursor<'_>, depth: usize, budget: &mut usize) -> Result<Key> {
    if depth > MAX_DEPTH {
        return Err("search is nested too deeply");
    }
    *budget = budget.checked_sub(1).ok_or("too many search keys")?;
    match c.peek() {
        Some(b'(') => {
            let keys = c.list(|c| key(c, depth + 1, budget))?;
            return if keys.is_empty() { Err("search key expected") } else { Ok(Key::And(keys)) };
        }
        Some(b'0'..=b'9' | b'*' | b'$') => return star_or_set(c),
        _ => {}
    }
    let word = c.word().map_err(|_| "search key expected")?;
    if let Some(key) = simple(&word) {
        return Ok(key);
    }
    c.space()?;
    with_argument(c, &word, depth, budget)
}

fn star_or_set(c: &mut Cursor<'_>) -> Result<Key> {
    c.sequence_set().map(Key::Sequence)
}

fn simple(word: &str) -> Option<Key> {
    let flag = |bit| Key::Flag(bit);
    let not = |bit| Key::Not(Box::new(Key::Flag(bit)));
    Some(match word {
        "ALL" => Key::All,
        "ANSWERED" => flag(Flags::ANSWERED),
        "DELETED" => flag(Flags::DELETED),
        "DRAFT" => flag(Flags::DRAFT),
        "FLAGGED" => flag(Flags::FLAGGED),
        "SEEN" => flag(Flags::SEEN),
        "UNANSWERED" => not(Flags::ANSWERED),
        "UNDELETED" => not(Flags::DELETED),
        "UNDRAFT" => not(Flags::DRAFT),
        "UNFLAGGED" => not(Flags::FLAGGED),
        "UNSEEN" => not(Flags::SEEN),
        // We keep no \Recent (RFC 9051 dropped it), so every message is old.
        "RECENT" | "NEW" => Key::Not(Box::new(Key::All)),
        "OLD" => Key::All,
        _ => return None,
    })
}

fn with_argument(c: &mut Cursor<'_>, word: &str, depth: usize, budget: &mut usize) -> Result<Key> {
    let header = |c: &mut Cursor<'_>, name: &str| Ok(Key::Header(name.to_owned(), Needle::new(&c.astring()?)));
    Ok(match word {
        "BCC" => header(c, "Bcc")?,
        "CC" => header(c, "Cc")?,
        "FROM" => header(c, "From")?,
        "SUBJECT" => header(c, "Subject")?,
        "TO" => header(c, "To")?,
        "HEADER" => {
            let name = String::from_utf8_lossy(&c.astring()?).into_owned();
            c.space()?;
            header(c, &name)?
        }
        "BODY" => Key::Body(Needle::new(&c.astring()?)),
        "TEXT" => Key::Text(Needle::new(&c.astring()?)),
        "KEYWORD" => Key::Keyword(keyword(c)?),
        "UNKEYWORD" => Key::Not(Box::new(Key::Keyword(keyword(c)?))),
        "BEFORE" => Key::Received(DateKey::Before(date(c)?)),
        "ON" => Key::Received(DateKey::On(date(c)?)),
        "SINCE" => Key::Received(DateKey::Since(date(c)?)),
        "SENTBEFORE" => Key::Sent(DateKey::Before(date(c)?)),
        "SENTON" => Key::Sent(DateKey::On(date(c)?)),
        "SENTSINCE" => Key::Sent(DateKey::Since(date(c)?)),
        "LARGER" => Key::Larger(c.number64()?),
        "SMALLER" => Key::Smaller(c.number64()?),
        "UID" => Key::Uid(c.sequence_set()?),
        "MODSEQ" => modseq(c)?,
        "NOT" => Key::Not(Box::new(key(c, depth + 1, budget)?)),
        "OR" => {
            let one = key(c, depth + 1, budget)?;
            c.space()?;
            Key::Or(Box::new(one), Box::new(key(c, depth + 1, budget)?))
        }
        _ => return Err("unknown search key"),
    })
}

fn keyword(c: &mut Cursor<'_>) -> Result<String> {
    c.atom().map(|a| String::from_utf8_lossy(a).into_owned())
}

/// `MODSEQ "/flags/\\draft" all 620162338`: the entry is read and passed over, because we keep
/// one mod-sequence a message (RFC 7162 §3.1.5).
fn modseq(c: &mut Cursor<'_>) -> Result<Key> {
    if c.peek() == Some(b'"') {
        c.string()?;
        c.space()?;
        if !matches!(c.word()?.as_str(), "PRIV" | "SHARED" | "ALL") {
            return Err("priv, shared or all expected");
        }
        c.space()?;
    }
    Ok(Key::ModSeq(c.number64()?))
}
