//! The third part of the report: what is returned of the message itself (RFC 6522 §3).

/// No line of the report is longer (RFC 5322 §2.1.1).
const LINE_LIMIT: usize = 998;

/// What the sender asked to get back (RET, RFC 3461 §4.3).
#[derive(Debug, Clone, Copy)]
pub enum Returned<'a> {
    /// The header section: `text/rfc822-headers`. May be given with the empty line or the whole
    /// message; it ends at the empty line.
    Header(&'a [u8]),
    /// The message: `message/rfc822`.
    Message(&'a [u8]),
}

/// The header section of a message, without the empty line that ends it.
pub fn header_section(message: &[u8]) -> &[u8] {
    if message.starts_with(b"\r\n") {
        return &[];
    }
    match message.windows(4).position(|w| w == b"\r\n\r\n") {
        Some(end) => message.get(..end + 2).unwrap_or(message),
        None => message,
    }
}

/// A body part: its content type and its bytes, CRLF lines all within the limit.
pub(crate) struct Part {
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Part {
    pub fn is_8bit(&self) -> bool {
        !self.body.is_ascii()
    }
}

pub(crate) fn part(returned: Returned<'_>) -> Part {
    match returned {
        // A line too long for SMTP cannot travel unencoded, and message/rfc822 must not be
        // encoded (RFC 2046 §5.2.1): then the header section has to do.
        Returned::Message(message) if lines_fit(message) => {
            Part { content_type: "message/rfc822", body: with_final_line_end(message.to_vec()) }
        }
        Returned::Message(message) | Returned::Header(message) => {
            Part { content_type: "text/rfc822-headers", body: clip_lines(header_section(message)) }
        }
    }
}

fn lines_fit(message: &[u8]) -> bool {
    message.split(|b| *b == b'\n').all(|line| line.strip_suffix(b"\r").unwrap_or(line).len() <= LINE_LIMIT)
}

fn clip_lines(headers: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(headers.len() + 2);
    for line in headers.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        out.extend(line.iter().take(LINE_LIMIT).map(|b| if *b == b'\r' { b' ' } else { *b }));
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn with_final_line_end(mut body: Vec<u8>) -> Vec<u8> {
    if !body.ends_with(b"\r\n") {
        body.extend_from_slice(b"\r\n");
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_section_ends_at_the_empty_line() {
        assert_eq!(header_section(b"A: 1\r\nB: 2\r\n\r\nbody\r\n\r\n"), b"A: 1\r\nB: 2\r\n");
        assert_eq!(header_section(b"A: 1\r\n"), b"A: 1\r\n");
        assert_eq!(header_section(b"\r\nbody"), b"");
        assert_eq!(header_section(b""), b"");
    }

    #[test]
    fn long_lines_are_cut_in_headers_and_keep_a_body_from_being_returned() {
        let message = [b"Subject: ".as_slice(), &[b'x'; 5_000], b"\r\n\r\nbody\r\n"].concat();
        let part = part(Returned::Message(&message));
        assert_eq!(part.content_type, "text/rfc822-headers");
        assert_eq!(part.body.len(), LINE_LIMIT + 2);
    }
}
