//! Runs a script over a message (RFC 5228 §2.10): actions out, nothing done.

use std::collections::{BTreeMap, HashMap};

use crate::{
    check::is_address,
    error::RunError,
    flags,
    program::{Command, FlagChange, Modifier, Script, VacationCommand},
    text::{Piece, Text},
    vacation::Reply,
};

/// What a run may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Commands, tests, and octets looked at in dozens.
    pub steps: u64,
    /// Messages that are filed, sent or answered.
    pub actions: usize,
    pub redirects: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 500_000, actions: 32, redirects: 4 }
    }
}

/// Octets of one string, whatever is put in (RFC 5229 §6 asks for 4,000).
const MAX_TEXT: usize = 64 * 1024;
/// Octets of a variable.
const MAX_VARIABLE: usize = 16 * 1024;
const MAX_VARIABLES: usize = 256;

/// What is known about the message and where it goes.
pub trait World {
    /// Up to and with the empty line.
    fn header(&self) -> &[u8];
    /// Octets of the whole message.
    fn size(&self) -> u64;
    /// The whole message, as far as body tests look; `None` while it is not loaded.
    fn content(&self) -> Option<&[u8]>;
    /// Empty is the null reverse-path.
    fn reverse_path(&self) -> &str;
    /// As RCPT had it.
    fn forward_path(&self) -> &str;
    /// Seconds since 1970, UTC.
    fn now(&self) -> i64;
    /// `None` while it is not known.
    fn has_mailbox(&self, name: &str) -> Option<bool>;
    /// Whether the id is tracked; `None` while it is not known.
    fn is_tracked(&self, key: &str) -> Option<bool>;
    /// RFC 5183 §4.1; what has no value is `None`.
    fn environment(&self, item: &str) -> Option<String>;
}

/// What has to be known before the script can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Content,
    Mailbox(String),
    /// The key of a `duplicate` test.
    Tracked(String),
}

/// Why a run ended before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Learn this, and run again from the beginning.
    Needs(Fact),
    Failed(RunError),
}

impl From<RunError> for Stop {
    fn from(error: RunError) -> Self {
        Self::Failed(error)
    }
}

/// An id to remember once the message is dealt with (RFC 7352 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    pub key: String,
    pub seconds: u64,
    /// `:last`: also when it was tracked already.
    pub renew: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Into the mailbox it would go to anyway.
    Keep {
        flags: Vec<String>,
    },
    FileInto {
        mailbox: String,
        create: bool,
        flags: Vec<String>,
    },
    Redirect {
        address: String,
    },
    /// Back to the sender; alone (RFC 5429).
    Reject {
        reason: String,
    },
    /// Answered, unless it should not be: see [`crate::why_not`].
    Vacation(Reply),
}

/// What is to be done with a message. No action at all: it is discarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In the order of the script; the implicit keep (RFC 5228 §2.10.2) is the last.
    pub actions: Vec<Action>,
    pub tracked: Vec<Tracked>,
}

impl Script {
    /// The same script, message and facts have the same outcome.
    pub fn run(&self, world: &impl World, limits: Limits) -> Result<Outcome, Stop> {
        let mut run = Run {
            world,
            limits,
            steps: limits.steps,
            variables: HashMap::new(),
            matches: Vec::new(),
            flags: BTreeMap::new(),
            actions: Vec::new(),
            keeps: true,
            tracked: Vec::new(),
        };
        run.block(&self.commands)?;
        run.finish()
    }
}

pub(crate) struct Run<'w, W> {
    pub world: &'w W,
    limits: Limits,
    steps: u64,
    pub variables: HashMap<String, String>,
    /// Of the last successful `:matches`; 0 is the whole value.
    pub matches: Vec<String>,
    /// By variable; `""` is the internal one (RFC 5232 §2).
    flags: BTreeMap<String, Vec<String>>,
    actions: Vec<Action>,
    /// The implicit keep stands.
    keeps: bool,
    pub tracked: Vec<Tracked>,
}

#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Over,
}

impl<W: World> Run<'_, W> {
    pub fn spend(&mut self, steps: usize) -> Result<(), RunError> {
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        self.steps = self.steps.checked_sub(steps).ok_or(RunError::TooLong)?;
        Ok(())
    }

    pub fn expand(&mut self, text: &Text) -> Result<String, RunError> {
        if let Some(constant) = text.constant() {
            self.spend(1 + constant.len() / 256)?;
            return Ok(constant.to_owned());
        }
        let mut out = String::new();
        for piece in &text.0 {
            let more = match piece {
                Piece::Literal(literal) => literal.as_str(),
                Piece::Variable(name) => self.variables.get(name).map(String::as_str).unwrap_or_default(),
                Piece::Match(number) => self.matches.get(*number).map(String::as_str).unwrap_or_default(),
            };
            out.push_str(more);
            clip(&mut out, MAX_TEXT);
            self.steps = self.steps.checked_sub(1).ok_or(RunError::TooLong)?;
        }
        self.spend(1 + out.len() / 256)?;
        Ok(out)
    }

    pub fn expand_all(&mut self, texts: &[Text]) -> Result<Vec<String>, RunError> {
        texts.iter().map(|text| self.expand(text)).collect()
    }

    fn block(&mut self, commands: &[Command]) -> Result<Flow, Stop> {
        for command in commands {
            if self.command(command)? == Flow::Over {
                return Ok(Flow::Over);
            }
        }
        Ok(Flow::On)
    }

    fn command(&mut self, command: &Command) -> Result<Flow, Stop> {
        self.spend(1)?;
        match command {
            Command::If { branches, otherwise } => {
                for (test, block) in branches {
                    if self.test(test)? {
                        return self.block(block);
                    }
                }
                return self.block(otherwise);
            }
            Command::Stop => return Ok(Flow::Over),
            Command::Discard => self.keeps = false,
            Command::Keep { flags } => {
                let flags = self.flags_for(flags.as_deref())?;
                self.keeps = false;
                self.file(Action::Keep { flags })?;
            }
            Command::FileInto { mailbox, copy, create, flags } => {
                let mailbox = self.expand(mailbox)?;
                if mailbox.trim().is_empty() || mailbox.chars().any(char::is_control) {
                    return Err(RunError::NoMailbox(mailbox).into());
                }
                let flags = self.flags_for(flags.as_deref())?;
                self.keeps &= *copy;
                self.file(Action::FileInto { mailbox, create: *create, flags })?;
            }
            Command::Redirect { address, copy } => {
                let address = self.expand(address)?.trim().to_owned();
                if !is_address(&address) {
                    return Err(RunError::NoAddress(address).into());
                }
                self.keeps &= *copy;
                self.redirect(address)?;
            }
            Command::Reject { reason } => {
                let reason = self.expand(reason)?;
                self.keeps = false;
                self.add(Action::Reject { reason })?;
            }
            Command::Vacation(vacation) => self.vacation(vacation)?,
            Command::Set { name, value, modifiers } => {
                let value = self.expand(value)?;
                let value = modifiers.iter().fold(value, |value, modifier| modify(&value, *modifier));
                self.set(name, value);
            }
            Command::Flags { change, variable, flags } => self.change_flags(*change, variable.as_ref(), flags)?,
        }
        Ok(Flow::On)
    }

    fn add(&mut self, action: Action) -> Result<(), RunError> {
        if self.actions.len() >= self.limits.actions {
            return Err(RunError::TooManyActions(self.limits.actions));
        }
        self.actions.push(action);
        Ok(())
    }

    /// A mailbox gets a message once, with the flags that came last (RFC 5228 §2.10.3).
    fn file(&mut self, action: Action) -> Result<(), RunError> {
        let is_same = |a: &Action| match (a, &action) {
            (Action::Keep { .. }, Action::Keep { .. }) => true,
            (Action::FileInto { mailbox: a, .. }, Action::FileInto { mailbox: b, .. }) => a == b,
            _ => false,
        };
        match self.actions.iter_mut().find(|a| is_same(a)) {
            Some(known) => {
                *known = action;
                Ok(())
            }
            None => self.add(action),
        }
    }

    fn redirect(&mut self, address: String) -> Result<(), RunError> {
        let mut count = 0;
        for action in &self.actions {
            if let Action::Redirect { address: known } = action {
                if known.eq_ignore_ascii_case(&address) {
                    return Ok(());
                }
                count += 1;
            }
        }
        if count >= self.limits.redirects {
            return Err(RunError::TooManyRedirects(self.limits.redirects));
        }
        self.add(Action::Redirect { address })
    }

    fn vacation(&mut self, command: &VacationCommand) -> Result<(), RunError> {
        let optional = |run: &mut Self, text: &Option<Text>| text.as_ref().map(|t| run.expand(t)).transpose();
        let reply = Reply {
            seconds: command.seconds,
            subject: optional(self, &command.subject)?,
            from: optional(self, &command.from)?.filter(|from| is_address(from)),
            addresses: self.expand_all(&command.addresses)?,
            mime: command.mime,
            handle: optional(self, &command.handle)?,
            reason: self.expand(&command.reason)?,
        };
        if self.actions.iter().any(|a| matches!(a, Action::Vacation(_))) {
            return Err(RunError::Conflict("a vacation", "another"));
        }
        self.add(Action::Vacation(reply))
    }

    fn set(&mut self, name: &str, mut value: String) {
        clip(&mut value, MAX_VARIABLE);
        if self.variables.len() < MAX_VARIABLES || self.variables.contains_key(name) {
            self.variables.insert(name.to_owned(), value);
        }
    }

    /// Of an action: its own, else the internal variable (RFC 5232 §5).
    fn flags_for(&mut self, own: Option<&[Text]>) -> Result<Vec<String>, RunError> {
        let Some(own) = own else { return Ok(self.flags.get("").cloned().unwrap_or_default()) };
        let mut list = Vec::new();
        for text in self.expand_all(own)? {
            flags::add(&mut list, &text);
        }
        Ok(list)
    }

    /// A variable of the script that holds flags is one string of words.
    pub fn flags_of(&self, variable: &str) -> Vec<String> {
        match variable {
            "" => self.flags.get("").cloned().unwrap_or_default(),
            name => {
                let mut list = Vec::new();
                flags::add(&mut list, self.variables.get(&name.to_ascii_lowercase()).map_or("", String::as_str));
                list
            }
        }
    }

    fn change_flags(&mut self, change: FlagChange, variable: Option<&Text>, given: &[Text]) -> Result<(), RunError> {
        let name = variable.map(|v| self.expand(v)).transpose()?.unwrap_or_default().to_ascii_lowercase();
        let given = self.expand_all(given)?;
        let mut list = if change == FlagChange::Set { Vec::new() } else { self.flags_of(&name) };
        for text in &given {
            match change {
                FlagChange::Remove => flags::remove(&mut list, text),
                FlagChange::Set | FlagChange::Add => flags::add(&mut list, text),
            }
        }
        match name.as_str() {
            "" => drop(self.flags.insert(String::new(), list)),
            name => self.set(name, list.join(" ")),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Outcome, Stop> {
        if let Some(Action::Reject { .. }) = self.actions.iter().find(|a| matches!(a, Action::Reject { .. })) {
            // RFC 5429 §2.1.2: the sender hears that it was not delivered, so it is not.
            let other = self.actions.iter().find_map(|a| match a {
                Action::Keep { .. } => Some("a keep"),
                Action::FileInto { .. } => Some("a fileinto"),
                Action::Redirect { .. } => Some("a redirect"),
                Action::Vacation(_) => Some("a vacation"),
                Action::Reject { .. } => None,
            });
            if let Some(other) = other {
                return Err(RunError::Conflict("a reject", other).into());
            }
            if self.actions.len() > 1 {
                return Err(RunError::Conflict("a reject", "another").into());
            }
        }
        if self.keeps {
            let flags = self.flags_for(None)?;
            self.actions.push(Action::Keep { flags });
        }
        Ok(Outcome { actions: self.actions, tracked: self.tracked })
    }
}

fn clip(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}

/// RFC 5229 §4.1.
fn modify(value: &str, modifier: Modifier) -> String {
    let first = |change: fn(&mut str)| {
        let mut out = value.to_owned();
        if let Some(first) = out.get_mut(..1) {
            change(first);
        }
        out
    };
    match modifier {
        Modifier::Lower => value.to_ascii_lowercase(),
        Modifier::Upper => value.to_ascii_uppercase(),
        Modifier::LowerFirst => first(str::make_ascii_lowercase),
        Modifier::UpperFirst => first(str::make_ascii_uppercase),
        Modifier::QuoteWildcard => {
            let quote = |c: char| matches!(c, '*' | '?' | '\\').then_some('\\').into_iter().chain([c]);
            value.chars().flat_map(quote).collect()
        }
        Modifier::Length => value.chars().count().to_string(),
    }
}
