use std::{fmt, str::FromStr};

use crate::{
    bearer::{self, Bearer},
    scram::{self, Verifier},
};

/// Longest response that is looked at; RFC 4616 §2 allows 3 × 255 octets.
const MAX_RESPONSE: usize = 1024;
/// Tokens carry signatures and claims.
const MAX_BEARER: usize = 12_288;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// draft-murchison-sasl-login: no standard, but some clients know nothing else.
    Login,
    /// RFC 7677.
    ScramSha256,
    /// The same, bound to the TLS channel (RFC 5802 §6, RFC 9266).
    ScramSha256Plus,
    /// RFC 7628.
    OauthBearer,
    /// RFC 4422 Appendix A: the client's certificate has said it.
    External,
    /// What came before it; many clients know nothing else.
    Xoauth2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("mechanism is not supported")]
pub struct UnknownMechanism;

impl Mechanism {
    pub const ALL: [Self; 7] = [
        Self::External,
        Self::ScramSha256Plus,
        Self::ScramSha256,
        Self::Plain,
        Self::Login,
        Self::OauthBearer,
        Self::Xoauth2,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::OauthBearer => "OAUTHBEARER",
            Self::External => "EXTERNAL",
            Self::Xoauth2 => "XOAUTH2",
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
    /// SCRAM: give the account's verifier, or an invented one, with [`Server::verifier`].
    FindVerifier { authzid: String, authcid: String },
    /// SCRAM: the client has proven the password of the `authcid`.
    Proven,
    /// Accept it exactly if the token is good; else go on with [`Server::token_refused`].
    CheckToken(Bearer),
    /// Accept it exactly if the client's certificate is for `authzid`, or for somebody when that is empty.
    CheckCertificate { authzid: String },
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
    #[error("credentials are wrong")]
    Wrong,
}

/// The server's side of one exchange.
#[derive(Debug)]
pub struct Server(State);

#[derive(Debug)]
enum State {
    Plain,
    LoginName,
    LoginPassword {
        authcid: String,
    },
    ScramFirst {
        is_plus: bool,
        binding: Vec<u8>,
    },
    ScramVerifier(scram::First),
    ScramFinal(scram::Exchange),
    /// The client has our proof; its empty answer ends the exchange (RFC 4422 §3.6).
    ScramEnd,
    Bearer {
        read: fn(&[u8]) -> Option<Bearer>,
    },
    BearerChecked,
    External,
    /// The client has the reason; whatever it says ends the exchange (RFC 7628 §3.2.3).
    BearerRefused,
    Finished,
}

impl Server {
    /// `initial` is the initial response, if the client sent one; an empty one (`=` in SMTP and
    /// IMAP) is `Some(b"")`.
    pub fn start(mechanism: Mechanism, initial: Option<&[u8]>) -> (Self, Step) {
        Self::start_bound(mechanism, initial, b"")
    }

    /// On a connection where `-PLUS` was offered: `binding` is its tls-exporter (RFC 9266). Empty
    /// means that it was not.
    pub fn start_bound(mechanism: Mechanism, initial: Option<&[u8]>, binding: &[u8]) -> (Self, Step) {
        let scram = |is_plus| State::ScramFirst { is_plus, binding: binding.to_vec() };
        let (state, challenge): (_, &[u8]) = match mechanism {
            Mechanism::Plain => (State::Plain, b""),
            Mechanism::Login => (State::LoginName, b"Username:"),
            Mechanism::ScramSha256 => (scram(false), b""),
            Mechanism::ScramSha256Plus => (scram(true), b""),
            Mechanism::OauthBearer => (State::Bearer { read: bearer::oauthbearer }, b""),
            Mechanism::External => (State::External, b""),
            Mechanism::Xoauth2 => (State::Bearer { read: bearer::xoauth2 }, b""),
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
            State::Bearer { read } if response.len() <= MAX_BEARER => match read(response) {
                Some(bearer) => (State::BearerChecked, Step::CheckToken(bearer)),
                None => (State::Finished, Step::Failed(Reason::Malformed)),
            },
            _ if response.len() > MAX_RESPONSE => (State::Finished, Step::Failed(Reason::TooLong)),
            State::ScramFirst { is_plus, binding } => match scram::first(response, is_plus, &binding) {
                Some(first) => {
                    let (authzid, authcid) = (first.authzid.clone(), first.authcid.clone());
                    (State::ScramVerifier(first), Step::FindVerifier { authzid, authcid })
                }
                None => (State::Finished, Step::Failed(Reason::Malformed)),
            },
            State::ScramFinal(exchange) => match exchange.finish(response) {
                Some(proof) => (State::ScramEnd, Step::Challenge(proof)),
                None => (State::Finished, Step::Failed(Reason::Wrong)),
            },
            State::ScramEnd if response.is_empty() => (State::Finished, Step::Proven),
            State::ScramEnd => (State::Finished, Step::Failed(Reason::Malformed)),
            State::BearerRefused => (State::Finished, Step::Failed(Reason::Wrong)),
            State::Plain => (State::Finished, plain(response)),
            State::External => (State::Finished, external(response)),
            State::LoginName => match text(response) {
                Some(authcid) => (State::LoginPassword { authcid }, Step::Challenge(b"Password:".to_vec())),
                None => (State::Finished, Step::Failed(Reason::Malformed)),
            },
            State::LoginPassword { authcid } => {
                let login = text(response).map(|password| Login { authzid: String::new(), authcid, password });
                (State::Finished, login.map_or(Step::Failed(Reason::Malformed), Step::Verify))
            }
            State::ScramVerifier(_) | State::Bearer { .. } | State::BearerChecked | State::Finished => {
                (State::Finished, Step::Failed(Reason::Finished))
            }
        };
        self.0 = next;
        step
    }

    /// The answer to [`Step::FindVerifier`]; `nonce` is random and printable, without commas.
    pub fn verifier(&mut self, verifier: Verifier, nonce: &str) -> Step {
        match std::mem::replace(&mut self.0, State::Finished) {
            State::ScramVerifier(first) => {
                let (exchange, challenge) = scram::Exchange::begin(first, verifier, nonce);
                self.0 = State::ScramFinal(exchange);
                Step::Challenge(challenge)
            }
            _ => Step::Failed(Reason::Finished),
        }
    }

    /// The client is told why, and the exchange fails after its answer.
    pub fn token_refused(&mut self) -> Step {
        match std::mem::replace(&mut self.0, State::BearerRefused) {
            State::BearerChecked => Step::Challenge(bearer::REFUSED.to_vec()),
            _ => Step::Failed(Reason::Finished),
        }
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

/// `extern-resp = *( UTF8-char-no-nul )` (RFC 4422 Appendix A.1).
fn external(response: &[u8]) -> Step {
    match text(response) {
        Some(authzid) => Step::CheckCertificate { authzid },
        None if response.is_empty() => Step::CheckCertificate { authzid: String::new() },
        None => Step::Failed(Reason::Malformed),
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
    fn external_names_somebody_or_nobody() {
        let check = |authzid: &str| Step::CheckCertificate { authzid: authzid.into() };
        assert_eq!(Server::start(Mechanism::External, Some(b"")).1, check(""));
        assert_eq!(Server::start(Mechanism::External, Some(b"bob@x.example")).1, check("bob@x.example"));
        let (mut server, step) = Server::start(Mechanism::External, None);
        assert_eq!(step, Step::Challenge(Vec::new()));
        assert_eq!(server.step(b"bob"), check("bob"));
        assert_eq!(server.step(b"eve"), Step::Failed(Reason::Finished));
        assert_eq!(Server::start(Mechanism::External, Some(b"a\0b")).1, Step::Failed(Reason::Malformed));
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
    fn scram_ends_after_the_proof_was_read() {
        let (mut server, step) = Server::start(Mechanism::ScramSha256, None);
        assert_eq!(step, Step::Challenge(Vec::new()));
        let (mut client, initial) = scram::Client::new("bob", "secret", "abc", None);
        assert_eq!(server.step(&initial), Step::FindVerifier { authzid: String::new(), authcid: "bob".into() });
        let Step::Challenge(first) = server.verifier(Verifier::derive("secret", b"salt", 10), "xyz") else { panic!() };
        let Step::Challenge(last) = server.step(&client.respond(&first).expect("honest")) else { panic!() };
        assert!(client.is_server(&last));
        assert_eq!(server.step(b""), Step::Proven);
        assert_eq!(server.step(b""), Step::Failed(Reason::Finished));
        // Before the verifier came nothing is proven.
        let (mut server, _) = Server::start(Mechanism::ScramSha256, Some(b"n,,n=u,r=n"));
        assert_eq!(server.step(b""), Step::Failed(Reason::Finished));
        let (mut server, _) = Server::start(Mechanism::Plain, None);
        assert_eq!(server.verifier(Verifier::invent(b"", ""), "x"), Step::Failed(Reason::Finished));
    }

    #[test]
    fn a_refused_token_is_explained_first() {
        let message = [&b"user=bob\x01auth=Bearer "[..], &[b'x'; 5000], b"\x01\x01"].concat();
        let (mut server, step) = Server::start(Mechanism::Xoauth2, Some(&message));
        assert!(matches!(step, Step::CheckToken(b) if b.authzid == "bob" && b.token.len() == 5000));
        assert!(matches!(server.token_refused(), Step::Challenge(json) if json.starts_with(b"{\"status\"")));
        assert_eq!(server.step(b"\x01"), Step::Failed(Reason::Wrong));
        let (_, step) = Server::start(Mechanism::OauthBearer, Some(&[b'x'; 20_000]));
        assert_eq!(step, Step::Failed(Reason::TooLong));
    }

    #[test]
    fn names() {
        for mechanism in Mechanism::ALL {
            assert_eq!(mechanism.name().parse(), Ok(mechanism));
        }
        assert_eq!("plain".parse(), Ok(Mechanism::Plain));
        assert_eq!("GSSAPI".parse::<Mechanism>(), Err(UnknownMechanism));
    }

    #[test]
    fn a_login_is_printed_without_its_password() {
        let Step::Verify(login) = verify("", "bob", "secret") else { return };
        assert!(!format!("{login:?}").contains("secret"));
    }
}
