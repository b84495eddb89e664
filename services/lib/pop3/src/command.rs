//! One command line (RFC 1939 §3, RFC 2449 §4).

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// The word a line begins with; what metrics count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    User,
    Pass,
    Auth,
    Stls,
    Capa,
    Stat,
    List,
    Retr,
    Dele,
    Noop,
    Rset,
    Top,
    Uidl,
    Utf8,
    Lang,
    Quit,
    Unknown,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::User => "USER",
            Verb::Pass => "PASS",
            Verb::Auth => "AUTH",
            Verb::Stls => "STLS",
            Verb::Capa => "CAPA",
            Verb::Stat => "STAT",
            Verb::List => "LIST",
            Verb::Retr => "RETR",
            Verb::Dele => "DELE",
            Verb::Noop => "NOOP",
            Verb::Rset => "RSET",
            Verb::Top => "TOP",
            Verb::Uidl => "UIDL",
            Verb::Utf8 => "UTF8",
            Verb::Lang => "LANG",
            Verb::Quit => "QUIT",
            Verb::Unknown => "unknown",
        }
    }

    const ALL: [Verb; 16] = [
        Verb::User,
        Verb::Pass,
        Verb::Auth,
        Verb::Stls,
        Verb::Capa,
        Verb::Stat,
        Verb::List,
        Verb::Retr,
        Verb::Dele,
        Verb::Noop,
        Verb::Rset,
        Verb::Top,
        Verb::Uidl,
        Verb::Utf8,
        Verb::Lang,
        Verb::Quit,
    ];

    /// The verb of a line without its line end; keywords are case-insensitive (RFC 1939 §3).
    pub fn of(line: &[u8]) -> Verb {
        let word = line.split(|b| *b == b' ').next().unwrap_or_default();
        Verb::ALL.into_iter().find(|v| word.eq_ignore_ascii_case(v.as_str().as_bytes())).unwrap_or(Verb::Unknown)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    User(Vec<u8>),
    /// Everything after the one space: a password may contain spaces (RFC 1939 §7).
    Pass(Vec<u8>),
    /// Upper-case mechanism; the decoded initial response (RFC 5034 §4), where `=` is an empty one.
    Auth {
        mechanism: String,
        initial_response: Option<Vec<u8>>,
    },
    /// A bare `AUTH`, by which old clients ask for the mechanisms.
    AuthList,
    Stls,
    Capa,
    Stat,
    List(Option<u32>),
    Retr(u32),
    Dele(u32),
    Noop,
    Rset,
    Top {
        number: u32,
        lines: u32,
    },
    Uidl(Option<u32>),
    Utf8,
    /// Lower-case language range, `*`, or nothing for a list (RFC 6856 §3).
    Lang(Option<String>),
    Quit,
}

/// Why a line is no command, in the words of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("unknown command")]
    Unknown,
    #[error("wrong arguments")]
    Arguments,
    #[error("not a message number")]
    Number,
    #[error("invalid base64")]
    Base64,
    #[error("line too long")]
    TooLong,
}

impl Command {
    /// Parses a line without its line end.
    pub fn parse(line: &[u8]) -> Result<Command, Malformed> {
        let verb = Verb::of(line);
        // The argument is what follows the first space, if there is one.
        let rest = line.iter().position(|b| *b == b' ').and_then(|space| line.get(space + 1..));
        let command = match (verb, rest) {
            (Verb::User, Some(name)) => Command::User(present(name.trim_ascii())?.to_vec()),
            (Verb::Pass, Some(password)) => Command::Pass(present(password)?.to_vec()),
            (Verb::Auth, Some(rest)) if !rest.trim_ascii().is_empty() => parse_auth(rest)?,
            (Verb::Auth, _) => Command::AuthList,
            (Verb::List | Verb::Uidl, rest) => {
                let number = match words(rest).as_slice() {
                    [] => None,
                    [number] => Some(message_number(number)?),
                    _ => return Err(Malformed::Arguments),
                };
                if verb == Verb::List { Command::List(number) } else { Command::Uidl(number) }
            }
            (Verb::Retr | Verb::Dele, rest) => match words(rest).as_slice() {
                [number] if verb == Verb::Retr => Command::Retr(message_number(number)?),
                [number] => Command::Dele(message_number(number)?),
                _ => return Err(Malformed::Arguments),
            },
            (Verb::Top, rest) => match words(rest).as_slice() {
                [number, lines] => Command::Top { number: message_number(number)?, lines: decimal(lines)? },
                _ => return Err(Malformed::Arguments),
            },
            (Verb::Lang, rest) => match words(rest).as_slice() {
                [] => Command::Lang(None),
                [range] if is_language_range(range) => {
                    Command::Lang(Some(String::from_utf8_lossy(range).to_ascii_lowercase()))
                }
                _ => return Err(Malformed::Arguments),
            },
            (Verb::Unknown, _) => return Err(Malformed::Unknown),
            (_, Some(rest)) if !rest.trim_ascii().is_empty() => return Err(Malformed::Arguments),
            (Verb::Stls, _) => Command::Stls,
            (Verb::Capa, _) => Command::Capa,
            (Verb::Stat, _) => Command::Stat,
            (Verb::Noop, _) => Command::Noop,
            (Verb::Rset, _) => Command::Rset,
            (Verb::Utf8, _) => Command::Utf8,
            (Verb::Quit, _) => Command::Quit,
            (Verb::User | Verb::Pass, None) => return Err(Malformed::Arguments),
        };
        Ok(command)
    }
}

/// RFC 4647 §2.1, or `*`.
fn is_language_range(word: &[u8]) -> bool {
    word == b"*" || word.len() <= 64 && word.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

fn parse_auth(rest: &[u8]) -> Result<Command, Malformed> {
    let words = words(Some(rest));
    let (mechanism, initial) = match words.as_slice() {
        [mechanism] => (*mechanism, None),
        [mechanism, initial] => (*mechanism, Some(decode_base64(initial)?)),
        _ => return Err(Malformed::Arguments),
    };
    // sasl-mech (RFC 4422 §3.1): up to 20 letters, digits, hyphens and underscores.
    let valid =
        mechanism.len() <= 20 && mechanism.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !valid {
        return Err(Malformed::Arguments);
    }
    let mechanism = String::from_utf8_lossy(mechanism).to_ascii_uppercase();
    Ok(Command::Auth { mechanism, initial_response: initial })
}

/// Base64 of a SASL exchange; a lone `=` is the empty response (RFC 5034 §4).
pub(crate) fn decode_base64(text: &[u8]) -> Result<Vec<u8>, Malformed> {
    if text == b"=" {
        return Ok(Vec::new());
    }
    BASE64_STANDARD.decode(text).map_err(|_| Malformed::Base64)
}

fn present(argument: &[u8]) -> Result<&[u8], Malformed> {
    if argument.is_empty() { Err(Malformed::Arguments) } else { Ok(argument) }
}

fn words(rest: Option<&[u8]>) -> Vec<&[u8]> {
    rest.unwrap_or_default().split(|b| *b == b' ').filter(|w| !w.is_empty()).collect()
}

fn message_number(word: &[u8]) -> Result<u32, Malformed> {
    match decimal(word)? {
        0 => Err(Malformed::Number),
        number => Ok(number),
    }
}

fn decimal(word: &[u8]) -> Result<u32, Malformed> {
    // `u32::from_str` would also take a plus sign.
    if !word.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Number);
    }
    std::str::from_utf8(word).ok().and_then(|text| text.parse().ok()).ok_or(Malformed::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_ignore_case_and_passwords_keep_their_spaces() {
        assert_eq!(Command::parse(b"nOOp"), Ok(Command::Noop));
        assert_eq!(Command::parse(b"user  bob@example.com "), Ok(Command::User(b"bob@example.com".to_vec())));
        assert_eq!(Command::parse(b"PASS  two words "), Ok(Command::Pass(b" two words ".to_vec())));
    }

    #[test]
    fn numbers_are_positive_decimals() {
        assert_eq!(Command::parse(b"RETR 12"), Ok(Command::Retr(12)));
        assert_eq!(Command::parse(b"TOP 1 0"), Ok(Command::Top { number: 1, lines: 0 }));
        for line in ["RETR 0", "RETR +1", "RETR -1", "RETR 4294967296", "TOP 1 -1", "LIST x"] {
            assert_eq!(Command::parse(line.as_bytes()), Err(Malformed::Number), "{line}");
        }
        for line in ["RETR", "RETR 1 2", "TOP 1", "NOOP x", "USER", "PASS", "USER ", "STAT 1"] {
            assert_eq!(Command::parse(line.as_bytes()), Err(Malformed::Arguments), "{line}");
        }
    }

    #[test]
    fn auth_takes_an_initial_response() {
        let plain = |initial_response| Ok(Command::Auth { mechanism: "PLAIN".into(), initial_response });
        assert_eq!(Command::parse(b"AUTH plain"), plain(None));
        assert_eq!(Command::parse(b"AUTH PLAIN ="), plain(Some(Vec::new())));
        assert_eq!(Command::parse(b"AUTH PLAIN AGEAYg=="), plain(Some(b"\0a\0b".to_vec())));
        assert_eq!(Command::parse(b"AUTH"), Ok(Command::AuthList));
        assert_eq!(Command::parse(b"AUTH PLAIN %%"), Err(Malformed::Base64));
        assert_eq!(Command::parse(b"AUTH NAUGHTY;MECH"), Err(Malformed::Arguments));
    }
}
