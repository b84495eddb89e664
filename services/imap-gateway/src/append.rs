//! APPEND (RFC 9051 §6.3.12): the message flows from the client to `mda` as it comes.

use std::{io, time::Duration};

use imap::{AppendHead, AppendItem, Framed, SequenceSet, UidRanges, respond};
use proto::mailboxes::{AppendRequest, AppendResponse, AppendTarget, Flags, Replaced};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::Status;

use crate::{
    failure::{Failure, Outcome},
    selected::only_gone,
    session::Session,
};

/// Chunks on their way; bounds what a fast client can pile up here.
const IN_FLIGHT: usize = 4;
/// Requests are far smaller, save one: see [`Upload::drop`].
const LARGEST_REQUEST: usize = 256 * 1024;
/// An mda that takes nothing for so long is away.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// How a message ended.
enum Pumped {
    /// The command is over.
    End,
    /// Another message follows (MULTIAPPEND).
    Next { message: AppendItem, size: u64, sync: bool },
}

impl Session {
    /// APPEND, MULTIAPPEND (RFC 3502) and REPLACE (RFC 8508).
    pub(crate) async fn append(&mut self, head: AppendHead, size: u64, sync: bool) -> Outcome {
        let replaces = match self.may_append(&head, size).await {
            Ok(replaces) => replaces,
            Err(failure) => return self.refuse(failure),
        };
        let mut upload = match Upload::begin(self, &head, replaces).await {
            Ok(upload) => upload,
            Err(failure) => return self.refuse(failure),
        };
        let answer = match self.pump_all(&mut upload, &head, size, sync).await {
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
    async fn may_append(&mut self, head: &AppendHead, size: u64) -> Result<Option<Replaced>, Failure> {
        let account_id = self.account.ok_or(Failure::Bad("Log in first."))?;
        self.may_send(&head.message, size)?;
        let replaces = match &head.replaces {
            None => None,
            Some((set, uid)) => Some(self.replaced(set, *uid)?),
        };
        match self.state_of(account_id, head.mailbox.clone()).await? {
            Some(_) => Ok(replaces),
            None => Err(Failure::no("TRYCREATE", "No such mailbox.")),
        }
    }

    fn may_send(&self, message: &AppendItem, size: u64) -> Result<(), Failure> {
        if message.utf8 && !self.utf8 {
            // RFC 6855 §4.
            return Err(Failure::no("CANNOT", "ENABLE UTF8=ACCEPT first."));
        }
        if size > self.gateway.config.max_message_size {
            return Err(Failure::no("TOOBIG", "Message is too large."));
        }
        if size == 0 {
            return Err(Failure::no("CANNOT", "Message is empty."));
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
        Err(io::Error::new(io::ErrorKind::InvalidData, "refused message is too large to be skipped").into())
    }

    /// Hands on all messages of the command.
    async fn pump_all(
        &mut self,
        upload: &mut Upload,
        head: &AppendHead,
        mut size: u64,
        mut sync: bool,
    ) -> Result<(), Failure> {
        let mut message = head.message.clone();
        let mut is_first = true;
        loop {
            if !is_first {
                self.may_send(&message, size)?;
                upload.push(request(upload.account_id, &head.mailbox, &message, None)).await?;
            }
            self.wire.framer.accept();
            if sync {
                self.wire.out.extend_from_slice(b"+ Ready for the message.\r\n");
                self.wire.flush().await?;
            }
            match self.pump(upload).await? {
                Pumped::End => return Ok(()),
                Pumped::Next { message: next, size: next_size, sync: next_sync } => {
                    (message, size, sync, is_first) = (next, next_size, next_sync, false);
                }
            }
        }
    }

    /// Hands on one message until its end.
    async fn pump(&mut self, upload: &mut Upload) -> Result<Pumped, Failure> {
        let patience = self.gateway.config.idle_timeout();
        loop {
            match self.wire.framer.poll() {
                Framed::Data(content) => upload.send(content).await?,
                Framed::AppendEnd(Ok(())) => return Ok(Pumped::End),
                Framed::AppendEnd(Err(e)) => return Err(Failure::Bad(e.text)),
                Framed::AppendNext { message, size, sync } => return Ok(Pumped::Next { message, size, sync }),
                Framed::NeedMore => {
                    let read = tokio::time::timeout(patience, self.wire.read_much()).await;
                    read.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "message stopped coming"))??;
                }
                _ => return Err(Failure::Bad("Message expected.")),
            }
        }
    }
}

/// The beginning of one message.
fn request(account_id: u64, mailbox: &str, message: &AppendItem, replaces: Option<Replaced>) -> AppendRequest {
    let flags = Flags { system: message.flags.system, keywords: message.flags.keywords.clone() };
    let target = AppendTarget {
        account_id,
        mailbox: mailbox.to_owned(),
        flags: Some(flags),
        internal_date_ms: message.internal_date_ms.unwrap_or_default(),
        replaces,
        ..AppendTarget::default()
    };
    AppendRequest { target: Some(target), ..AppendRequest::default() }
}

/// A running call. Dropped before [`Upload::finish`], it breaks off, and `mda` stores nothing.
struct Upload {
    account_id: u64,
    /// `None` is the end; a channel that just closes is not.
    chunks: mpsc::Sender<Option<AppendRequest>>,
    /// Nothing when it has ended or been let go.
    call: Option<JoinHandle<Result<AppendResponse, Status>>>,
}

impl Upload {
    async fn begin(session: &Session, head: &AppendHead, replaces: Option<Replaced>) -> Result<Self, Failure> {
        let account_id = session.account.ok_or(Failure::Bad("Log in first."))?;
        let (chunks, receiver) = mpsc::channel::<Option<AppendRequest>>(IN_FLIGHT);
        let first = request(account_id, &head.mailbox, &head.message, replaces);
        // A stream that ends is a message that is whole, so only an explicit end ends it.
        let requests = futures::stream::unfold(receiver, |mut receiver| async {
            match receiver.recv().await {
                Some(Some(request)) => Some((request, receiver)),
                Some(None) => None,
                None => std::future::pending().await,
            }
        });
        let mut uploads = session.gateway.uploads.clone().max_encoding_message_size(LARGEST_REQUEST);
        let call = tokio::spawn(async move { uploads.append(requests).await.map(tonic::Response::into_inner) });
        let mut upload = Self { account_id, chunks, call: Some(call) };
        upload.push(first).await?;
        Ok(upload)
    }

    async fn send(&mut self, content: Vec<u8>) -> Result<(), Failure> {
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
