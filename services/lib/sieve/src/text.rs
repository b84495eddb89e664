//! Strings with what is put in for them: encoded characters (RFC 5228 §2.4.2.4) when the script is
//! read, variables (RFC 5229 §3) when it runs.

/// A string of the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(pub Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Literal(String),
    /// In lower case.
    Variable(String),
    /// What a wildcard of the last successful `:matches` stood for; 0 is all of it.
    Match(usize),
}

impl Text {
    pub fn literal(text: impl Into<String>) -> Self {
        Self(vec![Piece::Literal(text.into())])
    }

    /// The string, when nothing is put in.
    pub fn constant(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// `${name}` and `${1}`; anything else with a dollar stays as it is (RFC 5229 §3). An error is
    /// the name of a namespace that nobody has.
    pub fn with_variables(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, tail) = rest.split_at(at);
            literal.push_str(before);
            let inner = &tail[2..];
            let reference = inner.find('}').and_then(|end| Some((reference(&inner[..end])?, end)));
            let Some((piece, end)) = reference else {
                literal.push_str("${");
                rest = inner;
                continue;
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(piece?);
            rest = &inner[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }
}

/// `None` for what is no reference at all.
fn reference(name: &str) -> Option<Result<Piece, String>> {
    if !name.is_empty() && name.len() <= 9 && name.bytes().all(|b| b.is_ascii_digit()) {
        return name.parse().ok().map(|n| Ok(Piece::Match(n)));
    }
    if let Some((space, rest)) = name.split_once('.') {
        return (is_name(space) && rest.split('.').all(|r| !r.is_empty())).then(|| Err(space.to_owned()));
    }
    is_name(name).then(|| Ok(Piece::Variable(name.to_ascii_lowercase())))
}

/// An identifier (RFC 5228 §8.1).
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `${hex: 24 24}` and `${unicode: 40}` (RFC 5228 §2.4.2.4). An error is what is no character.
pub(crate) fn decode_characters(text: &str) -> Result<String, String> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let inner = &rest[at + 2..];
        match inner.find('}').and_then(|end| Some((encoded(&inner[..end])?, end))) {
            Some((bytes, end)) => {
                out.extend(bytes?);
                rest = &inner[end + 1..];
            }
            None => {
                out.extend_from_slice(b"${");
                rest = inner;
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8(out).map_err(|_| "octets that are not UTF-8".to_owned())
}

fn encoded(inner: &str) -> Option<Result<Vec<u8>, String>> {
    let (kind, list) = inner.split_once(':')?;
    let words: Vec<&str> = list.split_ascii_whitespace().collect();
    let is_hex = |w: &&str, most: usize| w.len() <= most && w.bytes().all(|b| b.is_ascii_hexdigit());
    if words.is_empty() {
        return None;
    }
    if kind.eq_ignore_ascii_case("hex") && words.iter().all(|w| is_hex(w, 2)) {
        return words.iter().map(|w| u8::from_str_radix(w, 16).ok()).collect::<Option<Vec<_>>>().map(Ok);
    }
    if kind.eq_ignore_ascii_case("unicode") && words.iter().all(|w| is_hex(w, 40)) {
        let text: Option<String> =
            words.iter().map(|w| u32::from_str_radix(w, 16).ok().and_then(char::from_u32)).collect();
        return Some(text.map(String::into_bytes).ok_or_else(|| format!("{list:?}, which is no character")));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_characters_of_rfc_5228() {
        let decode = |t: &str| decode_characters(t).expect("valid");
        assert_eq!(decode("$${hex:40}"), "$@");
        assert_eq!(decode("${hex: 40 }"), "@");
        assert_eq!(decode("${HEX: 40}"), "@");
        assert_eq!(decode("${hex:40"), "${hex:40");
        assert_eq!(decode("${hex:400}"), "${hex:400}");
        assert_eq!(decode("${hex:4${hex:30}}"), "${hex:40}");
        assert_eq!(decode("${unicode:40}"), "@");
        assert_eq!(decode("${ unicode:40}"), "${ unicode:40}");
        assert_eq!(decode("${UNICODE:40}"), "@");
        assert_eq!(decode("${UnICoDE:0000040}"), "@");
        assert_eq!(decode("${Unicode:Cool}"), "${Unicode:Cool}");
        assert!(decode_characters("${unicode:200000}").is_err());
        assert!(decode_characters("${Unicode:DF01}").is_err());
        assert!(decode_characters("${hex:ff}").is_err());
    }

    #[test]
    fn references_of_rfc_5229() {
        let pieces = |t: &str| Text::with_variables(t).expect("valid").0;
        let literal = |t: &str| Piece::Literal(t.to_owned());
        let variable = |t: &str| Piece::Variable(t.to_owned());
        assert_eq!(pieces("&%${}!"), [literal("&%${}!")]);
        assert_eq!(pieces("${doh!}"), [literal("${doh!}")]);
        assert_eq!(
            pieces("${President, ${Company} Inc."),
            [literal("${President, "), variable("company"), literal(" Inc.")]
        );
        assert_eq!(pieces("a${01}"), [literal("a"), Piece::Match(1)]);
        assert_eq!(pieces(""), []);
        assert_eq!(Text::with_variables("${a.b}"), Err("a".to_owned()));
    }
}
