//! APPEND (RFC 9051 §6.3.12): the message flows from the client to `mda` as it comes.

use std::{io, time::Duration};

use imap::{AppendHead, AppendItem, AppendPiece, Framed, SequenceSet, UidRanges, respond};
use proto::mailboxes::{AppendRequest, AppendResponse, AppendTarget, Flags, Replaced};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::Status;

use crate::{
    access::Place,
    catenate::Source,
    failure::{Failure, Outcome},
    selected::{only_gone, slow},
    session::Session,
};

/// Chunks on their way; bounds what a fast client can pile up here.
const IN_FLIGHT: usize = 4;
/// Requests are far smaller, save one: see [`Upload::drop`].
const LARGEST_REQUEST: usize = 256 * 1024;
/// An mda that takes nothing for so long is away.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// A literal that is announced: its octets, and whether the client waits to be asked for them.
pub(crate) type Literal = (u64, bool);

/// What follows a literal, and the next one if there is one.
type Pumped = (Vec<AppendPiece>, Option<Literal>);

impl Session {
    /// APPEND, MULTIAPPEND (RFC 3502), CATENATE (RFC 4469) and REPLACE (RFC 8508).
    pub(crate) async fn append(&mut self, head: AppendHead, literal: Option<Literal>) -> Outcome {
        let (place, replaces) = match self.may_append(&head, literal).await {
            Ok(found) => found,
            Err(failure) => return self.refuse(failure),
        };
        let mut upload = match Upload::begin(self, &head, place, replaces).await {
            Ok(upload) => upload,
            Err(failure) => return self.refuse(failure),
        };
        let answer = match self.pump_all(&mut upload, &head, literal).await {
            Ok(()) => upload.finish(self.gateway.config.call_timeout() * 3).await,
            Err(Failure::Gone(e)) => return Err(Failure::Gone(e)),
            // The whole message has come, and something after it.
            Err(failure @ Failure::Bad(_)) => return Err(failure),
            Err(failure) => return self.refuse(failure),
        };
        let answer = answer.map_err(|s| Failure::of_target(&s))?;
        self.gateway.metrics.appended.inc_by(answer.uids.len().max(1) as u64);
        let uids = UidRanges::from_numbers(answer.uids.iter().copied().chain((answer.uid > 0).then_some(answer.uid)));
        let code = format!("[APPENDUID {} {uids}]", answer.uid_validity);
        let told = match replaces {
            None => format!("OK {code} Append completed."),
            Some(replaced) => self.tell_replaced(&code, &replaced, answer.highest_modseq),
        };
        if self.selected.as_ref().is_some_and(|s| s.name == head.mailbox) {
            only_gone(self.refresh(true).await)?;
        }
        Ok(told)
    }

    /// RFC 8508 §3.2: the new UID comes before the EXPUNGE of the old message.
    fn tell_replaced(&mut self, code: &str, replaced: &Replaced, highest_modseq: u64) -> String {
        respond::line(&mut self.wire.out, "*", format_args!("OK {code} Replacement message ready."));
        let by_uid = self.by_uid();
        if let Some(selected) = &mut self.selected {
            selected.view.vanish(replaced.uid, replaced.uid);
            selected.view.expunge(&mut self.wire.out, by_uid);
        }
        if self.condstore {
            return format!("OK [HIGHESTMODSEQ {highest_modseq}] Replace completed.");
        }
        "OK Replace completed.".into()
    }

    /// Asked before the client sends its megabytes. The message that is to be replaced, if any.
    async fn may_append(
        &mut self,
        head: &AppendHead,
        literal: Option<Literal>,
    ) -> Result<(Place, Option<Replaced>), Failure> {
        let account_id = self.account.ok_or(Failure::Bad("Log in first."))?;
        self.may_begin(first(head))?;
        if let Some((size, _)) = literal {
            self.may_send(size)?;
        }
        let replaces = match &head.replaces {
            None => None,
            Some((set, uid)) => Some(self.replaced(set, *uid)?),
        };
        let place = self.place(account_id, &head.mailbox).await?;
        if place.owner != account_id {
            // Who may drop a message into another's mailbox need not see it; mda decides.
            let is_same = self.selected.as_ref().is_none_or(|s| s.owner == place.owner);
            if replaces.is_some() && !is_same {
                return Err(Failure::no("CANNOT", "A replacement stays with the owner."));
            }
            return Ok((place, replaces));
        }
        match self.state_at(&place).await? {
            Some(_) => Ok((place, replaces)),
            None => Err(Failure::no("TRYCREATE", "No such mailbox.")),
        }
    }

    fn may_begin(&self, message: &AppendItem) -> Result<(), Failure> {
        if message.utf8 && !self.utf8 {
            // RFC 6855 §4.
            return Err(Failure::no("CANNOT", "ENABLE UTF8=ACCEPT first."));
        }
        Ok(())
    }

    fn may_send(&self, size: u64) -> Result<(), Failure> {
        if size > self.gateway.config.max_message_size {
            return Err(Failure::no("TOOBIG", "Message is too large."));
        }
        Ok(())
    }

    fn replaced(&self, set: &SequenceSet, uid: bool) -> Result<Replaced, Failure> {
        let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
        if selected.read_only {
            return Err(Failure::no("CANNOT", "Mailbox is opened read-only."));
        }
        if self.uid_only && !uid {
            return Err(Failure::Bad(crate::session::UID_REQUIRED));
        }
        let uids = selected.view.resolve(set, uid).ok_or(Failure::Bad("No such message."))?;
        match uids.as_slice() {
            [(first, last)] if first == last && selected.view.seq_of(*first).is_some() => {
                Ok(Replaced { mailbox_id: selected.mailbox_id, uid: *first })
            }
            _ => Err(Failure::no("NONEXISTENT", "No such message.")),
        }
    }

    fn refuse(&mut self, failure: Failure) -> Outcome {
        if self.wire.framer.refuse() {
            return Err(failure);
        }
        // Nobody reads gigabytes for nothing (RFC 7888 §4).
        respond::line(&mut self.wire.out, "*", "BYE [TOOBIG] Literal is too large.");
        Err(io::Error::new(io::ErrorKind::InvalidData, "refused message is too large to be skipped").into())
    }

    /// Hands on all messages of the command.
    async fn pump_all(
        &mut self,
        upload: &mut Upload,
        head: &AppendHead,
        literal: Option<Literal>,
    ) -> Result<(), Failure> {
        // The first message has begun with the call.
        let mut pieces: Vec<AppendPiece> = head.pieces.iter().skip(1).cloned().collect();
        let mut literal = literal;
        loop {
            for piece in pieces {
                match piece {
                    AppendPiece::Message(message) => {
                        self.may_begin(&message)?;
                        upload.is_not_empty()?;
                        upload.push(request(&upload.place, &message, None)).await?;
                        upload.sent = 0;
                    }
                    AppendPiece::Url(url) => self.pass_url(upload, &url).await?,
                }
            }
            let Some((size, sync)) = literal else { return upload.is_not_empty() };
            self.may_send(upload.sent.saturating_add(size))?;
            self.wire.framer.accept();
            if sync {
                self.wire.out.extend_from_slice(b"+ Ready for the message.\r\n");
                self.wire.flush().await?;
            }
            (pieces, literal) = self.pump(upload).await?;
        }
    }

    /// Hands on one literal until its end.
    async fn pump(&mut self, upload: &mut Upload) -> Result<Pumped, Failure> {
        let patience = self.gateway.config.idle_timeout();
        loop {
            match self.wire.framer.poll() {
                Framed::Data(content) => upload.send(content).await?,
                Framed::AppendEnd(Ok(pieces)) => return Ok((pieces, None)),
                Framed::AppendEnd(Err(e)) => return Err(Failure::Bad(e.text)),
                Framed::AppendNext { pieces, size, sync } => return Ok((pieces, Some((size, sync)))),
                Framed::NeedMore => {
                    let read = tokio::time::timeout(patience, self.wire.read_much()).await;
                    read.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "message stopped coming"))??;
                }
                _ => return Err(Failure::Bad("Message expected.")),
            }
        }
    }

    /// What a URL of CATENATE names goes from store to store, without the client (RFC 4469 §1).
    async fn pass_url(&mut self, upload: &mut Upload, url: &str) -> Result<(), Failure> {
        let source = self.source(url).await?;
        let size = source.len();
        if size > self.gateway.config.max_message_size.saturating_sub(upload.sent) {
            return Err(Failure::no("TOOBIG", "Message is too large."));
        }
        match source {
            Source::Held(octets) => upload.send_all(&octets).await,
            Source::Far { mut answers, .. } => {
                let timeout = self.gateway.config.call_timeout();
                while let Some(answer) = tokio::time::timeout(timeout, answers.message()).await.map_err(slow)?? {
                    upload.send_all(&answer.chunk).await?;
                }
                Ok(())
            }
        }
    }
}

/// A command begins with a message.
fn first(head: &AppendHead) -> &AppendItem {
    const NONE: &AppendItem =
        &AppendItem { flags: imap::Flags { system: 0, keywords: Vec::new() }, internal_date_ms: None, utf8: false };
    match head.pieces.first() {
        Some(AppendPiece::Message(message)) => message,
        _ => NONE,
    }
}

/// The beginning of one message.
fn request(place: &Place, message: &AppendItem, replaces: Option<Replaced>) -> AppendRequest {
    let flags = Flags { system: message.flags.system, keywords: message.flags.keywords.clone() };
    let target = AppendTarget {
        account_id: place.owner,
        mailbox: place.name.clone(),
        flags: Some(flags),
        internal_date_ms: message.internal_date_ms.unwrap_or_default(),
        replaces,
        ..AppendTarget::default()
    };
    AppendRequest { target: Some(target), ..AppendRequest::default() }
}

/// A running call. Dropped before [`Upload::finish`], it breaks off, and `mda` stores nothing.
struct Upload {
    place: Place,
    /// Octets of the message that is under way.
    sent: u64,
    /// `None` is the end; a channel that just closes is not.
    chunks: mpsc::Sender<Option<AppendRequest>>,
    /// Nothing when it has ended or been let go.
    call: Option<JoinHandle<Result<AppendResponse, Status>>>,
}

impl Upload {
    async fn begin(
        session: &Session,
        head: &AppendHead,
        place: Place,
        replaces: Option<Replaced>,
    ) -> Result<Self, Failure> {
        let (chunks, receiver) = mpsc::channel::<Option<AppendRequest>>(IN_FLIGHT);
        let first = request(&place, first(head), replaces);
        // A stream that ends is a message that is whole, so only an explicit end ends it.
        let requests = futures::stream::unfold(receiver, |mut receiver| async {
            match receiver.recv().await {
                Some(Some(request)) => Some((request, receiver)),
                Some(None) => None,
                None => std::future::pending().await,
            }
        });
        let mut uploads = session.gateway.uploads.clone().max_encoding_message_size(LARGEST_REQUEST);
        let requests = session.asking(requests);
        let call = tokio::spawn(async move { uploads.append(requests).await.map(tonic::Response::into_inner) });
        let mut upload = Self { place, sent: 0, chunks, call: Some(call) };
        upload.push(first).await?;
        Ok(upload)
    }

    fn is_not_empty(&self) -> Result<(), Failure> {
        if self.sent == 0 { Err(Failure::no("CANNOT", "Message is empty.")) } else { Ok(()) }
    }

    async fn send_all(&mut self, octets: &[u8]) -> Result<(), Failure> {
        for piece in octets.chunks(LARGEST_REQUEST / 4) {
            self.send(piece.to_vec()).await?;
        }
        Ok(())
    }

    async fn send(&mut self, content: Vec<u8>) -> Result<(), Failure> {
        self.sent = self.sent.saturating_add(content.len() as u64);
        self.push(AppendRequest { content: content.into(), ..AppendRequest::default() }).await
    }

    /// The call's own error, if it has ended before the message has.
    async fn push(&mut self, request: AppendRequest) -> Result<(), Failure> {
        let Some(call) = &mut self.call else { return Err(early(None)) };
        let sent = tokio::select! {
            biased;
            ended = call => {
                self.call = None;
                return Err(early(ended.ok()));
            }
            sent = tokio::time::timeout(SEND_TIMEOUT, self.chunks.send(Some(request))) => sent,
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            _ => Err(early(None)),
        }
    }

    /// After the timeout the call is let go, not cancelled: all of the message is on its way.
    async fn finish(mut self, timeout: Duration) -> Result<AppendResponse, Status> {
        let call = self.call.take();
        let answered = async {
            let _ = self.chunks.send(None).await;
            match call {
                Some(call) => call.await.ok(),
                None => None,
            }
        };
        match tokio::time::timeout(timeout, answered).await {
            Ok(Some(answer)) => answer,
            _ => Err(Status::unavailable("no answer to an append")),
        }
    }
}

fn early(ended: Option<Result<AppendResponse, Status>>) -> Failure {
    match ended {
        Some(Err(status)) => Failure::of_target(&status),
        _ => Status::unavailable("mda does not take the message").into(),
    }
}

impl Drop for Upload {
    /// A call that is just cancelled looks to a tonic server like one whose stream has ended, and
    /// half a message would be stored. A request that cannot be encoded resets the stream as an error.
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        let chunks = self.chunks.clone();
        let unfit = AppendRequest { content: vec![0; LARGEST_REQUEST + 1].into(), ..AppendRequest::default() };
        tokio::spawn(async move {
            let _ = chunks.send(Some(unfit)).await;
            let _ = call.await;
        });
    }
}
