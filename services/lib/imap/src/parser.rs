//! Commands (RFC 9051 §6 and §9). A recursive-descent parser over one collected command.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    command::{Command, CommandBody, ListCommand, ListReturn, ListSelect, Qresync, StatusItem, StoreMode},
    cursor::{Cursor, Names, Result, is_atom_char},
    flags::Flags,
    notify::notify,
    parse_acl::acl,
    parse_append::append_of_urls,
    parse_fetch::{fetch_items, fetch_modifiers},
    parse_metadata::{get_metadata, set_metadata},
    parse_search::{search, sort, thread},
};

/// Longer patterns are no mailbox's.
const MAX_PATTERN: usize = 1000;
const MAX_PATTERNS: usize = 16;

/// Answered with BAD.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ParseError {
    /// Of the command, when it could be read; else the answer is untagged.
    pub tag: Option<String>,
    pub text: &'static str,
}

/// Reads one command as [`crate::Framer`] collected it.
pub fn parse(text: &[u8], names: Names) -> std::result::Result<Command, ParseError> {
    let mut cursor = Cursor::new(text, names);
    let tag = tag(&mut cursor).map_err(|text| ParseError { tag: None, text })?;
    match body(&mut cursor, &tag).and_then(|body| cursor.end().map(|()| body)) {
        Ok(body) => Ok(Command { tag, body }),
        Err(text) => Err(ParseError { tag: Some(tag), text }),
    }
}

/// The tag at the beginning of a command that cannot be read otherwise.
pub fn tag_of(text: &[u8]) -> Option<String> {
    tag(&mut Cursor::new(text, Names::default())).ok()
}

/// A tag and the space after it.
pub(crate) fn tag(c: &mut Cursor<'_>) -> Result<String> {
    let tag = c.run(|b| is_atom_char(b) && b.is_ascii() && b != b'+');
    if tag.is_empty() || tag.len() > 128 {
        return Err("tag expected");
    }
    c.space()?;
    Ok(String::from_utf8_lossy(tag).into_owned())
}

fn body(c: &mut Cursor<'_>, tag: &str) -> Result<CommandBody> {
    let name = c.word().map_err(|_| "command expected")?;
    if name == "UID" {
        c.space()?;
        let name = c.word().map_err(|_| "command expected")?;
        if name == "REPLACE" {
            c.space()?;
            return append_of_urls(c, tag, &name, true).map(CommandBody::Append);
        }
        return with_set(c, &name, true);
    }
    let body = match name.as_str() {
        "CAPABILITY" => CommandBody::Capability,
        "NOOP" => CommandBody::Noop,
        "LOGOUT" => CommandBody::Logout,
        "STARTTLS" => CommandBody::StartTls,
        "NAMESPACE" => CommandBody::Namespace,
        "CHECK" => CommandBody::Check,
        "CLOSE" => CommandBody::Close,
        "UNSELECT" => CommandBody::Unselect,
        "EXPUNGE" => CommandBody::Expunge(None),
        "IDLE" => CommandBody::Idle,
        "UNAUTHENTICATE" => CommandBody::Unauthenticate,
        _ => {
            if !matches!(
                name.as_str(),
                "LOGIN"
                    | "AUTHENTICATE"
                    | "ENABLE"
                    | "ID"
                    | "SELECT"
                    | "EXAMINE"
                    | "CREATE"
                    | "DELETE"
                    | "RENAME"
                    | "SUBSCRIBE"
                    | "UNSUBSCRIBE"
                    | "LIST"
                    | "LSUB"
                    | "STATUS"
                    | "SEARCH"
                    | "FETCH"
                    | "STORE"
                    | "COPY"
                    | "MOVE"
                    | "APPEND"
                    | "REPLACE"
                    | "SORT"
                    | "THREAD"
                    | "COMPRESS"
                    | "GETQUOTA"
                    | "GETQUOTAROOT"
                    | "GETMETADATA"
                    | "SETMETADATA"
                    | "NOTIFY"
                    | "SETACL"
                    | "DELETEACL"
                    | "GETACL"
                    | "LISTRIGHTS"
                    | "MYRIGHTS"
            ) {
                return Err("unknown command");
            }
            c.space()?;
            if matches!(name.as_str(), "APPEND" | "REPLACE") {
                return append_of_urls(c, tag, &name, false).map(CommandBody::Append);
            }
            return with_arguments(c, &name);
        }
    };
    Ok(body)
}

fn with_arguments(c: &mut Cursor<'_>, name: &str) -> Result<CommandBody> {
    Ok(match name {
        "LOGIN" => {
            let user = c.astring()?;
            c.space()?;
            CommandBody::Login { user, password: c.astring()? }
        }
        "AUTHENTICATE" => authenticate(c)?,
        "ENABLE" => {
            let mut names = vec![c.word()?];
            while c.eat(b' ') {
                names.push(c.word()?);
            }
            CommandBody::Enable(names)
        }
        "ID" => CommandBody::Id(id(c)?),
        "SELECT" | "EXAMINE" => {
            let mailbox = c.mailbox()?;
            let (condstore, qresync) = if c.eat(b' ') { select_parameters(c)? } else { (false, None) };
            CommandBody::Select { mailbox, read_only: name == "EXAMINE", condstore, qresync }
        }
        "CREATE" => {
            let mailbox = c.mailbox()?;
            let special_use = if c.eat(b' ') { create_special_use(c)? } else { None };
            CommandBody::Create { mailbox, special_use }
        }
        "DELETE" => CommandBody::Delete(c.mailbox()?),
        "RENAME" => {
            let from = c.mailbox()?;
            c.space()?;
            CommandBody::Rename { from, to: c.mailbox()? }
        }
        "SUBSCRIBE" => CommandBody::Subscribe(c.mailbox()?),
        "UNSUBSCRIBE" => CommandBody::Unsubscribe(c.mailbox()?),
        "LIST" => CommandBody::List(list(c)?),
        "LSUB" => {
            let reference = c.mailbox()?;
            c.space()?;
            CommandBody::Lsub { reference, pattern: pattern(c)? }
        }
        "STATUS" => {
            let mailbox = c.mailbox()?;
            c.space()?;
            CommandBody::Status { mailbox, items: status_items(c)? }
        }
        "NOTIFY" => CommandBody::Notify(notify(c)?),
        "SETACL" | "DELETEACL" | "GETACL" | "LISTRIGHTS" | "MYRIGHTS" => acl(c, name)?,
        "COMPRESS" => match c.word()?.as_str() {
            "DEFLATE" => CommandBody::Compress,
            _ => return Err("unknown compression"),
        },
        "GETQUOTA" => CommandBody::GetQuota(String::from_utf8_lossy(&c.astring()?).into_owned()),
        "GETQUOTAROOT" => CommandBody::GetQuotaRoot(c.mailbox()?),
        "GETMETADATA" => CommandBody::GetMetadata(get_metadata(c)?),
        "SETMETADATA" => {
            let (mailbox, entries) = set_metadata(c)?;
            CommandBody::SetMetadata { mailbox, entries }
        }
        name => return after_space(c, name, false),
    })
}

/// The commands that have a UID form.
fn with_set(c: &mut Cursor<'_>, name: &str, uid: bool) -> Result<CommandBody> {
    if !matches!(name, "FETCH" | "STORE" | "COPY" | "MOVE" | "SEARCH" | "SORT" | "THREAD" | "EXPUNGE") {
        return Err("unknown UID command");
    }
    c.space()?;
    after_space(c, name, uid)
}

fn after_space(c: &mut Cursor<'_>, name: &str, uid: bool) -> Result<CommandBody> {
    if name == "SEARCH" {
        return search(c, uid).map(CommandBody::Search);
    }
    if name == "SORT" {
        return sort(c, uid).map(|(criteria, search)| CommandBody::Sort { criteria, search });
    }
    if name == "THREAD" {
        return thread(c, uid).map(|(algorithm, search)| CommandBody::Thread { algorithm, search });
    }
    let set = c.sequence_set()?;
    Ok(match name {
        "EXPUNGE" => CommandBody::Expunge(Some(set)),
        "FETCH" => {
            c.space()?;
            let items = fetch_items(c)?;
            let (changed_since, vanished, partial) = fetch_modifiers(c, uid)?;
            CommandBody::Fetch { uid, set, items, changed_since, vanished, partial }
        }
        "STORE" => {
            c.space()?;
            let unchanged_since = if c.peek() == Some(b'(') {
                let value = modifier(c, "UNCHANGEDSINCE")?;
                c.space()?;
                Some(value)
            } else {
                None
            };
            let (mode, silent, flags) = store_flags(c)?;
            CommandBody::Store { uid, set, unchanged_since, mode, silent, flags }
        }
        _ => {
            c.space()?;
            CommandBody::Copy { uid, set, mailbox: c.mailbox()?, remove: name == "MOVE" }
        }
    })
}

/// `(UNCHANGEDSINCE 5)` (RFC 7162 §3.1.3).
fn modifier(c: &mut Cursor<'_>, name: &str) -> Result<u64> {
    c.expect(b'(')?;
    if c.word()? != name {
        return Err("unknown modifier");
    }
    c.space()?;
    let value = c.number64()?;
    c.expect(b')')?;
    Ok(value)
}

fn store_flags(c: &mut Cursor<'_>) -> Result<(StoreMode, bool, Flags)> {
    let mode = if c.eat(b'+') {
        StoreMode::Add
    } else if c.eat(b'-') {
        StoreMode::Remove
    } else {
        StoreMode::Replace
    };
    let silent = match c.word()?.as_str() {
        "FLAGS" => false,
        "FLAGS.SILENT" => true,
        _ => return Err("FLAGS expected"),
    };
    c.space()?;
    let flags = if c.peek() == Some(b'(') { Flags::parse_list(c)? } else { Flags::parse_bare(c)? };
    Ok((mode, silent, flags))
}

fn authenticate(c: &mut Cursor<'_>) -> Result<CommandBody> {
    let mechanism = c.word()?;
    let mut initial = None;
    if c.eat(b' ') {
        let text = c.run(|b| b > 0x20 && b < 0x7f);
        initial = match text {
            b"=" => Some(Vec::new()),
            b"" => return Err("initial response expected"),
            text => Some(STANDARD.decode(text).map_err(|_| "initial response is not base64")?),
        };
    }
    Ok(CommandBody::Authenticate { mechanism, initial })
}

/// RFC 2971 §3.1: NIL or at most 30 pairs.
fn id(c: &mut Cursor<'_>) -> Result<Vec<(String, Option<String>)>> {
    if c.eat_word("NIL") {
        return Ok(Vec::new());
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).into_owned();
    let pairs = c.list(|c| {
        let key = c.string()?;
        c.space()?;
        Ok((text(key), c.nstring()?.map(text)))
    })?;
    if pairs.len() > 30 { Err("too many fields") } else { Ok(pairs) }
}

/// CONDSTORE (RFC 7162 §3.1.8) and QRESYNC (RFC 7162 §3.2.5).
fn select_parameters(c: &mut Cursor<'_>) -> Result<(bool, Option<Qresync>)> {
    let (mut condstore, mut known) = (false, None);
    c.list(|c| {
        match c.word()?.as_str() {
            "CONDSTORE" => condstore = true,
            "QRESYNC" => {
                c.space()?;
                known = Some(qresync(c)?);
            }
            _ => return Err("unknown SELECT parameter"),
        }
        Ok(())
    })?;
    Ok((condstore, known))
}

/// `(uidvalidity modseq [uids] [(numbers uids)])`.
fn qresync(c: &mut Cursor<'_>) -> Result<Qresync> {
    c.expect(b'(')?;
    let uid_validity = c.nz_number()?;
    c.space()?;
    let mut said = Qresync { uid_validity, modseq: c.number64()?, known: None, sample: None };
    if c.eat(b' ') {
        if c.peek() != Some(b'(') {
            said.known = Some(c.sequence_set()?);
        }
        if c.peek() == Some(b'(') || c.eat(b' ') {
            c.expect(b'(')?;
            let numbers = c.sequence_set()?;
            c.space()?;
            said.sample = Some((numbers, c.sequence_set()?));
            c.expect(b')')?;
        }
    }
    c.expect(b')')?;
    Ok(said)
}

/// `(USE (\Sent))` (RFC 6154 §3).
fn create_special_use(c: &mut Cursor<'_>) -> Result<Option<String>> {
    let mut uses = Vec::new();
    c.list(|c| {
        if c.word()? != "USE" {
            return Err("unknown CREATE parameter");
        }
        c.space()?;
        uses = c.list(|c| {
            c.expect(b'\\')?;
            Ok(format!("\\{}", String::from_utf8_lossy(c.atom()?)))
        })?;
        Ok(())
    })?;
    const KNOWN: [&str; 7] = ["\\All", "\\Archive", "\\Drafts", "\\Flagged", "\\Junk", "\\Sent", "\\Trash"];
    match uses.as_slice() {
        [] => Ok(None),
        [one] => {
            let known = KNOWN.iter().find(|k| k.eq_ignore_ascii_case(one));
            known.map(|k| Some((*k).to_owned())).ok_or("unknown special use")
        }
        _ => Err("one special use at a time"),
    }
}

fn list(c: &mut Cursor<'_>) -> Result<ListCommand> {
    let mut command = ListCommand::default();
    if c.peek() == Some(b'(') {
        command.extended = true;
        command.select = list_select(c)?;
        c.space()?;
    }
    command.reference = c.mailbox()?;
    c.space()?;
    command.patterns = if c.peek() == Some(b'(') {
        command.extended = true;
        c.list(pattern)?
    } else {
        vec![pattern(c)?]
    };
    if command.patterns.is_empty() || command.patterns.len() > MAX_PATTERNS {
        return Err("between one and sixteen patterns expected");
    }
    if c.eat(b' ') {
        if !c.eat_word("RETURN ") {
            return Err("RETURN expected");
        }
        command.extended = true;
        command.returns = list_returns(c)?;
    }
    Ok(command)
}

fn pattern(c: &mut Cursor<'_>) -> Result<String> {
    Some(c.list_mailbox()?).filter(|p| p.len() <= MAX_PATTERN).ok_or("mailbox pattern is too long")
}

fn list_select(c: &mut Cursor<'_>) -> Result<ListSelect> {
    let mut select = ListSelect::default();
    c.list(|c| {
        match c.word()?.as_str() {
            "SUBSCRIBED" => select.subscribed = true,
            "RECURSIVEMATCH" => select.recursive_match = true,
            "SPECIAL-USE" => select.special_use = true,
            // We have no remote mailboxes; to ask for them is fine.
            "REMOTE" => {}
            _ => return Err("unknown LIST selection"),
        }
        Ok(())
    })?;
    if select.recursive_match && !select.subscribed {
        // RFC 5258 §3.1.
        return Err("RECURSIVEMATCH needs another selection");
    }
    Ok(select)
}

fn list_returns(c: &mut Cursor<'_>) -> Result<ListReturn> {
    let mut returns = ListReturn::default();
    c.list(|c| {
        match c.word()?.as_str() {
            "SUBSCRIBED" => returns.subscribed = true,
            "CHILDREN" => returns.children = true,
            "SPECIAL-USE" => returns.special_use = true,
            "STATUS" => {
                c.space()?;
                returns.status = Some(status_items(c)?);
            }
            _ => return Err("unknown LIST return option"),
        }
        Ok(())
    })?;
    Ok(returns)
}

fn status_items(c: &mut Cursor<'_>) -> Result<Vec<StatusItem>> {
    let mut items = Vec::new();
    c.list(|c| {
        let word = c.word()?;
        let item = StatusItem::ALL.into_iter().find(|i| i.name() == word).ok_or("unknown STATUS item")?;
        if !items.contains(&item) {
            items.push(item);
        }
        Ok(())
    })?;
    if items.is_empty() { Err("STATUS item expected") } else { Ok(items) }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;
