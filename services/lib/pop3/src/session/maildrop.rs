//! The messages of one login: a snapshot whose numbers stay (RFC 1939 §4).

use std::fmt::Write as _;

/// One message of the maildrop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What the caller knows it by.
    pub uid: u32,
    /// Octets, line ends as CRLF, without byte-stuffing.
    pub size: u64,
    pub uidl: UniqueId,
}

/// 1 to 70 characters from 0x21 to 0x7E, never used again (RFC 1939 §7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UniqueId {
    /// UIDVALIDITY, before the UID: unique for ever as RFC 9051 §2.3.1.1 says of this pair. Written
    /// when it is asked for: a maildrop may have many.
    Own(u32),
    /// Brought along from another server.
    Imported(Box<str>),
}

impl Message {
    /// What UIDL says.
    pub fn unique_id(&self) -> impl std::fmt::Display + '_ {
        std::fmt::from_fn(|f| match &self.uidl {
            UniqueId::Own(validity) => write!(f, "{validity}.{}", self.uid),
            UniqueId::Imported(id) => f.write_str(id),
        })
    }
}

#[derive(Debug)]
pub(super) struct Maildrop {
    messages: Vec<(Message, /* deleted */ bool)>,
}

impl Maildrop {
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages: messages.into_iter().map(|message| (message, false)).collect() }
    }

    /// A message by its number, which begins at 1; the error is the reply's words.
    pub fn get(&self, number: u32) -> Result<&Message, &'static str> {
        match self.messages.get(index(number)) {
            Some((message, false)) => Ok(message),
            Some((_, true)) => Err("message is marked as deleted"),
            None => Err("no such message"),
        }
    }

    pub fn mark_deleted(&mut self, number: u32) -> Result<(), &'static str> {
        match self.messages.get_mut(index(number)) {
            Some((_, true)) => Err("message is already marked as deleted"),
            Some((_, deleted)) => {
                *deleted = true;
                Ok(())
            }
            None => Err("no such message"),
        }
    }

    pub fn unmark_all(&mut self) {
        for (_, deleted) in &mut self.messages {
            *deleted = false;
        }
    }

    pub fn deleted(&self) -> Vec<u32> {
        self.messages.iter().filter(|(_, deleted)| *deleted).map(|(message, _)| message.uid).collect()
    }

    pub fn remaining(&self) -> usize {
        self.present().count()
    }

    /// UID and size of the messages behind one, as long as UIDs rise with the numbers.
    pub fn following(&self, uid: u32) -> impl Iterator<Item = (u32, u64)> {
        let behind = self.messages.partition_point(|(message, _)| message.uid <= uid);
        let rest = self.messages.get(behind..).unwrap_or_default();
        rest.iter().filter(|(_, deleted)| !deleted).map(|(message, _)| (message.uid, message.size))
    }

    /// `2 320`: messages and octets.
    pub fn stat(&self) -> String {
        format!("{} {}", self.remaining(), self.octets())
    }

    pub fn summary(&self) -> String {
        format!("{} messages ({} octets)", self.remaining(), self.octets())
    }

    /// The lines of LIST.
    pub fn listing(&self) -> String {
        self.lines(|message, line| write!(line, "{}", message.size))
    }

    /// The lines of UIDL.
    pub fn unique_ids(&self) -> String {
        self.lines(|message, line| write!(line, "{}", message.unique_id()))
    }

    fn lines(&self, describe: impl Fn(&Message, &mut String) -> std::fmt::Result) -> String {
        let mut text = String::with_capacity(self.messages.len().saturating_mul(24));
        for (number, message) in self.present() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{number} ").and_then(|()| describe(message, &mut text));
            text.push_str("\r\n");
        }
        text
    }

    fn octets(&self) -> u64 {
        self.present().fold(0, |sum, (_, message)| sum.saturating_add(message.size))
    }

    fn present(&self) -> impl Iterator<Item = (usize, &Message)> {
        self.messages.iter().enumerate().filter(|(_, (_, deleted))| !deleted).map(|(i, (message, _))| (i + 1, message))
    }
}

fn index(number: u32) -> usize {
    // Number 0 becomes an index that no maildrop has.
    usize::try_from(number).unwrap_or(usize::MAX).wrapping_sub(1)
}
