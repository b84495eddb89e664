//! The content after DATA, and what any content's end leads to.

use bytes::BytesMut;

use super::{Decision, Effect, Session, State, Step};
use crate::{
    Reply,
    server::content::{ContentReader, Defect},
};

/// Content beyond the limit is read to its end only this much further.
const MAX_EXCESS: u64 = 64 << 20;

impl Session {
    pub(super) fn read_content(&mut self, input: &mut BytesMut) -> Step {
        let State::Content { reader, .. } = &mut self.state else { return Step::Again };
        if !reader.read(input) {
            let seen = reader.seen();
            return if self.is_excessive(seen) { self.far_too_large() } else { Step::Starved };
        }
        let State::Content { reader, refusal } = std::mem::replace(&mut self.state, State::Command) else {
            return Step::Again;
        };
        self.transcript.client(&format!("[content of {} octets]", reader.seen()));
        self.transcript.client(".");
        match refusal {
            Some(reply) => {
                self.reset();
                self.refuse_with(&reply)
            }
            None => self.on_content(reader),
        }
    }

    /// The content is complete.
    pub(super) fn on_content(&mut self, reader: ContentReader) -> Step {
        let (reason, refusal) = match reader.finish() {
            Ok(content) => return self.ask(Decision::Message, Effect::Message(content)),
            Err(defect) => self.defect(defect),
        };
        self.reset();
        self.refuse(reason, &refusal)
    }

    fn defect(&self, defect: Defect) -> (&'static str, Reply) {
        let malformed = |text: &str| Reply::new(554, (5, 6, 0), text);
        match defect {
            Defect::TooLarge => ("too_large", self.too_large()),
            Defect::BareLineEnd => ("bare_line_end", malformed("CR and LF must only occur together")),
            Defect::Nul => ("nul", malformed("NUL is not allowed in a message")),
            Defect::LongLine => ("long_line", malformed(&format!("Line longer than {} octets", self.config.max_line))),
        }
    }

    pub(super) fn is_excessive(&self, octets: u64) -> bool {
        octets > self.config.max_message_size.saturating_add(MAX_EXCESS)
    }

    /// Whoever goes on after the limit was told is cut.
    pub(super) fn far_too_large(&mut self) -> Step {
        self.end_because("far_too_large", &Reply::new(421, (4, 3, 4), "Message far too large"))
    }
}
