use std::str::FromStr as _;

use address::{Address, AddressError};

/// Splits `<path> parameters` behind `MAIL FROM:` or `RCPT TO:` (RFC 5321 §4.1.1.2, §4.1.1.3).
///
/// Returns the path without brackets and source route, and the parameters.
/// Space in front of the path is no standard, but old clients send it and nothing follows from it.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let inner = text.trim_start_matches(' ').strip_prefix('<')?;
    let mut quoted = false;
    let mut escaped = false;
    let end = inner.char_indices().find_map(|(at, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            _ => {}
        }
        None
    })?;
    let (path, rest) = inner.split_at_checked(end)?;
    let rest = rest.strip_prefix('>')?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    Some((without_route(path), rest.trim_matches(' ')))
}

/// `@a.example,@b.example:user@c.example`: a server must accept the route and may ignore it
/// (RFC 5321 §4.1.2, Appendix C).
fn without_route(path: &str) -> &str {
    if !path.starts_with('@') {
        return path;
    }
    path.split_once(':').map_or(path, |(_, address)| address)
}

/// An address without whitespace or controls outside of quotes; [`Address`] checks the rest.
pub fn parse(path: &str) -> Result<Address, AddressError> {
    Address::from_str(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_parameters() {
        assert_eq!(split("<a@x.example>"), Some(("a@x.example", "")));
        assert_eq!(split(" <> SIZE=1 BODY=7BIT"), Some(("", "SIZE=1 BODY=7BIT")));
        assert_eq!(split(r#"<"a> \" b"@x.example> X"#), Some((r#""a> \" b"@x.example"#, "X")));
        assert_eq!(split("<@a.example,@b.example:u@c.example>"), Some(("u@c.example", "")));
        for bad in ["a@x.example", "<a@x.example", "<a@x.example>SIZE=1", "", r#"<"a>"#] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
