mod commands;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{Buf as _, BytesMut};

use super::{
    command::{MailFrom, RcptTo},
    content::ContentReader,
};
use crate::{Reply, Transcript};

/// RFC 5321 §4.5.3.1.4 says 512; parameters (ORCPT, ENVID, SMTPUTF8 addresses) need more.
const MAX_COMMAND: usize = 2048;
/// RFC 4954 §4: base64 lines of 12288 octets.
const MAX_AUTH_LINE: usize = 12_288;

/// What a port offers.
#[derive(Debug, Clone)]
pub struct Config {
    /// In the greeting and the reply to EHLO.
    pub hostname: String,
    /// Offer STARTTLS on plain connections.
    pub starttls: bool,
    /// SASL mechanisms offered once the connection is encrypted; empty on an MX.
    pub mechanisms: Vec<&'static str>,
    /// Submission: no mail without AUTH (RFC 6409 §4.3).
    pub auth_required: bool,
    /// Octets of content.
    pub max_message_size: u64,
    pub max_recipients: usize,
    /// Refused commands before the session is ended.
    pub max_errors: u32,
}

/// How the client introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub name: String,
    /// EHLO, not HELO.
    pub extended: bool,
}

/// What the caller must do next, and how to report the result.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append octets to the input, then ask again.
    Read,
    Write(Vec<u8>),
    /// Handshake, then [`Session::tls_started`]; on failure drop the connection.
    StartTls,
    /// Start a SASL exchange; the initial response is decoded. Report with
    /// [`Session::auth_challenge`], [`Session::auth_succeeded`] or [`Session::auth_failed`].
    Authenticate {
        mechanism: String,
        initial: Option<Vec<u8>>,
    },
    /// The decoded answer to a challenge. Report as for `Authenticate`.
    AuthResponse(Vec<u8>),
    /// The client ended the exchange; nothing to report.
    AuthAborted,
    /// [`Session::sender_accepted`] or [`Session::sender_refused`].
    Sender(MailFrom),
    /// [`Session::recipient_accepted`] or [`Session::recipient_refused`].
    Recipient(RcptTo),
    /// The whole content. [`Session::committed`] or [`Session::message_refused`].
    Message(Vec<u8>),
    /// Close the connection.
    Close,
}

#[derive(Debug)]
enum State {
    Command,
    /// Waits for the caller's report.
    Deciding(Decision),
    /// Waits for the client's answer to a challenge.
    Challenged,
    Content {
        reader: ContentReader,
        refusal: Option<Reply>,
    },
    /// Throws away the rest of a line that is too long.
    Skipping,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Tls,
    Auth,
    Sender,
    Recipient,
    Message,
}

/// One connection of a client.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    state: State,
    encrypted: bool,
    authenticated: bool,
    hello: Option<Hello>,
    mail: Option<MailFrom>,
    recipients: usize,
    errors: u32,
    idle_commands: u32,
    out: Vec<u8>,
    transcript: Transcript,
}

impl Session {
    /// `encrypted` on ports with implicit TLS. The greeting is the first effect.
    pub fn new(config: Arc<Config>, encrypted: bool) -> Self {
        let greeting = Reply::basic(220, [format!("{} ESMTP Postroad", config.hostname)]);
        let mut session = Self {
            config,
            state: State::Command,
            encrypted,
            authenticated: false,
            hello: None,
            mail: None,
            recipients: 0,
            errors: 0,
            idle_commands: 0,
            out: Vec::new(),
            transcript: Transcript::default(),
        };
        session.say(&greeting);
        session.transcript.mark_opening();
        session
    }

    /// Replies to pipelined commands are written together, when the input is used up
    /// (RFC 2920 §3.2).
    pub fn next(&mut self, input: &mut BytesMut) -> Effect {
        loop {
            let step = match &mut self.state {
                // Reports are the caller's to give: until then nothing moves.
                State::Deciding(Decision::Tls) | State::Closed if !self.out.is_empty() => return self.write(),
                State::Deciding(Decision::Tls) => return Effect::StartTls,
                State::Closed => return Effect::Close,
                State::Deciding(_) => return if self.out.is_empty() { Effect::Read } else { self.write() },
                State::Content { .. } => self.read_content(input),
                State::Skipping => self.skip_line(input),
                State::Command | State::Challenged => self.read_line(input),
            };
            match step {
                Step::Again => {}
                Step::Starved if self.out.is_empty() => return Effect::Read,
                Step::Starved => return self.write(),
                Step::Effect(effect) => return effect,
            }
        }
    }

    /// Forgets everything that was said in the clear (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        if self.decide(Decision::Tls) {
            self.encrypted = true;
            self.hello = None;
            self.authenticated = false;
        }
    }

    pub fn auth_challenge(&mut self, challenge: &[u8]) {
        if self.decide(Decision::Auth) {
            self.say_basic(334, &BASE64.encode(challenge));
            self.state = State::Challenged;
        }
    }

    pub fn auth_succeeded(&mut self) {
        if self.decide(Decision::Auth) {
            self.authenticated = true;
            self.say(&Reply::new(235, (2, 7, 0), "Authentication succeeded"));
            self.transcript.mark_opening();
        }
    }

    pub fn auth_failed(&mut self, reply: Reply) {
        if self.decide(Decision::Auth) {
            self.refuse(&reply);
        }
    }

    pub fn sender_accepted(&mut self) {
        if self.decide(Decision::Sender) {
            self.say(&Reply::new(250, (2, 1, 0), "Ok"));
        }
    }

    pub fn sender_refused(&mut self, reply: Reply) {
        if self.decide(Decision::Sender) {
            self.mail = None;
            self.refuse(&reply);
        }
    }

    pub fn recipient_accepted(&mut self) {
        if self.decide(Decision::Recipient) {
            self.recipients += 1;
            self.say(&Reply::new(250, (2, 1, 5), "Ok"));
        }
    }

    pub fn recipient_refused(&mut self, reply: Reply) {
        if self.decide(Decision::Recipient) {
            self.refuse(&reply);
        }
    }

    /// A 250 after the final dot makes us responsible (RFC 5321 §4.2.5), so only this produces
    /// one (Invariant 1).
    pub fn committed(&mut self, queue_id: &str) {
        if self.decide(Decision::Message) {
            self.reset();
            self.errors = 0;
            self.idle_commands = 0;
            self.say(&Reply::new(250, (2, 0, 0), format!("Ok: queued as {queue_id}")));
        }
    }

    pub fn message_refused(&mut self, reply: Reply) {
        if self.decide(Decision::Message) {
            self.reset();
            self.refuse(&reply);
        }
    }

    /// While content arrives: takes no more of it, and answers with `reply` at its end.
    pub fn refuse_content(&mut self, reply: Reply) {
        if let State::Content { reader, refusal } = &mut self.state {
            reader.discard();
            *refusal = Some(reply);
        }
    }

    /// Ends the session with a last reply, like 421 on shutdown or timeout (RFC 5321 §3.8).
    pub fn end(&mut self, reply: &Reply) {
        if !matches!(self.state, State::Closed) {
            self.reset();
            self.say(reply);
            self.state = State::Closed;
        }
    }

    /// Octets that the content being received occupies.
    pub fn content_held(&self) -> usize {
        if let State::Content { reader, .. } = &self.state { reader.held() } else { 0 }
    }

    /// Content is being received; its timeout is another one (RFC 5321 §4.5.3.2.5).
    pub fn is_receiving(&self) -> bool {
        matches!(self.state, State::Content { .. })
    }

    /// A transaction is open: on shutdown, wait for its end.
    pub fn in_transaction(&self) -> bool {
        self.mail.is_some()
    }

    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Opening and latest transaction.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    fn write(&mut self) -> Effect {
        Effect::Write(std::mem::take(&mut self.out))
    }

    /// Whether the report was waited for.
    fn decide(&mut self, decision: Decision) -> bool {
        let expected = matches!(self.state, State::Deciding(d) if d == decision);
        if expected {
            self.state = State::Command;
        }
        expected
    }

    fn ask(&mut self, decision: Decision, effect: Effect) -> Step {
        self.state = State::Deciding(decision);
        Step::Effect(effect)
    }

    fn read_line(&mut self, input: &mut BytesMut) -> Step {
        let challenged = matches!(self.state, State::Challenged);
        // AUTH's initial response stands in the command line.
        let is_auth = input.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        let limit = if challenged || is_auth { MAX_AUTH_LINE } else { MAX_COMMAND };
        let Some(end) = memchr::memchr(b'\n', input.get(..input.len().min(limit)).unwrap_or_default()) else {
            if input.len() < limit {
                return Step::Starved;
            }
            self.state = State::Skipping;
            return Step::Again;
        };
        let line = input.get(..end).unwrap_or_default().to_vec();
        input.advance(end + 1);
        let Some(line) = line.strip_suffix(b"\r") else {
            // RFC 5321 §2.3.8: LF alone is no line end, so this is no command.
            self.state = State::Command;
            self.transcript.client(&String::from_utf8_lossy(redacted(&line, challenged)));
            self.refuse(&super::SyntaxError::Character.reply());
            return if challenged { Step::Effect(Effect::AuthAborted) } else { Step::Again };
        };
        if self.mail.is_none() && line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"MAIL ")) {
            self.transcript.begin_transaction();
        }
        self.transcript.client(&String::from_utf8_lossy(redacted(line, challenged)));
        if challenged { self.on_auth_response(line) } else { self.on_command(line, input) }
    }

    fn skip_line(&mut self, input: &mut BytesMut) -> Step {
        match memchr::memchr(b'\n', input) {
            Some(end) => {
                input.advance(end + 1);
                self.transcript.client("[line too long]");
                self.state = State::Command;
                self.refuse(&Reply::new(500, (5, 5, 2), "Line too long"));
                Step::Again
            }
            None => {
                input.clear();
                Step::Starved
            }
        }
    }

    fn reset(&mut self) {
        self.mail = None;
        self.recipients = 0;
    }

    fn too_large(&self) -> Reply {
        let limit = self.config.max_message_size;
        Reply::new(552, (5, 3, 4), format!("Message exceeds the limit of {limit} octets"))
    }

    fn ok(&mut self, text: &str) -> Step {
        self.say(&Reply::new(250, (2, 0, 0), text))
    }

    fn out_of_order(&mut self, text: &str) -> Step {
        self.refuse(&Reply::new(503, (5, 5, 1), text))
    }

    /// Says no, and goodbye when it was once too often.
    fn refuse(&mut self, reply: &Reply) -> Step {
        self.say(reply);
        self.errors += u32::from(reply.is_permanent());
        if reply.code == 421 {
            self.state = State::Closed;
        } else if self.errors >= self.config.max_errors {
            self.end(&Reply::new(421, (4, 7, 0), "Too many errors"));
        }
        Step::Again
    }

    fn say_basic(&mut self, code: u16, text: &str) -> Step {
        self.say(&Reply::basic(code, [text]))
    }

    fn say(&mut self, reply: &Reply) -> Step {
        for line in reply.to_string().split('\n') {
            self.transcript.server(line);
        }
        reply.write(&mut self.out);
        Step::Again
    }
}

enum Step {
    Again,
    /// The input is used up.
    Starved,
    Effect(Effect),
}

/// The part of a line that may be recorded: credentials are not.
fn redacted(line: &[u8], is_credential: bool) -> &[u8] {
    if is_credential {
        return b"***";
    }
    let mut spaces = memchr::memchr_iter(b' ', line);
    match line.get(..5) {
        Some(verb) if verb.eq_ignore_ascii_case(b"AUTH ") => {
            line.get(..spaces.nth(1).unwrap_or(line.len())).unwrap_or_default()
        }
        _ => line,
    }
}
