//! The lexical level of IMAP's grammar (RFC 9051 §9).

use crate::{mailbox_name::decode_utf7, sequence::SequenceSet};

/// How the client writes mailbox names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// Modified UTF-7 (RFC 3501 §5.1.3).
    #[default]
    Utf7,
    /// UTF-8, after ENABLE IMAP4rev2 (RFC 9051 §5.1).
    Utf8,
}

/// What is wrong with a command, in words for the BAD response.
pub(crate) type Result<T> = std::result::Result<T, &'static str>;

/// Reads a whole command, literals included, from left to right.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    pub names: Names,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a [u8], names: Names) -> Self {
        Self { text, at: 0, names }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub fn eat(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, wanted: u8) -> Result<()> {
        if self.eat(wanted) {
            return Ok(());
        }
        Err(match wanted {
            b' ' => "space expected",
            b'(' => "( expected",
            b')' => ") expected",
            b']' => "] expected",
            _ => "syntax error",
        })
    }

    pub fn space(&mut self) -> Result<()> {
        self.expect(b' ')
    }

    pub fn end(&self) -> Result<()> {
        if self.rest().is_empty() { Ok(()) } else { Err("unexpected text after the command") }
    }

    /// The longest run of bytes that satisfy `wanted`.
    pub fn run(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let len = rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// An atom (RFC 9051 §9), not empty.
    pub fn atom(&mut self) -> Result<&'a [u8]> {
        Some(self.run(is_atom_char)).filter(|a| !a.is_empty()).ok_or("atom expected")
    }

    /// An atom in capitals, for keywords of the protocol.
    pub fn word(&mut self) -> Result<String> {
        self.atom().map(|a| String::from_utf8_lossy(a).to_ascii_uppercase())
    }

    /// Whether the text goes on with that word (case does not count); eats it.
    pub fn eat_word(&mut self, word: &str) -> bool {
        let found = self.rest().get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word.as_bytes()));
        if found {
            self.at += word.len();
        }
        found
    }

    pub fn number64(&mut self) -> Result<u64> {
        let digits = self.run(|b| b.is_ascii_digit());
        if digits.is_empty() {
            return Err("number expected");
        }
        let add = |n: u64, b: &u8| n.checked_mul(10)?.checked_add(u64::from(b - b'0'));
        digits.iter().try_fold(0, add).ok_or("number too large")
    }

    pub fn number(&mut self) -> Result<u32> {
        u32::try_from(self.number64()?).map_err(|_| "number too large")
    }

    pub fn nz_number(&mut self) -> Result<u32> {
        Some(self.number()?).filter(|n| *n > 0).ok_or("number must not be zero")
    }

    /// A quoted string or a literal.
    pub fn string(&mut self) -> Result<Vec<u8>> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal(),
            _ => Err("string expected"),
        }
    }

    fn quoted(&mut self) -> Result<Vec<u8>> {
        self.expect(b'"')?;
        let mut out = Vec::new();
        loop {
            out.extend_from_slice(self.run(|b| !matches!(b, b'"' | b'\\' | b'\r' | b'\n' | 0)));
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let next =
                        self.peek().filter(|b| !matches!(b, b'\r' | b'\n' | 0)).ok_or("quoted string is not closed")?;
                    self.at += 1;
                    out.push(next);
                }
                _ => return Err("quoted string is not closed"),
            }
        }
    }

    fn literal(&mut self) -> Result<Vec<u8>> {
        self.expect(b'{')?;
        let len = usize::try_from(self.number64()?).map_err(|_| "number too large")?;
        self.eat(b'+');
        if !self.eat(b'}') {
            return Err("literal is not well formed");
        }
        self.eat(b'\r');
        if !self.eat(b'\n') {
            return Err("literal is not well formed");
        }
        let end = self.at.checked_add(len).ok_or("number too large")?;
        let bytes = self.text.get(self.at..end).ok_or("literal is too short")?;
        self.at = end;
        Ok(bytes.to_vec())
    }

    pub fn astring(&mut self) -> Result<Vec<u8>> {
        match self.peek() {
            Some(b'"' | b'{') => self.string(),
            _ => {
                let text = self.run(|b| is_atom_char(b) || b == b']');
                Some(text.to_vec()).filter(|t| !t.is_empty()).ok_or("string expected")
            }
        }
    }

    pub fn nstring(&mut self) -> Result<Option<Vec<u8>>> {
        if matches!(self.peek(), Some(b'"' | b'{')) {
            return self.string().map(Some);
        }
        if self.eat_word("NIL") { Ok(None) } else { Err("string or NIL expected") }
    }

    /// A mailbox name in UTF-8.
    pub fn mailbox(&mut self) -> Result<String> {
        let raw = self.astring()?;
        self.to_name(raw)
    }

    /// What LIST takes: wildcards need no quotes.
    pub fn list_mailbox(&mut self) -> Result<String> {
        let raw = match self.peek() {
            Some(b'"' | b'{') => self.string()?,
            _ => {
                let text = self.run(|b| is_atom_char(b) || matches!(b, b']' | b'%' | b'*'));
                Some(text.to_vec()).filter(|t| !t.is_empty()).ok_or("mailbox pattern expected")?
            }
        };
        self.to_name(raw)
    }

    fn to_name(&self, raw: Vec<u8>) -> Result<String> {
        let name = match self.names {
            // Clients that write UTF-8 without asking are understood too.
            Names::Utf7 if raw.is_ascii() => decode_utf7(&raw).ok_or("mailbox name is not modified UTF-7")?,
            _ => String::from_utf8(raw).map_err(|_| "mailbox name is not UTF-8")?,
        };
        Ok(if name.eq_ignore_ascii_case("INBOX") { "INBOX".to_owned() } else { name })
    }

    /// `item SP item …` up to a closing parenthesis; the opening one is still to come.
    /// May be empty.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        self.expect(b'(')?;
        let mut out = Vec::new();
        if self.eat(b')') {
            return Ok(out);
        }
        loop {
            out.push(item(self)?);
            if self.eat(b')') {
                return Ok(out);
            }
            self.space()?;
        }
    }

    pub fn sequence_set(&mut self) -> Result<SequenceSet> {
        let text = self.run(|b| b.is_ascii_digit() || matches!(b, b':' | b',' | b'*' | b'$'));
        SequenceSet::parse(text).ok_or("sequence set expected")
    }
}

/// ATOM-CHAR: no controls, blanks, wildcards, quotes, parentheses, braces or `]`.
pub(crate) fn is_atom_char(b: u8) -> bool {
    b > 0x20 && b != 0x7f && !b"(){%*\"\\]".contains(&b)
}
