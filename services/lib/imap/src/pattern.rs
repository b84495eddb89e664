//! LIST patterns (RFC 9051 §6.3.9).

/// Whether a mailbox name matches: `*` stands for anything, `%` for anything within one level.
/// INBOX is the only name that does not know case.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let fold = name.eq_ignore_ascii_case(b"INBOX");
    // Positions in `pattern` that are reached after the bytes so far; one pass, no backtracking,
    // so that `*%*%*%…` costs |pattern| × |name|.
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    skip_wildcards(pattern, &mut reached);
    for byte in name {
        let mut next = vec![false; pattern.len() + 1];
        for (i, p) in pattern.iter().enumerate().filter(|(i, _)| reached[*i]) {
            match p {
                b'*' => next[i] = true,
                b'%' if *byte != b'/' => next[i] = true,
                b'%' => {}
                p if p == byte || fold && p.eq_ignore_ascii_case(byte) => next[i + 1] = true,
                _ => {}
            }
        }
        skip_wildcards(pattern, &mut next);
        reached = next;
    }
    reached[pattern.len()]
}

/// A wildcard may stand for nothing.
fn skip_wildcards(pattern: &[u8], reached: &mut [bool]) {
    for (i, p) in pattern.iter().enumerate() {
        if reached[i] && matches!(p, b'*' | b'%') {
            reached[i + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("*", "a/b/c", true),
            ("%", "a", true),
            ("%", "a/b", false),
            ("%/%", "a/b", true),
            ("a/*", "a", false),
            ("a*", "a/b", true),
            ("inbox", "INBOX", true),
            ("In%", "INBOX", true),
            ("A", "a", false),
            ("", "a", false),
            ("", "", true),
            ("*%*b", "a/xb", true),
            ("%b", "a/b", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn many_wildcards_are_cheap() {
        let pattern = "*%".repeat(500) + "x";
        assert!(!matches_pattern(&pattern, &"a/".repeat(500)));
    }
}
