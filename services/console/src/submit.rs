//! Sends a message as a mail program does: submission with TLS from the start (RFC 6409, RFC 8314),
//! or as a stranger at the MX port (RFC 5321). The dialogue is kept, without password and body.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::ServerName;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{Config, http};

/// RFC 5321 §4.5.3.1.5 has 512; a reply of many lines stays bounded, too.
const MAX_LINE: u64 = 4096;
const MAX_LINES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the page sends to.
pub struct Places {
    submission: Option<(String, ServerName<'static>)>,
    mx: Option<String>,
    tls: TlsConnector,
}

/// How a message leaves the page.
pub enum Way {
    Submission {
        account: String,
        password: String,
    },
    /// Like any host of the Internet.
    Stranger,
}

pub struct Letter {
    pub reverse_path: String,
    pub recipient: String,
    /// Header and body with CRLF line ends.
    pub content: String,
}

/// What the server said, and up to where it came.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Sent {
    /// Whether the server took responsibility: it said 250 after the final dot.
    pub accepted: bool,
    /// Under which id, when it told.
    pub queue_id: Option<String>,
    /// Where it ended: `connect`, `greeting`, `ehlo`, `auth`, `mail`, `rcpt`, `data` or `content`.
    pub stage: &'static str,
    /// The server's last words, or ours when there was no server.
    pub reply: String,
    /// `C:` and `S:` lines, without password and body.
    pub dialogue: Vec<String>,
    /// When the page connected, and when the last reply came.
    pub began_ms: i64,
    pub ended_ms: i64,
}

impl Places {
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let tls = http::tls(config.submission_ca.as_deref()).context("configuration key \"submission_ca\"")?;
        let submission = config.submission.as_ref().map(|place| {
            let host = place.rsplit_once(':').map_or(place.as_str(), |(host, _)| host);
            let name = config.submission_name.as_deref().unwrap_or(host).to_owned();
            let name = ServerName::try_from(name).context("configuration key \"submission_name\"")?;
            anyhow::Ok((place.clone(), name))
        });
        Ok(Self { submission: submission.transpose()?, mx: config.mx.clone(), tls })
    }

    pub fn can_submit(&self) -> bool {
        self.submission.is_some()
    }

    pub fn can_knock(&self) -> bool {
        self.mx.is_some()
    }

    pub async fn send(&self, way: &Way, letter: &Letter) -> Sent {
        let mut sent = Sent {
            accepted: false,
            queue_id: None,
            stage: "connect",
            reply: String::new(),
            dialogue: Vec::new(),
            began_ms: jiff::Timestamp::now().as_millisecond(),
            ended_ms: 0,
        };
        let ended = match tokio::time::timeout(PATIENCE, self.talk(way, letter, &mut sent)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no answer in time")),
        };
        if let Err(error) = ended {
            sent.reply = format!("{error:#}");
        }
        sent.ended_ms = jiff::Timestamp::now().as_millisecond();
        sent
    }

    async fn talk(&self, way: &Way, letter: &Letter, sent: &mut Sent) -> anyhow::Result<()> {
        match (way, &self.submission, &self.mx) {
            (Way::Submission { account, password }, Some((place, name)), _) => {
                let tcp = TcpStream::connect(place).await.with_context(|| place.clone())?;
                let tls = self.tls.connect(name.clone(), tcp).await.context("TLS")?;
                let secret = STANDARD.encode(format!("\0{account}\0{password}"));
                converse(tls, Some(&secret), letter, sent).await
            }
            (Way::Stranger, _, Some(place)) => {
                let tcp = TcpStream::connect(place).await.with_context(|| place.clone())?;
                converse(tcp, None, letter, sent).await
            }
            _ => anyhow::bail!("this way is not configured"),
        }
    }
}

struct Dialogue<'s, S> {
    stream: BufReader<S>,
    sent: &'s mut Sent,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Dialogue<'_, S> {
    /// A reply (RFC 5321 §4.2); whether its code begins with this digit.
    async fn hear(&mut self, digit: char) -> anyhow::Result<bool> {
        for _ in 0..MAX_LINES {
            let mut line = Vec::new();
            (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut line).await?;
            ensure!(line.ends_with(b"\n"), "the server closed the connection");
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.sent.dialogue.push(format!("S: {line}"));
            if line.as_bytes().get(3) != Some(&b'-') {
                let is_good = line.starts_with(digit);
                self.sent.reply = line;
                return Ok(is_good);
            }
        }
        anyhow::bail!("the reply has no end")
    }

    async fn write(&mut self, text: &str, shown: &str) -> anyhow::Result<()> {
        self.sent.dialogue.push(format!("C: {shown}"));
        self.stream.write_all(text.as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    async fn say(&mut self, stage: &'static str, line: &str, digit: char) -> anyhow::Result<bool> {
        self.sent.stage = stage;
        self.write(&format!("{line}\r\n"), line).await?;
        self.hear(digit).await
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    secret: Option<&str>,
    letter: &Letter,
    sent: &mut Sent,
) -> anyhow::Result<()> {
    sent.stage = "greeting";
    let mut smtp = Dialogue { stream: BufReader::new(stream), sent };
    if !smtp.hear('2').await? || !smtp.say("ehlo", "EHLO [127.0.0.1]", '2').await? {
        return Ok(());
    }
    if let Some(secret) = secret {
        smtp.sent.stage = "auth";
        smtp.write(&format!("AUTH PLAIN {secret}\r\n"), "AUTH PLAIN ***").await?;
        if !smtp.hear('2').await? {
            return Ok(());
        }
    }
    let is_ascii = letter.content.is_ascii() && letter.reverse_path.is_ascii() && letter.recipient.is_ascii();
    let parameters = if is_ascii { "" } else { " BODY=8BITMIME SMTPUTF8" };
    if !smtp.say("mail", &format!("MAIL FROM:<{}>{parameters}", letter.reverse_path), '2').await?
        || !smtp.say("rcpt", &format!("RCPT TO:<{}>", letter.recipient), '2').await?
        || !smtp.say("data", "DATA", '3').await?
    {
        return Ok(());
    }
    smtp.sent.stage = "content";
    let content = format!("{}\r\n.\r\n", stuffed(&letter.content));
    smtp.write(&content, &format!("({} bytes of header and body)", letter.content.len())).await?;
    smtp.sent.accepted = smtp.hear('2').await?;
    if smtp.sent.accepted {
        smtp.sent.queue_id = queue_id(&smtp.sent.reply);
        // What comes after the 250 changes nothing.
        let _ = smtp.write("QUIT\r\n", "QUIT").await;
    }
    Ok(())
}

/// A line that begins with a dot gets another (RFC 5321 §4.5.2).
fn stuffed(content: &str) -> String {
    let lines = content.trim_end_matches("\r\n").split("\r\n");
    lines
        .map(|line| if line.starts_with('.') { format!(".{line}") } else { line.to_owned() })
        .collect::<Vec<_>>()
        .join("\r\n")
}

/// From "… queued as ID", our own words at a 250.
pub fn queue_id(reply: &str) -> Option<String> {
    let id = reply.split_once("queued as ")?.1.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
    id.parse::<address::QueueId>().ok().map(|id| id.to_string())
}

/// Text of a form as header field: one line, so that nobody adds fields (RFC 5322 §2.2).
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// RFC 5322, with lines of at most 998 octets (§2.1.1).
pub fn compose(from: &str, to: &str, subject: &str, text: &str, message_id: &str) -> String {
    let date = jiff::fmt::rfc2822::to_string(&jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC));
    let mut content = format!(
        "From: {}\r\nTo: {}\r\nSubject: {}\r\nDate: {}\r\nMessage-ID: <{message_id}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {}\r\n\r\n",
        one_line(from),
        one_line(to),
        one_line(subject),
        date.unwrap_or_default(),
        if text.is_ascii() { "7bit" } else { "8bit" },
    );
    for line in text.lines() {
        let mut rest = one_line(line);
        while rest.len() > 900 {
            let cut = (1..=900).rev().find(|i| rest.is_char_boundary(*i)).unwrap_or(rest.len());
            content.push_str(&rest[..cut]);
            content.push_str("\r\n");
            rest.drain(..cut);
        }
        content.push_str(&rest);
        content.push_str("\r\n");
    }
    content
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sent() -> Sent {
        Sent {
            accepted: false,
            queue_id: None,
            stage: "connect",
            reply: String::new(),
            dialogue: Vec::new(),
            began_ms: 0,
            ended_ms: 0,
        }
    }

    /// Plays the server; returns what the client said.
    async fn play(replies: &[&str], secret: Option<&str>) -> (Sent, String) {
        let (client, server) = tokio::io::duplex(1 << 16);
        let letter = Letter {
            reverse_path: "a@x.example".into(),
            recipient: "b@y.example".into(),
            content: "Subject: x\r\n\r\n.dot\r\n".into(),
        };
        let mut all = sent();
        let (mut read, mut write) = tokio::io::split(server);
        write.write_all(replies.concat().as_bytes()).await.unwrap();
        let outcome = converse(client, secret, &letter, &mut all).await;
        if let Err(e) = outcome {
            all.reply = e.to_string();
        }
        let mut said = String::new();
        read.read_to_string(&mut said).await.unwrap();
        (all, said)
    }

    const GOOD: [&str; 7] = [
        "220 mx\r\n",
        "250-mx\r\n250 8BITMIME\r\n",
        "235 2.7.0 Ok\r\n",
        "250 Ok\r\n",
        "250 Ok\r\n",
        "354 Go on\r\n",
        "250 2.0.0 Ok: queued as 01KA000000000000000000000A\r\n",
    ];

    #[tokio::test]
    async fn a_message_is_accepted_and_its_dialogue_has_no_secret() {
        let (sent, said) = play(&GOOD, Some("c2VjcmV0")).await;
        assert!(sent.accepted && sent.stage == "content", "{sent:?}");
        assert!(said.contains("AUTH PLAIN c2VjcmV0\r\n") && said.contains("\r\n..dot\r\n.\r\n"), "{said}");
        let dialogue = sent.dialogue.join("\n");
        assert!(dialogue.contains("C: AUTH PLAIN ***") && !dialogue.contains("c2VjcmV0"), "{dialogue}");
        assert!(!dialogue.contains("dot"), "no body in {dialogue}");
    }

    #[tokio::test]
    async fn a_refusal_says_where() {
        let stages = ["greeting", "ehlo", "auth", "mail", "rcpt", "data", "content"];
        for (at, stage) in stages.into_iter().enumerate() {
            let replies: Vec<&str> = GOOD[..at].iter().copied().chain(["550 5.7.1 no\r\n"]).collect();
            let (sent, _) = play(&replies, Some("x")).await;
            assert_eq!((sent.accepted, sent.stage, sent.reply.as_str()), (false, stage, "550 5.7.1 no"));
        }
    }

    #[tokio::test]
    async fn a_server_that_never_ends_its_reply_is_left() {
        let endless = "250-more\r\n".repeat(MAX_LINES + 1);
        let (sent, _) = play(&["220 mx\r\n", &endless], None).await;
        assert!(!sent.accepted && sent.reply.contains("no end"), "{}", sent.reply);
    }

    #[test]
    fn nobody_adds_header_fields() {
        let content = compose("a@x", "b@y", "hi\r\nBcc: c@z", "text\n.\n", "1@x");
        assert!(content.contains("Subject: hi  Bcc: c@z\r\n"), "{content}");
        let long = compose("a", "b", "s", &"ü".repeat(2000), "1@x");
        assert!(long.split("\r\n").all(|line| line.len() <= 998));
        assert!(long.contains("Encoding: 8bit"));
    }
}
