//! SEARCH (RFC 9051 §6.4.4) with RETURN (RFC 4731), CHARSET and MODSEQ (RFC 7162 §3.1.5).

use crate::{
    command::{Partial, SearchCommand, SearchReturn},
    cursor::{Cursor, Result},
    date::date,
    flags::Flags,
    search::{DateKey, Key, Needle},
    sort::{Criterion, SortKey},
    thread::Algorithm,
};

/// Parentheses, NOT and OR within one another.
const MAX_DEPTH: usize = 32;
/// Keys in one command.
const MAX_KEYS: usize = 1000;
/// Every sort criterion there is, in both directions.
const MAX_CRITERIA: usize = 18;

pub(crate) fn search(c: &mut Cursor<'_>, uid: bool) -> Result<SearchCommand> {
    let mut returns = None;
    if c.eat_word("RETURN ") {
        returns = Some(search_return(c)?);
        c.space()?;
    }
    let mut charset = None;
    if c.eat_word("CHARSET ") {
        charset = Some(String::from_utf8_lossy(&c.astring()?).into_owned());
        c.space()?;
    }
    let key = keys(c, charset.as_deref())?;
    Ok(SearchCommand { uid, returns, charset, key })
}

/// `[RETURN (…)] (criteria) charset keys` (RFC 5256 §3, RFC 5267 §3.1).
pub(crate) fn sort(c: &mut Cursor<'_>, uid: bool) -> Result<(Vec<Criterion>, SearchCommand)> {
    let mut returns = None;
    if c.eat_word("RETURN ") {
        returns = Some(search_return(c)?);
        c.space()?;
    }
    let criteria = c.list(|c| {
        let mut word = c.word()?;
        let reverse = word == "REVERSE";
        if reverse {
            c.space()?;
            word = c.word()?;
        }
        let key = SortKey::NAMES.into_iter().find(|(name, _)| *name == word).ok_or("unknown sort criterion")?.1;
        Ok(Criterion { key, reverse })
    })?;
    if criteria.is_empty() || criteria.len() > MAX_CRITERIA {
        return Err("sort criterion expected");
    }
    c.space()?;
    Ok((criteria, in_charset(c, uid, returns)?))
}

/// `algorithm charset keys` (RFC 5256 §3).
pub(crate) fn thread(c: &mut Cursor<'_>, uid: bool) -> Result<(Algorithm, SearchCommand)> {
    let algorithm = match c.word()?.as_str() {
        "ORDEREDSUBJECT" => Algorithm::OrderedSubject,
        "REFERENCES" => Algorithm::References,
        _ => return Err("unknown threading algorithm"),
    };
    c.space()?;
    Ok((algorithm, in_charset(c, uid, None)?))
}

fn in_charset(c: &mut Cursor<'_>, uid: bool, returns: Option<SearchReturn>) -> Result<SearchCommand> {
    let charset = String::from_utf8_lossy(&c.astring()?).into_owned();
    c.space()?;
    let key = keys(c, Some(&charset))?;
    Ok(SearchCommand { uid, returns, charset: Some(charset), key })
}

fn keys(c: &mut Cursor<'_>, charset: Option<&str>) -> Result<Key> {
    let mut state = State { budget: MAX_KEYS, charset: charset.unwrap_or("utf-8").as_bytes() };
    let mut keys = vec![key(c, 0, &mut state)?];
    while c.eat(b' ') {
        keys.push(key(c, 0, &mut state)?);
    }
    Ok(Key::And(keys))
}

struct State<'s> {
    /// Keys that may still come.
    budget: usize,
    /// What texts are written in.
    charset: &'s [u8],
}

impl State<'_> {
    fn needle(&self, c: &mut Cursor<'_>) -> Result<Needle> {
        Ok(Needle::new(message::charset_to_utf8(&c.astring()?, self.charset).as_bytes()))
    }
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
            "PARTIAL" => {
                c.space()?;
                wanted.partial = Some(partial(c)?);
            }
            _ => return Err("unknown SEARCH return option"),
        }
        Ok(())
    })?;
    if wanted == SearchReturn::default() {
        wanted.all = true;
    }
    if wanted.all && wanted.partial.is_some() {
        // RFC 9394 §3.1.
        return Err("ALL and PARTIAL exclude each other");
    }
    Ok(wanted)
}

/// `1:10` or `-1:-10` (RFC 9394 §3.1).
pub(crate) fn partial(c: &mut Cursor<'_>) -> Result<Partial> {
    let from_end = c.eat(b'-');
    let first = c.nz_number()?;
    c.expect(b':')?;
    if c.eat(b'-') != from_end {
        return Err("both ends of a range count from one side");
    }
    let second = c.nz_number()?;
    Ok(Partial { low: first.min(second), high: first.max(second), from_end })
}

fn key(c: &mut Cursor<'_>, depth: usize, state: &mut State<'_>) -> Result<Key> {
    if depth > MAX_DEPTH {
        return Err("search is nested too deeply");
    }
    state.budget = state.budget.checked_sub(1).ok_or("too many search keys")?;
    match c.peek() {
        Some(b'(') => {
            let keys = c.list(|c| key(c, depth + 1, state))?;
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
    with_argument(c, &word, depth, state)
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
        "RECENT" => flag(Flags::RECENT),
        "OLD" => not(Flags::RECENT),
        "NEW" => Key::And(vec![flag(Flags::RECENT), not(Flags::SEEN)]),
        // RFC 8514 §4.3: we always know when a message came into its mailbox.
        "SAVEDATESUPPORTED" => Key::All,
        _ => return None,
    })
}

fn with_argument(c: &mut Cursor<'_>, word: &str, depth: usize, state: &mut State<'_>) -> Result<Key> {
    let header = |c: &mut Cursor<'_>, name: &str| Ok(Key::Header(name.to_owned(), state.needle(c)?));
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
        "BODY" => Key::Body(state.needle(c)?),
        "TEXT" => Key::Text(state.needle(c)?),
        "KEYWORD" => Key::Keyword(keyword(c)?),
        "UNKEYWORD" => Key::Not(Box::new(Key::Keyword(keyword(c)?))),
        "BEFORE" => Key::Received(DateKey::Before(date(c)?)),
        "ON" => Key::Received(DateKey::On(date(c)?)),
        "SINCE" => Key::Received(DateKey::Since(date(c)?)),
        "SENTBEFORE" => Key::Sent(DateKey::Before(date(c)?)),
        "SENTON" => Key::Sent(DateKey::On(date(c)?)),
        "SENTSINCE" => Key::Sent(DateKey::Since(date(c)?)),
        "SAVEDBEFORE" => Key::Saved(DateKey::Before(date(c)?)),
        "SAVEDON" => Key::Saved(DateKey::On(date(c)?)),
        "SAVEDSINCE" => Key::Saved(DateKey::Since(date(c)?)),
        // RFC 5032 §2: seconds before now.
        "YOUNGER" => Key::Younger(c.nz_number()?),
        "OLDER" => Key::Older(c.nz_number()?),
        "EMAILID" => Key::EmailId(object_id(c)?),
        "THREADID" => Key::ThreadId(object_id(c)?),
        "LARGER" => Key::Larger(c.number64()?),
        "SMALLER" => Key::Smaller(c.number64()?),
        "UID" => Key::Uid(c.sequence_set()?),
        "MODSEQ" => modseq(c)?,
        "NOT" => Key::Not(Box::new(key(c, depth + 1, state)?)),
        "OR" => {
            let one = key(c, depth + 1, state)?;
            c.space()?;
            Key::Or(Box::new(one), Box::new(key(c, depth + 1, state)?))
        }
        _ => return Err("unknown search key"),
    })
}

/// RFC 8474 §7.
fn object_id(c: &mut Cursor<'_>) -> Result<String> {
    Ok(String::from_utf8_lossy(&c.astring()?).into_owned())
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
