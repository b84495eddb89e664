//! The states of a session (RFC 1939 §4–§6) and what each command does in them.

mod commands;
mod maildrop;
mod reply;

use std::collections::VecDeque;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::command::{self, Command, Malformed, Verb};
use maildrop::Maildrop;
pub use maildrop::{Message, UniqueId};
pub use reply::Refusal;

/// Octets of a command with its line end (RFC 2449 §4).
const MAX_LINE: usize = 255;
/// Octets of a line of a SASL exchange, with its line end (RFC 4422 leaves it to the profile,
/// RFC 5034 §4 names 12288 for the base64 text).
const MAX_AUTH_LINE: usize = 12288 + 2;
/// Lines rejected before the connection is closed.
const MAX_ERRORS: u32 = 20;
/// Failed logins before the connection is closed.
const MAX_FAILED_LOGINS: u32 = 3;

/// What the server allows on this connection.
#[derive(Debug, Clone)]
pub struct Config {
    /// Named in the greeting.
    pub hostname: String,
    /// Whether STLS can be offered.
    pub starttls: bool,
    /// Whether passwords are taken without TLS; RFC 2595 §2.1 advises against it.
    pub plaintext_login: bool,
    /// What AUTH offers, in upper case.
    pub mechanisms: Vec<String>,
}

/// What the caller has to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send `text`, the complete answer to `verb`. May be gathered with the next ones.
    Reply { verb: Verb, ok: bool, text: Vec<u8> },
    /// Begin a SASL exchange; needs [`Answer::Challenge`], [`Answer::Opened`] or [`Answer::Refused`].
    Authenticate { mechanism: String, initial_response: Option<Vec<u8>> },
    /// The client's next response in the exchange; needs the same answers.
    Respond(Vec<u8>),
    /// The client gave the exchange up.
    CancelExchange,
    /// Send what is gathered, then negotiate TLS and call [`Session::tls_started`].
    StartTls,
    /// Send [`Session::transfer_begins`] and the message through a [`crate::Transfer`] with
    /// these `lines`, then give [`Answer::Sent`]; or [`Answer::Refused`] if nothing was sent yet.
    /// A transfer that breaks off in the middle must end the connection.
    Retrieve { uid: u32, size: u64, lines: Option<u32> },
    /// Delete all of these messages or none; needs [`Answer::Expunged`] or [`Answer::Refused`].
    Expunge(Vec<u32>),
    /// Send what is gathered and close.
    Close,
}

/// The outcome of an effect.
#[derive(Debug)]
pub enum Answer {
    /// The server's side of the SASL exchange goes on with these bytes.
    Challenge(Vec<u8>),
    /// Logged in, the maildrop locked; its messages in the order of their numbers.
    Opened(Vec<Message>),
    Sent,
    Expunged,
    Refused(Refusal),
}

#[derive(Debug)]
enum State {
    /// With the name that USER gave.
    Authorization(Option<Vec<u8>>),
    /// The caller works on a login; `by_pass` tells PASS from AUTH.
    LoggingIn {
        by_pass: bool,
    },
    /// A challenge is out: the next line is a response.
    Challenged,
    /// The caller negotiates TLS.
    TlsPending,
    Transaction(Maildrop),
    Transferring(Maildrop, Verb),
    Updating {
        messages_left: usize,
    },
    Closed,
}

/// One connection, from the greeting on.
///
/// Call [`Session::next_effect`] until it gives `None`, then read bytes into
/// [`Session::receive`]; an effect that needs an answer gets it before the next call.
#[derive(Debug)]
pub struct Session {
    config: Config,
    tls: bool,
    /// TLS gives something to bind to (RFC 5802 §6).
    channel_binding: bool,
    utf8: bool,
    state: State,
    input: Vec<u8>,
    /// The rest of a line that was too long is being skipped.
    skipping: bool,
    effects: VecDeque<Effect>,
    errors: u32,
    failed_logins: u32,
}

impl Session {
    /// `tls`: whether the connection began with TLS (RFC 8314 §3.2).
    pub fn new(config: Config, tls: bool) -> Self {
        let greeting = format!("+OK {} POP3 server ready\r\n", config.hostname);
        let greeting = Effect::Reply { verb: Verb::Noop, ok: true, text: greeting.into_bytes() };
        Self {
            config,
            tls,
            channel_binding: false,
            utf8: false,
            state: State::Authorization(None),
            input: Vec::new(),
            skipping: false,
            effects: VecDeque::from([greeting]),
            errors: 0,
            failed_logins: 0,
        }
    }

    /// Takes bytes from the client; call it only when [`Session::next_effect`] gave `None`,
    /// so that at most one read's worth of pipelined commands is held.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Closed) {
            self.input.extend_from_slice(bytes);
        }
    }

    /// The next thing to do; `None` while more bytes, or an answer, are needed.
    pub fn next_effect(&mut self) -> Option<Effect> {
        loop {
            if let Some(effect) = self.effects.pop_front() {
                return Some(effect);
            }
            if self.is_waiting() {
                return None;
            }
            match self.next_line()? {
                Ok(line) => self.line(&line),
                Err(verb) => self.malformed(verb, Malformed::TooLong),
            }
            if self.errors >= MAX_ERRORS {
                self.effects.push_back(Effect::Close);
                self.state = State::Closed;
            }
        }
    }

    /// The outcome of the effect last given.
    pub fn answer(&mut self, answer: Answer) {
        let state = std::mem::replace(&mut self.state, State::Closed);
        self.state = match (state, answer) {
            // USER and PASS are one PLAIN message; a challenge to it makes no sense.
            (State::LoggingIn { by_pass: true }, Answer::Challenge(_)) => {
                self.effects.push_back(Effect::CancelExchange);
                self.refuse(Verb::Pass, Refusal::Temporary);
                State::Authorization(None)
            }
            (State::LoggingIn { .. }, Answer::Challenge(challenge)) => {
                let text = format!("+ {}\r\n", BASE64_STANDARD.encode(challenge));
                self.effects.push_back(Effect::Reply { verb: Verb::Auth, ok: true, text: text.into_bytes() });
                State::Challenged
            }
            (State::LoggingIn { by_pass }, Answer::Opened(messages)) => {
                let maildrop = Maildrop::new(messages);
                self.ok(if by_pass { Verb::Pass } else { Verb::Auth }, &maildrop.summary());
                State::Transaction(maildrop)
            }
            (State::LoggingIn { by_pass }, Answer::Refused(refusal)) => {
                self.refuse(if by_pass { Verb::Pass } else { Verb::Auth }, refusal);
                self.failed_logins += u32::from(refusal == Refusal::Credentials);
                if self.failed_logins >= MAX_FAILED_LOGINS {
                    self.effects.push_back(Effect::Close);
                    State::Closed
                } else {
                    State::Authorization(None)
                }
            }
            (State::Transferring(maildrop, _), Answer::Sent) => State::Transaction(maildrop),
            (State::Transferring(maildrop, verb), Answer::Refused(refusal)) => {
                self.refuse(verb, refusal);
                State::Transaction(maildrop)
            }
            (State::Updating { messages_left }, Answer::Expunged) => {
                self.goodbye(&format!("signing off ({messages_left} messages left)"))
            }
            // RFC 1939 §6: the session ends whatever became of the deletions.
            (State::Updating { .. }, Answer::Refused(refusal)) => {
                self.refuse(Verb::Quit, refusal);
                self.effects.push_back(Effect::Close);
                State::Closed
            }
            (state, _) => state,
        };
    }

    /// TLS is up. What the client sent before is forgotten (RFC 2595 §4): it was not protected.
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.utf8 = false;
        self.input.clear();
        self.skipping = false;
        self.state = State::Authorization(None);
    }

    /// The `-PLUS` mechanisms among the configured ones can be used on this connection's TLS.
    pub fn offer_channel_binding(&mut self) {
        self.channel_binding = true;
    }

    /// While a message is transferred: UID and size of those behind it that are not marked as deleted.
    pub fn following(&self, uid: u32) -> impl Iterator<Item = (u32, u64)> {
        let maildrop = match &self.state {
            State::Transferring(maildrop, _) => Some(maildrop),
            _ => None,
        };
        maildrop.into_iter().flat_map(move |maildrop| maildrop.following(uid))
    }

    /// Whether the client takes UTF-8 in headers (RFC 6856 §2); else send it a [`crate::surrogate`].
    pub fn is_utf8(&self) -> bool {
        self.utf8
    }

    /// Ends the session because the server stops; messages marked as deleted stay.
    /// (The autologout timer just closes the connection: RFC 1939 §3 wants no reply.)
    pub fn shut_down(&mut self) {
        if !matches!(self.state, State::Closed) {
            self.refuse(Verb::Unknown, Refusal::ShuttingDown);
            self.effects.push_back(Effect::Close);
            self.state = State::Closed;
        }
    }

    /// The line before a message's text (RFC 1939 §5, RETR).
    pub fn transfer_begins(size: u64, lines: Option<u32>) -> String {
        match lines {
            None => format!("+OK {size} octets\r\n"),
            Some(_) => "+OK top of message follows\r\n".to_owned(),
        }
    }

    fn is_waiting(&self) -> bool {
        matches!(
            self.state,
            State::LoggingIn { .. }
                | State::TlsPending
                | State::Transferring(..)
                | State::Updating { .. }
                | State::Closed
        )
    }

    /// Takes one line off the input, without its line end; `Err` for one that was too long.
    fn next_line(&mut self) -> Option<Result<Vec<u8>, Verb>> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.input).map(|lf| lf + 1) else {
                if self.skipping {
                    self.input.clear();
                } else if self.input.len() >= self.limit() {
                    self.skipping = true;
                    return Some(Err(self.too_long()));
                }
                return None;
            };
            if self.skipping {
                self.skipping = false;
                self.input.drain(..end);
                continue;
            }
            if end > self.limit() {
                let verb = self.too_long();
                self.input.drain(..end);
                return Some(Err(verb));
            }
            let mut line: Vec<u8> = self.input.drain(..end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Some(Ok(line));
        }
    }

    fn limit(&self) -> usize {
        match self.state {
            State::Challenged => MAX_AUTH_LINE,
            _ if Verb::of(self.input.get(..5).unwrap_or_default()) == Verb::Auth => MAX_AUTH_LINE,
            _ => MAX_LINE,
        }
    }

    /// A response too long ends the exchange, too.
    fn too_long(&mut self) -> Verb {
        if matches!(self.state, State::Challenged) {
            self.effects.push_back(Effect::CancelExchange);
            self.state = State::Authorization(None);
            return Verb::Auth;
        }
        Verb::Unknown
    }

    fn line(&mut self, line: &[u8]) {
        let state = std::mem::replace(&mut self.state, State::Closed);
        if let State::Challenged = state {
            self.state = self.response(line);
            return;
        }
        let verb = Verb::of(line);
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(malformed) => {
                self.state = state;
                return self.malformed(verb, malformed);
            }
        };
        self.state = match state {
            State::Authorization(user) => self.in_authorization(verb, command, user),
            State::Transaction(maildrop) => self.in_transaction(verb, command, maildrop),
            other => other,
        };
    }

    /// A line of the SASL exchange: base64, or `*` to give up (RFC 5034 §4).
    fn response(&mut self, line: &[u8]) -> State {
        if line == b"*" {
            self.effects.push_back(Effect::CancelExchange);
            self.error(Verb::Auth, "authentication cancelled");
            return State::Authorization(None);
        }
        match command::decode_base64(line) {
            Ok(response) => {
                self.effects.push_back(Effect::Respond(response));
                State::LoggingIn { by_pass: false }
            }
            Err(malformed) => {
                self.effects.push_back(Effect::CancelExchange);
                self.malformed(Verb::Auth, malformed);
                State::Authorization(None)
            }
        }
    }
}
