//! What we read in a header and what we put in front of it. Pure.

use std::{borrow::Cow, fmt::Write as _, net::IpAddr};

use message::Field;

/// What a `Received:` field tells (RFC 5321 §4.4).
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// As the client said it; checked to be printable without `()<>"\`.
    pub helo: &'a str,
    pub peer: IpAddr,
    /// Version and cipher.
    pub tls: Option<(&'a str, &'a str)>,
    pub hostname: &'a str,
    pub extended: bool,
    pub authenticated: bool,
    pub smtputf8: bool,
    pub queue_id: &'a str,
    /// Named only when it is the single one: the others' addresses are not everybody's business
    /// (RFC 5321 §7.2).
    pub sole_recipient: Option<&'a str>,
    /// RFC 5322 §3.3.
    pub date: &'a str,
}

/// The whole field with its CRLF.
pub fn received(hop: &Hop<'_>) -> String {
    let mut field = format!("Received: from {} ({})", hop.helo, address_literal(hop.peer));
    if let Some((version, cipher)) = hop.tls {
        let _ = write!(field, "\r\n\t(using {version} with cipher {cipher})");
    }
    let _ = write!(field, "\r\n\tby {} (Postroad) with {} id {}", hop.hostname, protocol(hop), hop.queue_id);
    if let Some(recipient) = hop.sole_recipient {
        let _ = write!(field, "\r\n\tfor <{recipient}>");
    }
    let _ = write!(field, "; {}\r\n", hop.date);
    field
}

/// The `with` keyword (RFC 3848, RFC 6531 §4.3).
fn protocol(hop: &Hop<'_>) -> String {
    let base = match (hop.extended, hop.smtputf8) {
        (false, _) => return "SMTP".into(),
        (true, true) => "UTF8SMTP",
        (true, false) => "ESMTP",
    };
    let (secure, authenticated) = (if hop.tls.is_some() { "S" } else { "" }, if hop.authenticated { "A" } else { "" });
    format!("{base}{secure}{authenticated}")
}

/// RFC 5321 §4.1.3.
fn address_literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    }
}

/// RFC 5321 §6.3: simple counting.
pub fn is_loop(header: &[u8], max_hops: usize) -> bool {
    message::count_fields(header, "Received") > max_hops
}

/// Whether a field may be a signature over the body (RFC 6376, 8617). Rather yes than no: who verifies may
/// overlook blanks in a name, and an empty body must not be taken for the message's.
pub fn may_be_signed(header: &[u8]) -> bool {
    const MARKS: [&[u8]; 2] = [b"signature", b"arc-"];
    let squeezed: Vec<u8> = header.iter().filter(|b| !b.is_ascii_whitespace()).map(u8::to_ascii_lowercase).collect();
    MARKS.iter().any(|mark| memchr::memmem::find(&squeezed, mark).is_some())
}

/// Without `Authentication-Results:` fields that claim to be ours (RFC 8601 §5).
pub fn without_forged_results<'a>(header: &'a [u8], authserv_id: &str) -> Cow<'a, [u8]> {
    message::remove_fields(header, |field| {
        field.is("Authentication-Results") && authserv(field).eq_ignore_ascii_case(authserv_id.as_bytes())
    })
}

/// The authserv-id: the first word, comments skipped (RFC 8601 §2.2).
fn authserv(field: &Field<'_>) -> Vec<u8> {
    let value = message::unfold(field.value);
    let mut word = Vec::new();
    let mut depth = 0usize;
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => word.extend(bytes.next().filter(|_| depth == 0)),
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            b'"' => {}
            b' ' | b'\t' if word.is_empty() => {}
            b' ' | b'\t' | b';' => break,
            byte => word.push(byte),
        }
    }
    // "mx.example." names the same host.
    word.strip_suffix(b".").map(<[u8]>::to_vec).unwrap_or(word)
}

/// What submission may repair (RFC 6409 §8): the fields to add, and the header without `Bcc:`.
pub fn repair<'a>(header: &'a [u8], queue_id: &str, hostname: &str, date: &str) -> (String, Cow<'a, [u8]>) {
    let mut added = String::new();
    if message::field(header, "Date").is_none() {
        let _ = write!(added, "Date: {date}\r\n");
    }
    if message::field(header, "Message-ID").is_none() {
        let _ = write!(added, "Message-ID: <{queue_id}@{hostname}>\r\n");
    }
    // RFC 5322 §3.6.3: the blind copies' names leave no trace.
    (added, message::remove_fields(header, |field| field.is("Bcc") || field.is("Resent-Bcc")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Hop<'static> = Hop {
        helo: "client.example",
        peer: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        tls: None,
        hostname: "mx.example",
        extended: true,
        authenticated: false,
        smtputf8: false,
        queue_id: "QID",
        sole_recipient: None,
        date: "Thu, 1 Jan 1970 00:00:00 +0000",
    };

    #[test]
    fn received_tells_the_whole_hop() {
        assert_eq!(
            received(&HOP),
            "Received: from client.example ([192.0.2.1])\r\n\tby mx.example (Postroad) with ESMTP id QID; \
             Thu, 1 Jan 1970 00:00:00 +0000\r\n"
        );
        let hop = Hop {
            peer: std::net::Ipv6Addr::LOCALHOST.into(),
            tls: Some(("TLSv1.3", "TLS_AES_256_GCM_SHA384")),
            authenticated: true,
            sole_recipient: Some("b@x.example"),
            ..HOP
        };
        assert_eq!(
            received(&hop),
            "Received: from client.example ([IPv6:::1])\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\
             \tby mx.example (Postroad) with ESMTPSA id QID\r\n\tfor <b@x.example>; Thu, 1 Jan 1970 00:00:00 +0000\r\n"
        );
        assert_eq!(protocol(&Hop { extended: false, ..hop }), "SMTP");
        assert_eq!(protocol(&Hop { smtputf8: true, ..hop }), "UTF8SMTPSA");
    }

    #[test]
    fn a_signature_is_found_however_its_name_is_written() {
        for signed in [
            "From: a@x\r\nDKIM-Signature: v=1; d=x\r\n\r\n",
            "dkim-signature : v=1\r\n\r\n",
            "DKIM -Sig\r\n nature: v=1\r\n\r\n",
            "ARC-Seal: i=1\r\nSubject: s\r\n\r\n",
            "Arc-Message-Signature: i=1\n\n",
        ] {
            assert!(may_be_signed(signed.as_bytes()), "{signed}");
        }
        assert!(!may_be_signed(b"From: a@x\r\nReceived: from dkim.example (arc.example)\r\n\r\n"));
        assert!(!may_be_signed(b""));
    }

    #[test]
    fn forged_results_go_and_others_stay() {
        let header = b"Authentication-Results: mx.example; spf=pass\r\n\
            authentication-results:\r\n (hello) MX.Example. 1;\r\n dkim=pass\r\n\
            Authentication-Results: \"mx.example\" ; none\r\n\
            Authentication-Results: mx.example.org; spf=pass\r\n\
            Subject: mx.example\r\n\r\n";
        assert_eq!(
            without_forged_results(header, "mx.example").as_ref(),
            b"Authentication-Results: mx.example.org; spf=pass\r\nSubject: mx.example\r\n\r\n"
        );
        for odd in
            [b"Authentication-Results:".as_slice(), b"Authentication-Results: (((\\", b"Authentication-Results: )"]
        {
            assert_eq!(without_forged_results(odd, "mx.example").as_ref(), odd);
        }
    }

    #[test]
    fn submission_repairs_what_is_missing() {
        let (added, header) =
            repair(b"From: a@x\r\nBcc: c@x,\r\n d@x\r\nSubject: s\r\n\r\n", "QID", "mx.example", "now");
        assert_eq!(added, "Date: now\r\nMessage-ID: <QID@mx.example>\r\n");
        assert_eq!(header.as_ref(), b"From: a@x\r\nSubject: s\r\n\r\n");
        let complete = b"date: x\r\nmessage-id: <y>\r\n\r\n";
        let (added, header) = repair(complete, "QID", "mx.example", "now");
        assert_eq!((added.as_str(), header.as_ref()), ("", complete.as_slice()));
    }

    #[test]
    fn loops_are_counted() {
        assert!(!is_loop(&b"Received: x\r\n".repeat(50), 50));
        assert!(is_loop(&b"Received: x\r\n".repeat(51), 50));
    }
}
