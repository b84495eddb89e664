//! Address lists of header fields (RFC 5322 §3.4), read leniently.
//!
//! What IMAP's ENVELOPE shows (RFC 9051 §7.5.2): names and local parts without their quoting,
//! encoded words as they are, groups as a pair of markers.

use crate::header::{fields, unfold};

/// One entry of an address list, or the marker where a group begins or ends.
///
/// A group begins with `mailbox` = its name and no host, and ends with neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvelopeAddress {
    pub name: Option<Vec<u8>>,
    /// The source route of RFC 822, obsolete since RFC 2822.
    pub route: Option<Vec<u8>>,
    pub mailbox: Option<Vec<u8>>,
    pub host: Option<Vec<u8>>,
}

/// The addresses in the `From:` fields, as `local@domain` text, at most 100.
/// What is no address is left out; bytes that are not UTF-8 are replaced.
pub fn from_addresses(header: &[u8]) -> Vec<String> {
    let mut budget = 100;
    let mut list = Vec::new();
    for field in fields(header).filter(|f| f.is("From")) {
        parse_list(&unfold(field.value), &mut budget, &mut list);
    }
    list.iter()
        .filter_map(|a| match (&a.mailbox, &a.host) {
            (Some(mailbox), Some(host)) if !mailbox.is_empty() && !host.is_empty() => {
                Some(format!("{}@{}", String::from_utf8_lossy(mailbox), String::from_utf8_lossy(host)))
            }
            _ => None,
        })
        .collect()
}

/// The addresses of one field's value, folded as it came; at most `limit` of them.
pub fn addresses(value: &[u8], limit: usize) -> Vec<EnvelopeAddress> {
    let mut budget = limit;
    let mut list = Vec::new();
    parse_list(&unfold(value), &mut budget, &mut list);
    list
}

/// Appends the addresses of one unfolded field to `out`, at most `budget` of them.
pub(crate) fn parse_list(value: &[u8], budget: &mut usize, out: &mut Vec<EnvelopeAddress>) {
    let mut lexer = Lexer { text: value, at: 0 };
    let mut in_group = false;
    while *budget > 0 && lexer.at < value.len() {
        let before = out.len();
        match lexer.entry() {
            Entry::Nothing => {}
            Entry::Address(address) => out.push(address),
            Entry::GroupBegin(name) => {
                in_group = true;
                out.push(EnvelopeAddress { mailbox: Some(name), ..EnvelopeAddress::default() });
            }
        }
        // The delimiter after the entry.
        if lexer.peek() == Some(b';') && in_group {
            in_group = false;
            out.push(EnvelopeAddress::default());
        }
        if matches!(lexer.peek(), Some(b',' | b';')) {
            lexer.at += 1;
        }
        *budget = budget.saturating_sub(out.len() - before);
    }
    if in_group {
        out.push(EnvelopeAddress::default());
    }
}

enum Entry {
    Nothing,
    Address(EnvelopeAddress),
    GroupBegin(Vec<u8>),
}

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Reads up to the `,` or `;` that ends the entry, or past the `:` that begins a group.
    /// Always moves on, or stands at a delimiter.
    fn entry(&mut self) -> Entry {
        let mut words: Vec<Vec<u8>> = Vec::new();
        let mut comment: Option<Vec<u8>> = None;
        let mut spec: Option<EnvelopeAddress> = None;
        while let Some(byte) = self.peek() {
            match byte {
                b',' | b';' => break,
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                b'(' => comment = Some(self.comment()),
                b'<' => spec = Some(self.angle()),
                b':' if spec.is_none() => {
                    self.at += 1;
                    return Entry::GroupBegin(words.join(&b' '));
                }
                b'@' if spec.is_none() => {
                    self.at += 1;
                    let host = self.domain();
                    // `Bob bob@x`: the words before the last are a name without its brackets; only
                    // around dots may a local part have blanks (RFC 5322 §4.4, obs-local-part).
                    let joins = |pair: &[Vec<u8>]| pair[0].ends_with(b".") || pair[1].starts_with(b".");
                    let loose = words.windows(2).rposition(|pair| !joins(pair)).map_or(0, |at| at + 1);
                    let local = words.split_off(loose);
                    spec = Some(EnvelopeAddress {
                        mailbox: Some(local.concat()),
                        host: Some(host),
                        ..EnvelopeAddress::default()
                    });
                }
                b'"' => words.push(self.quoted()),
                _ => words.push(self.word()),
            }
        }
        let name = if words.is_empty() { comment } else { Some(words.join(&b' ')) };
        match (spec, name) {
            (Some(mut address), name) => {
                address.name = name;
                Entry::Address(address)
            }
            (None, None) => Entry::Nothing,
            // A lone word: an empty host, because no host at all would mean a group.
            (None, Some(word)) => Entry::Address(EnvelopeAddress {
                mailbox: Some(word),
                host: Some(Vec::new()),
                ..EnvelopeAddress::default()
            }),
        }
    }

    /// A run of characters that are not special; at least one byte.
    fn word(&mut self) -> Vec<u8> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b'<' | b'@' | b',' | b';' | b':' | b'"') {
                break;
            }
            self.at += 1;
        }
        self.text[start..self.at].to_vec()
    }

    /// A quoted string without its quotes; an unterminated one reaches to the end.
    fn quoted(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => {
                    if let Some(next) = self.peek() {
                        self.at += 1;
                        out.push(next);
                    }
                }
                byte => out.push(byte),
            }
        }
        out
    }

    /// A comment without its parentheses; nested ones are counted, not recursed into.
    fn comment(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'(' => {
                    depth += 1;
                    if depth == 1 {
                        continue;
                    }
                }
                b')' => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                b'\\' => {
                    if let Some(next) = self.peek() {
                        self.at += 1;
                        out.push(next);
                    }
                    continue;
                }
                _ => {}
            }
            out.push(byte);
        }
        out.trim_ascii().to_vec()
    }

    fn domain(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b',' | b';' | b'<' | b'>' => break,
                b'[' => {
                    // A literal may hold colons: [IPv6:2001:db8::1].
                    let end = memchr::memchr(b']', &self.text[self.at..]).map_or(self.text.len(), |i| self.at + i + 1);
                    out.extend_from_slice(&self.text[self.at..end]);
                    self.at = end;
                }
                b' ' | b'\t' | b'\r' | b'\n' => {
                    // A blank ends the domain, unless a dot follows or came before (obs-domain).
                    let next = self.text[self.at..].iter().find(|b| !b.is_ascii_whitespace());
                    if next != Some(&b'.') && out.last() != Some(&b'.') && !out.is_empty() {
                        break;
                    }
                    self.at += 1;
                }
                b'(' => {
                    // The comment after an address is its name: the caller reads it.
                    break;
                }
                byte => {
                    out.push(byte);
                    self.at += 1;
                }
            }
        }
        out
    }

    /// `<route:local@domain>`; a missing `>` is taken as there.
    fn angle(&mut self) -> EnvelopeAddress {
        self.at += 1;
        let mut local = Vec::new();
        let mut route = None;
        let mut host = None;
        while let Some(byte) = self.peek() {
            match byte {
                b'>' => {
                    self.at += 1;
                    break;
                }
                b'"' => local.extend(self.quoted()),
                b'(' => {
                    self.comment();
                }
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                b'@' if local.is_empty() && route.is_none() => {
                    // obs-route: @one,@two:local@domain
                    let rest = &self.text[self.at..];
                    let stop = rest.iter().position(|b| matches!(b, b':' | b'>')).unwrap_or(rest.len());
                    if rest.get(stop) == Some(&b':') {
                        route = Some(rest[..stop].to_vec());
                        self.at += stop + 1;
                    } else {
                        self.at += 1;
                        host = Some(self.domain());
                    }
                }
                b'@' => {
                    self.at += 1;
                    host = Some(self.domain());
                }
                b',' | b';' if host.is_some() => break,
                byte => {
                    local.push(byte);
                    self.at += 1;
                }
            }
        }
        EnvelopeAddress { name: None, route, mailbox: Some(local), host: Some(host.unwrap_or_default()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name|mailbox|host` for each entry, `-` for what is missing.
    fn list(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        parse_list(text.as_bytes(), &mut 1000, &mut out);
        let show = |v: &Option<Vec<u8>>| v.as_ref().map_or("-".to_owned(), |v| String::from_utf8_lossy(v).into_owned());
        out.iter().map(|a| format!("{}|{}|{}", show(&a.name), show(&a.mailbox), show(&a.host))).collect()
    }

    #[test]
    fn reads_the_common_forms() {
        assert_eq!(list("a@b.c"), ["-|a|b.c"]);
        assert_eq!(list("Bob Smith <bob@x.org>, \"Doe, J\" <j@y>"), ["Bob Smith|bob|x.org", "Doe, J|j|y"]);
        assert_eq!(list("bob@x.org (Bob S)"), ["Bob S|bob|x.org"]);
        assert_eq!(list("=?utf-8?q?J=C3=B6rg?= <j@x>"), ["=?utf-8?q?J=C3=B6rg?=|j|x"]);
        assert_eq!(list("\"a b\"@x.org"), ["-|a b|x.org"]);
        assert_eq!(list("<a@[IPv6:2001:db8::1]>"), ["-|a|[IPv6:2001:db8::1]"]);
        assert_eq!(list("John Q. Public <j@x>"), ["John Q. Public|j|x"]);
    }

    #[test]
    fn groups_are_marked() {
        assert_eq!(list("Team: a@b, c@d;, e@f"), ["-|Team|-", "-|a|b", "-|c|d", "-|-|-", "-|e|f"]);
        assert_eq!(list("undisclosed-recipients:;"), ["-|undisclosed-recipients|-", "-|-|-"]);
        assert_eq!(list("Open: a@b"), ["-|Open|-", "-|a|b", "-|-|-"]);
    }

    #[test]
    fn keeps_the_obsolete_route_apart() {
        let mut out = Vec::new();
        parse_list(b"<@one,@two:a@b>", &mut 10, &mut out);
        assert_eq!(out[0].route.as_deref(), Some(&b"@one,@two"[..]));
        assert_eq!(out[0].mailbox.as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn ugly_lists_end() {
        assert_eq!(list("root"), ["-|root|"]);
        assert_eq!(list(",,,"), Vec::<String>::new());
        assert_eq!(list("<>"), ["-||"]);
        assert_eq!(list("(((("), ["-|(((|"]);
        for text in ["\"", "<", "@", "a@", "<a", "(", "x<y@z", ":", ";", "\\", "a b c@d e", "[", "a@[", "<@:>", "<@a,"]
        {
            let _ = list(text);
        }
    }

    #[test]
    fn the_number_is_bounded() {
        let mut out = Vec::new();
        parse_list("a@b,".repeat(1000).as_bytes(), &mut 10, &mut out);
        assert_eq!(out.len(), 10);
    }

    #[test]
    fn from_as_text() {
        let header = b"To: x@y\r\nFrom: Bob\r\n <Bob@Example.com>,\r\n eve@evil.example\r\nFrom: third@z\r\n\r\n";
        assert_eq!(from_addresses(header), ["Bob@Example.com", "eve@evil.example", "third@z"]);
    }
}
