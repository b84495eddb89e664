//! BDAT: content in chunks of announced length (RFC 3030 §2).
//!
//! A chunk is read to its end whatever becomes of it, because its octets are no commands.

use bytes::{Buf as _, BytesMut};

use super::{Session, State, Step};
use crate::Reply;

impl Session {
    pub(super) fn on_bdat(&mut self, size: u64, last: bool) -> Step {
        let refusal = match &self.mail {
            None => Some(("out_of_order", Reply::new(503, (5, 5, 1), "Send MAIL first"))),
            Some(_) if self.recipients == 0 => {
                Some(("no_recipients", Reply::new(554, (5, 5, 1), "No valid recipients")))
            }
            Some(mail) => {
                if self.chunks.is_none() {
                    self.chunks = Some(self.reader(mail));
                }
                None
            }
        };
        let seen = self.chunks.as_ref().map_or(0, |c| c.seen());
        if self.is_excessive(seen.saturating_add(size)) {
            return self.far_too_large();
        }
        let refusal = refusal.map(|(reason, reply)| {
            self.refusals.push(reason);
            reply
        });
        self.state = State::Chunk { remaining: size, last, refusal };
        Step::Again
    }

    pub(super) fn read_chunk(&mut self, input: &mut BytesMut) -> Step {
        let State::Chunk { remaining, .. } = &mut self.state else { return Step::Again };
        let taken = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
        *remaining -= taken as u64;
        let more = *remaining > 0;
        if let (Some(reader), Some(octets)) = (&mut self.chunks, input.get(..taken)) {
            reader.take(octets);
        }
        input.advance(taken);
        if more {
            return Step::Starved;
        }
        let State::Chunk { last, refusal, .. } = std::mem::replace(&mut self.state, State::Command) else {
            return Step::Again;
        };
        let reader = self.chunks.take();
        self.transcript.client("[chunk]");
        match (refusal, reader) {
            (Some(reply), _) => {
                self.reset();
                self.refuse_with(&reply)
            }
            (None, Some(reader)) if last => self.on_content(reader),
            // What is wrong already is told now, not after the rest.
            (None, Some(reader)) if reader.is_defective() => self.on_content(reader),
            (None, reader) => {
                let seen = reader.as_ref().map_or(0, |r| r.seen());
                self.chunks = reader;
                self.ok(&format!("{seen} octets received"))
            }
        }
    }
}
