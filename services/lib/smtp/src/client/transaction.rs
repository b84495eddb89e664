//! One transaction: its commands, and what the answers say about each recipient.

use std::{collections::VecDeque, fmt::Write as _};

use super::{Capabilities, Envelope, Failure, Outcome, Stage};
use crate::Reply;

/// Replies that are due, in the order of the commands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    Mail,
    Rcpt(usize),
    Data,
}

#[derive(Debug)]
pub(super) struct Transaction {
    pub envelope: Envelope,
    pub outcomes: Vec<Option<Outcome>>,
    /// Recipients whose RCPT is not sent yet, by number.
    unsent: VecDeque<usize>,
    pub expected: VecDeque<Expected>,
    /// Replies that said yes to RCPT.
    pub accepted: usize,
}

impl Transaction {
    pub fn new(envelope: Envelope) -> Self {
        let count = envelope.recipients.len();
        Self {
            outcomes: vec![None; count],
            unsent: (0..count).collect(),
            expected: VecDeque::new(),
            accepted: 0,
            envelope,
        }
    }

    pub fn mail(&mut self, offered: &Capabilities) -> String {
        self.expected.push_back(Expected::Mail);
        let envelope = &self.envelope;
        let mut line = format!("MAIL FROM:<{}>", envelope.reverse_path);
        if offered.size {
            let _ = write!(line, " SIZE={}", envelope.size);
        }
        if offered.eight_bit_mime && envelope.eight_bit {
            line.push_str(" BODY=8BITMIME");
        }
        if offered.smtputf8 && is_international(envelope) {
            line.push_str(" SMTPUTF8");
        }
        if envelope.require_tls {
            line.push_str(" REQUIRETLS");
        }
        if offered.dsn {
            parameter(&mut line, "RET", &envelope.ret);
            parameter(&mut line, "ENVID", &envelope.envid);
        }
        line
    }

    /// The RCPT command of the next recipient, if one is left.
    pub fn next_rcpt(&mut self, offered: &Capabilities) -> Option<String> {
        let number = self.unsent.pop_front()?;
        let recipient = self.envelope.recipients.get(number)?;
        let mut line = format!("RCPT TO:<{}>", recipient.forward_path);
        if offered.dsn {
            parameter(&mut line, "NOTIFY", &recipient.notify);
            parameter(&mut line, "ORCPT", &recipient.orcpt);
        }
        self.expected.push_back(Expected::Rcpt(number));
        Some(line)
    }

    /// Takes the next reply; given back when it answers DATA.
    pub fn answer(&mut self, reply: Reply) -> Option<Reply> {
        match self.expected.pop_front() {
            Some(Expected::Mail) if !reply.is_positive() => {
                self.unsent.clear();
                let refused = Outcome::Refused { stage: Stage::Mail, reply };
                self.outcomes.iter_mut().for_each(|o| *o = Some(refused.clone()));
            }
            Some(Expected::Rcpt(number)) => {
                let refused = !reply.is_positive();
                if let Some(outcome @ None) = self.outcomes.get_mut(number) {
                    *outcome = refused.then_some(Outcome::Refused { stage: Stage::Rcpt, reply });
                    self.accepted += usize::from(!refused);
                }
            }
            Some(Expected::Data) => return Some(reply),
            Some(Expected::Mail) | None => {}
        }
        None
    }
}

/// Why a server with these extensions cannot get this message at all.
pub(super) fn unsendable(envelope: &Envelope, offered: &Capabilities, encrypted: bool) -> Option<Failure> {
    if paths(envelope).any(|p| p.chars().any(|c| c.is_control() || c == '<' || c == '>')) {
        return Some(Failure::UnsendableAddress);
    }
    if envelope.require_tls && !(encrypted && offered.requiretls) {
        return Some(Failure::NeedsRequireTls);
    }
    if is_international(envelope) && !offered.smtputf8 {
        return Some(Failure::NeedsSmtputf8);
    }
    let limit = offered.max_size.filter(|limit| envelope.size > *limit)?;
    Some(Failure::TooLarge { limit })
}

fn paths(envelope: &Envelope) -> impl Iterator<Item = &String> {
    envelope.recipients.iter().map(|r| &r.forward_path).chain([&envelope.reverse_path])
}

fn is_international(envelope: &Envelope) -> bool {
    envelope.smtputf8 || paths(envelope).any(|p| !p.is_ascii())
}

/// Parameters come from whoever submitted: one with a space or line end would be a command.
fn parameter(line: &mut String, name: &str, value: &str) {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic()) {
        let _ = write!(line, " {name}={value}");
    }
}
