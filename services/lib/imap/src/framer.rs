//! From octets to commands (RFC 9051 §2.2.1, §4.3; LITERAL+ of RFC 7888).
//!
//! A command is collected whole, its literals in place, because it is small. The message of an
//! APPEND is not: its octets are handed on as they come. A literal that is too large is refused
//! when its size is announced, so that it costs nothing.

use crate::{
    command::{AppendHead, AppendPiece},
    cursor::Names,
    parse_append::{Ends, Inside, append_head, append_next},
    parser::{ParseError, tag_of},
};

/// Octets of one command with its literals, without an appended message.
pub const MAX_COMMAND: usize = 128 * 1024;
/// Octets of one literal that is no appended message.
pub const MAX_LITERAL: u64 = 64 * 1024;
/// A refused literal that the client sends anyway is skipped up to here; then the connection ends.
const MAX_SKIPPED: u64 = 1024 * 1024;
const MAX_SKIPPED_MESSAGE: u64 = 256 * 1024 * 1024;

/// What the framer has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Framed {
    /// Nothing complete: read more from the client.
    NeedMore,
    /// The client waits for a continuation request, `+ …`.
    Continue,
    /// A whole command without its final line end, literals included; for [`crate::parse`].
    Command(Vec<u8>),
    /// An APPEND whose message of `size` octets follows. Answer with [`Framer::accept`] or
    /// [`Framer::refuse`]; when `sync`, the client waits for a continuation request first.
    Append { head: AppendHead, size: u64, sync: bool },
    /// Octets of the accepted message, in order.
    Data(Vec<u8>),
    /// The literal is whole and another one follows, after these (MULTIAPPEND, CATENATE); answer as
    /// for `Append`.
    AppendNext { pieces: Vec<AppendPiece>, size: u64, sync: bool },
    /// The APPEND is over, with what follows its last literal; `Err` when that makes no sense.
    AppendEnd(Result<Vec<AppendPiece>, ParseError>),
    /// A command over the bounds was dropped: answer its tag with BAD.
    TooLarge { tag: Option<String> },
    /// What comes cannot be followed any more: BYE.
    Fatal,
}

/// More than [`MAX_COMMAND`] octets without a line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line is too long")]
pub struct LineTooLong;

#[derive(Debug, Default)]
pub struct Framer {
    input: Vec<u8>,
    /// Octets of `input` that are used up.
    used: usize,
    /// Octets of `input` that have no line feed.
    scanned: usize,
    command: Vec<u8>,
    state: State,
    names: Names,
    /// Where the message's literal stands.
    inside: Inside,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Line,
    /// Octets of a literal that belong to `command`.
    Literal(u64),
    /// The gateway has to decide.
    Offered {
        size: u64,
        sync: bool,
    },
    Message(u64),
    /// The rest of the line after a message.
    MessageTail,
    /// Octets of a literal that nobody wants.
    Skip(u64),
    SkipLine,
}

impl Framer {
    /// Gives it what was read. Call [`Framer::poll`] until [`Framed::NeedMore`] before the next.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.input.drain(..self.used);
            self.used = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// After ENABLE IMAP4rev2 names come in UTF-8.
    pub fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    pub fn names(&self) -> Names {
        self.names
    }

    /// What was fed and is not used yet: it is in another form from here on (RFC 4978 §3).
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.pending().to_vec();
        self.consume(rest.len());
        rest
    }

    /// Gives back the memory of earlier commands, for a session that waits.
    pub fn rest(&mut self) {
        if self.pending().is_empty() {
            self.consume(0);
            self.input = Vec::new();
        }
        if self.command.is_empty() {
            self.command = Vec::new();
        }
    }

    /// Whether no command has begun: then anything may be told (RFC 5465 §5).
    pub fn is_between(&self) -> bool {
        self.state == State::Line && self.command.is_empty() && self.pending().is_empty()
    }

    /// Throws away what came before TLS: anybody could have put it there (RFC 9051 §11.1).
    pub fn discard(&mut self) {
        *self = Self { names: self.names, ..Self::default() };
    }

    /// Takes the message that was offered by [`Framed::Append`].
    pub fn accept(&mut self) {
        if let State::Offered { size, .. } = self.state {
            self.state = State::Message(size);
        }
    }

    /// Does not take it. `false` when the client will send so much that the connection must end.
    #[must_use]
    pub fn refuse(&mut self) -> bool {
        match self.state {
            State::Offered { sync: true, .. } => self.state = State::Line,
            State::Offered { size, .. } if size > MAX_SKIPPED_MESSAGE => return false,
            State::Offered { size, .. } => self.state = State::Skip(size),
            // In the middle of it: the rest of the message is passed over.
            State::Message(left) => self.state = State::Skip(left),
            _ => {}
        }
        true
    }

    /// The next finding.
    pub fn poll(&mut self) -> Framed {
        loop {
            match self.state {
                State::Line => match self.take_line() {
                    None if self.command.len() + self.pending().len() > MAX_COMMAND => {
                        return self.give_up(State::SkipLine);
                    }
                    None => return Framed::NeedMore,
                    Some(line) => {
                        if let Some(found) = self.line(&line) {
                            return found;
                        }
                    }
                },
                State::Literal(left) => {
                    let taken = self.take(left);
                    if taken.is_empty() {
                        return Framed::NeedMore;
                    }
                    self.command.extend_from_slice(&taken);
                    let left = left.saturating_sub(taken.len() as u64);
                    self.state = if left == 0 { State::Line } else { State::Literal(left) };
                }
                State::Offered { .. } => return Framed::NeedMore,
                State::Message(0) => self.state = State::MessageTail,
                State::Message(left) => {
                    let taken = self.take(left);
                    if taken.is_empty() {
                        return Framed::NeedMore;
                    }
                    self.state = State::Message(left.saturating_sub(taken.len() as u64));
                    return Framed::Data(taken);
                }
                State::MessageTail => match self.take_line() {
                    None if self.pending().len() > MAX_COMMAND => return self.give_up(State::SkipLine),
                    None => return Framed::NeedMore,
                    Some(line) => return self.message_tail(&line),
                },
                State::Skip(0) => self.state = State::SkipLine,
                State::Skip(left) => {
                    let skipped = self.pending().len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if skipped == 0 {
                        return Framed::NeedMore;
                    }
                    self.consume(skipped);
                    self.state = State::Skip(left.saturating_sub(skipped as u64));
                }
                State::SkipLine => {
                    let Some(line) = self.take_line() else {
                        self.consume(self.pending().len());
                        return Framed::NeedMore;
                    };
                    self.state = match literal_at_end(&line) {
                        Some(Literal { size, sync: false, .. }) if size > MAX_SKIPPED_MESSAGE => return Framed::Fatal,
                        Some(Literal { size, sync: false, .. }) => State::Skip(size),
                        _ => State::Line,
                    };
                }
            }
        }
    }

    /// One line as it is, for the answers of AUTHENTICATE and the DONE of IDLE; `Err` when it is
    /// too long.
    pub fn poll_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        match self.take_line() {
            Some(line) if line.len() <= MAX_COMMAND => Ok(Some(line)),
            None if self.pending().len() <= MAX_COMMAND => Ok(None),
            _ => Err(LineTooLong),
        }
    }

    /// A line of a command; nothing when its literal has only begun.
    fn line(&mut self, line: &[u8]) -> Option<Framed> {
        let Some(literal) = literal_at_end(line) else {
            if self.command.len() + line.len() > MAX_COMMAND {
                self.command.extend_from_slice(line);
                return Some(self.give_up(State::Line));
            }
            let mut command = std::mem::take(&mut self.command);
            command.extend_from_slice(line);
            return Some(Framed::Command(command));
        };
        let head_line = line.get(..literal.at).unwrap_or_default();
        // BINARY's literal8 (RFC 3516 §7) is for appended messages alone.
        let text = head_line.strip_suffix(b"~").unwrap_or(head_line);
        let mut head = self.command.clone();
        head.extend_from_slice(text);
        if let Ok((head, inside)) = append_head(&head, self.names) {
            self.command.clear();
            self.inside = inside;
            self.state = State::Offered { size: literal.size, sync: literal.sync };
            return Some(Framed::Append { head, size: literal.size, sync: literal.sync });
        }
        let total = literal.size.saturating_add((self.command.len() + line.len()) as u64);
        if literal.size > MAX_LITERAL || total > MAX_COMMAND as u64 {
            self.command.extend_from_slice(line);
            return Some(match literal {
                Literal { sync: true, .. } => self.give_up(State::Line),
                Literal { size, .. } if size > MAX_SKIPPED => Framed::Fatal,
                Literal { size, .. } => self.give_up(State::Skip(size)),
            });
        }
        self.command.extend_from_slice(line);
        self.command.extend_from_slice(b"\r\n");
        self.state = if literal.size == 0 { State::Line } else { State::Literal(literal.size) };
        literal.sync.then_some(Framed::Continue)
    }

    fn message_tail(&mut self, line: &[u8]) -> Framed {
        let literal = literal_at_end(line);
        let text = literal.and_then(|l| line.get(..l.at)).unwrap_or(line);
        // BINARY's literal8, as at the beginning.
        let text = if literal.is_some() { text.strip_suffix(b"~").unwrap_or(text) } else { text };
        match (append_next(text, self.names, self.inside), literal) {
            (Ok((pieces, Ends::Complete)), None) => {
                self.state = State::Line;
                return Framed::AppendEnd(Ok(pieces));
            }
            (Ok((pieces, Ends::BeforeLiteral(inside))), Some(Literal { size, sync, .. })) => {
                self.inside = inside;
                self.state = State::Offered { size, sync };
                return Framed::AppendNext { pieces, size, sync };
            }
            _ => {}
        }
        self.state = match literal {
            Some(Literal { size, sync: false, .. }) if size > MAX_SKIPPED_MESSAGE => return Framed::Fatal,
            Some(Literal { size, sync: false, .. }) => State::Skip(size),
            _ => State::Line,
        };
        Framed::AppendEnd(Err(ParseError { tag: None, text: "unexpected text after the message" }))
    }

    fn give_up(&mut self, next: State) -> Framed {
        let mut text = std::mem::take(&mut self.command);
        if next == State::SkipLine {
            // The line is not whole, but its beginning is there.
            let start = self.pending().len().min(200);
            text.extend_from_slice(&self.pending()[..start]);
        }
        self.state = next;
        Framed::TooLarge { tag: tag_of(&text) }
    }

    fn pending(&self) -> &[u8] {
        self.input.get(self.used..).unwrap_or_default()
    }

    fn consume(&mut self, len: usize) {
        self.used += len;
        self.scanned = 0;
        if self.used >= self.input.len() {
            self.input.clear();
            self.used = 0;
            // A burst must not hold its memory for the rest of a long session.
            if self.input.capacity() > 64 * 1024 {
                self.input = Vec::new();
            }
        }
    }

    fn take(&mut self, at_most: u64) -> Vec<u8> {
        let len = self.pending().len().min(usize::try_from(at_most).unwrap_or(usize::MAX));
        let taken = self.pending()[..len].to_vec();
        self.consume(len);
        taken
    }

    /// The next line without its line end.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        let pending = self.pending();
        let Some(lf) = pending.get(self.scanned..).and_then(|new| memchr::memchr(b'\n', new)) else {
            self.scanned = pending.len();
            return None;
        };
        let end = self.scanned + lf;
        let line = &pending[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
        self.consume(end + 1);
        Some(line)
    }
}

#[derive(Debug, Clone, Copy)]
struct Literal {
    /// Where its announcement begins.
    at: usize,
    size: u64,
    sync: bool,
}

/// `{123}` or `{123+}` at the end of a line. Nothing else that a command may hold ends so.
fn literal_at_end(line: &[u8]) -> Option<Literal> {
    let inner = line.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner)?;
    let inner = &inner[open + 1..];
    let (digits, sync) = match inner.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (inner, true),
    };
    let canonical =
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits[0] != b'0');
    if !canonical {
        return None;
    }
    // Larger than any number we know is large enough to be refused.
    let add = |n: u64, b: &u8| n.checked_mul(10)?.checked_add(u64::from(b - b'0'));
    let size = digits.iter().try_fold(0, add).unwrap_or(u64::MAX);
    Some(Literal { at: open, size, sync })
}

#[cfg(test)]
#[path = "framer_tests.rs"]
mod tests;
