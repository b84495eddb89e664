//! Executes the effects of one POP3 session.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use listener::{Connection, Stream};
use pop3::{Answer, Effect, Refusal, Transfer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{Instrument as _, debug, info, info_span};

use crate::{
    Gateway,
    ahead::Ahead,
    content::Content,
    login::{Exchange, Step},
    maildrop::{Maildrop, refusal},
};

/// Replies gathered before they are written.
const GATHER: usize = 64 * 1024;
/// Pieces of a message are written by themselves from here on.
const LARGE: usize = 16 * 1024;
const READ: usize = 4096;
/// A piece that a client has not taken in this time: it is slow, or stopped reading.
const SLOW: Duration = Duration::from_secs(10);
/// Slows down who tries passwords.
const FAILURE_DELAY: Duration = Duration::from_millis(500);

/// From the greeting to the end.
pub(crate) async fn run(gateway: Arc<Gateway>, connection: Connection) {
    let span = info_span!("pop3.session", tls = connection.tls.is_some());
    async {
        let mut session = Session {
            gateway,
            peer: connection.peer.ip(),
            channel_binding: connection.tls.as_ref().and_then(|tls| tls.channel_binding),
            out: Vec::new(),
            exchange: None,
            maildrop: None,
            ahead: Ahead::default(),
            lost: CancellationToken::new(),
            retrieved: 0,
            deleted: 0,
        };
        let outcome = session.converse(connection).await;
        // A client that is gone without QUIT must find its maildrop free at once.
        session.close_maildrop().await;
        match outcome {
            Ok(()) => info!(retrieved = session.retrieved, deleted = session.deleted, "session ended"),
            Err(e) => info!(retrieved = session.retrieved, deleted = session.deleted, error = %e, "connection lost"),
        }
    }
    .instrument(span)
    .await;
}

struct Session {
    gateway: Arc<Gateway>,
    peer: IpAddr,
    channel_binding: Option<[u8; 32]>,
    out: Vec<u8>,
    exchange: Option<Exchange>,
    maildrop: Option<Maildrop>,
    ahead: Ahead,
    /// Of the open maildrop, if there is one.
    lost: CancellationToken,
    retrieved: u64,
    deleted: u64,
}

impl Session {
    async fn converse(&mut self, connection: Connection) -> io::Result<()> {
        let Connection { mut stream, tls, shutdown, .. } = connection;
        let mut protocol = pop3::Session::new(self.rules(), tls.is_some());
        if self.channel_binding.is_some() {
            protocol.offer_channel_binding();
        }
        let mut input = vec![0; READ];
        loop {
            while let Some(effect) = protocol.next_effect() {
                let answer = match effect {
                    Effect::Reply { verb, ok, text } => {
                        self.gateway.metrics.command(verb, ok);
                        self.out.extend_from_slice(&text);
                        if self.out.len() >= GATHER {
                            self.flush(&mut stream).await?;
                        }
                        continue;
                    }
                    Effect::StartTls => {
                        self.flush(&mut stream).await?;
                        let Some(tls) = &self.gateway.tls else { return Ok(()) };
                        let (encrypted, info) = stream.starttls(tls).await?;
                        stream = encrypted;
                        protocol.tls_started();
                        self.channel_binding = info.channel_binding;
                        if self.channel_binding.is_some() {
                            protocol.offer_channel_binding();
                        }
                        continue;
                    }
                    Effect::CancelExchange => {
                        self.exchange = None;
                        continue;
                    }
                    Effect::Close => {
                        self.close_maildrop().await;
                        self.flush(&mut stream).await?;
                        // The client may be gone already, which is fine now.
                        let _ = tokio::time::timeout(Duration::from_secs(5), stream.shutdown()).await;
                        return Ok(());
                    }
                    Effect::Authenticate { mechanism, initial_response } => {
                        self.authenticate(mechanism, initial_response).await
                    }
                    Effect::Respond(response) => self.respond(response).await,
                    Effect::Retrieve { uid, size, lines } => {
                        let surrogate = self.gateway.config.surrogates && !protocol.is_utf8();
                        self.retrieve(&mut stream, &protocol, (uid, size), lines, surrogate).await?
                    }
                    Effect::Expunge(uids) => self.expunge(&uids).await,
                };
                protocol.answer(answer);
            }
            self.flush(&mut stream).await?;
            let lost = self.lost.clone();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => protocol.shut_down(),
                () = lost.cancelled() => protocol.shut_down(),
                read = tokio::time::timeout(self.gateway.config.idle_timeout(), stream.read(&mut input)) => match read {
                    // RFC 1939 §3: no reply, no deletion.
                    Err(_) => {
                        debug!("autologout");
                        return Ok(());
                    }
                    Ok(read) => match read? {
                        0 => return Ok(()),
                        n => protocol.receive(input.get(..n).unwrap_or_default()),
                    },
                },
            }
        }
    }

    fn rules(&self) -> pop3::Config {
        let config = &self.gateway.config;
        pop3::Config {
            hostname: config.hostname.clone(),
            starttls: self.gateway.tls.is_some(),
            plaintext_login: config.allow_cleartext_login,
            mechanisms: config.mechanisms.clone(),
        }
    }

    async fn authenticate(&mut self, mechanism: String, initial_response: Option<Vec<u8>>) -> Answer {
        let (directory, timeout) = (self.gateway.directory.clone(), self.gateway.config.call_timeout());
        match Exchange::begin(directory, mechanism, initial_response, self.peer, self.channel_binding, timeout).await {
            Ok(exchange) => self.advance(exchange).await,
            Err(status) => self.login_failed(&status),
        }
    }

    async fn respond(&mut self, response: Vec<u8>) -> Answer {
        let Some(mut exchange) = self.exchange.take() else { return Answer::Refused(Refusal::Temporary) };
        match exchange.respond(response).await {
            Ok(()) => self.advance(exchange).await,
            Err(status) => self.login_failed(&status),
        }
    }

    async fn advance(&mut self, mut exchange: Exchange) -> Answer {
        match exchange.step().await {
            Ok(Step::Challenge(challenge)) => {
                self.exchange = Some(exchange);
                Answer::Challenge(challenge)
            }
            Ok(Step::Success(account)) => self.open(account.account_id).await,
            Ok(Step::Failure) => {
                tokio::time::sleep(FAILURE_DELAY).await;
                info!("login refused");
                self.refused(Refusal::Credentials)
            }
            Err(status) => self.login_failed(&status),
        }
    }

    async fn open(&mut self, account_id: u64) -> Answer {
        match Maildrop::open(self.gateway.mailboxes.clone(), account_id, self.gateway.config.lease()).await {
            Ok((maildrop, messages)) => {
                info!(account.id = account_id, messages = messages.len(), "logged in");
                self.gateway.metrics.login(Ok(()));
                self.lost = maildrop.lost();
                self.maildrop = Some(maildrop);
                Answer::Opened(messages)
            }
            Err(refusal) => self.refused(refusal),
        }
    }

    fn login_failed(&self, status: &Status) -> Answer {
        self.refused(refusal("nobody can tell who this is", status))
    }

    fn refused(&self, refusal: Refusal) -> Answer {
        self.gateway.metrics.login(Err(refusal));
        Answer::Refused(refusal)
    }

    /// An error is the connection's; a message that cannot be read is an answer.
    async fn retrieve(
        &mut self,
        stream: &mut Stream,
        protocol: &pop3::Session,
        (uid, size): (u32, u64),
        lines: Option<u32>,
        surrogate: bool,
    ) -> io::Result<Answer> {
        let (contents, timeout) = (self.gateway.contents.clone(), self.gateway.config.call_timeout());
        let Some(maildrop) = &self.maildrop else { return Ok(Answer::Refused(Refusal::Temporary)) };
        let place = maildrop.place(uid, size);
        // TOP wants little of each.
        let ready = match lines {
            None => self.ahead.take(contents.clone(), place, protocol.following(uid), timeout).await,
            Some(_) => None,
        };
        let mut message = match ready {
            Some(pieces) => Content::complete(contents, place, pieces, timeout),
            None => match maildrop.read(contents, place, timeout).await {
                Ok(message) => message,
                Err(refusal) => return Ok(Answer::Refused(refusal)),
            },
        };
        let verb = if lines.is_some() { pop3::Verb::Top } else { pop3::Verb::Retr };
        self.gateway.metrics.command(verb, true);
        self.gateway.metrics.retrieved.inc();
        self.retrieved += 1;
        let mut transfer = Transfer::new(lines);
        let header = if surrogate { message.take_header().await? } else { None };
        let sent = header.map(|header| (pop3::surrogate(&header).into_owned(), header.len()));
        let stored = sent.as_ref().map_or(0, |(_, stored)| *stored as u64);
        let header = sent.map(|(header, _)| header).unwrap_or_default();
        let size = size.saturating_sub(stored).saturating_add(header.len() as u64);
        self.out.extend_from_slice(pop3::Session::transfer_begins(size, lines).as_bytes());
        let mut more = header.is_empty() || transfer.push(&header, &mut self.out);
        // An error in its midst ends the connection: nothing else can tell the client.
        while more && let Some(octets) = message.next().await? {
            // What needs no dot is not copied, unless it is little.
            if octets.len() >= LARGE && transfer.passes(&octets) {
                self.flush(stream).await?;
                self.write_of(stream, &octets, &mut message).await?;
                continue;
            }
            for piece in octets.chunks(GATHER) {
                more = more && transfer.push(piece, &mut self.out);
                if self.out.len() >= GATHER {
                    let out = std::mem::take(&mut self.out);
                    self.write_of(stream, &out, &mut message).await?;
                    self.keep(out);
                }
            }
        }
        transfer.finish(&mut self.out);
        Ok(Answer::Sent)
    }

    /// As [`Self::write`]; a client that takes its time does not keep `mda` at it.
    async fn write_of(&self, stream: &mut Stream, octets: &[u8], message: &mut Content) -> io::Result<()> {
        let write = self.write(stream, octets);
        tokio::pin!(write);
        tokio::select! {
            biased;
            written = &mut write => return written,
            () = tokio::time::sleep(SLOW) => message.let_go(),
        }
        write.await
    }

    async fn expunge(&mut self, uids: &[u32]) -> Answer {
        let Some(maildrop) = &mut self.maildrop else { return Answer::Refused(Refusal::Temporary) };
        match maildrop.update(uids).await {
            Ok(()) => {
                self.deleted = uids.len() as u64;
                self.gateway.metrics.deleted.inc_by(self.deleted);
                Answer::Expunged
            }
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    async fn close_maildrop(&mut self) {
        if let Some(maildrop) = self.maildrop.take() {
            maildrop.close().await;
        }
    }

    async fn flush(&mut self, stream: &mut Stream) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
        self.write(stream, &out).await?;
        self.keep(out);
        Ok(())
    }

    /// The buffer of what was written is for what comes next.
    fn keep(&mut self, mut out: Vec<u8>) {
        out.clear();
        if out.capacity() > 4 * GATHER {
            out.shrink_to(GATHER);
        }
        self.out = out;
    }

    /// A client that does not read is as silent as one that does not write.
    async fn write(&self, stream: &mut Stream, octets: &[u8]) -> io::Result<()> {
        let written = async {
            stream.write_all(octets).await?;
            stream.flush().await
        };
        tokio::time::timeout(self.gateway.config.idle_timeout(), written)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "client does not read"))?
    }
}
