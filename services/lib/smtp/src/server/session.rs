mod chunks;
mod commands;
mod content;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{Buf as _, BytesMut};

use super::{
    command::MailFrom,
    config::Config,
    content::{ContentReader, Limits},
    effect::{Effect, Hello},
};
use crate::{Reply, Transcript};

/// RFC 5321 §4.5.3.1.4 says 512; parameters (ORCPT, ENVID, SMTPUTF8 addresses) need more.
const MAX_COMMAND: usize = 2048;
/// RFC 4954 §4: base64 lines of 12288 octets.
const MAX_AUTH_LINE: usize = 12_288;

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
    /// Receives a chunk (RFC 3030) into `Session::chunks`, or throws it away.
    Chunk {
        remaining: u64,
        last: bool,
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
    /// TLS whose channel can be bound to (RFC 5802 §6).
    bindable: bool,
    /// The client's certificate names an address.
    certified: bool,
    /// Seconds since 1970, as the caller told.
    now: i64,
    hello: Option<Hello>,
    mail: Option<MailFrom>,
    recipients: usize,
    /// The content of earlier chunks.
    chunks: Option<ContentReader>,
    transactions: u32,
    errors: u32,
    idle_commands: u32,
    /// Why the machine itself said no, since the caller last looked.
    refusals: Vec<&'static str>,
    out: Vec<u8>,
    transcript: Transcript,
}

impl Session {
    /// `encrypted` on ports with implicit TLS. The greeting is the first effect.
    pub fn new(config: Arc<Config>, encrypted: bool) -> Self {
        let greeting = Reply::basic(220, [format!("{} ESMTP Postroad", config.hostname)]);
        let mut session = Self::silent(config, encrypted);
        session.say(&greeting);
        session.transcript.mark_opening();
        session
    }

    /// A session that is over before it begins: instead of the greeting the client hears why
    /// (RFC 5321 §3.1: 554, or 421).
    pub fn turned_away(config: Arc<Config>, encrypted: bool, reply: &Reply) -> Self {
        let mut session = Self::silent(config, encrypted);
        session.end(reply);
        session
    }

    fn silent(config: Arc<Config>, encrypted: bool) -> Self {
        Self {
            config,
            state: State::Command,
            encrypted,
            authenticated: false,
            bindable: false,
            certified: false,
            now: 0,
            hello: None,
            mail: None,
            recipients: 0,
            chunks: None,
            transactions: 0,
            errors: 0,
            idle_commands: 0,
            refusals: Vec::new(),
            out: Vec::new(),
            transcript: Transcript::default(),
        }
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
                State::Chunk { .. } => self.read_chunk(input),
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

    /// The time in seconds since 1970, for what EHLO and FUTURERELEASE say about it.
    pub fn set_now(&mut self, seconds: i64) {
        self.now = seconds;
    }

    /// The TLS connection has an exporter to bind to: offer the `-PLUS` mechanisms.
    pub fn offer_channel_binding(&mut self) {
        self.bindable = true;
    }

    /// The client has shown a certificate that names an address: offer EXTERNAL.
    pub fn offer_external(&mut self) {
        self.certified = true;
    }

    /// Refused commands since the last message; what a tarpit is measured by.
    pub fn errors(&self) -> u32 {
        self.errors
    }

    /// Why the machine itself said no since the last call, a word each, for the metrics.
    pub fn take_refusals(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.refusals)
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
            self.refuse_with(&reply);
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
            self.refuse_with(&reply);
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
            self.refuse_with(&reply);
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
            self.refuse_with(&reply);
        }
    }

    /// While content arrives: takes no more of it, and answers with `reply` at its end.
    pub fn refuse_content(&mut self, reply: Reply) {
        match &mut self.state {
            State::Content { reader, refusal } => {
                reader.discard();
                *refusal = Some(reply);
            }
            State::Chunk { refusal, .. } => {
                self.chunks = None;
                *refusal = Some(reply);
            }
            _ => {}
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

    /// Octets that the content being received occupies, also between two chunks.
    pub fn content_held(&self) -> usize {
        match &self.state {
            State::Content { reader, .. } => reader.held(),
            _ => self.chunks.as_ref().map_or(0, ContentReader::held),
        }
    }

    /// Content is being received; its timeout is another one (RFC 5321 §4.5.3.2.5).
    pub fn is_receiving(&self) -> bool {
        matches!(self.state, State::Content { .. } | State::Chunk { .. })
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
            self.refuse("syntax", &super::SyntaxError::Character.reply());
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
                self.refuse("long_command", &Reply::new(500, (5, 5, 2), "Line too long"));
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
        self.chunks = None;
    }

    /// An empty reader for the transaction's content.
    fn reader(&self, mail: &MailFrom) -> ContentReader {
        let limits = Limits { content: self.config.max_message_size, line: self.config.max_line };
        ContentReader::new(limits, mail.size.unwrap_or_default(), mail.binary, self.config.pieces.clone())
    }

    fn too_large(&self) -> Reply {
        let limit = self.config.max_message_size;
        Reply::new(552, (5, 3, 4), format!("Message exceeds the limit of {limit} octets"))
    }

    fn ok(&mut self, text: &str) -> Step {
        self.say(&Reply::new(250, (2, 0, 0), text))
    }

    fn out_of_order(&mut self, text: &str) -> Step {
        self.refuse("out_of_order", &Reply::new(503, (5, 5, 1), text))
    }

    /// Says no for a reason of the machine's own.
    fn refuse(&mut self, reason: &'static str, reply: &Reply) -> Step {
        self.refusals.push(reason);
        self.refuse_with(reply)
    }

    /// Ends the session for a reason of the machine's own.
    fn end_because(&mut self, reason: &'static str, reply: &Reply) -> Step {
        self.refusals.push(reason);
        self.end(reply);
        Step::Again
    }

    /// Says no, and goodbye when it was once too often.
    fn refuse_with(&mut self, reply: &Reply) -> Step {
        self.say(reply);
        self.errors += u32::from(reply.is_permanent());
        if reply.code == 421 {
            self.state = State::Closed;
        } else if self.errors >= self.config.max_errors {
            return self.end_because("too_many_errors", &Reply::new(421, (4, 7, 0), "Too many errors"));
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
