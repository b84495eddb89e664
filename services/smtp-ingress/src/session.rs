//! One connection: carries octets between the socket and the state machine, and does its effects.

mod login;
mod mail;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use listener::{Connection, Stream, TlsInfo};
use proto::directory::Account;
use smtp::{
    Reply,
    server::{Config as Offer, Effect, Session},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tracing::debug;

use crate::{
    Config, Encryption, Role,
    budget::{Budget, Reservation},
    checker::Checker,
    directory::{Directory, Exchange},
    filters::Filters,
    guard::Guard,
    metrics::Metrics,
    pace::Pace,
    refusal::Refusal,
    refused::Teller,
    spool::Spool,
    transaction::Transaction,
};

/// Room for a read: most sessions only send commands.
const COMMAND_ROOM: usize = 4 * 1024;
const CONTENT_ROOM: usize = 64 * 1024;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest pause of the tarpit in steps of `tarpit_ms`.
const TARPIT_STEPS: u32 = 10;

/// What all sessions share.
pub struct Parts {
    pub config: Config,
    pub encryption: Encryption,
    pub directory: Directory,
    pub checker: Checker,
    pub spool: Spool,
    pub metrics: Metrics,
    pub guard: Guard,
    pub teller: Teller,
    budget: Budget,
}

impl Parts {
    /// Must be called inside a tokio runtime: the channels look up their peers.
    pub fn new(config: Config, encryption: Encryption, metrics: Metrics) -> anyhow::Result<Self> {
        let seconds = Duration::from_secs;
        let channel = |peers, patience| runtime::grpc::channel(peers, seconds(patience));
        Ok(Self {
            guard: Guard::new(&config, metrics.clone())?,
            directory: Directory::new(
                channel(&config.mda, config.directory_seconds),
                seconds(config.directory_seconds),
                seconds(config.resolve_cache_seconds),
            ),
            checker: Checker::new(channel(&config.auth_checker, config.checker_seconds)),
            spool: Spool::new(channel(&config.mda, config.accept_seconds)),
            teller: Teller::start(channel(&config.mda, config.accept_seconds), config.tell_refusals, metrics.clone()),
            budget: Budget::new(config.max_bytes_in_flight, metrics.bytes_in_flight.clone()),
            config,
            encryption,
            metrics,
        })
    }
}

pub async fn run(connection: Connection, role: Role, offer: Arc<Offer>, parts: Arc<Parts>) {
    parts.metrics.session(role);
    if let Some(tls) = &connection.tls {
        parts.metrics.encrypted(role, tls);
    }
    let mut driver = Driver {
        session: Session::new(offer.clone(), connection.tls.is_some()),
        stream: Some(connection.stream),
        input: BytesMut::new(),
        tls: connection.tls,
        peer: connection.peer.ip(),
        shutdown: connection.shutdown,
        role,
        account: None,
        exchange: None,
        transaction: None,
        filters: Filters::default(),
        blocklisted: None,
        reservation: Reservation::default(),
        pace: Pace::default(),
        tarpitted: 0,
        parts,
    };
    driver.offer_what_tls_gives();
    if let Err(refusal) = driver.admit().await {
        let reply = driver.refuse(refusal);
        driver.session = Session::turned_away(offer, driver.tls.is_some(), &reply);
    }
    if let Err(error) = driver.run().await {
        // The peer's network or manners; no operator can do anything about it.
        debug!(client.address = %driver.peer, %error, "session ended");
    }
    driver.end_transaction();
    if let Some(mut stream) = driver.stream {
        let _ = timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    }
}

/// Memory that a message of so many octets takes: its pieces, the room to read into,
/// and its copies in the buffers of the calls that pass it on.
fn occupied(held: usize) -> usize {
    held + held / 8 + CONTENT_ROOM
}

/// Who speaks, as the journey has it.
pub struct Caller<'a> {
    pub role: Role,
    pub peer: std::net::IpAddr,
    pub helo: &'a str,
    pub tls: Option<&'a TlsInfo>,
    pub account: Option<&'a Account>,
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
    /// Of the transaction.
    filters: Filters,
    /// The blocklist that has the client, once it was asked.
    blocklisted: Option<Option<String>>,
    reservation: Reservation,
    pace: Pace,
    /// Refused commands that the client has waited for.
    tarpitted: u32,
    parts: Arc<Parts>,
}

impl Driver {
    /// What is decided before the greeting.
    async fn admit(&mut self) -> Result<(), Refusal> {
        self.parts.guard.connection(self.peer).await?;
        let delay = Duration::from_millis(self.parts.config.greeting_delay_ms);
        if self.role != Role::Mx || delay.is_zero() {
            return Ok(());
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        // Mail servers wait for the greeting (RFC 5321 §3.1); who floods many of us does not.
        match timeout(delay, stream.read_buf(&mut self.input)).await {
            Ok(Ok(octets)) if octets > 0 && self.parts.config.refuse_early_talkers => Err(Refusal::early_talker()),
            _ => Ok(()),
        }
    }

    async fn run(&mut self) -> io::Result<()> {
        loop {
            let effect = self.session.next(&mut self.input);
            self.session.take_refusals().into_iter().for_each(|reason| self.parts.metrics.refuse(reason));
            if !matches!(effect, Effect::Read) {
                self.pace.reset();
            }
            match effect {
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
        let receiving = self.session.is_receiving();
        let (patience, room) = if receiving {
            (config.data_timeout(), CONTENT_ROOM)
        } else {
            if self.input.is_empty() && self.input.capacity() > COMMAND_ROOM {
                self.input = BytesMut::new();
            }
            (self.pace.command_patience(Instant::now(), config.command_timeout()), COMMAND_ROOM)
        };
        let Some(stream) = &mut self.stream else { return Ok(false) };
        self.input.reserve(room);
        let idle = !self.session.in_transaction();
        let octets = tokio::select! {
            biased;
            () = self.shutdown.cancelled(), if idle => {
                self.session.end(&Reply::new(421, (4, 3, 2), "Service shutting down, try again later"));
                return Ok(true);
            }
            read = timeout(patience, stream.read_buf(&mut self.input)) => match read {
                Ok(read) => read?,
                Err(_) => {
                    self.parts.metrics.refuse("timeout");
                    self.session.end(&Reply::new(421, (4, 4, 2), "Timeout"));
                    return Ok(true);
                }
            }
        };
        self.session.set_now(jiff::Timestamp::now().as_second());
        let window = Duration::from_secs(config.min_rate_seconds);
        if receiving && !self.pace.keeps_up(Instant::now(), octets, config.min_bytes_per_second, window) {
            self.parts.metrics.refuse("too_slow");
            self.session.end(&Reply::new(421, (4, 4, 2), "Too slow"));
            return Ok(true);
        }
        Ok(octets > 0)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tarpit().await;
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        timeout(self.parts.config.command_timeout(), write).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Who is refused again and again is answered slower and slower.
    async fn tarpit(&mut self) {
        let (errors, config) = (self.session.errors(), &self.parts.config);
        if errors > self.tarpitted {
            let beyond = errors.saturating_sub(config.tarpit_errors).min(TARPIT_STEPS);
            let pause = Duration::from_millis(config.tarpit_ms.saturating_mul(beyond.into()));
            tokio::select! {
                () = tokio::time::sleep(pause) => (),
                () = self.shutdown.cancelled() => (),
            }
        }
        self.tarpitted = errors;
    }

    async fn start_tls(&mut self) -> io::Result<()> {
        let (Some(stream), Some(tls)) = (self.stream.take(), self.parts.encryption.of(self.role)) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let (stream, info) = stream.starttls(tls).await?;
        self.parts.metrics.encrypted(self.role, &info);
        self.session.tls_started();
        self.stream = Some(stream);
        self.tls = Some(info);
        self.offer_what_tls_gives();
        Ok(())
    }

    /// Mechanisms that stand on the TLS connection.
    fn offer_what_tls_gives(&mut self) {
        let Some(tls) = &self.tls else { return };
        if tls.channel_binding.is_some() {
            self.session.offer_channel_binding();
        }
        if !tls.client_addresses.is_empty() {
            self.session.offer_external();
        }
    }

    /// Content that arrives is booked before more of it is read.
    fn hold_content(&mut self) {
        let held = self.session.content_held();
        if held == 0 {
            self.reservation = Reservation::default();
        } else if !self.parts.budget.reserve(&mut self.reservation, occupied(held)) {
            let reply = self.refuse(Refusal::no_room());
            self.session.refuse_content(reply);
            self.reservation = Reservation::default();
        }
    }

    fn refuse(&self, refusal: Refusal) -> Reply {
        self.parts.metrics.refuse(refusal.reason);
        refusal.reply
    }
}
