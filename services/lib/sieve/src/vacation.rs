//! Answers while somebody is away (RFC 5230): when there is one, and what it says (RFC 3834).

use crate::fields::{Addr, addresses, exists, values};

/// An answer that a script wants to be given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The same sender is not answered again for so long (§4.1).
    pub seconds: u64,
    pub subject: Option<String>,
    pub from: Option<String>,
    /// More addresses that are the recipient's own (§4.4).
    pub addresses: Vec<String>,
    /// `reason` is a MIME entity (§4.6).
    pub mime: bool,
    pub handle: Option<String>,
    pub reason: String,
}

/// What the answer needs besides; dates and ids are the caller's.
#[derive(Debug, Clone)]
pub struct Respond<'m> {
    /// The account's address: From, unless the script says otherwise.
    pub address: &'m str,
    /// The reverse-path of the message, where the answer goes (§5.1).
    pub to: &'m str,
    /// RFC 5322 date.
    pub date: &'m str,
    /// Without angle brackets.
    pub message_id: &'m str,
    /// Of the message that is answered.
    pub header: &'m [u8],
}

/// Fields of mailing lists (RFC 2369, RFC 2919): nobody there waits for an answer.
const LIST_FIELDS: [&str; 7] =
    ["List-Id", "List-Help", "List-Subscribe", "List-Unsubscribe", "List-Post", "List-Owner", "List-Archive"];
/// Where a recipient's address has to be for the message to be personal (§4.5).
const RECIPIENT_FIELDS: [&str; 6] = ["To", "Cc", "Bcc", "Resent-To", "Resent-Cc", "Resent-Bcc"];

/// Why a message gets no answer, if it gets none (§4.5, §4.6, RFC 3834 §2). `own` are addresses of
/// the recipient: the account's, and the one that the message came to.
pub fn why_not(reply: &Reply, header: &[u8], reverse_path: &str, own: &[&str]) -> Option<&'static str> {
    if reverse_path.is_empty() {
        return Some("its reverse-path is null");
    }
    let own = || own.iter().copied().chain(reply.addresses.iter().map(String::as_str));
    let is_own = |address: &str| own().any(|mine| mine.eq_ignore_ascii_case(address));
    if is_own(reverse_path) {
        return Some("the sender is the recipient");
    }
    let sender = Addr::of_path(reverse_path).local.to_ascii_lowercase();
    let is_robot =
        matches!(sender.as_str(), "mailer-daemon" | "listserv" | "majordomo" | "postmaster" | "noreply" | "no-reply")
            || sender.starts_with("owner-")
            || sender.ends_with("-request")
            || sender.ends_with("-bounces")
            || sender.ends_with("-owner");
    if is_robot {
        return Some("the sender is a program");
    }
    if LIST_FIELDS.iter().any(|name| exists(header, name)) {
        return Some("it came over a mailing list");
    }
    let is_auto = |value: &String| !value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("no");
    if values(header, "Auto-Submitted").iter().any(is_auto) || exists(header, "X-Auto-Response-Suppress") {
        return Some("it was sent automatically");
    }
    let is_bulk = |value: &String| ["bulk", "list", "junk"].iter().any(|word| value.eq_ignore_ascii_case(word));
    if values(header, "Precedence").iter().any(is_bulk) {
        return Some("it is bulk mail");
    }
    let named = RECIPIENT_FIELDS.iter().flat_map(|name| addresses(header, name)).flatten();
    if !named.into_iter().any(|address| is_own(&address.all())) {
        return Some("the recipient is not named in its header");
    }
    None
}

/// Longer subjects are cut.
const MAX_SUBJECT: usize = 400;
/// Longer ids are not repeated: a line holds 998 octets.
const MAX_ID: usize = 900;

impl Reply {
    /// What makes two answers the same one (§4.2); with the sender it is the key of memory.
    pub fn key(&self) -> String {
        match &self.handle {
            Some(handle) => format!("h:{handle}"),
            None => {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                format!("r:{}\0{}\0{}\0{}", text(&self.subject), text(&self.from), self.mime, self.reason)
            }
        }
    }

    /// The whole answer, with CRLF line ends.
    pub fn to_message(&self, respond: &Respond<'_>) -> Vec<u8> {
        let mut head = String::new();
        let mut field = |name: &str, value: &str| {
            head.push_str(&format!("{name}: {value}\r\n"));
        };
        field("From", &format!("<{}>", one_line(self.from.as_deref().unwrap_or(respond.address))));
        field("To", &format!("<{}>", one_line(respond.to)));
        let subject = match &self.subject {
            Some(subject) => one_line(subject),
            // §4.3.
            None => {
                format!("Auto: {}", values(respond.header, "Subject").first().map(|s| one_line(s)).unwrap_or_default())
            }
        };
        field("Subject", &encode_words(subject.get(..subject.floor_char_boundary(MAX_SUBJECT)).unwrap_or_default()));
        field("Date", respond.date);
        field("Message-ID", &format!("<{}>", respond.message_id));
        // §5.8; ids only, so nothing else of the message gets into our header.
        let ids = |name| {
            let all = message::message_ids(message::field(respond.header, name).unwrap_or_default());
            let texts = all.iter().map(|id| one_line(&String::from_utf8_lossy(id)));
            texts.filter(|id| id.len() <= MAX_ID).collect::<Vec<_>>()
        };
        if let Some(id) = ids("Message-ID").into_iter().next() {
            field("In-Reply-To", &format!("<{id}>"));
            let mut all = ids("References");
            all.push(id);
            let last = all.iter().rev().take(10).rev().map(|id| format!("<{id}>"));
            field("References", &last.collect::<Vec<_>>().join("\r\n "));
        }
        // RFC 3834 §3.1.7.
        field("Auto-Submitted", "auto-replied");
        field("X-Auto-Response-Suppress", "All");
        field("MIME-Version", "1.0");
        if !self.mime {
            field("Content-Type", "text/plain; charset=utf-8");
            field("Content-Transfer-Encoding", if self.reason.is_ascii() { "7bit" } else { "8bit" });
            head.push_str("\r\n");
        }
        let mut out = head.into_bytes();
        if self.mime {
            out.extend(mime_entity(&self.reason));
        } else {
            out.extend(lines(&self.reason));
        }
        out
    }
}

/// The entity's own fields, `Content-*` alone: it adds nothing else to our header.
fn mime_entity(reason: &str) -> Vec<u8> {
    let text = lines(reason);
    let (header, body) = text.split_at(message::split(&text));
    let is_content = |f: &message::Field<'_>| f.name.get(..8).is_some_and(|p| p.eq_ignore_ascii_case(b"Content-"));
    let mut out = message::remove_fields(header, |f| !is_content(f)).into_owned();
    if !out.ends_with(b"\r\n\r\n") && out != b"\r\n" {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(body);
    out
}

fn lines(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    for line in text.lines() {
        // A line of a message has at most 998 octets (RFC 5322 §2.1.1).
        let mut rest = line;
        while rest.len() > 990 {
            let (head, tail) = rest.split_at(rest.floor_char_boundary(990));
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(b"\r\n");
            rest = tail;
        }
        out.extend_from_slice(rest.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// RFC 2047, in words of at most 75 characters; ASCII that fits into lines stays as it is.
fn encode_words(text: &str) -> String {
    if text.is_ascii() && !text.contains("=?") && text.split(' ').all(|w| w.len() < 70) {
        return fold(text);
    }
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        let encoded = match c {
            ' ' => "_".to_owned(),
            c if c.is_ascii_alphanumeric() => c.to_string(),
            c => c.encode_utf8(&mut [0; 4]).bytes().map(|b| format!("={b:02X}")).collect(),
        };
        if word.len() + encoded.len() > 60 {
            words.push(std::mem::take(&mut word));
        }
        word.push_str(&encoded);
    }
    words.push(word);
    words.iter().map(|word| format!("=?utf-8?q?{word}?=")).collect::<Vec<_>>().join("\r\n ")
}

fn fold(text: &str) -> String {
    let mut out = String::new();
    let mut column = 9;
    for word in text.split(' ') {
        if column + word.len() + 1 > 76 {
            out.push_str("\r\n");
            column = 0;
        }
        if !out.is_empty() {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out
}

#[cfg(test)]
#[path = "vacation_tests.rs"]
mod tests;
