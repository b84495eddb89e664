//! From a parsed text to a program: names, arguments and extensions are what they should be.

use std::collections::BTreeSet;

use crate::{
    arguments::{Arguments, Kind, Tag},
    error::ScriptError,
    extension::Extension,
    fields::is_field_name,
    parser::{Node, parse},
    program::{Command, FlagChange, Modifier, Script, VacationCommand},
    text::{Text, decode_characters, is_name},
};

const FLAGS: Tag = ("flags", Kind::Texts, Some(Extension::Imap4Flags));
const COPY: Tag = ("copy", Kind::Nothing, Some(Extension::Copy));
const DAY: u64 = 86_400;
/// RFC 5230 §4.1: within what a site allows; 0 days means the least.
const VACATION_DAYS: std::ops::RangeInclusive<u64> = 1..=90;
const VACATION_DEFAULT_DAYS: u64 = 7;

pub(crate) struct Checker<'s> {
    source: &'s str,
    required: BTreeSet<Extension>,
}

impl Script {
    /// Reads a script; the size of the text is the caller's to bound.
    pub fn compile(source: &str) -> Result<Self, ScriptError> {
        let nodes = parse(source)?;
        let mut checker = Checker { source, required: BTreeSet::new() };
        let commands = checker.script(&nodes)?;
        Ok(Self { commands })
    }
}

impl Checker<'_> {
    pub fn error(&self, at: usize, what: impl Into<String>) -> ScriptError {
        ScriptError::at(self.source, at, what)
    }

    /// RFC 5228 §3.2: what is not in the base is asked for first.
    pub fn needs(&self, extension: Extension, at: usize, what: &str) -> Result<(), ScriptError> {
        if self.has(extension) {
            return Ok(());
        }
        Err(self.error(at, format!("expected require {:?} before {what}", extension.name())))
    }

    pub fn has(&self, extension: Extension) -> bool {
        self.required.contains(&extension)
    }

    pub fn text(&self, word: &str, at: usize) -> Result<Text, ScriptError> {
        let decoded = match self.has(Extension::EncodedCharacter) {
            true => decode_characters(word).map_err(|what| self.error(at, format!("found {what}")))?,
            false => word.to_owned(),
        };
        if !self.has(Extension::Variables) {
            return Ok(Text::literal(decoded));
        }
        Text::with_variables(&decoded).map_err(|space| self.error(at, format!("unknown namespace {space:?}")))
    }

    fn script(&mut self, nodes: &[Node]) -> Result<Vec<Command>, ScriptError> {
        let requires = nodes.iter().take_while(|node| node.name == "require").count();
        for node in &nodes[..requires] {
            self.require(node)?;
        }
        self.block(&nodes[requires..])
    }

    fn require(&mut self, node: &Node) -> Result<(), ScriptError> {
        let mut arguments = Arguments::read(self, node, &[])?;
        for (name, at) in arguments.words(self, "the extensions that the script uses")? {
            match Extension::of(name) {
                Some(extension) => drop(self.required.insert(extension)),
                None => return Err(self.error(at, format!("unknown extension {name:?}"))),
            }
        }
        self.no_block(node)?;
        arguments.end(self, false)
    }

    fn no_block(&self, node: &Node) -> Result<(), ScriptError> {
        match node.block {
            Some(_) => Err(self.error(node.at, format!("{:?} takes no block", node.name))),
            None => Ok(()),
        }
    }

    fn block(&self, nodes: &[Node]) -> Result<Vec<Command>, ScriptError> {
        let mut commands = Vec::new();
        let mut nodes = nodes.iter().peekable();
        while let Some(node) = nodes.next() {
            if node.name != "if" {
                commands.push(self.command(node)?);
                continue;
            }
            let mut branches = vec![self.branch(node)?];
            while let Some(elsif) = nodes.next_if(|n| n.name == "elsif") {
                branches.push(self.branch(elsif)?);
            }
            let otherwise = match nodes.next_if(|n| n.name == "else") {
                Some(node) => {
                    Arguments::read(self, node, &[])?.end(self, false)?;
                    self.block_of(node)?
                }
                None => Vec::new(),
            };
            commands.push(Command::If { branches, otherwise });
        }
        Ok(commands)
    }

    fn block_of(&self, node: &Node) -> Result<Vec<Command>, ScriptError> {
        match &node.block {
            Some(block) => self.block(block),
            None => Err(self.error(node.at, format!("expected a block after {:?}", node.name))),
        }
    }

    fn branch(&self, node: &Node) -> Result<(crate::program::Test, Vec<Command>), ScriptError> {
        Arguments::read(self, node, &[])?.end(self, true)?;
        let [test] = node.tests.as_slice() else {
            return Err(
                self.error(node.at, format!("expected one test after {:?}, found {}", node.name, node.tests.len()))
            );
        };
        Ok((self.test(test)?, self.block_of(node)?))
    }

    fn command(&self, node: &Node) -> Result<Command, ScriptError> {
        self.no_block(node).or_else(|e| if is_control(&node.name) { Ok(()) } else { Err(e) })?;
        let simple = |command| Arguments::read(self, node, &[])?.end(self, false).map(|()| command);
        match node.name.as_str() {
            "stop" => simple(Command::Stop),
            "discard" => simple(Command::Discard),
            "keep" => {
                let arguments = Arguments::read(self, node, &[&[FLAGS]])?;
                let flags = arguments.tag_texts(self, "flags")?;
                arguments.end(self, false)?;
                Ok(Command::Keep { flags })
            }
            "fileinto" => self.fileinto(node),
            "redirect" => {
                let mut arguments = Arguments::read(self, node, &[&[COPY]])?;
                let copy = arguments.has("copy");
                let (word, at) = arguments.word(self, "an address")?;
                let address = self.text(word, at)?;
                if let Some(constant) = address.constant().filter(|a| !is_address(a)) {
                    return Err(self.error(at, format!("expected an address, found {constant:?}")));
                }
                arguments.end(self, false)?;
                Ok(Command::Redirect { address, copy })
            }
            "reject" | "ereject" => {
                let extension = if node.name == "reject" { Extension::Reject } else { Extension::Ereject };
                self.needs(extension, node.at, &format!("{:?}", node.name))?;
                let mut arguments = Arguments::read(self, node, &[])?;
                let reason = arguments.text(self, "a reason")?;
                arguments.end(self, false)?;
                Ok(Command::Reject { reason })
            }
            "vacation" => self.vacation(node),
            "set" => self.set(node),
            "setflag" => self.flags(node, FlagChange::Set),
            "addflag" => self.flags(node, FlagChange::Add),
            "removeflag" => self.flags(node, FlagChange::Remove),
            "require" => Err(self.error(node.at, "expected \"require\" before all other commands")),
            "elsif" | "else" => Err(self.error(node.at, format!("expected \"if\" before {:?}", node.name))),
            name => Err(self.error(node.at, format!("unknown command {name:?}"))),
        }
    }

    fn fileinto(&self, node: &Node) -> Result<Command, ScriptError> {
        self.needs(Extension::FileInto, node.at, "\"fileinto\"")?;
        let create: Tag = ("create", Kind::Nothing, Some(Extension::Mailbox));
        let mut arguments = Arguments::read(self, node, &[&[COPY, create, FLAGS]])?;
        let (copy, create) = (arguments.has("copy"), arguments.has("create"));
        let flags = arguments.tag_texts(self, "flags")?;
        let (word, at) = arguments.word(self, "a mailbox")?;
        let mailbox = self.text(word, at)?;
        if mailbox.constant() == Some("") {
            return Err(self.error(at, "expected a mailbox, found an empty name"));
        }
        arguments.end(self, false)?;
        Ok(Command::FileInto { mailbox, copy, create, flags })
    }

    fn vacation(&self, node: &Node) -> Result<Command, ScriptError> {
        self.needs(Extension::Vacation, node.at, "\"vacation\"")?;
        let mut arguments = Arguments::read(
            self,
            node,
            &[&[
                ("days", Kind::Number, None),
                ("seconds", Kind::Number, Some(Extension::VacationSeconds)),
                ("subject", Kind::Text, None),
                ("from", Kind::Text, None),
                ("addresses", Kind::Texts, None),
                ("mime", Kind::Nothing, None),
                ("handle", Kind::Text, None),
            ]],
        )?;
        let seconds = match (arguments.tag_number("days"), arguments.tag_number("seconds")) {
            (Some(_), Some(_)) => return Err(self.error(node.at, "expected \":days\" or \":seconds\", not both")),
            (_, Some(seconds)) => seconds.min(VACATION_DAYS.end() * DAY),
            (days, None) => {
                days.unwrap_or(VACATION_DEFAULT_DAYS).clamp(*VACATION_DAYS.start(), *VACATION_DAYS.end()) * DAY
            }
        };
        let from = arguments.tag_text(self, "from")?;
        if let Some(constant) = from.as_ref().and_then(Text::constant).filter(|a| !is_address(a)) {
            return Err(self.error(arguments.place("from"), format!("expected an address, found {constant:?}")));
        }
        let command = VacationCommand {
            seconds,
            subject: arguments.tag_text(self, "subject")?,
            from,
            addresses: arguments.tag_texts(self, "addresses")?.unwrap_or_default(),
            mime: arguments.has("mime"),
            handle: arguments.tag_text(self, "handle")?,
            reason: arguments.text(self, "the text of the answer")?,
        };
        arguments.end(self, false)?;
        Ok(Command::Vacation(Box::new(command)))
    }

    /// RFC 5229 §4.
    fn set(&self, node: &Node) -> Result<Command, ScriptError> {
        self.needs(Extension::Variables, node.at, "\"set\"")?;
        let tags = Modifier::ALL.map(|(name, _)| (name, Kind::Nothing, None));
        let mut arguments = Arguments::read(self, node, &[&tags])?;
        let mut modifiers: Vec<Modifier> =
            Modifier::ALL.into_iter().filter(|(name, _)| arguments.has(name)).map(|(_, m)| m).collect();
        modifiers.sort_by_key(|m| std::cmp::Reverse(m.precedence()));
        if modifiers.windows(2).any(|pair| pair[0].precedence() == pair[1].precedence()) {
            return Err(self.error(node.at, "expected only one of two modifiers that exclude each other"));
        }
        let (name, at) = arguments.word(self, "the name of a variable")?;
        if !is_name(name) {
            return Err(self.error(at, format!("expected the name of a variable, found {name:?}")));
        }
        let value = arguments.text(self, "a value")?;
        arguments.end(self, false)?;
        Ok(Command::Set { name: name.to_ascii_lowercase(), value, modifiers })
    }

    /// RFC 5232 §3: the variable may be left out.
    fn flags(&self, node: &Node, change: FlagChange) -> Result<Command, ScriptError> {
        self.needs(Extension::Imap4Flags, node.at, &format!("{:?}", node.name))?;
        let mut arguments = Arguments::read(self, node, &[])?;
        let variable = match arguments.left() {
            0 | 1 => None,
            _ => {
                self.needs(Extension::Variables, node.at, "the name of a variable")?;
                let (name, at) = arguments.word(self, "the name of a variable")?;
                let text = self.text(name, at)?;
                if text.constant().is_some_and(|name| !is_name(name)) {
                    return Err(self.error(at, format!("expected the name of a variable, found {name:?}")));
                }
                Some(text)
            }
        };
        let flags = arguments.texts(self, "flags")?;
        arguments.end(self, false)?;
        Ok(Command::Flags { change, variable, flags })
    }

    /// Header field names, when they are known by now.
    pub fn field_names(&self, words: &[(&str, usize)]) -> Result<Vec<Text>, ScriptError> {
        let one = |(word, at): &(&str, usize)| {
            let text = self.text(word, *at)?;
            match text.constant() {
                Some(name) if !is_field_name(name) => {
                    Err(self.error(*at, format!("expected the name of a header field, found {name:?}")))
                }
                _ => Ok(text),
            }
        };
        words.iter().map(one).collect()
    }
}

/// These end with a block, or say better what is wrong.
fn is_control(name: &str) -> bool {
    matches!(name, "elsif" | "else")
}

/// `local@domain`; whoever sends there looks closer.
pub(crate) fn is_address(text: &str) -> bool {
    let is_plain = !text.chars().any(|c| c.is_control() || matches!(c, '<' | '>')) && text.len() <= 320;
    is_plain
        && text.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.is_empty()
                && !domain.contains([' ', ','])
                && (local.starts_with('"') || !local.contains([' ', ',']))
        })
}
