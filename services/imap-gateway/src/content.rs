//! The octets of large messages: streamed from `mda` to the client, a piece at a time.

use std::io;

use proto::mailboxes::{ContentRequest, ContentResponse};
use tonic::Streaming;

use crate::{failure::Failure, selected::slow, session::Session};

impl Session {
    /// From `start` up to and without `end` of the message, held whole. The caller holds a permit
    /// of the gateway's `large`, or knows that it is little.
    pub(crate) async fn content(&self, account_id: u64, uid: u32, start: u64, end: u64) -> Result<Vec<u8>, Failure> {
        let Some(selected) = &self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        let answers = self.open_content(account_id, selected.mailbox_id, uid, start, end, "").await?;
        self.gathered(answers).await
    }

    pub(crate) async fn gathered(&self, mut answers: Streaming<ContentResponse>) -> Result<Vec<u8>, Failure> {
        let timeout = self.gateway.config.call_timeout();
        let mut octets = Vec::new();
        while let Some(answer) = tokio::time::timeout(timeout, answers.message()).await.map_err(slow)?? {
            octets.extend_from_slice(&answer.chunk);
        }
        Ok(octets)
    }

    pub(crate) async fn open_content(
        &self,
        account_id: u64,
        mailbox_id: u64,
        uid: u32,
        start: u64,
        end: u64,
        reader: &str,
    ) -> Result<Streaming<ContentResponse>, Failure> {
        let request = ContentRequest { account_id, mailbox_id, uid, start, end, reader: reader.to_owned() };
        Ok(self.mailboxes().content(self.asking(request)).await?.into_inner())
    }

    /// Writes exactly these octets, whose literal is announced already: when they do not come, the
    /// client cannot be told but by the end of the connection.
    pub(crate) async fn pass_content(&mut self, account_id: u64, uid: u32, start: u64, end: u64) -> io::Result<()> {
        let cut = |why: String| io::Error::new(io::ErrorKind::ConnectionAborted, why);
        let mut left = end.saturating_sub(start);
        if left == 0 {
            return Ok(());
        }
        let mailbox_id = self.selected.as_ref().map_or(0, |s| s.mailbox_id);
        let opened = self.open_content(account_id, mailbox_id, uid, start, end, "imap").await;
        let mut answers = opened.map_err(|e| cut(format!("message did not come: {e:?}")))?;
        let timeout = self.gateway.config.call_timeout();
        loop {
            let next = tokio::time::timeout(timeout, answers.message()).await;
            let next = next.map_err(|_| cut("message stopped coming".into()))?;
            let Some(answer) = next.map_err(|status| cut(format!("message broke off: {}", status.message())))? else {
                break;
            };
            left = left.checked_sub(answer.chunk.len() as u64).ok_or_else(|| cut("message is too long".into()))?;
            self.wire.out.extend_from_slice(&answer.chunk);
            self.wire.flush_some().await?;
        }
        if left > 0 { Err(cut("message is too short".into())) } else { Ok(()) }
    }
}
