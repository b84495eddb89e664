//! Commands as octets: a line, with literals in it (RFC 5804 §4).

/// Octets of a command outside of its literals.
const MAX_LINE: usize = 16 * 1024;
/// Literals of one command.
const MAX_LITERALS: usize = 8;

/// One word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Atom(String),
    Number(u64),
    Text(Vec<u8>),
}

/// What the octets so far come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    More,
    Words(Vec<Word>),
    /// Well delimited, but no command.
    Malformed(&'static str),
    /// Nobody can tell where the next command begins: the session ends.
    Fatal(&'static str),
}

/// Reads one command off the input, which stays as it is until all of it is there. A literal that
/// is larger than `most` is fatal: a non-synchronizing one comes whether we want it or not (§4).
pub(crate) fn read(input: &mut Vec<u8>, most: usize) -> Read {
    let mut words = Vec::new();
    let mut malformed = None;
    let (mut at, mut outside, mut literals) = (0, 0, 0);
    loop {
        let rest = input.get(at..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', rest) else {
            let too_long = outside + rest.len() > MAX_LINE;
            return if too_long { Read::Fatal("Line is too long.") } else { Read::More };
        };
        outside += end;
        if outside > MAX_LINE {
            return Read::Fatal("Line is too long.");
        }
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        let next = at + end + 1;
        match line_words(line, &mut words) {
            Line::Done => {}
            Line::Malformed(why) => malformed = malformed.or(Some(why)),
            Line::Literal(size) => {
                literals += 1;
                if size > most || literals > MAX_LITERALS {
                    return Read::Fatal("Literal is too large.");
                }
                let Some(text) = input.get(next..next + size) else { return Read::More };
                words.push(Word::Text(text.to_vec()));
                at = next + size;
                continue;
            }
        }
        input.drain(..next);
        return match malformed {
            Some(why) => Read::Malformed(why),
            None => Read::Words(words),
        };
    }
}

enum Line {
    Done,
    Malformed(&'static str),
    /// The line ends with the size of what follows.
    Literal(usize),
}

fn line_words(line: &[u8], words: &mut Vec<Word>) -> Line {
    let mut rest = line.trim_ascii();
    while let Some(first) = rest.first() {
        match first {
            b'"' => {
                let Some((text, after)) = quoted(&rest[1..]) else { return Line::Malformed("Unfinished string.") };
                words.push(Word::Text(text));
                rest = after;
            }
            b'{' => {
                let Some(size) = rest.strip_prefix(b"{").and_then(|r| r.strip_suffix(b"}")) else {
                    return Line::Malformed("Unfinished literal.");
                };
                // §4: clients send `{5+}`; what waits for us to say go on would wait for ever.
                let digits = size.strip_suffix(b"+").unwrap_or(size);
                return match number(digits).and_then(|n| usize::try_from(n).ok()) {
                    Some(size) => Line::Literal(size),
                    None => Line::Malformed("Size of a literal is no number."),
                };
            }
            _ => {
                let end = rest.iter().position(|b| b.is_ascii_whitespace()).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                match (number(word), std::str::from_utf8(word)) {
                    (Some(number), _) => words.push(Word::Number(number)),
                    (None, Ok(atom)) if atom.bytes().all(|b| b.is_ascii_graphic()) => {
                        words.push(Word::Atom(atom.to_ascii_uppercase()));
                    }
                    _ => return Line::Malformed("No command."),
                }
                rest = after;
            }
        }
        rest = rest.trim_ascii_start();
    }
    Line::Done
}

fn number(word: &[u8]) -> Option<u64> {
    let is_number = !word.is_empty() && word.len() <= 10 && word.iter().all(u8::is_ascii_digit);
    is_number.then(|| word.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0')))
}

/// Up to the closing quote, and what follows it.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some((out, &text[at + 1..])),
            b'\\' => {
                out.push(*text.get(at + 1)?);
                at += 2;
            }
            byte => {
                out.push(*byte);
                at += 1;
            }
        }
    }
}
