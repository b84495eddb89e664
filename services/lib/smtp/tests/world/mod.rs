//! A world behind the session: `alice`/`secret` may log in, and whoever has a certificate, `nobody@…` does not exist, the
//! database can be down.
//!
//! Scripts: `C:` is what the client sends, `S:` what it must read, `S* 250` a whole reply of several
//! lines. `C+` lines are sent together with the line before. `…` at the end of an `S:` line stands
//! for any text.
#![allow(clippy::unwrap_used, dead_code)] // each test file uses a part

use std::sync::Arc;

use bytes::BytesMut;
use smtp::{
    Reply,
    server::{Config, Effect, MailFrom, Session},
};

pub struct World {
    pub session: Session,
    pub input: BytesMut,
    pub output: String,
    pub messages: Vec<Vec<u8>>,
    pub database: bool,
    pub closed: bool,
    pub auth: Vec<Vec<u8>>,
    /// The last sender that was accepted.
    pub mail: Option<MailFrom>,
}

pub fn config() -> Config {
    Config {
        hostname: "mx.example".into(),
        starttls: true,
        mechanisms: Vec::new(),
        auth_required: false,
        max_message_size: 1000,
        max_recipients: 3,
        max_errors: 5,
        ..Config::default()
    }
}

pub fn world(config: Config, encrypted: bool) -> World {
    World {
        session: Session::new(Arc::new(config), encrypted),
        input: BytesMut::new(),
        output: String::new(),
        messages: Vec::new(),
        database: true,
        closed: false,
        auth: Vec::new(),
        mail: None,
    }
}

pub fn mx() -> World {
    world(config(), false)
}

pub fn submission() -> World {
    world(Config { mechanisms: vec!["PLAIN", "LOGIN"], auth_required: true, ..config() }, false)
}

impl World {
    pub fn send(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.run();
    }

    pub fn run(&mut self) {
        while !self.closed {
            match self.session.next(&mut self.input) {
                Effect::Read => return,
                Effect::Write(bytes) => self.output.push_str(&String::from_utf8(bytes).unwrap()),
                Effect::StartTls => self.session.tls_started(),
                Effect::Authenticate { mechanism, initial } => {
                    self.auth = initial.into_iter().collect();
                    self.authenticate(&mechanism);
                }
                Effect::AuthResponse(response) => {
                    self.auth.push(response);
                    self.authenticate("");
                }
                Effect::AuthAborted => self.auth.clear(),
                Effect::Sender(mail) => match mail.address.clone() {
                    Some(a) if a.local_part() == "evil" => {
                        self.session.sender_refused(Reply::new(550, (5, 7, 1), "not you"));
                    }
                    _ => {
                        self.mail = Some(mail);
                        self.session.sender_accepted();
                    }
                },
                Effect::Recipient(rcpt) => match rcpt.address {
                    _ if !self.database => self.session.recipient_refused(Reply::new(451, (4, 3, 0), "later")),
                    Some(a) if a.local_part() == "nobody" => {
                        self.session.recipient_refused(Reply::new(550, (5, 1, 1), "unknown"));
                    }
                    _ => self.session.recipient_accepted(),
                },
                Effect::Message(content) => {
                    self.messages.push(content.concat());
                    self.session.committed("QID");
                }
                Effect::Close => self.closed = true,
            }
        }
    }

    fn authenticate(&mut self, mechanism: &str) {
        match (mechanism, self.auth.len()) {
            ("EXTERNAL", 1) if self.auth[0].is_empty() => self.session.auth_succeeded(),
            (_, 0) => self.session.auth_challenge(if mechanism == "LOGIN" { b"Username:" } else { b"" }),
            (_, 1) if self.auth[0] == b"\0alice\0secret" => self.session.auth_succeeded(),
            (_, 1) if self.auth[0] == b"alice" => self.session.auth_challenge(b"Password:"),
            (_, 2) if self.auth[1] == b"secret" => self.session.auth_succeeded(),
            _ => self.session.auth_failed(Reply::new(535, (5, 7, 8), "wrong")),
        }
    }

    /// Plays a script to its end.
    pub fn play(mut self, script: &str) -> Self {
        self.run();
        let mut lines = script.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
        while let Some(line) = lines.next() {
            if let Some(expected) = line.strip_prefix("S: ") {
                let (got, rest) =
                    self.output.split_once("\r\n").unwrap_or_else(|| panic!("no reply, expected {expected}"));
                match expected.strip_suffix('…') {
                    Some(start) => assert!(got.starts_with(start), "got {got}, expected {expected}"),
                    None => assert_eq!(got, expected),
                }
                self.output = rest.to_owned();
                continue;
            }
            if let Some(last) = line.strip_prefix("S* ") {
                let end = self.output.find(&format!("\r\n{last} ")).unwrap_or_else(|| panic!("{}", self.output));
                let (_, rest) = self.output[end + 2..].split_once("\r\n").unwrap();
                self.output = rest.to_owned();
                continue;
            }
            assert_eq!(self.output, "", "unexpected reply before {line}");
            let mut bytes = format!("{}\r\n", line.strip_prefix("C: ").unwrap_or_else(|| panic!("{line}")));
            while let Some(more) = lines.peek().and_then(|l| l.strip_prefix("C+")) {
                bytes.push_str(more.trim_start());
                bytes.push_str("\r\n");
                lines.next();
            }
            self.send(bytes.as_bytes());
        }
        assert_eq!(self.output, "", "unexpected reply at the end");
        self
    }
}
