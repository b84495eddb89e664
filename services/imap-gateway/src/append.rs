//! APPEND (RFC 9051 §6.3.12): the message flows from the client to `mda` as it comes.

use std::{io, time::Duration};

use imap::{AppendHead, Framed};
use proto::mailboxes::{AppendRequest, AppendResponse, AppendTarget, Flags};
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

impl Session {
    pub(crate) async fn append(&mut self, head: AppendHead, size: u64, sync: bool) -> Outcome {
        if let Err(failure) = self.may_append(&head, size).await {
            return self.refuse(failure);
        }
        self.wire.framer.accept();
        if sync {
            self.wire.out.extend_from_slice(b"+ Ready for the message.\r\n");
            self.wire.flush().await?;
        }
        let mut upload = match Upload::begin(self, &head).await {
            Ok(upload) => upload,
            Err(failure) => return self.refuse(failure),
        };
        let answer = match self.pump(&mut upload).await {
            Ok(()) => upload.finish(self.gateway.config.call_timeout() * 3).await,
            Err(Failure::Gone(e)) => return Err(Failure::Gone(e)),
            // The whole message has come, and something after it.
            Err(failure @ Failure::Bad(_)) => return Err(failure),
            Err(failure) => return self.refuse(failure),
        };
        let answer = answer.map_err(|s| Failure::of_target(&s))?;
        self.gateway.metrics.appended.inc();
        if self.selected.as_ref().is_some_and(|s| s.name == head.mailbox) {
            only_gone(self.refresh(true).await)?;
        }
        Ok(format!("OK [APPENDUID {} {}] Append completed.", answer.uid_validity, answer.uid))
    }

    /// Asked before the client sends its megabytes.
    async fn may_append(&mut self, head: &AppendHead, size: u64) -> Result<(), Failure> {
        let account_id = self.account.ok_or(Failure::Bad("Log in first."))?;
        if size > self.gateway.config.max_message_size {
            return Err(Failure::no("TOOBIG", "Message is too large."));
        }
        if size == 0 {
            return Err(Failure::no("CANNOT", "Message is empty."));
        }
        match self.state_of(account_id, head.mailbox.clone()).await? {
            Some(_) => Ok(()),
            None => Err(Failure::no("TRYCREATE", "No such mailbox.")),
        }
    }

    fn refuse(&mut self, failure: Failure) -> Outcome {
        if self.wire.framer.refuse() {
            return Err(failure);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "refused message is too large to be skipped").into())
    }

    /// Hands on the message until its end.
    async fn pump(&mut self, upload: &mut Upload) -> Result<(), Failure> {
        let patience = self.gateway.config.idle_timeout();
        loop {
            match self.wire.framer.poll() {
                Framed::Data(content) => upload.send(content).await?,
                Framed::AppendEnd(Ok(())) => return Ok(()),
                Framed::AppendEnd(Err(e)) => return Err(Failure::Bad(e.text)),
                Framed::NeedMore => {
                    let read = tokio::time::timeout(patience, self.wire.read_much()).await;
                    read.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "message stopped coming"))??;
                }
                _ => return Err(Failure::Bad("Message expected.")),
            }
        }
    }
}

/// A running call. Dropped before [`Upload::finish`], it breaks off, and `mda` stores nothing.
struct Upload {
    /// `None` is the end; a channel that just closes is not.
    chunks: mpsc::Sender<Option<AppendRequest>>,
    /// Nothing when it has ended or been let go.
    call: Option<JoinHandle<Result<AppendResponse, Status>>>,
}

impl Upload {
    async fn begin(session: &Session, head: &AppendHead) -> Result<Self, Failure> {
        let account_id = session.account.ok_or(Failure::Bad("Log in first."))?;
        let (chunks, receiver) = mpsc::channel::<Option<AppendRequest>>(IN_FLIGHT);
        let target = AppendTarget {
            account_id,
            mailbox: head.mailbox.clone(),
            flags: Some(Flags { system: head.flags.system, keywords: head.flags.keywords.clone() }),
            internal_date_ms: head.internal_date_ms.unwrap_or_default(),
        };
        let first = AppendRequest { target: Some(target), ..AppendRequest::default() };
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
        let mut upload = Self { chunks, call: Some(call) };
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
