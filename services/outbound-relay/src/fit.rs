//! A message made fit for a peer that lacks 8BITMIME (RFC 6152 §3) or SMTPUTF8 (RFC 6531 §3.2).
//! Pure.

use bytes::Bytes;
use smtp::client::{Capabilities, Envelope};

use crate::seven_bit;

pub(crate) enum Fitted {
    Yes(Bytes),
    No { status: &'static str, words: &'static str },
}

/// Whether anything in the envelope asks for SMTPUTF8.
pub(crate) fn is_international(envelope: &Envelope) -> bool {
    envelope.smtputf8
        || !envelope.reverse_path.is_ascii()
        || envelope.recipients.iter().any(|r| !r.forward_path.is_ascii())
}

/// Changes envelope and content as little as the peer's lacks need.
pub(crate) fn fit(envelope: &mut Envelope, content: Bytes, offered: &Capabilities) -> Fitted {
    if !offered.smtputf8 && is_international(envelope) {
        // Many clients ask for SMTPUTF8 without need; an international domain has an ASCII form.
        let paths = envelope.recipients.iter_mut().map(|r| &mut r.forward_path).chain([&mut envelope.reverse_path]);
        for path in paths {
            match ascii_path(path) {
                Some(ascii) => *path = ascii,
                None => {
                    return Fitted::No {
                        status: "5.6.7",
                        words: "address is internationalised, and the peer does not accept such",
                    };
                }
            }
        }
        if !dsn::header_section(&content).is_ascii() {
            return Fitted::No {
                status: "5.6.7",
                words: "header is internationalised, and the peer does not accept such",
            };
        }
        envelope.smtputf8 = false;
    }
    if offered.eight_bit_mime || !envelope.eight_bit {
        return Fitted::Yes(content);
    }
    envelope.eight_bit = false;
    if content.is_ascii() {
        return Fitted::Yes(content);
    }
    match seven_bit::encode(&content) {
        Some(encoded) => Fitted::Yes(encoded.into()),
        None => Fitted::No {
            status: "5.6.3",
            words: "message has 8-bit content that cannot be encoded, and the peer takes 7 bits",
        },
    }
}

/// The path with its domain in A-labels; none when its local part is not ASCII.
fn ascii_path(path: &str) -> Option<String> {
    if path.is_ascii() {
        return Some(path.to_owned());
    }
    let (local, domain) = path.rsplit_once('@')?;
    if !local.is_ascii() {
        return None;
    }
    Some(format!("{local}@{}", dns::to_ascii(domain)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp::client::Recipient;

    fn envelope(path: &str) -> Envelope {
        let recipients = vec![Recipient { forward_path: path.into(), ..Recipient::default() }];
        Envelope {
            reverse_path: "a@sender.com".into(),
            recipients,
            eight_bit: true,
            smtputf8: true,
            ..Envelope::default()
        }
    }

    #[test]
    fn needless_demands_are_dropped_and_domains_encoded() {
        let mut envelope = envelope("bob@bücher.example");
        let content = Bytes::from_static(b"Subject: x\r\n\r\nbody\r\n");
        assert!(
            matches!(fit(&mut envelope, content.clone(), &Capabilities::default()), Fitted::Yes(c) if c == content)
        );
        assert_eq!(envelope.recipients[0].forward_path, "bob@xn--bcher-kva.example");
        assert!(!envelope.smtputf8 && !envelope.eight_bit);
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let status = |path: &str, content: &'static str| match fit(
            &mut envelope(path),
            Bytes::from_static(content.as_bytes()),
            &Capabilities::default(),
        ) {
            Fitted::Yes(_) => "",
            Fitted::No { status, .. } => status,
        };
        assert_eq!(status("jörg@example.com", "\r\n"), "5.6.7");
        assert_eq!(status("j@example.com", "Subject: ü\r\n\r\nx\r\n"), "5.6.7");
        assert_eq!(status("j@example.com", "Subject: u\r\n\r\nü\r\n"), "");
    }

    #[test]
    fn a_peer_that_has_all_gets_all() {
        let mut mail = envelope("jörg@example.com");
        let offered = Capabilities { smtputf8: true, eight_bit_mime: true, ..Capabilities::default() };
        let content = Bytes::from_static("Subject: ü\r\n\r\nü\r\n".as_bytes());
        assert!(matches!(fit(&mut mail, content.clone(), &offered), Fitted::Yes(c) if c == content));
        assert!(mail.smtputf8 && mail.eight_bit);
    }
}
