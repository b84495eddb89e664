use crate::{
    field::{ascii, one_line, push, typed_address, xtext},
    returned::{Part, Returned, part},
};

/// What became of a recipient (RFC 3464 §2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// No further attempt will be made.
    Failed,
    /// Still being tried, see [`RecipientReport::will_retry_until`].
    Delayed,
    /// In the mailbox.
    Delivered,
    /// Passed on to a host that reports nothing itself (RFC 3461 §5.2.2).
    Relayed,
}

impl Action {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
        }
    }
}

/// One recipient's fields (RFC 3464 §2.3).
#[derive(Debug, Clone)]
pub struct RecipientReport {
    /// ORCPT as it stood in the RCPT command: type and xtext (RFC 3461 §4.2).
    pub original_recipient: Option<String>,
    /// The forward-path without brackets.
    pub final_recipient: String,
    pub action: Action,
    /// Enhanced status code, e.g. `5.1.1` (RFC 3463).
    pub status: String,
    /// Host name of the MTA that answered.
    pub remote_mta: Option<String>,
    /// The peer's reply with its code, or our own words when no peer spoke.
    pub diagnostic: Option<String>,
    /// RFC 5322 date.
    pub last_attempt: Option<String>,
    /// RFC 5322 date; only with [`Action::Delayed`].
    pub will_retry_until: Option<String>,
}

/// Everything a report says. All texts are cleaned, so hostile ones cannot add fields; empty
/// optional ones are left out.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// Our host name: `Reporting-MTA`, and the domain of MAILER-DAEMON.
    pub reporting_mta: String,
    /// The reverse-path the report goes to; never the null one.
    pub to: String,
    /// Without angle brackets.
    pub message_id: String,
    /// RFC 5322 date of the report.
    pub date: String,
    /// Any token; lengthened until it occurs nowhere in what is returned.
    pub boundary: String,
    /// RFC 5322 date at which we accepted the message.
    pub arrival_date: String,
    /// ENVID as it stood in the MAIL command: xtext (RFC 3461 §4.4).
    pub envelope_id: Option<String>,
    pub recipients: Vec<RecipientReport>,
    pub returned: Returned<'a>,
}

impl Report<'_> {
    /// The report as a message with CRLF line ends, no line longer than 998 octets.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = human_text(self);
        let status = delivery_status(self);
        let returned = part(self.returned);
        let boundary = free_boundary(&self.boundary, &[text.as_bytes(), &returned.body]);

        let mut head = String::with_capacity(1_024 + text.len() + status.len());
        let host = one_line(&self.reporting_mta);
        push(&mut head, "From", &format!("Mail Delivery System <MAILER-DAEMON@{host}>"));
        push(&mut head, "To", &format!("<{}>", self.to));
        let subject = match self.tone() {
            Tone::Failure => "Your message could not be delivered",
            Tone::Delay => "Delivery of your message is delayed",
            Tone::Success => "Your message was delivered",
        };
        push(&mut head, "Subject", subject);
        push(&mut head, "Date", &self.date);
        push(&mut head, "Message-ID", &format!("<{}>", self.message_id.trim_matches(['<', '>'])));
        // RFC 3834 §5: keeps auto-responders quiet.
        push(&mut head, "Auto-Submitted", "auto-replied");
        push(&mut head, "MIME-Version", "1.0");
        head.push_str("Content-Type: multipart/report; report-type=delivery-status;\r\n");
        head.push_str(&format!(" boundary=\"{boundary}\"\r\n"));
        // A multipart is as wide as its widest part (RFC 2045 §6.4).
        if returned.is_8bit() || !text.is_ascii() || !head.is_ascii() {
            push(&mut head, "Content-Transfer-Encoding", "8bit");
        }

        head.push_str(&format!("\r\n--{boundary}\r\n"));
        push(&mut head, "Content-Description", "Notification");
        if text.is_ascii() {
            push(&mut head, "Content-Type", "text/plain; charset=us-ascii");
        } else {
            push(&mut head, "Content-Type", "text/plain; charset=utf-8");
            push(&mut head, "Content-Transfer-Encoding", "8bit");
        }
        head.push_str(&format!("\r\n{text}\r\n--{boundary}\r\n"));

        push(&mut head, "Content-Description", "Delivery report");
        push(&mut head, "Content-Type", "message/delivery-status");
        head.push_str(&format!("\r\n{status}\r\n--{boundary}\r\n"));

        append_returned(head.into_bytes(), &returned, &boundary)
    }

    /// The worst of its news.
    fn tone(&self) -> Tone {
        let tone = |r: &RecipientReport| match r.action {
            Action::Failed => Tone::Failure,
            Action::Delayed => Tone::Delay,
            Action::Delivered | Action::Relayed => Tone::Success,
        };
        self.recipients.iter().map(tone).max().unwrap_or(Tone::Failure)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tone {
    Success,
    Delay,
    Failure,
}

fn append_returned(mut out: Vec<u8>, returned: &Part, boundary: &str) -> Vec<u8> {
    let mut head = String::new();
    push(&mut head, "Content-Description", "Undelivered message");
    push(&mut head, "Content-Type", returned.content_type);
    if returned.is_8bit() {
        push(&mut head, "Content-Transfer-Encoding", "8bit");
    }
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&returned.body);
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    out
}

/// What a human reads first (RFC 6522 §3): which recipients, and why, in the peer's words.
fn human_text(report: &Report<'_>) -> String {
    let mut text = format!("This is the mail system at {}.\r\n\r\n", one_line(&report.reporting_mta));
    text.push_str(match report.tone() {
        Tone::Delay => {
            "Your message could not be delivered yet to the recipients below.\r\n\
             Delivery will be tried again; you need not send it again.\r\n"
        }
        Tone::Failure => {
            "Your message could not be delivered to the recipients below.\r\n\
             No further attempt will be made for them.\r\n"
        }
        Tone::Success => {
            "Your message was delivered to the recipients below, as far as this\r\n\
             mail system can tell. Those marked as relayed went on to a host that\r\n\
             may not report further.\r\n"
        }
    });
    for recipient in &report.recipients {
        text.push_str("\r\n");
        push(&mut text, "  Recipient", &format!("<{}>", recipient.final_recipient));
        match (given(&recipient.remote_mta), given(&recipient.diagnostic)) {
            (Some(mta), Some(said)) => push(&mut text, "  Answer", &format!("host {mta} said: {said}")),
            (None, Some(said)) => push(&mut text, "  Reason", said),
            (Some(mta), None) => push(&mut text, "  Host", mta),
            (None, None) => {}
        }
        if let Some(until) = recipient.retried_until() {
            push(&mut text, "  Tried until", until);
        }
    }
    text
}

impl RecipientReport {
    fn retried_until(&self) -> Option<&str> {
        given(&self.will_retry_until).filter(|_| self.action == Action::Delayed)
    }

    /// With its type: an SMTP reply begins with its code, anything else is ours (RFC 3464 §2.3.6).
    fn diagnostic_code(&self) -> Option<String> {
        let said = given(&self.diagnostic)?;
        let is_reply = said.len() > 3 && said.bytes().take(3).all(|b| b.is_ascii_digit());
        Some(format!("{}; {said}", if is_reply { "smtp" } else { "x-postroad" }))
    }
}

/// `message/delivery-status`: the fields of the message, then a group for each recipient,
/// groups separated by an empty line (RFC 3464 §2.1).
fn delivery_status(report: &Report<'_>) -> String {
    let put = |out: &mut String, name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.trim().is_empty()) {
            push(out, name, &ascii(&value));
        }
    };
    let text = |text: &Option<String>| given(text).map(str::to_owned);
    let mut out = String::new();
    put(&mut out, "Original-Envelope-Id", given(&report.envelope_id).map(xtext));
    put(&mut out, "Reporting-MTA", Some(format!("dns; {}", report.reporting_mta)));
    put(&mut out, "Arrival-Date", Some(report.arrival_date.clone()));
    for recipient in &report.recipients {
        out.push_str("\r\n");
        put(&mut out, "Original-Recipient", given(&recipient.original_recipient).map(typed_original));
        put(&mut out, "Final-Recipient", Some(typed_address(&recipient.final_recipient)));
        put(&mut out, "Action", Some(recipient.action.as_str().to_owned()));
        put(&mut out, "Status", Some(recipient.status.clone()));
        put(&mut out, "Remote-MTA", given(&recipient.remote_mta).map(|mta| format!("dns; {mta}")));
        put(&mut out, "Diagnostic-Code", recipient.diagnostic_code());
        put(&mut out, "Last-Attempt-Date", text(&recipient.last_attempt));
        put(&mut out, "Will-Retry-Until", recipient.retried_until().map(str::to_owned));
    }
    out
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|t| !t.trim().is_empty())
}

/// ORCPT is `type;address`; without a type it is an Internet address.
fn typed_original(original: &str) -> String {
    match original.split_once(';') {
        Some((kind, address)) if !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            let address = xtext(address.trim_start());
            if kind.eq_ignore_ascii_case("rfc822") || kind.eq_ignore_ascii_case("utf-8") {
                typed_address(&address)
            } else {
                format!("{kind}; {address}")
            }
        }
        _ => typed_address(&xtext(original)),
    }
}

/// A boundary that no part contains (RFC 2046 §5.1.1), at most 70 characters.
fn free_boundary(wish: &str, parts: &[&[u8]]) -> String {
    let mut base: String = wish.chars().filter(|c| c.is_ascii_alphanumeric() || "-_=.".contains(*c)).take(50).collect();
    if base.is_empty() {
        base.push_str("report");
    }
    // Each round needs another occurrence in what is returned, so the end is near.
    let mut boundary = base.clone();
    let mut round = 0u32;
    while parts.iter().any(|part| contains(part, boundary.as_bytes())) {
        round += 1;
        boundary = format!("{base}.{round}");
    }
    boundary
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
