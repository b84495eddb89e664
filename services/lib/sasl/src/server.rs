use std::{fmt, str::FromStr};

/// Longest response that is looked at; RFC 4616 §2 allows 3 × 255 octets.
const MAX_RESPONSE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// draft-murchison-sasl-login: no standard, but some clients know nothing else.
    Login,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("mechanism is not supported")]
pub struct UnknownMechanism;

impl Mechanism {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Login];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

impl FromStr for Mechanism {
    type Err = UnknownMechanism;

    fn from_str(name: &str) -> Result<Self, UnknownMechanism> {
        Self::ALL.into_iter().find(|m| m.name().eq_ignore_ascii_case(name)).ok_or(UnknownMechanism)
    }
}

/// What the client claims; nothing of it is verified yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Whom to act as; empty means the authenticated identity itself.
    pub authzid: String,
    /// Whose password it is.
    pub authcid: String,
    pub password: String,
}

/// Without the password, so that it reaches no log.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("authzid", &self.authzid).field("authcid", &self.authcid).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes and feed the answer to [`Server::step`]. Empty for PLAIN without
    /// initial response (RFC 4422 §3.3).
    Challenge(Vec<u8>),
    /// The exchange is complete: accept it exactly if the password is right.
    Verify(Login),
    /// The exchange is broken; nothing to verify.
    Failed(Reason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("response does not follow the mechanism")]
    Malformed,
    #[error("response is too long")]
    TooLong,
    #[error("exchange is already over")]
    Finished,
}

/// The server's side of one exchange.
#[derive(Debug)]
pub struct Server(State);

#[derive(Debug)]
enum State {
    Plain,
    LoginName,
    LoginPassword { authcid: String },
    Finished,
}

impl Server {
    /// `initial` is the initial response, if the client sent one; an empty one (`=` in SMTP and
    /// IMAP) is `Some(b"")`.
    pub fn start(mechanism: Mechanism, initial: Option<&[u8]>) -> (Self, Step) {
        let (state, challenge): (_, &[u8]) = match mechanism {
            Mechanism::Plain => (State::Plain, b""),
            Mechanism::Login => (State::LoginName, b"Username:"),
        };
        let mut server = Self(state);
        let step = match initial {
            Some(response) => server.step(response),
            None => Step::Challenge(challenge.to_vec()),
        };
        (server, step)
    }

    pub fn step(&mut self, response: &[u8]) -> Step {
        let (next, step) = match std::mem::replace(&mut self.0, State::Finished) {
            _ if response.len() > MAX_RESPONSE => (State::Finished, Step::Failed(Reason::TooLong)),
            State::Plain => (State::Finished, plain(response)),
            State::LoginName => match text(response) {
                Some(authcid) => (State::LoginPassword { authcid }, Step::Challenge(b"Password:".to_vec())),
                None => (State::Finished, Step::Failed(Reason::Malformed)),
            },
            State::LoginPassword { authcid } => {
                let login = text(response).map(|password| Login { authzid: String::new(), authcid, password });
                (State::Finished, login.map_or(Step::Failed(Reason::Malformed), Step::Verify))
            }
            State::Finished => (State::Finished, Step::Failed(Reason::Finished)),
        };
        self.0 = next;
        step
    }
}

/// `message = [authzid] UTF8NUL authcid UTF8NUL passwd` (RFC 4616 §2).
fn plain(response: &[u8]) -> Step {
    let mut parts = response.split(|byte| *byte == 0);
    let (Some(authzid), Some(authcid), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Step::Failed(Reason::Malformed);
    };
    let authzid = if authzid.is_empty() { Some(String::new()) } else { text(authzid) };
    match (authzid, text(authcid), text(password)) {
        (Some(authzid), Some(authcid), Some(password)) => Step::Verify(Login { authzid, authcid, password }),
        _ => Step::Failed(Reason::Malformed),
    }
}

/// UTF-8, not empty, without NUL.
fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(authzid: &str, authcid: &str, password: &str) -> Step {
        Step::Verify(Login { authzid: authzid.into(), authcid: authcid.into(), password: password.into() })
    }

    #[test]
    fn plain_with_and_without_initial_response() {
        // The examples of RFC 4616 §4.
        let (_, step) = Server::start(Mechanism::Plain, Some(b"\0tim\0tanstaaftanstaaf"));
        assert_eq!(step, verify("", "tim", "tanstaaftanstaaf"));
        let (mut server, step) = Server::start(Mechanism::Plain, None);
        assert_eq!(step, Step::Challenge(Vec::new()));
        assert_eq!(server.step(b"Ursel\0Kurt\0xipj3plmq"), verify("Ursel", "Kurt", "xipj3plmq"));
    }

    #[test]
    fn login_asks_twice() {
        let (mut server, step) = Server::start(Mechanism::Login, None);
        assert_eq!(step, Step::Challenge(b"Username:".to_vec()));
        assert_eq!(server.step("jörg".as_bytes()), Step::Challenge(b"Password:".to_vec()));
        assert_eq!(server.step(b"p w"), verify("", "jörg", "p w"));
        let (mut server, step) = Server::start(Mechanism::Login, Some(b"bob"));
        assert_eq!(step, Step::Challenge(b"Password:".to_vec()));
        assert_eq!(server.step(b"secret"), verify("", "bob", "secret"));
    }

    #[test]
    fn broken_responses_fail_for_good() {
        for bytes in [b"".as_slice(), b"bob", b"\0bob", b"\0bob\0", b"\0\0secret", b"a\0b\0c\0d", b"\0\xff\0x"] {
            let (mut server, step) = Server::start(Mechanism::Plain, Some(bytes));
            assert_eq!(step, Step::Failed(Reason::Malformed), "{bytes:?}");
            assert_eq!(server.step(b"\0bob\0secret"), Step::Failed(Reason::Finished));
        }
        let (_, step) = Server::start(Mechanism::Plain, Some(&[b'x'; 2000]));
        assert_eq!(step, Step::Failed(Reason::TooLong));
        let (_, step) = Server::start(Mechanism::Login, Some(b""));
        assert_eq!(step, Step::Failed(Reason::Malformed));
    }

    #[test]
    fn names() {
        assert_eq!("plain".parse(), Ok(Mechanism::Plain));
        assert_eq!("GSSAPI".parse::<Mechanism>(), Err(UnknownMechanism));
    }

    #[test]
    fn a_login_is_printed_without_its_password() {
        let Step::Verify(login) = verify("", "bob", "secret") else { return };
        assert!(!format!("{login:?}").contains("secret"));
    }
}
