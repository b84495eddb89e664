//! The states of a session (RFC 5804 §1.1) and what each command does in them.

use std::collections::VecDeque;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    command::{Command, decode},
    reader::{Read, Word, read},
};

/// Octets of a literal before anybody has logged in: a SASL response.
const MAX_RESPONSE: usize = 16 * 1024;
/// Commands in a row that are none, and failed logins, before the connection is closed.
const MAX_ERRORS: u32 = 20;
const MAX_FAILED_LOGINS: u32 = 3;

/// What the server allows on this connection.
#[derive(Debug, Clone)]
pub struct Config {
    /// Named in the greeting.
    pub hostname: String,
    /// What `require` takes (§1.7, SIEVE).
    pub extensions: Vec<&'static str>,
    pub starttls: bool,
    /// Whether passwords are taken without TLS.
    pub plaintext_login: bool,
    /// In upper case.
    pub mechanisms: Vec<String>,
    /// Octets of the largest script.
    pub max_script: usize,
    /// §1.7, MAXREDIRECTS.
    pub max_redirects: usize,
}

/// What the caller has to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    Write(Vec<u8>),
    /// Begin a SASL exchange: [`Answer::Challenge`], [`Answer::LoggedIn`] or [`Answer::Refused`].
    Authenticate {
        mechanism: String,
        initial: Option<Vec<u8>>,
    },
    /// The client's next response; the same answers.
    Respond(Vec<u8>),
    /// The client gave the exchange up.
    CancelExchange,
    /// Write what is gathered, negotiate TLS, call [`Session::tls_started`].
    StartTls,
    /// A command about scripts: [`Answer::Done`], or what it asks for, or [`Answer::Refused`].
    Scripts(Command),
    /// Write what is gathered and close.
    Close,
}

#[derive(Debug)]
pub enum Answer {
    Challenge(Vec<u8>),
    LoggedIn,
    Done,
    /// Names, and whether each is the active one.
    Listed(Vec<(String, bool)>),
    Script(Vec<u8>),
    Refused(Refusal),
}

/// Why not (§1.3): code and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `NONEXISTENT`, `QUOTA/MAXSIZE`, …; empty is none.
    pub code: &'static str,
    pub text: String,
    /// It was the credentials.
    pub is_login: bool,
}

impl Refusal {
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), is_login: false }
    }

    pub fn credentials() -> Self {
        Self { code: "", text: "Authentication failed.".into(), is_login: true }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotAuthenticated,
    /// The caller works on a login.
    LoggingIn,
    /// A challenge is out.
    Challenged,
    Authenticated,
    /// The caller works on a command about scripts.
    Working,
    TlsPending,
    Closed,
}

/// One connection, from the greeting on. Call [`Session::next_effect`] until it gives `None`, then
/// read octets into [`Session::receive`]; an effect that asks for an answer gets it first.
#[derive(Debug)]
pub struct Session {
    config: Config,
    tls: bool,
    channel_binding: bool,
    state: State,
    input: Vec<u8>,
    effects: VecDeque<Effect>,
    errors: u32,
    failed_logins: u32,
}

impl Session {
    /// `tls`: whether the connection began with TLS.
    pub fn new(config: Config, tls: bool, channel_binding: bool) -> Self {
        let mut session = Self {
            config,
            tls,
            channel_binding,
            state: State::NotAuthenticated,
            input: Vec::new(),
            effects: VecDeque::new(),
            errors: 0,
            failed_logins: 0,
        };
        session.capabilities();
        let hostname = session.config.hostname.clone();
        session.ok(None, &format!("{hostname} ManageSieve ready."));
        session
    }

    pub fn receive(&mut self, octets: &[u8]) {
        if self.state != State::Closed {
            self.input.extend_from_slice(octets);
        }
    }

    pub fn next_effect(&mut self) -> Option<Effect> {
        loop {
            if let Some(effect) = self.effects.pop_front() {
                return Some(effect);
            }
            if matches!(self.state, State::LoggingIn | State::Working | State::TlsPending | State::Closed) {
                return None;
            }
            // Quoting may double a name or a response, never a script: that is a literal.
            let most = if self.state == State::Authenticated {
                self.config.max_script.max(MAX_RESPONSE)
            } else {
                MAX_RESPONSE
            };
            match read(&mut self.input, most) {
                Read::More => return None,
                Read::Words(words) if self.state == State::Challenged => self.response(&words),
                Read::Words(words) if words.is_empty() => self.error("No command."),
                Read::Words(words) => match Command::of(words) {
                    Ok(command) => self.command(command),
                    Err(why) => self.error(why),
                },
                Read::Malformed(why) => {
                    if self.state == State::Challenged {
                        self.effects.push_back(Effect::CancelExchange);
                        self.state = State::NotAuthenticated;
                    }
                    self.error(why);
                }
                Read::Fatal(why) => self.bye(why),
            }
            if self.errors >= MAX_ERRORS && self.state != State::Closed {
                self.bye("Too many errors.");
            }
        }
    }

    pub fn answer(&mut self, answer: Answer) {
        match (self.state, answer) {
            (State::LoggingIn, Answer::Challenge(challenge)) => {
                let text = format!("\"{}\"\r\n", BASE64_STANDARD.encode(challenge));
                self.effects.push_back(Effect::Write(text.into_bytes()));
                self.state = State::Challenged;
            }
            (State::LoggingIn, Answer::LoggedIn) => {
                self.state = State::Authenticated;
                self.ok(None, "Logged in.");
            }
            (State::LoggingIn, Answer::Refused(refusal)) => {
                self.failed_logins += u32::from(refusal.is_login);
                self.no(&refusal);
                self.state = State::NotAuthenticated;
                if self.failed_logins >= MAX_FAILED_LOGINS {
                    self.bye("Too many failed logins.");
                }
            }
            (State::Working, Answer::Done) => self.worked(|s| s.ok(None, "Done.")),
            (State::Working, Answer::Listed(scripts)) => self.worked(|s| {
                for (name, active) in scripts {
                    let mut line = string(name.as_bytes());
                    line.extend_from_slice(if active { b" ACTIVE\r\n" } else { b"\r\n" });
                    s.effects.push_back(Effect::Write(line));
                }
                s.ok(None, "Listed.");
            }),
            (State::Working, Answer::Script(script)) => self.worked(|s| {
                let mut text = format!("{{{}}}\r\n", script.len()).into_bytes();
                text.extend_from_slice(&script);
                text.extend_from_slice(b"\r\n");
                s.effects.push_back(Effect::Write(text));
                s.ok(None, "Here it is.");
            }),
            (State::Working, Answer::Refused(refusal)) => self.worked(|s| s.no(&refusal)),
            _ => {}
        }
    }

    fn worked(&mut self, then: impl FnOnce(&mut Self)) {
        self.state = State::Authenticated;
        then(self);
    }

    /// TLS is up. What came before it is forgotten (§2.2), and capabilities are told again.
    pub fn tls_started(&mut self, channel_binding: bool) {
        self.tls = true;
        self.channel_binding = channel_binding;
        self.input.clear();
        self.state = State::NotAuthenticated;
        self.capabilities();
        self.ok(None, "TLS negotiation successful.");
    }

    /// The server stops.
    pub fn shut_down(&mut self) {
        self.bye_with("TRYLATER", "Server is shutting down.");
    }

    /// The client was silent for too long.
    pub fn time_out(&mut self) {
        self.bye("Idle for too long.");
    }

    pub fn is_authenticated(&self) -> bool {
        matches!(self.state, State::Authenticated | State::Working)
    }

    fn may_log_in(&self) -> bool {
        self.tls || self.config.plaintext_login
    }

    fn offers(&self, mechanism: &str) -> bool {
        self.may_log_in()
            && self.config.mechanisms.iter().any(|m| m == mechanism)
            && (self.channel_binding || !mechanism.ends_with("-PLUS"))
    }

    fn command(&mut self, command: Command) {
        self.errors = 0;
        match command {
            Command::Logout => {
                self.ok(None, "Goodbye.");
                self.effects.push_back(Effect::Close);
                self.state = State::Closed;
            }
            Command::Capability => {
                self.capabilities();
                self.ok(None, "Capabilities.");
            }
            // §2.13: the client's word comes back.
            Command::Noop(tag) => self.ok(tag.as_deref(), "Done."),
            Command::StartTls if self.tls || !self.config.starttls => self.error("TLS cannot begin."),
            Command::StartTls if self.state == State::Authenticated => self.error("Logged in already."),
            Command::StartTls => {
                self.ok(None, "Begin TLS negotiation now.");
                self.effects.push_back(Effect::StartTls);
                self.state = State::TlsPending;
            }
            Command::Authenticate { .. } if self.state == State::Authenticated => self.error("Logged in already."),
            Command::Authenticate { .. } if !self.may_log_in() => {
                self.no(&Refusal::new("ENCRYPT-NEEDED", "Begin TLS first."));
            }
            Command::Authenticate { mechanism, initial } => {
                if self.offers(&mechanism) {
                    self.effects.push_back(Effect::Authenticate { mechanism, initial });
                    self.state = State::LoggingIn;
                } else {
                    self.no(&Refusal::new("", "Mechanism is not offered."));
                }
            }
            _ if self.state != State::Authenticated => self.error("Log in first."),
            Command::Unauthenticate => {
                self.state = State::NotAuthenticated;
                self.ok(None, "Logged out.");
            }
            command => {
                self.effects.push_back(Effect::Scripts(command));
                self.state = State::Working;
            }
        }
    }

    /// Base64 in a string, or `*` (§2.1).
    fn response(&mut self, words: &[Word]) {
        let decoded = match words {
            [Word::Text(text)] if text != b"*" => decode(text),
            _ => None,
        };
        match decoded {
            Some(response) => {
                self.effects.push_back(Effect::Respond(response));
                self.state = State::LoggingIn;
            }
            None => {
                self.effects.push_back(Effect::CancelExchange);
                self.state = State::NotAuthenticated;
                self.error("Authentication cancelled.");
            }
        }
    }

    fn capabilities(&mut self) {
        let offered = self.config.mechanisms.iter().filter(|m| self.offers(m)).map(String::as_str);
        let mechanisms = offered.collect::<Vec<_>>().join(" ");
        let mut text = String::from("\"IMPLEMENTATION\" \"Postroad\"\r\n");
        text.push_str(&format!("\"SIEVE\" \"{}\"\r\n\"SASL\" \"{mechanisms}\"\r\n", self.config.extensions.join(" ")));
        if self.config.starttls && !self.tls {
            text.push_str("\"STARTTLS\"\r\n");
        }
        text.push_str(&format!("\"MAXREDIRECTS\" \"{}\"\r\n", self.config.max_redirects));
        text.push_str("\"UNAUTHENTICATE\"\r\n\"VERSION\" \"1.0\"\r\n");
        self.effects.push_back(Effect::Write(text.into_bytes()));
    }

    fn ok(&mut self, tag: Option<&[u8]>, text: &str) {
        let mut line = b"OK ".to_vec();
        if let Some(tag) = tag {
            line.extend_from_slice(b"(TAG ");
            line.extend_from_slice(&string(tag));
            line.extend_from_slice(b") ");
        }
        line.extend_from_slice(&string(text.as_bytes()));
        line.extend_from_slice(b"\r\n");
        self.effects.push_back(Effect::Write(line));
    }

    fn no(&mut self, refusal: &Refusal) {
        let code = if refusal.code.is_empty() { String::new() } else { format!("({}) ", refusal.code) };
        let mut line = format!("NO {code}").into_bytes();
        line.extend_from_slice(&string(refusal.text.as_bytes()));
        line.extend_from_slice(b"\r\n");
        self.effects.push_back(Effect::Write(line));
    }

    fn error(&mut self, text: &str) {
        self.errors += 1;
        self.no(&Refusal::new("", text));
    }

    fn bye(&mut self, text: &str) {
        self.bye_with("", text);
    }

    fn bye_with(&mut self, code: &str, text: &str) {
        if self.state == State::Closed {
            return;
        }
        let code = if code.is_empty() { String::new() } else { format!("({code}) ") };
        self.effects.push_back(Effect::Write(format!("BYE {code}\"{text}\"\r\n").into_bytes()));
        self.effects.push_back(Effect::Close);
        self.state = State::Closed;
    }
}

/// Quoted when it can be, else a literal (§4).
fn string(text: &[u8]) -> Vec<u8> {
    if text.len() > 1024 || text.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        return [format!("{{{}}}\r\n", text.len()).as_bytes(), text].concat();
    }
    let mut out = vec![b'"'];
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
    out
}
