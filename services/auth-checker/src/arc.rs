//! ARC (RFC 8617): the chain as it came, our own set on top of it, and whom we believe.

use std::collections::HashSet;

use mail_auth::{
    ArcOutput, AuthenticatedMessage, AuthenticationResults, DkimResult, arc::ArcSealer,
    common::headers::HeaderWriter as _,
};

use crate::{sign::Key, trailing_space};

/// Signed when present; ARC fields and Authentication-Results never are (RFC 8617 §4.1.2).
const SIGNED: [&str; 14] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "DKIM-Signature",
];

/// The three fields of the next set. None for a chain that is broken already: nothing that we say
/// would mend it.
pub(crate) fn seal(
    content: &[u8],
    results: &AuthenticationResults<'_>,
    chain: Option<&ArcOutput<'_>>,
    domain: &str,
    key: Key,
) -> Option<String> {
    if chain.is_some_and(|chain| *chain.result() != DkimResult::Pass) {
        return None;
    }
    // Its body hashes must be those of the relaxed form.
    let message = AuthenticatedMessage::parse(trailing_space::to_sign(content))?;
    let is_present = |name: &&&str| message.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
    let names: Vec<&str> = SIGNED.iter().filter(is_present).copied().collect();
    let selector = key.selector().to_owned();
    let sealer = ArcSealer::from_key(key).domain(domain).selector(selector).headers(names);
    let none = ArcOutput::default();
    let set = match sealer.seal(&message, results, chain.unwrap_or(&none)) {
        Ok(set) => set,
        Err(error) => {
            tracing::warn!(mail.domain = domain, %error, "not sealed");
            return None;
        }
    };
    Some(set.to_header())
}

/// The trusted domain that saw `author`'s mail pass DMARC, when only trusted ones handled it since.
/// The chain must have passed.
pub(crate) fn vouched_by(
    message: &AuthenticatedMessage<'_>,
    trusted: &HashSet<String>,
    author: &str,
) -> Option<String> {
    for (seal, results) in message.as_headers.iter().zip(&message.aar_headers).rev() {
        let sealer = seal.header.d.to_ascii_lowercase();
        if !trusted.contains(&sealer) {
            return None;
        }
        if says_dmarc_pass(results.value, author) {
            return Some(sealer);
        }
    }
    None
}

/// `…; dmarc=pass … header.from=author …` (RFC 8601 §2.2).
fn says_dmarc_pass(value: &[u8], author: &str) -> bool {
    let text = without_comments(&String::from_utf8_lossy(value));
    text.split(';').any(|result| {
        let mut words = result.split_ascii_whitespace();
        words.next().is_some_and(|w| w.eq_ignore_ascii_case("dmarc=pass"))
            && words.any(|w| {
                let named = w.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("header.from"));
                named.is_some_and(|(_, domain)| domain.trim_matches('"').eq_ignore_ascii_case(author))
            })
    })
}

fn without_comments(text: &str) -> String {
    let mut depth = 0usize;
    let mut kept = String::new();
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            c if depth == 0 => kept.push(c),
            _ => (),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_result_says() {
        let says = |text: &str| says_dmarc_pass(text.as_bytes(), "sender.com");
        assert!(says(
            "i=1; mx.list.org; spf=fail;\r\n\tdmarc=pass (p=reject) header.from=Sender.com policy.dmarc=reject"
        ));
        assert!(says(" i=1; mx; DMARC=PASS header.from=\"sender.com\""));
        for no in [
            "i=1; mx; dmarc=fail header.from=sender.com",
            "i=1; mx; dmarc=pass header.from=other.com",
            "i=1; mx; dmarc=pass",
            "i=1; mx; spf=pass (dmarc=pass header.from=sender.com)",
            "i=1; mx; x-dmarc=pass header.from=sender.com",
            "i=1; mx; dmarc=pass; spf=pass header.from=sender.com",
            "",
        ] {
            assert!(!says(no), "{no}");
        }
    }
}
