use address::Address;

use super::{parameters, path};
use crate::Reply;

/// A parsed command line (RFC 5321 §4.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Ehlo(String),
    Helo(String),
    Mail(MailFrom),
    Rcpt(RcptTo),
    Data,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    /// RFC 3030 §2: this many octets follow as they are.
    Bdat {
        size: u64,
        last: bool,
    },
    StartTls,
    /// The initial response still in base64.
    Auth {
        mechanism: String,
        initial: Option<String>,
    },
    /// Known, but not implemented: TURN, ETRN, …
    NotImplemented,
}

/// MAIL FROM with its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailFrom {
    /// `None` is the null reverse-path.
    pub address: Option<Address>,
    /// Octets announced (RFC 1870).
    pub size: Option<u64>,
    /// BODY=8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// BODY=BINARYMIME (RFC 3030 §3).
    pub binary: bool,
    /// RFC 8689: never without TLS, to the end of the way.
    pub require_tls: bool,
    /// RFC 4865.
    pub hold: Option<Hold>,
    /// RFC 6710: -9 to 9.
    pub priority: Option<i8>,
    /// RFC 3461 §4.3 and §4.4; empty when not given, else as sent (xtext).
    pub ret: String,
    pub envid: String,
}

/// When a message may be released at the earliest (RFC 4865 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// HOLDFOR: seconds from now.
    For(u64),
    /// HOLDUNTIL: seconds since 1970.
    Until(i64),
}

impl Hold {
    /// Seconds from `now` (since 1970) on; what is past is released at once.
    pub fn seconds(self, now: i64) -> u64 {
        match self {
            Self::For(seconds) => seconds,
            Self::Until(at) => u64::try_from(at.saturating_sub(now)).unwrap_or_default(),
        }
    }
}

/// RCPT TO with its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RcptTo {
    /// `None` is `<Postmaster>` without domain: ours (RFC 5321 §4.5.1).
    pub address: Option<Address>,
    /// RFC 3461 §4.1 and §4.2; empty when not given, else as sent.
    pub notify: String,
    pub orcpt: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyntaxError {
    Unknown,
    /// CR or LF alone, NUL, or text that is no UTF-8.
    Character,
    Arguments,
    Sender,
    Recipient,
    Parameter,
    UnknownParameter,
}

impl SyntaxError {
    pub fn reply(self) -> Reply {
        match self {
            Self::Unknown => Reply::new(500, (5, 5, 1), "Command not recognised"),
            Self::Character => Reply::new(500, (5, 5, 2), "Invalid character or line end"),
            Self::Arguments => Reply::new(501, (5, 5, 4), "Syntax error in arguments"),
            Self::Sender => Reply::new(501, (5, 1, 7), "Bad sender address syntax"),
            Self::Recipient => Reply::new(501, (5, 1, 3), "Bad recipient address syntax"),
            Self::Parameter => Reply::new(501, (5, 5, 4), "Syntax error in parameters"),
            Self::UnknownParameter => Reply::new(555, (5, 5, 4), "Parameter not recognised"),
        }
    }
}

impl Command {
    /// Parses a line without its CRLF.
    pub fn parse(line: &[u8]) -> Result<Self, SyntaxError> {
        let line = std::str::from_utf8(line).map_err(|_| SyntaxError::Character)?;
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(SyntaxError::Character);
        }
        // RFC 5321 §4.1.1.1: white space before CRLF is tolerated.
        let line = line.trim_end_matches([' ', '\t']);
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => hello(rest).map(Self::Ehlo),
            "HELO" => hello(rest).map(Self::Helo),
            "MAIL" => mail(rest).map(Self::Mail),
            "RCPT" => rcpt(rest).map(Self::Rcpt),
            "DATA" => alone(rest, Self::Data),
            "RSET" => alone(rest, Self::Rset),
            "QUIT" => alone(rest, Self::Quit),
            "STARTTLS" => alone(rest, Self::StartTls),
            "NOOP" => Ok(Self::Noop),
            "HELP" => Ok(Self::Help),
            "VRFY" if rest.is_empty() => Err(SyntaxError::Arguments),
            "VRFY" => Ok(Self::Vrfy),
            "AUTH" => auth(rest),
            "EXPN" if rest.is_empty() => Err(SyntaxError::Arguments),
            "EXPN" => Ok(Self::Expn),
            "BDAT" => bdat(rest),
            "SEND" | "SOML" | "SAML" | "TURN" | "ETRN" => Ok(Self::NotImplemented),
            _ => Err(SyntaxError::Unknown),
        }
    }
}

fn alone(rest: &str, command: Command) -> Result<Command, SyntaxError> {
    if rest.is_empty() { Ok(command) } else { Err(SyntaxError::Arguments) }
}

/// Any printable name: RFC 5321 §4.1.4 forbids refusing mail because of a wrong one, and it is
/// only ever shown (`Received:`) and asked in DNS (SPF).
fn hello(name: &str) -> Result<String, SyntaxError> {
    let valid = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"()<>\\\"".contains(&b));
    if valid { Ok(name.to_owned()) } else { Err(SyntaxError::Arguments) }
}

/// The text behind `FROM:` or `TO:`, in any case.
fn after<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let (found, rest) = text.trim_start_matches(' ').split_at_checked(keyword.len())?;
    found.eq_ignore_ascii_case(keyword).then_some(rest)
}

fn mail(rest: &str) -> Result<MailFrom, SyntaxError> {
    let text = after(rest, "FROM:").ok_or(SyntaxError::Arguments)?;
    let (path, parameters) = path::split(text).ok_or(SyntaxError::Sender)?;
    let address = if path.is_empty() { None } else { Some(path::parse(path).map_err(|_| SyntaxError::Sender)?) };
    let mut mail = MailFrom { address, ..Default::default() };
    parameters::mail(parameters, &mut mail)?;
    Ok(mail)
}

fn rcpt(rest: &str) -> Result<RcptTo, SyntaxError> {
    let text = after(rest, "TO:").ok_or(SyntaxError::Arguments)?;
    let (path, parameters) = path::split(text).ok_or(SyntaxError::Recipient)?;
    let address = if path.eq_ignore_ascii_case("postmaster") {
        None
    } else {
        Some(path::parse(path).map_err(|_| SyntaxError::Recipient)?)
    };
    let mut rcpt = RcptTo { address, ..Default::default() };
    parameters::rcpt(parameters, &mut rcpt)?;
    Ok(rcpt)
}

/// `BDAT size [LAST]` (RFC 3030 §2).
fn bdat(rest: &str) -> Result<Command, SyntaxError> {
    let mut words = rest.split(' ').filter(|w| !w.is_empty());
    let size = words.next().filter(|w| w.len() <= 20 && w.bytes().all(|b| b.is_ascii_digit()));
    let size = size.and_then(|w| w.parse().ok()).ok_or(SyntaxError::Arguments)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(SyntaxError::Arguments),
    };
    if words.next().is_some() { Err(SyntaxError::Arguments) } else { Ok(Command::Bdat { size, last }) }
}

/// `AUTH mechanism [initial-response]` (RFC 4954 §4).
fn auth(rest: &str) -> Result<Command, SyntaxError> {
    let mut words = rest.split(' ').filter(|w| !w.is_empty());
    let mechanism = words.next().ok_or(SyntaxError::Arguments)?;
    let initial = words.next().map(str::to_owned);
    let valid = mechanism.len() <= 20 && mechanism.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !valid || words.next().is_some() {
        return Err(SyntaxError::Arguments);
    }
    Ok(Command::Auth { mechanism: mechanism.to_ascii_uppercase(), initial })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands_in_any_case() {
        assert_eq!(Command::parse(b"ehlo [192.0.2.1]"), Ok(Command::Ehlo("[192.0.2.1]".into())));
        assert_eq!(Command::parse(b"bdat 007 last"), Ok(Command::Bdat { size: 7, last: true }));
        assert_eq!(Command::parse(b"BDAT 99999999999999999999"), Err(SyntaxError::Arguments));
        assert_eq!(Command::parse(b"BDAT 1 LAST x"), Err(SyntaxError::Arguments));
        assert_eq!(Command::parse(b"Data  "), Ok(Command::Data));
        assert_eq!(Command::parse(b"noop whatever"), Ok(Command::Noop));
        let Ok(Command::Mail(mail)) = Command::parse(b"mail from:<a@x.example> size=3") else { panic!() };
        assert_eq!((mail.address.unwrap().to_string().as_str(), mail.size), ("a@x.example", Some(3)));
        let Ok(Command::Rcpt(rcpt)) = Command::parse(b"RCPT TO:<PostMaster>") else { panic!() };
        assert_eq!(rcpt.address, None);
        let auth = Command::Auth { mechanism: "PLAIN".into(), initial: Some("=".into()) };
        assert_eq!(Command::parse(b"AUTH plain ="), Ok(auth));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (line, error) in [
            (b"XYZZY".as_slice(), SyntaxError::Unknown),
            (b"", SyntaxError::Unknown),
            (b"EHLO", SyntaxError::Arguments),
            (b"EHLO a b", SyntaxError::Arguments),
            (b"EHLO a\nMAIL FROM:<>", SyntaxError::Character),
            (b"EHLO a\rb", SyntaxError::Character),
            (b"EHLO a\0b", SyntaxError::Character),
            (b"EHLO \xff", SyntaxError::Character),
            (b"DATA now", SyntaxError::Arguments),
            (b"MAIL <a@x.example>", SyntaxError::Arguments),
            (b"MAIL FROM:a@x.example", SyntaxError::Sender),
            (b"MAIL FROM:<a b@x.example>", SyntaxError::Sender),
            (b"RCPT TO:<>", SyntaxError::Recipient),
            (b"RCPT TO:<a@x.example> FOO=1", SyntaxError::UnknownParameter),
            (b"AUTH", SyntaxError::Arguments),
            (b"AUTH PLAIN a b", SyntaxError::Arguments),
        ] {
            assert_eq!(Command::parse(line), Err(error), "{}", String::from_utf8_lossy(line));
        }
    }
}
