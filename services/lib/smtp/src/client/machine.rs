use std::time::Duration;

use super::{
    Capabilities, Credentials, Envelope, Failure, Outcome, ReplyParser, Stage,
    auth::Login,
    content::Encoder,
    transaction::{Expected, Transaction, unsendable},
};
use crate::{Reply, Transcript};

/// Whether to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// Not at all (also for connections that are encrypted already).
    Never,
    /// When offered (RFC 7435).
    Opportunistic,
    /// Or give up.
    Required,
}

/// What the caller must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these octets.
    Write(Vec<u8>),
    /// Wait this long for octets (RFC 5321 §4.5.3.2), then [`Client::receive`] or [`Client::fail`].
    Read(Duration),
    /// Do the TLS handshake, then [`Client::tls_started`] or [`Client::fail`].
    StartTls,
    /// [`Client::send`] a message or [`Client::quit`].
    Idle,
    /// Send the content through [`Client::encode`] and [`Client::end_of_content`].
    SendContent,
    /// A transaction has ended: one outcome a recipient, in the envelope's order.
    Finished(Vec<Outcome>),
    /// The connection is of no use; no transaction was open.
    Failed(Failure),
    /// Close the socket.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Auth,
    Idle,
    /// Replies outstanding as `Client::expected` lists them.
    Envelope,
    Data,
    Content,
    FinalDot,
    /// An empty content that nobody gets was ended; the answer says nothing.
    Nothing,
    Reset,
    Quit,
    Closed,
}

/// One connection to a server.
#[derive(Debug)]
pub struct Client {
    hello: String,
    start_tls: StartTls,
    state: State,
    parser: ReplyParser,
    capabilities: Capabilities,
    encrypted: bool,
    out: Vec<u8>,
    transaction: Option<Transaction>,
    finished: Option<Vec<Outcome>>,
    failure: Option<Failure>,
    login: Option<Login>,
    may_chunk: bool,
    encoder: Encoder,
    transcript: Transcript,
}

impl Client {
    /// For a new connection; the server speaks first. `hello` is our own host name.
    pub fn new(hello: &str, start_tls: StartTls) -> Self {
        Self {
            hello: hello.to_owned(),
            start_tls,
            state: State::Greeting,
            parser: ReplyParser::default(),
            capabilities: Capabilities::default(),
            encrypted: false,
            out: Vec::new(),
            transaction: None,
            finished: None,
            failure: None,
            login: None,
            may_chunk: true,
            encoder: Encoder::default(),
            transcript: Transcript::default(),
        }
    }

    /// Authenticates before mail is sent (RFC 4954), over TLS only.
    pub fn with_credentials(mut self, credentials: &Credentials) -> Self {
        self.login = Some(Login::new(credentials));
        self
    }

    /// DATA also where BDAT (RFC 3030) is offered.
    pub fn without_chunking(mut self) -> Self {
        self.may_chunk = false;
        self
    }

    /// What to do now. Asked again before it is done, it may answer something else: each
    /// [`Action::Write`], `Finished` and `Failed` is given once.
    #[expect(clippy::should_implement_trait, reason = "it has no end that a loop should stop at")]
    pub fn next(&mut self) -> Action {
        if !self.out.is_empty() && self.state != State::Closed {
            return Action::Write(std::mem::take(&mut self.out));
        }
        if let Some(outcomes) = self.finished.take() {
            return Action::Finished(outcomes);
        }
        if let Some(failure) = self.failure.take() {
            return Action::Failed(failure);
        }
        let minutes = |n: u64| Action::Read(Duration::from_secs(60 * n));
        match self.state {
            State::Handshake => Action::StartTls,
            State::Idle => Action::Idle,
            State::Content => Action::SendContent,
            State::Closed => Action::Close,
            State::Data => minutes(2),
            State::Envelope if self.expects_data() => minutes(2),
            State::FinalDot => minutes(10),
            // The message's fate is known: nobody should wait for courtesies.
            State::Quit | State::Reset | State::Nothing => Action::Read(Duration::from_secs(10)),
            _ => minutes(5),
        }
    }

    /// Octets from the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.parser.receive(bytes);
        while !matches!(self.state, State::Handshake | State::Closed) {
            match self.parser.take() {
                Ok(Some(reply)) => {
                    for line in reply.to_string().split('\n') {
                        self.transcript.server(line);
                    }
                    self.on_reply(reply);
                }
                Ok(None) => return,
                Err(e) => return self.fail(e.into()),
            }
        }
    }

    /// The connection is lost or useless. Recipients without outcome get this failure.
    pub fn fail(&mut self, failure: Failure) {
        let courtesy = matches!(self.state, State::Quit | State::Reset | State::Nothing | State::Closed | State::Idle);
        self.state = State::Closed;
        self.parser.clear();
        self.out.clear();
        if self.transaction.is_some() {
            self.finish(&Outcome::Failed(failure), State::Closed);
        } else if !courtesy {
            self.failure = Some(failure);
        }
    }

    /// The TLS handshake succeeded. The server's earlier answers are forgotten (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        if self.state != State::Handshake {
            return;
        }
        self.encrypted = true;
        self.capabilities = Capabilities::default();
        self.say_hello();
    }

    /// Starts a transaction; only when [`Action::Idle`] was asked for.
    pub fn send(&mut self, envelope: Envelope) {
        if self.state != State::Idle {
            return;
        }
        self.transcript.begin_transaction();
        let refusal = unsendable(&envelope, &self.capabilities, self.encrypted);
        let mut transaction = Transaction::new(envelope);
        if let Some(failure) = refusal {
            self.transaction = Some(transaction);
            return self.finish(&Outcome::Failed(failure), State::Idle);
        }
        self.command(&transaction.mail(&self.capabilities));
        if self.capabilities.pipelining {
            while let Some(line) = transaction.next_rcpt(&self.capabilities) {
                self.command(&line);
            }
            // RFC 2920 §3.1: DATA may end the group; content never goes before its answer.
            if !self.chunks() {
                transaction.expected.push_back(Expected::Data);
                self.command("DATA");
            }
        }
        self.transaction = Some(transaction);
        self.state = State::Envelope;
    }

    /// Appends a chunk of the content to `out`: dot-stuffed, or as a BDAT command.
    pub fn encode(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        if self.state == State::Content {
            self.encoder.encode(chunk, out);
        }
    }

    /// Appends the end of content to `out` (the final dot, or the last BDAT); the server's answer
    /// decides for all accepted recipients.
    pub fn end_of_content(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Content {
            let end = self.encoder.finish(out);
            if let Some(transaction) = &self.transaction {
                self.transcript.client(&format!("[content of {} octets]", transaction.envelope.size));
            }
            self.transcript.client(&end);
            self.state = State::FinalDot;
        }
    }

    /// Content or its end is being sent, and nothing speaks against going on.
    pub fn is_sending(&self) -> bool {
        matches!(self.state, State::Content | State::FinalDot)
    }

    /// Ends the connection politely; only when [`Action::Idle`] was asked for.
    pub fn quit(&mut self) {
        if self.state == State::Idle {
            self.command("QUIT");
            self.state = State::Quit;
        }
    }

    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether STARTTLS took place.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Opening and latest transaction.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    fn on_reply(&mut self, reply: Reply) {
        // RFC 5321 §3.8: 421 may come at any time and announces the end of the connection.
        if reply.code == 421 && self.state != State::Quit {
            return self.refuse_connection(reply);
        }
        match self.state {
            State::Greeting if reply.code == 220 => self.say_hello(),
            State::Ehlo if reply.code == 250 => self.on_hello(Capabilities::parse(&reply)),
            // RFC 5321 §3.2: a server without extensions knows only HELO.
            State::Ehlo if reply.is_permanent() => {
                let helo = format!("HELO {}", self.hello);
                self.command(&helo);
                self.state = State::Helo;
            }
            State::Helo if reply.code == 250 => self.on_hello(Capabilities::default()),
            State::StartTls if reply.code == 220 => {
                if self.parser.has_rest() {
                    return self.fail(Failure::Injection);
                }
                self.state = State::Handshake;
            }
            State::StartTls if self.start_tls == StartTls::Opportunistic => self.secured(),
            State::Auth => self.on_auth_reply(reply),
            State::Greeting | State::Ehlo | State::Helo | State::StartTls => self.refuse_connection(reply),
            State::Envelope => self.on_envelope_reply(reply),
            State::Data => self.on_data_reply(reply),
            // RFC 3030 §4.2: each chunk has its answer; after a refused one the server takes no more.
            State::Content | State::FinalDot if self.encoder.take_outstanding() => {
                if !reply.is_positive() {
                    self.finish(&Outcome::Refused { stage: Stage::Content, reply }, State::Closed);
                }
            }
            // An answer before the end of content is no yes to it; a no is meant for it.
            State::Content => self.fail(Failure::Refused { stage: Stage::Content, reply }),
            State::FinalDot if reply.code / 100 == 2 => self.finish(&Outcome::Accepted(reply), State::Idle),
            State::FinalDot => self.finish(&Outcome::Refused { stage: Stage::Content, reply }, State::Idle),
            State::Nothing => self.state = State::Idle,
            State::Reset if reply.is_positive() => self.state = State::Idle,
            State::Reset | State::Quit | State::Idle => self.state = State::Closed,
            State::Handshake | State::Closed => {}
        }
    }

    fn on_hello(&mut self, capabilities: Capabilities) {
        self.capabilities = capabilities;
        match (self.start_tls, self.encrypted, self.capabilities.starttls) {
            (StartTls::Never, ..) | (_, true, _) | (StartTls::Opportunistic, _, false) => self.secured(),
            (StartTls::Required, _, false) => self.fail(Failure::NoTls),
            (_, false, true) => {
                self.command("STARTTLS");
                self.state = State::StartTls;
            }
        }
    }

    /// As secure as it gets: credentials, then mail.
    fn secured(&mut self) {
        let offered = self.capabilities.clone();
        match self.login.as_mut().map(|login| login.start(&offered, self.encrypted)) {
            None => self.ready(),
            Some(Some(first)) => {
                self.say_secret(&first);
                self.state = State::Auth;
            }
            Some(None) => self.fail(Failure::NoAuth),
        }
    }

    fn on_auth_reply(&mut self, reply: Reply) {
        match self.login.as_mut().and_then(|login| login.answer(&reply)) {
            _ if reply.code == 235 => self.ready(),
            Some(next) => self.say_secret(&next),
            None => self.refuse_connection(reply),
        }
    }

    /// Credentials are in no transcript.
    fn say_secret(&mut self, line: &str) {
        let shown = if line.starts_with("AUTH ") {
            line.split(' ').take(2).collect::<Vec<_>>().join(" ")
        } else {
            String::new()
        };
        self.transcript.client(format!("{shown} [credentials]").trim_start());
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn ready(&mut self) {
        self.transcript.mark_opening();
        self.state = State::Idle;
    }

    fn say_hello(&mut self) {
        let ehlo = format!("EHLO {}", self.hello);
        self.command(&ehlo);
        self.state = State::Ehlo;
    }

    fn on_envelope_reply(&mut self, reply: Reply) {
        let Some(mut transaction) = self.transaction.take() else { return };
        let data = transaction.answer(reply);
        if let Some(line) = transaction.next_rcpt(&self.capabilities) {
            self.command(&line);
        }
        let (complete, accepted) = (transaction.expected.is_empty(), transaction.accepted);
        self.transaction = Some(transaction);
        match (complete, accepted, data) {
            (false, ..) => {}
            // RFC 2920 §3.1: the server waits for content though it has refused every recipient.
            (true, 0, Some(reply)) if reply.code == 354 => {
                self.finish(&Outcome::Failed(Failure::Closed), State::Nothing);
                self.command(".");
            }
            // Every recipient has its refusal already.
            (true, 0, _) => self.finish_with_reset(&Outcome::Failed(Failure::Closed)),
            (true, _, Some(reply)) => self.on_data_reply(reply),
            (true, _, None) if self.chunks() => {
                self.encoder = Encoder::chunks();
                self.state = State::Content;
            }
            (true, _, None) => {
                self.command("DATA");
                self.state = State::Data;
            }
        }
    }

    fn on_data_reply(&mut self, reply: Reply) {
        if reply.code != 354 {
            return self.finish_with_reset(&Outcome::Refused { stage: Stage::Data, reply });
        }
        self.encoder = Encoder::data();
        self.state = State::Content;
    }

    fn chunks(&self) -> bool {
        self.may_chunk && self.capabilities.chunking && self.capabilities.pipelining
    }

    fn expects_data(&self) -> bool {
        self.transaction.as_ref().is_some_and(|t| matches!(t.expected.front(), Some(Expected::Data)))
    }

    /// The server does not want us any more.
    fn refuse_connection(&mut self, reply: Reply) {
        let stage = match self.state {
            State::Greeting => Stage::Greeting,
            State::Ehlo | State::Helo | State::Handshake => Stage::Hello,
            State::StartTls => Stage::StartTls,
            State::Auth => Stage::Auth,
            State::Envelope => match self.transaction.as_ref().and_then(|t| t.expected.front()) {
                Some(Expected::Mail) => Stage::Mail,
                Some(Expected::Data) => Stage::Data,
                _ => Stage::Rcpt,
            },
            State::Data => Stage::Data,
            _ => Stage::Content,
        };
        if self.transaction.is_some() {
            self.finish(&Outcome::Refused { stage, reply }, State::Closed);
        } else {
            self.fail(Failure::Refused { stage, reply });
        }
    }

    fn finish_with_reset(&mut self, rest: &Outcome) {
        self.finish(rest, State::Reset);
        self.command("RSET");
    }

    /// Ends the transaction; `rest` is the outcome of recipients that have none yet.
    fn finish(&mut self, rest: &Outcome, next: State) {
        if let Some(transaction) = self.transaction.take() {
            let outcomes = transaction.outcomes.into_iter();
            self.finished = Some(outcomes.map(|o| o.unwrap_or_else(|| rest.clone())).collect());
        }
        self.state = next;
    }

    fn command(&mut self, line: &str) {
        self.transcript.client(line);
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }
}
