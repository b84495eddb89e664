//! One connection: carries octets between the socket and the state machine, and does its effects.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use listener::{Connection, Stream, Tls, TlsInfo};
use proto::directory::Account;
use smtp::{
    Reply,
    server::{Config as Offer, Effect, MailFrom, RcptTo, Session},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tracing::{Instrument as _, debug};

use crate::{
    Config, Role,
    budget::{Budget, Reservation},
    checker::Checker,
    directory::{Directory, Exchange, Progress},
    metrics::Metrics,
    receive::Arrival,
    refusal::Refusal,
    spool::Spool,
    transaction::Transaction,
};

/// Room for a read: most sessions only send commands.
const COMMAND_ROOM: usize = 4 * 1024;
const CONTENT_ROOM: usize = 64 * 1024;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What all sessions share.
pub struct Parts {
    pub config: Config,
    pub tls: Option<Tls>,
    pub directory: Directory,
    pub checker: Checker,
    pub spool: Spool,
    pub metrics: Metrics,
    budget: Budget,
}

impl Parts {
    /// Must be called inside a tokio runtime: the channels look up their peers.
    pub fn new(config: Config, tls: Option<Tls>, metrics: Metrics) -> Self {
        let seconds = Duration::from_secs;
        let channel = |peers, patience| runtime::grpc::channel(peers, seconds(patience));
        Self {
            directory: Directory::new(
                channel(&config.mda, config.directory_seconds),
                seconds(config.directory_seconds),
                seconds(config.resolve_cache_seconds),
            ),
            checker: Checker::new(channel(&config.auth_checker, config.checker_seconds)),
            spool: Spool::new(channel(&config.mda, config.accept_seconds)),
            budget: Budget::new(config.max_bytes_in_flight),
            config,
            tls,
            metrics,
        }
    }
}

pub async fn run(connection: Connection, role: Role, offer: Arc<Offer>, parts: Arc<Parts>) {
    parts.metrics.session(role);
    let mut driver = Driver {
        session: Session::new(offer, connection.tls.is_some()),
        stream: None,
        input: BytesMut::new(),
        tls: connection.tls,
        peer: connection.peer.ip(),
        shutdown: connection.shutdown,
        role,
        account: None,
        exchange: None,
        transaction: None,
        reservation: Reservation::default(),
        parts,
    };
    if let Err(error) = driver.run(connection.stream).await {
        // The peer's network or manners; no operator can do anything about it.
        debug!(client.address = %driver.peer, %error, "session ended");
    }
    if let Some(mut stream) = driver.stream {
        let _ = timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    }
}

struct Driver {
    session: Session,
    /// Taken during the TLS handshake, which may consume it.
    stream: Option<Stream>,
    input: BytesMut,
    tls: Option<TlsInfo>,
    peer: std::net::IpAddr,
    shutdown: tokio_util::sync::CancellationToken,
    role: Role,
    account: Option<Account>,
    exchange: Option<Exchange>,
    transaction: Option<Transaction>,
    reservation: Reservation,
    parts: Arc<Parts>,
}

impl Driver {
    async fn run(&mut self, stream: Stream) -> io::Result<()> {
        self.stream = Some(stream);
        loop {
            match self.session.next(&mut self.input) {
                Effect::Read => {
                    self.hold_content();
                    if !self.read().await? {
                        return Ok(());
                    }
                }
                Effect::Write(bytes) => self.write(&bytes).await?,
                Effect::StartTls => self.start_tls().await?,
                Effect::Authenticate { mechanism, initial } => self.authenticate(mechanism, initial).await,
                Effect::AuthResponse(response) => self.auth_response(response).await,
                Effect::AuthAborted => self.exchange = None,
                Effect::Sender(mail) => self.sender(mail).await,
                Effect::Recipient(rcpt) => self.recipient(rcpt).await,
                Effect::Message(content) => self.message(content).await,
                Effect::Close => return Ok(()),
            }
        }
    }

    /// `false` at the end of the connection. On timeout and shutdown the session is ended.
    async fn read(&mut self) -> io::Result<bool> {
        let config = &self.parts.config;
        let (patience, room) = if self.session.is_receiving() {
            (config.data_timeout(), CONTENT_ROOM)
        } else {
            if self.input.is_empty() && self.input.capacity() > COMMAND_ROOM {
                self.input = BytesMut::new();
            }
            (config.command_timeout(), COMMAND_ROOM)
        };
        let Some(stream) = &mut self.stream else { return Ok(false) };
        self.input.reserve(room);
        let idle = !self.session.in_transaction();
        tokio::select! {
            biased;
            () = self.shutdown.cancelled(), if idle => {
                self.session.end(&Reply::new(421, (4, 3, 2), "Service shutting down, try again later"));
                Ok(true)
            }
            read = timeout(patience, stream.read_buf(&mut self.input)) => match read {
                Ok(read) => Ok(read? > 0),
                Err(_) => {
                    self.session.end(&Reply::new(421, (4, 4, 2), "Timeout"));
                    Ok(true)
                }
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        timeout(self.parts.config.command_timeout(), write).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        let (Some(stream), Some(tls)) = (self.stream.take(), &self.parts.tls) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let (stream, info) = stream.starttls(tls).await?;
        self.stream = Some(stream);
        self.tls = Some(info);
        self.session.tls_started();
        Ok(())
    }

    async fn authenticate(&mut self, mechanism: String, initial: Option<Vec<u8>>) {
        match self.parts.directory.authenticate(mechanism, initial, self.peer).await {
            Ok((exchange, progress)) => {
                self.exchange = Some(exchange);
                self.auth_progress(progress);
            }
            Err(status) => self.auth_unavailable(&status),
        }
    }

    async fn auth_response(&mut self, response: Vec<u8>) {
        let Some(exchange) = &mut self.exchange else {
            return self.auth_unavailable(&tonic::Status::internal("no exchange"));
        };
        match exchange.respond(response).await {
            Ok(progress) => self.auth_progress(progress),
            Err(status) => self.auth_unavailable(&status),
        }
    }

    fn auth_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Challenge(challenge) => return self.session.auth_challenge(&challenge),
            Progress::Success(account) => {
                self.account = Some(account);
                self.session.auth_succeeded();
            }
            Progress::Failure => {
                let reply = self.refuse(Refusal::bad_credentials());
                self.session.auth_failed(reply);
            }
        }
        self.exchange = None;
    }

    fn auth_unavailable(&mut self, status: &tonic::Status) {
        debug!(error = %status, "cannot authenticate");
        self.exchange = None;
        let reply = self.refuse(Refusal::cannot_authenticate());
        self.session.auth_failed(reply);
    }

    async fn sender(&mut self, mail: MailFrom) {
        let transaction = Transaction::begin(mail, self.role);
        // The null reverse-path is everybody's: read receipts have it (RFC 8098 §3).
        if let (Some(account), Some(address)) = (&self.account, &transaction.mail.address) {
            let address = address.to_string();
            let question = self.parts.directory.may_send_as(account.account_id, &address);
            let refusal = match question.instrument(transaction.span.clone()).await {
                Ok(true) => None,
                Ok(false) => Some(Refusal::sender_not_owned()),
                Err(status) => Some(Refusal::of_status(&status)),
            };
            if let Some(refusal) = refusal {
                let reply = self.refuse(refusal);
                return self.session.sender_refused(reply);
            }
        }
        self.transaction = Some(transaction);
        self.session.sender_accepted();
    }

    async fn recipient(&mut self, mut rcpt: RcptTo) {
        let postmaster = || format!("postmaster@{}", self.parts.config.hostname).parse().ok();
        let (Some(address), Some(transaction)) = (rcpt.address.take().or_else(postmaster), &mut self.transaction)
        else {
            return self.session.recipient_refused(Refusal::unknown_recipient().reply);
        };
        let question = self.parts.directory.resolve(&address, self.account.is_some());
        match question.instrument(transaction.span.clone()).await {
            Ok(targets) => {
                transaction.add(&address, rcpt, targets);
                self.session.recipient_accepted();
            }
            Err(refusal) => {
                let reply = self.refuse(refusal);
                self.session.recipient_refused(reply);
            }
        }
    }

    async fn message(&mut self, content: Vec<u8>) {
        let started = Instant::now();
        let outcome = match (self.transaction.take(), self.session.hello()) {
            (Some(transaction), Some(hello)) => {
                let arrival = Arrival {
                    role: self.role,
                    peer: self.peer,
                    tls: self.tls.as_ref(),
                    account: self.account.as_ref(),
                    hello,
                    transaction: &transaction,
                    dialogue: self.session.transcript().lines().map(String::from).collect(),
                };
                let received = self.parts.receive(arrival, content).instrument(transaction.span.clone()).await;
                received.map(|()| transaction.queue_id.to_string())
            }
            _ => Err(Refusal::of_status(&tonic::Status::internal("no transaction"))),
        };
        match outcome {
            Ok(queue_id) => self.session.committed(&queue_id),
            Err(refusal) => {
                let reply = self.refuse(refusal);
                self.session.message_refused(reply);
            }
        }
        self.reservation = Reservation::default();
        self.parts.metrics.answered(self.role, started);
    }

    /// Content that arrives is booked before more of it is read.
    fn hold_content(&mut self) {
        if self.session.is_receiving() {
            if !self.parts.budget.reserve(&mut self.reservation, self.session.content_held()) {
                let reply = self.refuse(Refusal::no_room());
                self.session.refuse_content(reply);
                self.reservation = Reservation::default();
            }
        } else {
            self.reservation = Reservation::default();
        }
    }

    fn refuse(&self, refusal: Refusal) -> Reply {
        self.parts.metrics.refuse(refusal.reason);
        refusal.reply
    }
}
