//! A checked script: what the interpreter walks over.

use crate::{compare::Matching, date::DatePart, text::Text};

/// A script that can be run. Nothing in it is left to be refused but what [`crate::RunError`] names.
#[derive(Debug, Clone)]
pub struct Script {
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug, Clone)]
pub(crate) enum Command {
    If { branches: Vec<(Test, Vec<Command>)>, otherwise: Vec<Command> },
    Stop,
    Discard,
    Keep { flags: Option<Vec<Text>> },
    FileInto { mailbox: Text, copy: bool, create: bool, flags: Option<Vec<Text>> },
    Redirect { address: Text, copy: bool },
    Reject { reason: Text },
    Vacation(Box<VacationCommand>),
    Set { name: String, value: Text, modifiers: Vec<Modifier> },
    Flags { change: FlagChange, variable: Option<Text>, flags: Vec<Text> },
}

/// RFC 5230 §4, RFC 6131.
#[derive(Debug, Clone)]
pub(crate) struct VacationCommand {
    pub seconds: u64,
    pub subject: Option<Text>,
    pub from: Option<Text>,
    pub addresses: Vec<Text>,
    pub mime: bool,
    pub handle: Option<Text>,
    pub reason: Text,
}

/// RFC 5229 §4.1, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Modifier {
    Lower,
    Upper,
    LowerFirst,
    UpperFirst,
    QuoteWildcard,
    Length,
}

impl Modifier {
    pub const ALL: [(&'static str, Self); 6] = [
        ("lower", Self::Lower),
        ("upper", Self::Upper),
        ("lowerfirst", Self::LowerFirst),
        ("upperfirst", Self::UpperFirst),
        ("quotewildcard", Self::QuoteWildcard),
        ("length", Self::Length),
    ];

    /// Two of one precedence exclude each other.
    pub fn precedence(self) -> u8 {
        match self {
            Self::Lower | Self::Upper => 40,
            Self::LowerFirst | Self::UpperFirst => 30,
            Self::QuoteWildcard => 20,
            Self::Length => 10,
        }
    }
}

/// RFC 5232 §3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagChange {
    Set,
    Add,
    Remove,
}

#[derive(Debug, Clone)]
pub(crate) enum Test {
    Constant(bool),
    Not(Box<Test>),
    All(Vec<Test>),
    Any(Vec<Test>),
    Address { headers: Vec<Text>, part: AddressPart, index: Option<Index>, matching: Matching },
    Envelope { parts: Vec<Text>, part: AddressPart, matching: Matching },
    Exists { headers: Vec<Text> },
    Header { headers: Vec<Text>, index: Option<Index>, matching: Matching },
    Size { over: bool, limit: u64 },
    Body { transform: Transform, matching: Matching },
    Date { header: Text, zone: Zone, part: DatePart, index: Option<Index>, matching: Matching },
    CurrentDate { zone: Zone, part: DatePart, matching: Matching },
    Strings { sources: Vec<Text>, matching: Matching },
    HasFlag { variables: Vec<Text>, matching: Matching },
    MailboxExists { mailboxes: Vec<Text> },
    Duplicate { handle: Option<Text>, id: UniqueId, seconds: u64, last: bool },
    Environment { item: Text, matching: Matching },
}

/// RFC 5228 §2.7.4, RFC 5233.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressPart {
    All,
    LocalPart,
    Domain,
    User,
    Detail,
}

/// RFC 5260 §6: counted from 1, from the end with `:last`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Index {
    pub number: u64,
    pub last: bool,
}

impl Index {
    /// The one that is meant among so many.
    pub fn pick<T>(self, items: Vec<T>) -> Option<T> {
        let nth = usize::try_from(self.number).ok()?.checked_sub(1)?;
        let at = if self.last { items.len().checked_sub(nth + 1)? } else { nth };
        items.into_iter().nth(at)
    }
}

/// RFC 5173 §5.
#[derive(Debug, Clone)]
pub(crate) enum Transform {
    Raw,
    Content(Vec<Text>),
    Text,
}

/// RFC 5260 §4.1.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Zone {
    /// Minutes east of Greenwich.
    Fixed(i32),
    Original,
}

/// RFC 7352 §3.
#[derive(Debug, Clone)]
pub(crate) enum UniqueId {
    Header(Text),
    Given(Text),
}
