//! IMAP flags (RFC 5232): lists of words that do not know case.

const MAX_FLAGS: usize = 100;
const MAX_LENGTH: usize = 200;
const SYSTEM: [&str; 5] = ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"];

/// Appends the flags of a string, which may be several (§2); what is no flag is left out, also
/// \Recent, which nobody may set.
pub(crate) fn add(flags: &mut Vec<String>, text: &str) {
    for word in text.split_ascii_whitespace() {
        let Some(flag) = valid(word) else { continue };
        if flags.len() < MAX_FLAGS && !flags.iter().any(|f| f.eq_ignore_ascii_case(&flag)) {
            flags.push(flag);
        }
    }
}

pub(crate) fn remove(flags: &mut Vec<String>, text: &str) {
    for word in text.split_ascii_whitespace() {
        flags.retain(|f| !f.eq_ignore_ascii_case(word));
    }
}

fn valid(word: &str) -> Option<String> {
    if word.starts_with('\\') {
        return SYSTEM.iter().find(|s| s.eq_ignore_ascii_case(word)).map(|s| (*s).to_owned());
    }
    let is_atom = |b: u8| b.is_ascii_graphic() && !b"(){%*\"\\]".contains(&b);
    (word.len() <= MAX_LENGTH && word.bytes().all(is_atom)).then(|| word.to_owned())
}
