//! PREVIEW (RFC 8970 §3): the beginning of a message's text, for people, in one line.

use crate::{
    decode::{charset_to_utf8, decode_transfer},
    structure::{Part, Structure},
};

/// RFC 8970 §3.1: at most 200 characters are recommended, 256 allowed.
const MAX_CHARS: usize = 200;
/// Octets that are looked at; what 200 characters of text need, even within much HTML.
const LOOK_AT: usize = 32 * 1024;

/// At most 200 characters; empty when the message has no text.
pub fn preview(structure: &Structure, raw: &[u8]) -> String {
    let leaves = structure.leaves();
    let is_shown = |p: &&&Part| p.disposition.as_ref().is_none_or(|d| d.kind != "attachment");
    let text = |subtype: &str| {
        let mut found = leaves.iter().filter(is_shown).filter(|p| p.media.kind == "text" && p.media.subtype == subtype);
        found.find_map(|p| Some(decoded(p, raw)).filter(|t| !t.trim().is_empty()))
    };
    if let Some(plain) = text("plain") {
        return one_line(plain.lines().filter(|l| !l.starts_with('>')).flat_map(|l| [l, " "]));
    }
    text("html").map(|html| one_line([without_tags(&html).as_str()].into_iter())).unwrap_or_default()
}

fn decoded(part: &Part, raw: &[u8]) -> String {
    let body = raw.get(part.body()).unwrap_or_default();
    let body = body.get(..body.len().min(LOOK_AT)).unwrap_or_default();
    let octets = decode_transfer(body, part.encoding.as_deref());
    charset_to_utf8(&octets, part.media.parameter("charset").unwrap_or(b"utf-8")).into_owned()
}

/// Runs of blanks become one; controls and NUL have no place in a line.
fn one_line<'t>(pieces: impl Iterator<Item = &'t str>) -> String {
    let mut out = String::new();
    let (mut count, mut blank) = (0, false);
    for c in pieces.flat_map(str::chars) {
        if c.is_whitespace() || c.is_control() || c == '\u{fffd}' {
            blank = true;
            continue;
        }
        let needed = 1 + usize::from(blank && count > 0);
        if count + needed > MAX_CHARS {
            break;
        }
        if needed == 2 {
            out.push(' ');
        }
        out.push(c);
        count += needed;
        blank = false;
    }
    out
}

/// What stands between the tags; scripts, styles and comments are no text.
fn without_tags(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        out.push(' ');
        rest = &rest[open..];
        let hidden = ["script", "style", "head", "title"].into_iter().find(|name| {
            rest.get(1..=name.len()).is_some_and(|t| t.eq_ignore_ascii_case(name))
                && !rest[1 + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
        });
        let end = match hidden {
            _ if rest.starts_with("<!--") => rest.find("-->").map(|at| at + 3),
            Some(name) => closing(rest, name),
            None => rest.find('>').map(|at| at + 1),
        };
        rest = end.and_then(|end| rest.get(end..)).unwrap_or_default();
    }
    out.push_str(rest);
    unescape(&out)
}

/// After `</name>`.
fn closing(html: &str, name: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        at += html.get(at..)?.find("</")? + 2;
        if html.get(at..at + name.len()).is_some_and(|t| t.eq_ignore_ascii_case(name)) {
            return Some(at + html.get(at..)?.find('>')? + 1);
        }
    }
}

fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (escape, c) in [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
    {
        out = out.replace(escape, c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(raw: &str) -> String {
        let raw = raw.replace('\n', "\r\n");
        preview(&Structure::parse(raw.as_bytes()), raw.as_bytes())
    }

    #[test]
    fn text_in_one_line() {
        assert_eq!(of("Subject: x\n\nHello\n> quoted\n  bob,\n\n\thow are you\n"), "Hello bob, how are you");
        assert_eq!(
            of(
                "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe"
            ),
            "Grüße"
        );
        assert_eq!(of("Subject: x\n\n"), "");
        assert_eq!(of(&format!("A: b\n\n{}", "ä".repeat(500))).chars().count(), 200);
    }

    #[test]
    fn html_without_its_tags() {
        let html = "Content-Type: text/html\n\n<html><head><title>no</title></head><STYLE>p{}</STYLE><!-- no --><p>Hi&nbsp;&amp;<b>bye</b><script>x()</script></p><";
        assert_eq!(of(html), "Hi & bye");
        assert_eq!(of("Content-Type: text/html\n\n<script>never closed"), "");
        assert_eq!(of("Content-Type: text/html\n\n<é><styleé"), "");
    }

    #[test]
    fn the_first_text_that_is_no_attachment() {
        let raw = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Disposition: attachment\n\nfile\n--b\n\nbody\n--b--\n";
        assert_eq!(of(raw), "body");
    }
}
