//! Commands (RFC 5804 §2).

use crate::reader::Word;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Authenticate {
        mechanism: String,
        initial: Option<Vec<u8>>,
    },
    StartTls,
    Logout,
    Capability,
    HaveSpace {
        name: String,
        size: u64,
    },
    PutScript {
        name: String,
        script: Vec<u8>,
    },
    ListScripts,
    /// Empty: none is active.
    SetActive(String),
    GetScript(String),
    DeleteScript(String),
    RenameScript {
        from: String,
        to: String,
    },
    CheckScript(Vec<u8>),
    Noop(Option<Vec<u8>>),
    Unauthenticate,
}

impl Command {
    /// Why words are no command is a sentence for people.
    pub(crate) fn of(words: Vec<Word>) -> Result<Self, &'static str> {
        let mut words = words.into_iter();
        let Some(Word::Atom(name)) = words.next() else { return Err("No command.") };
        let given: Vec<Word> = words.collect();
        let command = match (name.as_str(), given.as_slice()) {
            ("AUTHENTICATE", [Word::Text(mechanism)]) => {
                Self::Authenticate { mechanism: utf8(mechanism)?.to_ascii_uppercase(), initial: None }
            }
            ("AUTHENTICATE", [Word::Text(mechanism), Word::Text(initial)]) => {
                let initial = decode(initial).ok_or("Response is not base64.")?;
                Self::Authenticate { mechanism: utf8(mechanism)?.to_ascii_uppercase(), initial: Some(initial) }
            }
            ("STARTTLS", []) => Self::StartTls,
            ("LOGOUT", []) => Self::Logout,
            ("CAPABILITY", []) => Self::Capability,
            ("HAVESPACE", [Word::Text(name), Word::Number(size)]) => Self::HaveSpace { name: utf8(name)?, size: *size },
            ("PUTSCRIPT", [Word::Text(name), Word::Text(script)]) => {
                Self::PutScript { name: utf8(name)?, script: script.clone() }
            }
            ("LISTSCRIPTS", []) => Self::ListScripts,
            ("SETACTIVE", [Word::Text(name)]) => Self::SetActive(utf8(name)?),
            ("GETSCRIPT", [Word::Text(name)]) => Self::GetScript(utf8(name)?),
            ("DELETESCRIPT", [Word::Text(name)]) => Self::DeleteScript(utf8(name)?),
            ("RENAMESCRIPT", [Word::Text(from), Word::Text(to)]) => {
                Self::RenameScript { from: utf8(from)?, to: utf8(to)? }
            }
            ("CHECKSCRIPT", [Word::Text(script)]) => Self::CheckScript(script.clone()),
            ("NOOP", []) => Self::Noop(None),
            ("NOOP", [Word::Text(tag)]) => Self::Noop(Some(tag.clone())),
            ("UNAUTHENTICATE", []) => Self::Unauthenticate,
            _ if NAMES.contains(&name.as_str()) => return Err("Wrong arguments."),
            _ => return Err("Unknown command."),
        };
        Ok(command)
    }

    /// For metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Authenticate { .. } => "AUTHENTICATE",
            Self::StartTls => "STARTTLS",
            Self::Logout => "LOGOUT",
            Self::Capability => "CAPABILITY",
            Self::HaveSpace { .. } => "HAVESPACE",
            Self::PutScript { .. } => "PUTSCRIPT",
            Self::ListScripts => "LISTSCRIPTS",
            Self::SetActive(_) => "SETACTIVE",
            Self::GetScript(_) => "GETSCRIPT",
            Self::DeleteScript(_) => "DELETESCRIPT",
            Self::RenameScript { .. } => "RENAMESCRIPT",
            Self::CheckScript(_) => "CHECKSCRIPT",
            Self::Noop(_) => "NOOP",
            Self::Unauthenticate => "UNAUTHENTICATE",
        }
    }
}

const NAMES: [&str; 14] = [
    "AUTHENTICATE",
    "STARTTLS",
    "LOGOUT",
    "CAPABILITY",
    "HAVESPACE",
    "PUTSCRIPT",
    "LISTSCRIPTS",
    "SETACTIVE",
    "GETSCRIPT",
    "DELETESCRIPT",
    "RENAMESCRIPT",
    "CHECKSCRIPT",
    "NOOP",
    "UNAUTHENTICATE",
];

fn utf8(text: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(text.to_vec()).map_err(|_| "Not UTF-8.")
}

pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(text).ok()
}
