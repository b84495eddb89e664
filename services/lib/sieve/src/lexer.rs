//! Words of a script (RFC 5228 §8.1).

use crate::error::ScriptError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// In lower case: names do not know case (§2.1).
    Word(String),
    /// `:copy` without its colon, in lower case.
    Tag(String),
    Number(u64),
    Text(String),
    /// One of `; , ( ) [ ] { }`.
    Mark(char),
    End,
}

impl Token {
    /// For people.
    pub fn show(&self) -> String {
        match self {
            Self::Word(word) => format!("{word:?}"),
            Self::Tag(tag) => format!("\":{tag}\""),
            Self::Number(number) => number.to_string(),
            Self::Text(_) => "a string".into(),
            Self::Mark(mark) => format!("{mark:?}"),
            Self::End => "the end of the script".into(),
        }
    }
}

pub(crate) struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

/// §2.4.1: at least 2³¹-1; what is larger is a slip.
const MAX_NUMBER: u64 = 1 << 53;

impl<'s> Lexer<'s> {
    pub fn new(source: &'s str) -> Self {
        // A byte order mark is an editor's, not the author's.
        Self { source, at: if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 } }
    }

    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn error(&self, at: usize, what: impl Into<String>) -> ScriptError {
        ScriptError::at(self.source, at, what)
    }

    /// The next token and where it begins.
    pub fn next(&mut self) -> Result<(Token, usize), ScriptError> {
        self.skip_blanks()?;
        let at = self.at;
        let Some(first) = self.rest().chars().next() else { return Ok((Token::End, at)) };
        let token = match first {
            ';' | ',' | '(' | ')' | '[' | ']' | '{' | '}' => {
                self.at += 1;
                Token::Mark(first)
            }
            '"' => self.quoted(at)?,
            '0'..='9' => self.number(at)?,
            ':' => {
                self.at += 1;
                let tag = self.word();
                if tag.is_empty() {
                    return Err(self.error(at, "expected a tag after \":\""));
                }
                Token::Tag(tag)
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let word = self.word();
                if word == "text" && self.rest().starts_with(':') {
                    self.at += 1;
                    self.multi_line(at)?
                } else {
                    Token::Word(word)
                }
            }
            other => return Err(self.error(at, format!("expected a command, a test or a string, found {other:?}"))),
        };
        Ok((token, at))
    }

    fn skip_blanks(&mut self) -> Result<(), ScriptError> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with('#') {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                let end = trimmed.find("*/").ok_or_else(|| self.error(self.at, "expected \"*/\" after \"/*\""))?;
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn word(&mut self) -> String {
        let rest = self.rest();
        let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += len;
        rest[..len].to_ascii_lowercase()
    }

    /// §2.4.1, with its quantifier.
    fn number(&mut self, at: usize) -> Result<Token, ScriptError> {
        let word = self.word();
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
        let factor = match word.get(digits.len()..) {
            Some("") => 1,
            Some("k") => 1 << 10,
            Some("m") => 1 << 20,
            Some("g") => 1 << 30,
            _ => return Err(self.error(at, format!("expected a number with at most K, M or G, found {word:?}"))),
        };
        let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n <= MAX_NUMBER);
        number.map(Token::Number).ok_or_else(|| self.error(at, "expected a number that is not so large"))
    }

    /// §2.4.2: a backslash takes what follows as it is.
    fn quoted(&mut self, at: usize) -> Result<Token, ScriptError> {
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += offset + 1;
                    return Ok(Token::Text(out));
                }
                '\\' => out.extend(chars.next().map(|(_, c)| c)),
                c => out.push(c),
            }
        }
        Err(self.error(at, "expected '\"' at the end of this string"))
    }

    /// `text:` up to a line with a lone dot (§2.4.2).
    fn multi_line(&mut self, at: usize) -> Result<Token, ScriptError> {
        let rest = self.rest();
        let end = rest.find('\n').map_or(rest.len(), |lf| lf + 1);
        let tail = rest[..end].trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            return Err(self.error(self.at, "expected the end of the line after \"text:\""));
        }
        self.at += end;
        let mut out = String::new();
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                return Err(self.error(at, "expected a line with \".\" at the end of this text"));
            }
            let end = rest.find('\n').map_or(rest.len(), |lf| lf + 1);
            self.at += end;
            let line = rest[..end].trim_end_matches(['\r', '\n']);
            if line == "." {
                return Ok(Token::Text(out));
            }
            out.push_str(line.strip_prefix('.').filter(|_| line.starts_with("..")).unwrap_or(line));
            out.push_str("\r\n");
        }
    }
}
