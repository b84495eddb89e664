//! Works around a defect of mail-auth 0.13.3, fixed in its 0.15.0; delete this module then.
//!
//! Relaxed body canonicalization reduces a line of white space to an empty line and ignores
//! empty lines at the end (RFC 6376 §3.4.4); that version keeps such lines when they had white
//! space, so `bh=` comes out wrong. A message without them has the same canonical form, and
//! because they stand at the end, that message is a prefix of the original: nothing is copied.
//! The simple canonicalization must see the original.

use mail_auth::{AuthenticatedMessage, dkim::Canonicalization};

/// Parses a message, with right body hashes for both canonicalizations.
pub(crate) fn parse(message: &[u8]) -> Option<AuthenticatedMessage<'_>> {
    let mut parsed = AuthenticatedMessage::parse(message)?;
    let is_relaxed = |canonicalization: &Canonicalization| *canonicalization == Canonicalization::Relaxed;
    let trimmed = trim(message, parsed.body_offset as usize);
    if trimmed.len() < message.len() && parsed.body_hashes.iter().any(|(c, ..)| is_relaxed(c)) {
        let fixed = AuthenticatedMessage::parse(trimmed)?.body_hashes;
        for (canonicalization, algorithm, limit, hash) in &mut parsed.body_hashes {
            let same = fixed.iter().find(|(c, a, l, _)| is_relaxed(c) && a == algorithm && l == limit);
            if let Some((.., right)) = same.filter(|_| is_relaxed(canonicalization)) {
                hash.clone_from(right);
            }
        }
    }
    Some(parsed)
}

/// The part of a message to hand to a relaxed/relaxed signer.
pub(crate) fn to_sign(message: &[u8]) -> &[u8] {
    match message.windows(4).position(|w| w == b"\r\n\r\n") {
        Some(end) => trim(message, end + 4),
        None => message,
    }
}

/// Cuts lines of white space off the end of the body, if any of them is not simply empty.
fn trim(message: &[u8], body_offset: usize) -> &[u8] {
    let Some(body) = message.get(body_offset..) else { return message };
    let text_end = body.iter().rposition(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n')).map_or(0, |last| last + 1);
    let tail = body.get(text_end..).unwrap_or_default();
    // The last line of text keeps its own white space and line end.
    let line_end = if text_end == 0 { Some(0) } else { tail.iter().position(|b| *b == b'\n').map(|lf| lf + 1) };
    match line_end {
        Some(end) if tail.iter().skip(end).any(|b| matches!(b, b' ' | b'\t')) => {
            message.get(..body_offset + text_end + end).unwrap_or(message)
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEADER: &str = "From: a@example.com\r\n\r\n";

    /// What the canonical form must be, written out.
    fn hash_of_canonical(body: &[u8]) -> Vec<u8> {
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body).as_ref().to_vec()
    }

    fn hashes(body: &str) -> (Vec<u8>, Vec<u8>) {
        let signature = |c: &str| {
            format!("DKIM-Signature: v=1; a=rsa-sha256; s=s; d=example.com; c=relaxed/{c}; h=From; bh=AAAA; b=AAAA\r\n")
        };
        let message = format!("{}{}{HEADER}{body}", signature("relaxed"), signature("simple"));
        let parsed = parse(message.as_bytes()).unwrap();
        let hash = |wanted: Canonicalization| {
            parsed.body_hashes.iter().find(|(c, ..)| *c == wanted).map(|(.., hash)| hash.clone()).unwrap()
        };
        (hash(Canonicalization::Relaxed), hash(Canonicalization::Simple))
    }

    #[test]
    fn relaxed_ignores_lines_of_white_space_at_the_end() {
        for body in
            ["text\r\n \r\n", "text  \r\n\t\r\n\r\n  \r\n", "text\r\n\r\n ", "text\r\n", "text \r\n\r\n", "text"]
        {
            assert_eq!(hashes(body).0, hash_of_canonical(b"text\r\n"), "{body:?}");
        }
        for body in [" \r\n", "\t\r\n \r\n", ""] {
            assert_eq!(hashes(body).0, hash_of_canonical(b""), "{body:?}");
        }
    }

    #[test]
    fn lines_of_white_space_inside_stay() {
        assert_eq!(hashes("a\r\n \r\nb\r\n").0, hash_of_canonical(b"a\r\n\r\nb\r\n"));
    }

    #[test]
    fn simple_sees_the_original() {
        assert_eq!(hashes("text\r\n \r\n").1, hash_of_canonical(b"text\r\n \r\n"));
        assert_eq!(hashes("text\r\n\r\n").1, hash_of_canonical(b"text\r\n"));
    }

    #[test]
    fn what_is_signed_is_a_prefix() {
        assert_eq!(to_sign(b"A: b\r\n\r\ntext \r\n \r\n"), b"A: b\r\n\r\ntext \r\n");
        assert_eq!(to_sign(b"A: b\r\n\r\n \r\n"), b"A: b\r\n\r\n");
        assert_eq!(to_sign(b"A: b\r\n\r\ntext\r\n\r\n"), b"A: b\r\n\r\ntext\r\n\r\n");
        assert_eq!(to_sign(b"A: b \r\n"), b"A: b \r\n");
        assert_eq!(to_sign(b""), b"");
    }
}
