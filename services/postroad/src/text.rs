//! How facts are printed.

/// A time in milliseconds since 1970, in UTC.
pub fn time(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| "-".to_owned(), |t| format!("{t:.3}"))
}

/// Milliseconds since 1970 of a time, or of an age before now.
pub fn moment(text: &str, now_ms: i64) -> Option<i64> {
    let text = text.trim();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds: i64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let age = number.parse::<u32>().ok().map(i64::from)?.checked_mul(seconds)?.checked_mul(1_000)?;
    now_ms.checked_sub(age)
}

/// Words that came from a peer must not steer the terminal they are shown on.
pub fn printable(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// One TXT record as a zone file writes it: strings of up to 255 octets (RFC 1035 §3.3, §5.1).
pub fn txt(value: &str) -> String {
    let mut strings = Vec::new();
    let mut current = String::new();
    for c in value.chars() {
        if current.len() + c.len_utf8() > 255 {
            strings.push(std::mem::take(&mut current));
        }
        current.push(c);
    }
    strings.push(current);
    let quoted = |s: &String| format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""));
    strings.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_txt_records_are_several_strings() {
        assert_eq!(txt("v=spf1 -all"), r#""v=spf1 -all""#);
        assert_eq!(txt(r#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(txt(&"x".repeat(300)), format!("\"{}\" \"{}\"", "x".repeat(255), "x".repeat(45)));
    }

    #[test]
    fn peers_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}");
    }

    #[test]
    fn moments_are_ages_or_times() {
        assert_eq!(moment("2h", 10_000_000), Some(2_800_000));
        assert_eq!(moment(" 1970-01-01T00:00:01Z ", 5), Some(1_000));
        for wrong in ["", "2", "h", "2w", "-1h", "1ü", "tomorrow"] {
            assert_eq!(moment(wrong, 5), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
    }
}
