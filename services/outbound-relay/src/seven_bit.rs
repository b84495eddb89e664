//! 8-bit content in 7 bits (RFC 6152 §3, RFC 2045 §6): leaves with 8-bit octets become
//! quoted-printable, and multiparts around them say 7bit. Pure.

/// Deeper nesting is not taken apart.
const MAX_DEPTH: usize = 20;
/// RFC 2045 §6.7: an encoded line has at most 76 characters.
const MAX_LINE: usize = 76;

/// The message in 7 bits; none when that cannot be done: 8-bit octets in a header, or in a part
/// that claims another encoding already.
pub(crate) fn encode(message: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 4);
    entity(message, &mut out, 0)?;
    Some(out)
}

fn entity(bytes: &[u8], out: &mut Vec<u8>, depth: usize) -> Option<()> {
    if bytes.is_ascii() {
        out.extend_from_slice(bytes);
        return Some(());
    }
    if depth > MAX_DEPTH {
        return None;
    }
    let (header, body) = split(bytes);
    if !header.is_ascii() {
        return None;
    }
    let fields = fields(std::str::from_utf8(header).ok()?);
    let value = |name: &str| {
        fields.iter().find_map(|f| {
            let (key, value) = f.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().replace("\r\n", ""))
        })
    };
    let encoding = value("Content-Transfer-Encoding").unwrap_or_default().to_ascii_lowercase();
    if !matches!(encoding.trim(), "" | "7bit" | "8bit") {
        return None;
    }
    let kind = value("Content-Type").unwrap_or_else(|| "text/plain".to_owned());
    let media = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let others = fields.iter().filter(|f| {
        !f.split_once(':').is_some_and(|(key, _)| key.trim().eq_ignore_ascii_case("Content-Transfer-Encoding"))
    });
    let put_header = |out: &mut Vec<u8>, encoding: &str| {
        others.clone().for_each(|f| out.extend_from_slice(f.as_bytes()));
        out.extend_from_slice(format!("Content-Transfer-Encoding: {encoding}\r\n\r\n").as_bytes());
    };
    if media.starts_with("multipart/") {
        let boundary = boundary(&kind)?;
        put_header(out, "7bit");
        return multipart(body, &boundary, out, depth);
    }
    if media == "message/rfc822" {
        put_header(out, "7bit");
        return entity(body, out, depth + 1);
    }
    if media.starts_with("message/") {
        return None;
    }
    put_header(out, "quoted-printable");
    quoted_printable(body, out);
    Some(())
}

/// Header with its last line end, and what follows the empty line.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = bytes.strip_prefix(b"\r\n") {
        return (&[], body);
    }
    match bytes.windows(4).position(|w| w == b"\r\n\r\n") {
        Some(at) => (bytes.get(..at + 2).unwrap_or_default(), bytes.get(at + 4..).unwrap_or_default()),
        None => (bytes, &[]),
    }
}

/// Fields with their folded lines and line ends.
fn fields(header: &str) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for line in header.split_inclusive("\r\n") {
        match fields.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => last.push_str(line),
            _ => fields.push(line.to_owned()),
        }
    }
    fields
}

fn boundary(kind: &str) -> Option<String> {
    let at = kind.to_ascii_lowercase().find("boundary=")?;
    let rest = kind.get(at + "boundary=".len()..)?;
    let value = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([';', ' ', '\t']).next()?,
    };
    (!value.is_empty()).then(|| value.to_owned())
}

/// Preamble and epilogue are kept when they are ASCII; nobody reads them (RFC 2046 §5.1.1).
fn multipart(body: &[u8], boundary: &str, out: &mut Vec<u8>, depth: usize) -> Option<()> {
    let delimiter = format!("--{boundary}");
    let mut part: Option<Vec<u8>> = None;
    let mut is_over = false;
    for line in body.split_inclusive(|b| *b == b'\n') {
        let text = line.trim_ascii_end();
        let is_close = text == format!("{delimiter}--").as_bytes();
        if !is_over && (is_close || text == delimiter.as_bytes()) {
            if let Some(mut content) = part.take() {
                // The line end before a delimiter belongs to it.
                let end = content.ends_with(b"\r\n");
                content.truncate(content.len() - if end { 2 } else { 0 });
                entity(&content, out, depth + 1)?;
                if end {
                    out.extend_from_slice(b"\r\n");
                }
            }
            out.extend_from_slice(line);
            is_over = is_close;
            part = (!is_close).then(Vec::new);
            continue;
        }
        match &mut part {
            Some(content) => content.extend_from_slice(line),
            None if line.is_ascii() => out.extend_from_slice(line),
            None => {}
        }
    }
    match part {
        Some(content) => entity(&content, out, depth + 1),
        None => Some(()),
    }
}

/// RFC 2045 §6.7, for text: line ends stay.
fn quoted_printable(body: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    let mut rest = body;
    while let Some((&byte, after)) = rest.split_first() {
        if rest.starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            column = 0;
            rest = rest.get(2..).unwrap_or_default();
            continue;
        }
        let ends_line = after.is_empty() || after.starts_with(b"\r\n");
        let is_plain = match byte {
            b' ' | b'\t' => !ends_line,
            b'=' => false,
            byte => byte.is_ascii_graphic(),
        };
        let width = if is_plain { 1 } else { 3 };
        if column + width > MAX_LINE - usize::from(!ends_line) {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        match is_plain {
            true => out.push(byte),
            false => out.extend_from_slice(format!("={byte:02X}").as_bytes()),
        }
        column += width;
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn encoded(message: &str) -> String {
        let out = encode(message.as_bytes()).unwrap();
        assert!(out.is_ascii());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_text() {
        assert_eq!(
            encoded(
                "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße = \r\n.\r\n"
            ),
            "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe =3D=20\r\n.\r\n"
        );
        let long = encoded(&format!("A: b\r\n\r\n{}\r\n", "ü".repeat(500)));
        assert!(long.lines().all(|l| l.len() <= MAX_LINE));
    }

    #[test]
    fn only_parts_that_need_it() {
        let message = "Content-Type: multipart/mixed;\r\n boundary=\"b\"\r\n\r\n--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/html\r\n\r\n<ü>\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nä\r\n--b--\r\n";
        let out = encoded(message);
        assert!(out.starts_with("Content-Type: multipart/mixed;\r\n boundary=\"b\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n--b\r\n\r\nplain\r\n--b\r\n"));
        assert!(
            out.contains("text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<=C3=BC>\r\n--b\r\n"),
            "{out}"
        );
        assert!(
            out.contains("Subject: in\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A4\r\n--b--\r\n"),
            "{out}"
        );
    }

    #[test]
    fn what_cannot_be_encoded() {
        for message in [
            "Subject: ü\r\n\r\nx",
            "Content-Transfer-Encoding: base64\r\n\r\nü",
            "Content-Type: message/partial\r\n\r\nü",
        ] {
            assert_eq!(encode(message.as_bytes()), None, "{message}");
        }
        let mut deep = "ü\r\n".to_owned();
        for _ in 0..50 {
            deep = format!("Content-Type: message/rfc822\r\n\r\n{deep}");
        }
        assert_eq!(encode(deep.as_bytes()), None);
    }
}
