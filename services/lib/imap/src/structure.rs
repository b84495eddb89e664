//! ENVELOPE, BODY and BODYSTRUCTURE as IMAP text (RFC 9051 §7.5.2).
//!
//! Written once when a message is delivered, stored, and sent as they are.

use message::{Disposition, Envelope, EnvelopeAddress, Parameter, Part, PartKind, Structure};

use crate::respond::{nstring, string};

/// The ENVELOPE list, parentheses included.
pub fn envelope_text(envelope: &Envelope) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_envelope(envelope, &mut out);
    out
}

/// BODY: the structure without extension data.
pub fn body_text(structure: &Structure) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write_part(&structure.root, false, &mut out);
    out
}

/// BODYSTRUCTURE: with extension data.
pub fn bodystructure_text(structure: &Structure) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_part(&structure.root, true, &mut out);
    out
}

fn write_envelope(e: &Envelope, out: &mut Vec<u8>) {
    out.push(b'(');
    nstring(out, e.date.as_deref());
    out.push(b' ');
    nstring(out, e.subject.as_deref());
    for list in [&e.from, &e.sender, &e.reply_to, &e.to, &e.cc, &e.bcc] {
        out.push(b' ');
        write_addresses(list, out);
    }
    out.push(b' ');
    nstring(out, e.in_reply_to.as_deref());
    out.push(b' ');
    nstring(out, e.message_id.as_deref());
    out.push(b')');
}

fn write_addresses(list: &[EnvelopeAddress], out: &mut Vec<u8>) {
    if list.is_empty() {
        return out.extend_from_slice(b"NIL");
    }
    out.push(b'(');
    for address in list {
        out.push(b'(');
        for (i, value) in [&address.name, &address.route, &address.mailbox, &address.host].into_iter().enumerate() {
            if i > 0 {
                out.push(b' ');
            }
            nstring(out, value.as_deref());
        }
        out.push(b')');
    }
    out.push(b')');
}

fn write_part(part: &Part, extended: bool, out: &mut Vec<u8>) {
    out.push(b'(');
    match &part.kind {
        PartKind::Multipart(children) => write_multipart(part, children, extended, out),
        _ => write_single(part, extended, out),
    }
    out.push(b')');
}

fn write_multipart(part: &Part, children: &[Part], extended: bool, out: &mut Vec<u8>) {
    for child in children {
        write_part(child, extended, out);
    }
    if children.is_empty() {
        // The grammar knows no multipart without parts: an empty text stands for them.
        out.extend_from_slice(b"(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 0 0");
        out.extend_from_slice(if extended { b" NIL NIL NIL NIL)" } else { b")" });
    }
    out.push(b' ');
    string(out, part.media.subtype.as_bytes());
    if extended {
        out.push(b' ');
        write_parameters(&part.media.parameters, out);
        write_extension(part, out);
    }
}

fn write_single(part: &Part, extended: bool, out: &mut Vec<u8>) {
    string(out, part.media.kind.as_bytes());
    out.push(b' ');
    string(out, part.media.subtype.as_bytes());
    out.push(b' ');
    write_parameters(&part.media.parameters, out);
    out.push(b' ');
    nstring(out, part.id.as_deref());
    out.push(b' ');
    nstring(out, part.description.as_deref());
    out.push(b' ');
    string(out, part.encoding.as_deref().unwrap_or(b"7bit"));
    number(part.size(), out);
    if let PartKind::Message(inner) = &part.kind {
        out.push(b' ');
        write_envelope(&inner.envelope, out);
        out.push(b' ');
        write_part(&inner.root, extended, out);
        number(part.lines, out);
    } else if part.media.kind == "text" {
        number(part.lines, out);
    }
    if extended {
        out.push(b' ');
        nstring(out, part.md5.as_deref());
        write_extension(part, out);
    }
}

/// Disposition, language, location; each after a space.
fn write_extension(part: &Part, out: &mut Vec<u8>) {
    out.push(b' ');
    write_disposition(part.disposition.as_ref(), out);
    out.push(b' ');
    match part.language.as_slice() {
        [] => out.extend_from_slice(b"NIL"),
        // A string would do for a single one; a list always does (RFC 9051 §9, body-fld-lang).
        many => {
            out.push(b'(');
            for (i, tag) in many.iter().enumerate() {
                if i > 0 {
                    out.push(b' ');
                }
                string(out, tag);
            }
            out.push(b')');
        }
    }
    out.push(b' ');
    nstring(out, part.location.as_deref());
}

fn write_disposition(disposition: Option<&Disposition>, out: &mut Vec<u8>) {
    let Some(disposition) = disposition else { return out.extend_from_slice(b"NIL") };
    out.push(b'(');
    string(out, disposition.kind.as_bytes());
    out.push(b' ');
    write_parameters(&disposition.parameters, out);
    out.push(b')');
}

fn write_parameters(parameters: &[Parameter], out: &mut Vec<u8>) {
    if parameters.is_empty() {
        return out.extend_from_slice(b"NIL");
    }
    out.push(b'(');
    for (i, parameter) in parameters.iter().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        string(out, parameter.name.as_bytes());
        out.push(b' ');
        string(out, &parameter.value);
    }
    out.push(b')');
}

fn number(n: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!(" {n}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(raw: &str) -> (String, String, String) {
        let structure = Structure::parse(raw.replace('\n', "\r\n").as_bytes());
        let utf8 = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (utf8(envelope_text(&structure.envelope)), utf8(body_text(&structure)), utf8(bodystructure_text(&structure)))
    }

    #[test]
    fn a_plain_message() {
        let (envelope, body, full) = texts(
            "Date: Mon, 7 Feb 1994 21:52:25 -0800\nFrom: Fred \"F\" Foobar <foobar@Blurdybloop.example>\nSubject: say \"hi\\\"\nTo: mooch@owatagu.example, Team: x@y;\nMessage-ID: <B27397-0100000@Blurdybloop.example>\n\nHello\n",
        );
        assert_eq!(
            envelope,
            r#"("Mon, 7 Feb 1994 21:52:25 -0800" "say \"hi\\\"" (("Fred F Foobar" NIL "foobar" "Blurdybloop.example")) (("Fred F Foobar" NIL "foobar" "Blurdybloop.example")) (("Fred F Foobar" NIL "foobar" "Blurdybloop.example")) ((NIL NIL "mooch" "owatagu.example")(NIL NIL "Team" NIL)(NIL NIL "x" "y")(NIL NIL NIL NIL)) NIL NIL NIL "<B27397-0100000@Blurdybloop.example>")"#
        );
        assert_eq!(body, r#"("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 7 1)"#);
        assert_eq!(full, r#"("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 7 1 NIL NIL NIL NIL)"#);
    }

    #[test]
    fn multipart_with_attachment_and_message() {
        let (_, body, full) = texts(
            "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: image/png; name=\"ä.png\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=x\nContent-Language: de, en\nContent-ID: <i>\n\nAA==\n--b\nContent-Type: message/rfc822\n\nSubject: in\n\ntext\n--b--\n",
        );
        assert_eq!(
            body,
            "((\"image\" \"png\" (\"name\" {6}\r\nä.png) \"<i>\" NIL \"base64\" 4)(\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 19 (NIL \"in\" NIL NIL NIL NIL NIL NIL NIL NIL) (\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 4 0) 2) \"mixed\")"
        );
        assert!(full.contains(r#""base64" 4 NIL ("attachment" ("filename" "x")) ("de" "en") NIL)"#), "{full}");
        assert!(full.ends_with(r#" "mixed" ("boundary" "b") NIL NIL NIL)"#), "{full}");
    }

    #[test]
    fn a_multipart_without_parts_is_still_grammar() {
        let (_, body, _) = texts("Content-Type: multipart/mixed; boundary=b\n\nnothing");
        assert_eq!(body, r#"(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0) "mixed")"#);
    }
}
