//! Message identifiers and the subject's base, as threading needs them (RFC 5256 §2.1, §3).

use crate::{decode::decode_words, header::field, header::unfold};

/// Identifiers of one message's References that are kept, the last ones.
const MAX_REFERENCES: usize = 100;

/// The `<…>` of a field, without brackets and comments.
pub fn message_ids(value: &[u8]) -> Vec<Vec<u8>> {
    let text = unfold(value);
    let mut rest: &[u8] = &text;
    let mut ids = Vec::new();
    while let Some(open) = memchr::memchr(b'<', rest) {
        rest = &rest[open + 1..];
        let Some(close) = memchr::memchr2(b'>', b'<', rest) else { break };
        if rest[close] == b'>' {
            let id: Vec<u8> =
                rest[..close].iter().copied().filter(|b| !b.is_ascii_whitespace() && *b != b'"').collect();
            if !id.is_empty() {
                ids.push(id);
            }
            rest = &rest[close + 1..];
        } else {
            rest = &rest[close..];
        }
    }
    ids
}

/// A message's own identifier and those it refers to, the eldest first: References, or the first
/// of In-Reply-To (RFC 5256 §3, THREAD=REFERENCES, step 1).
pub fn references(header: &[u8]) -> (Option<Vec<u8>>, Vec<Vec<u8>>) {
    let ids = |name: &str| field(header, name).map(message_ids).unwrap_or_default();
    let own = ids("Message-ID").into_iter().next();
    let mut elders = ids("References");
    if elders.is_empty() {
        elders = ids("In-Reply-To").into_iter().take(1).collect();
    }
    let surplus = elders.len().saturating_sub(MAX_REFERENCES);
    elders.drain(..surplus);
    (own, elders)
}

/// What all messages of a conversation have in common: the identifier that began it. `None` for a
/// message without any.
pub fn thread_root(header: &[u8]) -> Option<Vec<u8>> {
    let ids = |name: &str| field(header, name).and_then(|v| message_ids(v).into_iter().next());
    ids("References").or_else(|| ids("In-Reply-To")).or_else(|| ids("Message-ID"))
}

/// The base subject (RFC 5256 §2.1), in lower case, and whether anything said that it is a reply
/// or a forward.
pub fn base_subject(subject: &[u8]) -> (String, bool) {
    let decoded = decode_words(subject);
    let mut text = decoded.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let mut is_reply = false;
    loop {
        let before = text.len();
        // (2) subj-trailer
        while let Some(shorter) = text.strip_suffix("(fwd)") {
            text = shorter.trim_end().to_owned();
            is_reply = true;
        }
        text = text.trim_end().to_owned();
        // (3)–(5) subj-leader, then subj-blob when something is left after it
        loop {
            if let Some(rest) = without_leader(&text) {
                text = rest;
                is_reply = true;
                continue;
            }
            match without_blob(&text) {
                Some(rest) if !rest.is_empty() => text = rest,
                _ => break,
            }
        }
        // (6) subj-fwd
        if let Some(inner) = text.strip_prefix("[fwd:").and_then(|t| t.strip_suffix(']')) {
            text = inner.trim().to_owned();
            is_reply = true;
        }
        if text.len() == before {
            return (text, is_reply);
        }
    }
}

/// `re:`, `fwd [x]:` and their kin, with blobs in front.
fn without_leader(text: &str) -> Option<String> {
    let mut rest = text.trim_start();
    while let Some(after) = without_blob(rest) {
        rest = &rest[rest.len() - after.len()..];
    }
    let rest = ["re", "fwd", "fw"].into_iter().find_map(|word| rest.strip_prefix(word))?.trim_start();
    let rest = match without_blob(rest) {
        Some(after) => &rest[rest.len() - after.len()..],
        None => rest,
    };
    Some(rest.strip_prefix(':')?.trim_start().to_owned())
}

/// `[list]` and the blanks after it.
fn without_blob(text: &str) -> Option<String> {
    let inner = text.strip_prefix('[')?;
    let close = inner.find([']', '['])?;
    inner[close..].strip_prefix(']').map(|rest| rest.trim_start().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_subjects() {
        for (subject, base, reply) in [
            ("Hello  World", "hello world", false),
            ("Re: Hello", "hello", true),
            ("RE[2]: re: [list] Fwd: Hello (fwd) (fwd)", "hello", true),
            ("[list] Re: Hello", "hello", true),
            ("[list] Hello", "hello", false),
            ("[only]", "[only]", false),
            ("[Fwd: Hello]", "hello", true),
            ("Regarding: x", "regarding: x", false),
            ("=?utf-8?q?Re=3A_Gr=C3=BC=C3=9Fe?=", "grüße", true),
            ("", "", false),
            ("Re:", "", true),
        ] {
            assert_eq!(base_subject(subject.as_bytes()), (base.to_owned(), reply), "{subject}");
        }
    }

    #[test]
    fn identifiers() {
        let header =
            b"Message-ID: <c@x>\r\nReferences: <a@x> (so) <b\r\n @x> <broken <d@x>\r\nIn-Reply-To: <z@x>\r\n\r\n";
        let (own, elders) = references(header);
        assert_eq!(own.as_deref(), Some(&b"c@x"[..]));
        assert_eq!(elders, [&b"a@x"[..], b"b@x", b"d@x"]);
        assert_eq!(thread_root(header).as_deref(), Some(&b"a@x"[..]));
        assert_eq!(thread_root(b"Message-ID: <c@x>\r\n\r\n").as_deref(), Some(&b"c@x"[..]));
        assert_eq!(thread_root(b"Subject: x\r\n\r\n"), None);
        assert_eq!(references(b"In-Reply-To: Your message of <z@x> and <y@x>\r\n\r\n").1, [&b"z@x"[..]]);
    }
}
