//! Message flags (RFC 9051 §2.3.2): system flags as bits, keywords by name.

use crate::cursor::{Cursor, Result, is_atom_char};

/// At most this many keywords in one command.
const MAX_KEYWORDS: usize = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// [`Flags::SEEN`] and its neighbours.
    pub system: u32,
    pub keywords: Vec<String>,
}

impl Flags {
    pub const SEEN: u32 = 1;
    pub const ANSWERED: u32 = 2;
    pub const FLAGGED: u32 = 4;
    pub const DELETED: u32 = 8;
    pub const DRAFT: u32 = 16;
    /// Told by the server alone (RFC 3501 §2.3.2).
    pub const RECENT: u32 = 32;

    pub(crate) const NAMES: [(u32, &'static str); 5] = [
        (Self::ANSWERED, "\\Answered"),
        (Self::FLAGGED, "\\Flagged"),
        (Self::DELETED, "\\Deleted"),
        (Self::SEEN, "\\Seen"),
        (Self::DRAFT, "\\Draft"),
    ];

    pub fn has(&self, bit: u32) -> bool {
        self.system & bit != 0
    }

    /// Keywords do not know case (RFC 9051 §2.3.2).
    pub fn has_keyword(&self, keyword: &str) -> bool {
        self.keywords.iter().any(|k| k.eq_ignore_ascii_case(keyword))
    }

    /// `(\Seen $Forwarded)`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let system = Self::NAMES.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name);
        let system = system.chain(self.has(Self::RECENT).then_some("\\Recent"));
        out.push(b'(');
        for (i, name) in system.chain(self.keywords.iter().map(String::as_str)).enumerate() {
            if i > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(name.as_bytes());
        }
        out.push(b')');
    }

    /// A list in parentheses.
    pub(crate) fn parse_list(cursor: &mut Cursor<'_>) -> Result<Self> {
        let mut flags = Self::default();
        cursor.list(|c| flags.take(c))?;
        Ok(flags)
    }

    /// Flags separated by blanks, as STORE allows (RFC 9051 §9, store-att-flags).
    pub(crate) fn parse_bare(cursor: &mut Cursor<'_>) -> Result<Self> {
        let mut flags = Self::default();
        loop {
            flags.take(cursor)?;
            if !cursor.eat(b' ') {
                return Ok(flags);
            }
        }
    }

    /// `\Recent` and unknown system flags cannot be stored; they are passed over, because clients
    /// send back what other servers told them.
    fn take(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        if cursor.eat(b'\\') {
            let name = cursor.run(is_atom_char);
            let known = Self::NAMES.iter().find(|(_, n)| n.as_bytes()[1..].eq_ignore_ascii_case(name));
            if name.is_empty() {
                return Err("flag expected");
            }
            self.system |= known.map_or(0, |(bit, _)| *bit);
            return Ok(());
        }
        let keyword = cursor.atom().map_err(|_| "flag expected")?;
        let keyword = std::str::from_utf8(keyword).ok().filter(|k| k.is_ascii() && k.len() <= 128);
        let keyword = keyword.ok_or("keyword is too long or not ASCII")?;
        if self.keywords.len() >= MAX_KEYWORDS {
            return Err("too many keywords");
        }
        if !self.has_keyword(keyword) {
            self.keywords.push(keyword.to_owned());
        }
        Ok(())
    }
}
