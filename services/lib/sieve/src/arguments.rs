//! What a command or test was given, sorted by what it takes: tags in any order, then positions
//! (RFC 5228 §2.6).

use std::collections::BTreeMap;

use crate::{
    check::Checker,
    error::ScriptError,
    extension::Extension,
    parser::{Argument, Node, Value},
    text::Text,
};

/// What stands after a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nothing,
    Number,
    Text,
    Texts,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Number => "a number",
            Self::Text => "a string",
            Self::Texts => "a string or a list of strings",
        }
    }

    fn fits(self, value: &Value) -> bool {
        match value {
            Value::Tag(_) => false,
            Value::Number(_) => self == Self::Number,
            Value::Text(_) => matches!(self, Self::Text | Self::Texts),
            Value::Texts(_) => self == Self::Texts,
        }
    }
}

/// A tag, what follows it, and the extension that brings it.
pub(crate) type Tag = (&'static str, Kind, Option<Extension>);

/// The arguments of one node.
pub(crate) struct Arguments<'n> {
    node: &'n Node,
    tags: BTreeMap<&'static str, &'n Argument>,
    positions: std::vec::IntoIter<&'n Argument>,
}

impl<'n> Arguments<'n> {
    pub fn read(checker: &Checker<'_>, node: &'n Node, known: &[&[Tag]]) -> Result<Self, ScriptError> {
        let mut tags = BTreeMap::new();
        let mut rest = node.arguments.iter().peekable();
        let mut positions = Vec::new();
        while let Some(argument) = rest.next() {
            let Value::Tag(name) = &argument.value else {
                positions.push(argument);
                continue;
            };
            let Some((tag, kind, extension)) = known.iter().copied().flatten().find(|(tag, ..)| tag == name) else {
                let all: Vec<String> = known.iter().copied().flatten().map(|(t, ..)| format!(":{t}")).collect();
                let takes = if all.is_empty() { "no tags".to_owned() } else { all.join(", ") };
                return Err(
                    checker.error(argument.at, format!("unknown tag \":{name}\": {:?} takes {takes}", node.name))
                );
            };
            if !positions.is_empty() {
                return Err(checker.error(argument.at, format!("expected \":{name}\" before the other arguments")));
            }
            if let Some(extension) = extension {
                checker.needs(*extension, argument.at, &format!("\":{name}\""))?;
            }
            let value = match kind {
                Kind::Nothing => argument,
                kind => match rest.next_if(|next| kind.fits(&next.value)) {
                    Some(value) => value,
                    None => {
                        let found = rest.peek().map_or_else(|| "nothing".into(), |a| a.value.show());
                        let what = format!("expected {} after \":{name}\", found {found}", kind.words());
                        return Err(checker.error(rest.peek().map_or(argument.at, |a| a.at), what));
                    }
                },
            };
            if tags.insert(*tag, value).is_some() {
                return Err(checker.error(argument.at, format!("expected \":{name}\" once")));
            }
        }
        Ok(Self { node, tags, positions: positions.into_iter() })
    }

    pub fn has(&self, tag: &str) -> bool {
        self.tags.contains_key(tag)
    }

    /// Where the tag's value is.
    pub fn place(&self, tag: &str) -> usize {
        self.tags.get(tag).map_or(self.node.at, |a| a.at)
    }

    pub fn left(&self) -> usize {
        self.positions.len()
    }

    pub fn tag_number(&self, tag: &str) -> Option<u64> {
        match self.tags.get(tag)?.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// As written, for what the checker itself has to know.
    pub fn tag_word(&self, tag: &str) -> Option<&'n str> {
        match &self.tags.get(tag)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn tag_text(&self, checker: &Checker<'_>, tag: &str) -> Result<Option<Text>, ScriptError> {
        let Some(argument) = self.tags.get(tag) else { return Ok(None) };
        Ok(texts(checker, argument)?.pop())
    }

    pub fn tag_texts(&self, checker: &Checker<'_>, tag: &str) -> Result<Option<Vec<Text>>, ScriptError> {
        self.tags.get(tag).map(|argument| texts(checker, argument)).transpose()
    }

    /// The next argument that is no tag; `what` it is to people.
    fn position(&mut self, checker: &Checker<'_>, what: &str, kind: Kind) -> Result<&'n Argument, ScriptError> {
        let Some(argument) = self.positions.next() else {
            return Err(checker.error(self.node.at, format!("{:?} expected {what}, found nothing", self.node.name)));
        };
        if kind.fits(&argument.value) {
            return Ok(argument);
        }
        let found = argument.value.show();
        Err(checker
            .error(argument.at, format!("{:?} expected {what} ({}), found {found}", self.node.name, kind.words())))
    }

    pub fn number(&mut self, checker: &Checker<'_>, what: &str) -> Result<u64, ScriptError> {
        match self.position(checker, what, Kind::Number)?.value {
            Value::Number(number) => Ok(number),
            _ => Ok(0),
        }
    }

    /// As written, and where.
    pub fn word(&mut self, checker: &Checker<'_>, what: &str) -> Result<(&'n str, usize), ScriptError> {
        let argument = self.position(checker, what, Kind::Text)?;
        match &argument.value {
            Value::Text(text) => Ok((text, argument.at)),
            _ => Ok(("", argument.at)),
        }
    }

    pub fn words(&mut self, checker: &Checker<'_>, what: &str) -> Result<Vec<(&'n str, usize)>, ScriptError> {
        let argument = self.position(checker, what, Kind::Texts)?;
        Ok(match &argument.value {
            Value::Text(text) => vec![(text, argument.at)],
            Value::Texts(texts) => texts.iter().map(|(text, at)| (text.as_str(), *at)).collect(),
            _ => Vec::new(),
        })
    }

    pub fn text(&mut self, checker: &Checker<'_>, what: &str) -> Result<Text, ScriptError> {
        let (word, at) = self.word(checker, what)?;
        checker.text(word, at)
    }

    pub fn texts(&mut self, checker: &Checker<'_>, what: &str) -> Result<Vec<Text>, ScriptError> {
        texts(checker, self.position(checker, what, Kind::Texts)?)
    }

    /// Nothing may be left, and no tests or block that nobody asked for.
    pub fn end(mut self, checker: &Checker<'_>, tests: bool) -> Result<(), ScriptError> {
        if let Some(argument) = self.positions.next() {
            let found = argument.value.show();
            return Err(checker.error(argument.at, format!("{:?} takes no further {found}", self.node.name)));
        }
        if let Some(test) = self.node.tests.first().filter(|_| !tests) {
            return Err(checker.error(test.at, format!("expected \";\": {:?} takes no test", self.node.name)));
        }
        Ok(())
    }
}

fn texts(checker: &Checker<'_>, argument: &Argument) -> Result<Vec<Text>, ScriptError> {
    match &argument.value {
        Value::Text(text) => Ok(vec![checker.text(text, argument.at)?]),
        Value::Texts(texts) => texts.iter().map(|(text, at)| checker.text(text, *at)).collect(),
        Value::Tag(_) | Value::Number(_) => Ok(Vec::new()),
    }
}
