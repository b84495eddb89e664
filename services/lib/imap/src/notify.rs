//! NOTIFY (RFC 5465): of which mailboxes a client wants to hear what.

use crate::{
    command::FetchItem,
    cursor::{Cursor, Result},
    parse_fetch::fetch_items,
};

/// Groups, and mailboxes in one of them, that one client may name.
const MAX_GROUPS: usize = 32;
const MAX_NAMES: usize = 500;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notify {
    None,
    /// With `status` the client is told the states of all mailboxes at once.
    Set {
        status: bool,
        groups: Vec<Group>,
    },
    /// An event that we do not know: NO [BADEVENT] (§5).
    UnknownEvent,
}

/// The first group that a mailbox belongs to counts for it (§6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub filter: Filter,
    pub events: Events,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Told at once, or what is expunged only between commands when `delayed`.
    Selected {
        delayed: bool,
    },
    Inboxes,
    Personal,
    Subscribed,
    Subtree(Vec<String>),
    Mailboxes(Vec<String>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Events {
    /// MessageNew and MessageExpunge, which come together (§5.2).
    pub messages: bool,
    /// What to tell of new messages in the selected mailbox.
    pub items: Vec<FetchItem>,
    pub flags: bool,
    pub names: bool,
    pub subscriptions: bool,
}

/// For BADEVENT.
pub const EVENTS: &str = "MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange";

impl Filter {
    /// Whether it is about a mailbox that is not selected.
    pub fn has(&self, name: &str, subscribed: bool) -> bool {
        let below = |root: &String| {
            name.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self {
            Self::Selected { .. } => false,
            Self::Inboxes => name == "INBOX",
            Self::Personal => true,
            Self::Subscribed => subscribed,
            Self::Subtree(roots) => roots.iter().any(below),
            Self::Mailboxes(names) => names.iter().any(|n| n == name),
        }
    }
}

pub(crate) fn notify(c: &mut Cursor<'_>) -> Result<Notify> {
    match c.word()?.as_str() {
        "NONE" => return Ok(Notify::None),
        "SET" => c.space()?,
        _ => return Err("SET or NONE expected"),
    }
    let status = c.eat_word("STATUS ");
    let (mut groups, mut is_known) = (Vec::new(), true);
    loop {
        let (group, known) = group(c)?;
        groups.push(group);
        is_known &= known;
        if groups.len() > MAX_GROUPS {
            return Err("too many groups");
        }
        if !c.eat(b' ') {
            break;
        }
    }
    Ok(if is_known { Notify::Set { status, groups } } else { Notify::UnknownEvent })
}

fn group(c: &mut Cursor<'_>) -> Result<(Group, bool)> {
    c.expect(b'(')?;
    let filter = match c.word()?.as_str() {
        "SELECTED" => Filter::Selected { delayed: false },
        "SELECTED-DELAYED" => Filter::Selected { delayed: true },
        "INBOXES" => Filter::Inboxes,
        "PERSONAL" => Filter::Personal,
        "SUBSCRIBED" => Filter::Subscribed,
        "SUBTREE" => Filter::Subtree(names(c)?),
        "MAILBOXES" => Filter::Mailboxes(names(c)?),
        _ => return Err("unknown NOTIFY filter"),
    };
    c.space()?;
    let (events, is_known) = if c.eat_word("NONE") { (Events::default(), true) } else { events(c)? };
    c.expect(b')')?;
    if matches!(filter, Filter::Selected { .. }) && (events.names || events.subscriptions) {
        return Err("only message events are about the selected mailbox");
    }
    if !matches!(filter, Filter::Selected { .. }) && !events.items.is_empty() {
        return Err("FETCH items are for the selected mailbox");
    }
    Ok((Group { filter, events }, is_known))
}

fn names(c: &mut Cursor<'_>) -> Result<Vec<String>> {
    c.space()?;
    let names = if c.peek() == Some(b'(') { c.list(Cursor::mailbox)? } else { vec![c.mailbox()?] };
    if names.is_empty() || names.len() > MAX_NAMES { Err("between one and 500 mailboxes expected") } else { Ok(names) }
}

fn events(c: &mut Cursor<'_>) -> Result<(Events, bool)> {
    let mut events = Events::default();
    let (mut new, mut expunge, mut is_known) = (false, false, true);
    c.list(|c| {
        match c.word()?.as_str() {
            "MESSAGENEW" => {
                new = true;
                let before = c.clone();
                if c.eat(b' ') && c.peek() == Some(b'(') {
                    events.items = fetch_items(c)?;
                } else {
                    *c = before;
                }
            }
            "MESSAGEEXPUNGE" => expunge = true,
            "FLAGCHANGE" => events.flags = true,
            "MAILBOXNAME" => events.names = true,
            "SUBSCRIPTIONCHANGE" => events.subscriptions = true,
            _ => is_known = false,
        }
        Ok(())
    })?;
    if new != expunge || events.flags && !new {
        // §5.2, §5.3.
        return Err("MessageNew and MessageExpunge go together, and FlagChange with them");
    }
    events.messages = new;
    Ok((events, is_known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommandBody, Names, parse};

    fn read(text: &str) -> std::result::Result<Notify, &'static str> {
        match parse(format!("a NOTIFY {text}").as_bytes(), Names::Utf7) {
            Ok(command) => match command.body {
                CommandBody::Notify(notify) => Ok(notify),
                other => panic!("{other:?}"),
            },
            Err(e) => Err(e.text),
        }
    }

    #[test]
    fn groups() {
        assert_eq!(read("NONE"), Ok(Notify::None));
        let Ok(Notify::Set { status: true, groups }) = read(
            "SET STATUS (selected MessageNew (UID BODY.PEEK[HEADER.FIELDS (From)]))"
                .replace("MessageNew (UID", "(MessageNew (UID")
                .replace(")]))", ")]) MessageExpunge FlagChange)) (subtree (Lists Work/x) (MessageNew MessageExpunge)) (personal (MailboxName SubscriptionChange)) (mailboxes INBOX NONE)")
                .as_str(),
        ) else {
            panic!("valid")
        };
        assert_eq!(groups.len(), 4);
        assert_eq!(groups[0].events.items.len(), 2);
        assert!(groups[0].events.flags && groups[1].events.messages && groups[2].events.names);
        assert!(groups[1].filter.has("Lists/rust", false) && !groups[1].filter.has("Listsx", false));
        assert_eq!(groups[3].events, Events::default());
    }

    #[test]
    fn what_is_wrong() {
        assert_eq!(read("SET (selected (AnnotationChange))"), Ok(Notify::UnknownEvent));
        for wrong in [
            "",
            "SET",
            "SET ()",
            "SET (selected)",
            "SET (selected (MessageNew))",
            "SET (selected (FlagChange))",
            "SET (selected (MailboxName))",
            "SET (personal (MessageNew (UID) MessageExpunge))",
            "SET (mailboxes () NONE)",
            "SET (others NONE)",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
