//! Where the parts of a message are, without what they say: a flat list, small enough to be
//! stored beside every message and to answer any `BODY[section]` (RFC 9051 §6.4.5.1).

use crate::structure::{Part, PartKind, Structure};

/// Where one part is; offsets count from the message's first octet,
/// `header_start <= body_start <= end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSpan {
    /// `""` is the message itself, then `1`, `1.2`, … as `BODY[section]` names it.
    pub section: String,
    /// The part's own MIME header, `header_start..body_start`; empty for the message itself.
    pub header_start: u32,
    /// `body_start..end` is the part without its MIME header; for `""` the whole message.
    pub body_start: u32,
    pub end: u32,
    /// Of a message (`""` and message/rfc822 parts): where its header ends, the empty line
    /// included. 0 for other parts.
    pub inner_body_start: u32,
    /// Content-Transfer-Encoding in lower case.
    pub encoding: String,
}

impl Structure {
    /// Every part in the order of a walk, the message itself first. A message that is no
    /// multipart has its body as part 1.
    pub fn spans(&self) -> Vec<PartSpan> {
        let mut out = vec![PartSpan {
            section: String::new(),
            header_start: 0,
            body_start: 0,
            end: offset(self.root.end),
            inner_body_start: offset(self.root.body_start),
            encoding: encoding(&self.root),
        }];
        walk_message("", &self.root, &mut out);
        out
    }
}

/// The parts of the message whose root is `root`, numbered below `prefix`.
fn walk_message(prefix: &str, root: &Part, out: &mut Vec<PartSpan>) {
    match &root.kind {
        PartKind::Multipart(children) => walk_children(prefix, children, out),
        _ => walk_part(&number(prefix, 1), root, out),
    }
}

fn walk_children(prefix: &str, children: &[Part], out: &mut Vec<PartSpan>) {
    for (i, child) in children.iter().enumerate() {
        walk_part(&number(prefix, i + 1), child, out);
    }
}

fn walk_part(section: &str, part: &Part, out: &mut Vec<PartSpan>) {
    let inner_body_start = match &part.kind {
        PartKind::Message(inner) => offset(inner.root.body_start),
        _ => 0,
    };
    out.push(PartSpan {
        section: section.to_owned(),
        header_start: offset(part.header_start),
        body_start: offset(part.body_start),
        end: offset(part.end),
        inner_body_start,
        encoding: encoding(part),
    });
    match &part.kind {
        PartKind::Leaf => {}
        PartKind::Multipart(children) => walk_children(section, children, out),
        PartKind::Message(inner) => walk_message(section, &inner.root, out),
    }
}

fn number(prefix: &str, n: usize) -> String {
    if prefix.is_empty() { n.to_string() } else { format!("{prefix}.{n}") }
}

/// Messages are far below 4 GiB; beyond, offsets stop rather than wrap.
fn offset(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn encoding(part: &Part) -> String {
    let Some(encoding) = &part.encoding else { return String::new() };
    let known: &[u8] = &encoding[..encoding.len().min(32)];
    String::from_utf8_lossy(known).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: &str = "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\nContent-Type: message/rfc822\n\nSubject: s\n\ninner\n--b\nContent-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\nx\n--c--\n--b--\n";

    #[test]
    fn every_part_has_its_number_and_its_place() {
        let spans = Structure::parse(RAW.as_bytes()).spans();
        let show: Vec<_> =
            spans.iter().map(|s| (s.section.as_str(), &RAW[s.body_start as usize..s.end as usize])).collect();
        assert_eq!(
            show,
            [
                ("", RAW),
                ("1", "one"),
                ("2", "Subject: s\n\ninner"),
                ("2.1", "inner"),
                ("3", "Content-Type: multipart/mixed; boundary=c\n\n--c\n\nx\n--c--"),
                ("3.1", "x"),
            ]
        );
        let inner = &spans[2];
        assert_eq!(&RAW[inner.body_start as usize..inner.inner_body_start as usize], "Subject: s\n\n");
        assert_eq!(&RAW[inner.header_start as usize..inner.body_start as usize], "Content-Type: message/rfc822\n\n");
    }

    #[test]
    fn a_simple_message_is_its_own_part_1() {
        let spans = Structure::parse(b"A: b\n\nbody").spans();
        let show: Vec<_> = spans
            .iter()
            .map(|s| (s.section.as_str(), s.header_start, s.body_start, s.inner_body_start, s.end))
            .collect();
        assert_eq!(show, [("", 0, 0, 6, 10), ("1", 0, 6, 0, 10)]);
    }
}
