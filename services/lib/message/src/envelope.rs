//! The ENVELOPE of a message (RFC 3501 §7.4.2, RFC 9051 §7.5.2): what a list of messages shows.

use crate::{
    addresses::{EnvelopeAddress, parse_list},
    header::{Field, unfold},
};

/// Values are raw: unfolded, but with their encoded words (RFC 2047), as IMAP wants them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    pub date: Option<Vec<u8>>,
    pub subject: Option<Vec<u8>>,
    pub from: Vec<EnvelopeAddress>,
    pub sender: Vec<EnvelopeAddress>,
    pub reply_to: Vec<EnvelopeAddress>,
    pub to: Vec<EnvelopeAddress>,
    pub cc: Vec<EnvelopeAddress>,
    pub bcc: Vec<EnvelopeAddress>,
    pub in_reply_to: Option<Vec<u8>>,
    pub message_id: Option<Vec<u8>>,
}

/// Longer values are cut: no honest field comes near, and a listing must stay small.
pub(crate) const MAX_VALUE: usize = 64 * 1024;

impl Envelope {
    /// From the header of a message; at most 4,096 addresses.
    pub fn parse(header: &[u8]) -> Self {
        let mut budget = 4096;
        let mut envelope = Self::default();
        for field in crate::header::fields(header) {
            envelope.take(&field, &mut budget);
        }
        envelope.finish();
        envelope
    }

    /// Takes in one field; `budget` is how many addresses may still be kept.
    pub(crate) fn take(&mut self, field: &Field<'_>, budget: &mut usize) {
        let mut name = [0u8; 11];
        let Some(lower) = name.get_mut(..field.name.len()) else { return };
        lower.copy_from_slice(field.name);
        lower.make_ascii_lowercase();
        let text = || Some(value(field.value));
        let first = |slot: &mut Option<Vec<u8>>| *slot = slot.take().or_else(text);
        let list = match &*lower {
            b"date" => return first(&mut self.date),
            b"subject" => return first(&mut self.subject),
            b"in-reply-to" => return first(&mut self.in_reply_to),
            b"message-id" => return first(&mut self.message_id),
            b"from" => &mut self.from,
            b"sender" => &mut self.sender,
            b"reply-to" => &mut self.reply_to,
            b"to" => &mut self.to,
            b"cc" => &mut self.cc,
            b"bcc" => &mut self.bcc,
            _ => return,
        };
        parse_list(&value(field.value), budget, list);
    }

    /// A missing Sender or Reply-To is From (RFC 3501 §7.4.2).
    pub(crate) fn finish(&mut self) {
        if self.sender.is_empty() {
            self.sender.clone_from(&self.from);
        }
        if self.reply_to.is_empty() {
            self.reply_to.clone_from(&self.from);
        }
    }
}

/// A field's value unfolded, trimmed and cut to a bounded length.
pub(crate) fn value(raw: &[u8]) -> Vec<u8> {
    let cut = &raw[..raw.len().min(MAX_VALUE)];
    unfold(cut.trim_ascii()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_and_reply_to_default_to_from() {
        let e = Envelope::parse(b"From: Bob <b@x>\r\nSubject:  two\r\n lines \r\nSubject: again\r\nDate:\r\n\r\n");
        assert_eq!(e.sender, e.from);
        assert_eq!(e.reply_to, e.from);
        assert_eq!(e.subject.as_deref(), Some(&b"two lines"[..]));
        assert_eq!(e.date.as_deref(), Some(&b""[..]));
        assert_eq!(e.message_id, None);
        assert!(e.to.is_empty());
    }

    #[test]
    fn their_own_values_stand() {
        let e = Envelope::parse(b"From: a@x\r\nSender: s@x\r\nReply-To: r@x, r2@x\r\nIN-REPLY-TO: <1@x>\r\n\r\n");
        assert_eq!(e.sender[0].mailbox.as_deref(), Some(&b"s"[..]));
        assert_eq!(e.reply_to.len(), 2);
        assert_eq!(e.in_reply_to.as_deref(), Some(&b"<1@x>"[..]));
    }

    #[test]
    fn long_values_are_cut() {
        let header = format!("Subject: {}\r\n\r\n", "x".repeat(MAX_VALUE * 2));
        assert!(Envelope::parse(header.as_bytes()).subject.is_some_and(|s| s.len() <= MAX_VALUE));
    }
}
