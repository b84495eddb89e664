//! Plays sessions as the RFCs print them. `…` at the end of an `S:` line stands for anything.
#![allow(clippy::unwrap_used, dead_code)] // each test file uses a part

use pop3::{Answer, Config, Effect, Message, Refusal, Session, Transfer, UniqueId};

/// What the service behind the protocol would be.
pub struct Backend {
    pub messages: Vec<&'static str>,
    pub expunged: Vec<u32>,
    /// What the database says to everything, when it is not well.
    pub refusal: Option<Refusal>,
    pub tls_up: bool,
}

pub struct Player {
    pub session: Session,
    pub backend: Backend,
    pub out: Vec<u8>,
    pub closed: bool,
}

pub fn config() -> Config {
    Config {
        hostname: "mx.example".into(),
        starttls: true,
        plaintext_login: true,
        mechanisms: vec!["PLAIN".into(), "LOGIN".into()],
    }
}

pub fn server(messages: &[&'static str]) -> Player {
    with(config(), messages)
}

pub fn with(config: Config, messages: &[&'static str]) -> Player {
    Player {
        session: Session::new(config, false),
        backend: Backend { messages: messages.to_vec(), expunged: Vec::new(), refusal: None, tls_up: false },
        out: Vec::new(),
        closed: false,
    }
}

impl Player {
    pub fn logged_in(mut self) -> Self {
        self.play(
            "
            S: +OK …
            C: USER mrose
            S: +OK …
            C: PASS secret
            S: +OK …
        ",
        );
        self
    }

    fn opened(&self) -> Answer {
        let message =
            |(i, text): (usize, &&str)| Message { uid: 10 + i as u32, size: text.len() as u64, uidl: UniqueId::Own(7) };
        Answer::Opened(self.backend.messages.iter().enumerate().map(message).collect())
    }

    pub fn run(&mut self) {
        while let Some(effect) = self.session.next_effect() {
            let answer = match effect {
                Effect::Reply { ok, text, .. } => {
                    assert_eq!(ok, !text.starts_with(b"-ERR"));
                    self.out.extend_from_slice(&text);
                    continue;
                }
                Effect::StartTls => {
                    self.backend.tls_up = true;
                    self.session.tls_started();
                    continue;
                }
                Effect::CancelExchange => continue,
                Effect::Close => {
                    self.closed = true;
                    continue;
                }
                Effect::Authenticate { .. } | Effect::Expunge(_) | Effect::Retrieve { .. }
                    if self.backend.refusal.is_some() =>
                {
                    Answer::Refused(self.backend.refusal.unwrap())
                }
                Effect::Authenticate { mechanism, initial_response } => match (&*mechanism, initial_response) {
                    ("PLAIN", Some(plain)) if plain == b"\0mrose\0secret" => self.opened(),
                    ("PLAIN", None) => Answer::Challenge(Vec::new()),
                    ("LOGIN", None) => Answer::Challenge(b"Username:".to_vec()),
                    _ => Answer::Refused(Refusal::Credentials),
                },
                Effect::Respond(response) => match &*response {
                    b"mrose" => Answer::Challenge(b"Password:".to_vec()),
                    b"secret" | b"\0mrose\0secret" => self.opened(),
                    _ => Answer::Refused(Refusal::Credentials),
                },
                Effect::Retrieve { uid, size, lines } => {
                    self.out.extend_from_slice(Session::transfer_begins(size, lines).as_bytes());
                    let mut transfer = Transfer::new(lines);
                    transfer.push(self.backend.messages[uid as usize - 10].as_bytes(), &mut self.out);
                    transfer.finish(&mut self.out);
                    Answer::Sent
                }
                Effect::Expunge(uids) => {
                    self.backend.expunged = uids;
                    Answer::Expunged
                }
            };
            self.session.answer(answer);
        }
    }

    /// Consecutive `C:` lines arrive in one segment: that is pipelining.
    pub fn play(&mut self, transcript: &str) -> &mut Self {
        let mut pending = String::new();
        for line in transcript.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if let Some(sent) = line.strip_prefix("C:") {
                pending.push_str(sent.strip_prefix(' ').unwrap_or(sent));
                pending.push_str("\r\n");
                continue;
            }
            if !pending.is_empty() {
                self.run();
                self.session.receive(std::mem::take(&mut pending).as_bytes());
            }
            self.run();
            if line == "(closed)" {
                assert!(
                    self.closed && self.out.is_empty(),
                    "still open; out: {:?}",
                    String::from_utf8_lossy(&self.out)
                );
                continue;
            }
            let expected = line.strip_prefix("S:").unwrap_or_else(|| panic!("neither C: nor S: {line}"));
            let expected = expected.strip_prefix(' ').unwrap_or(expected);
            let end =
                self.out.iter().position(|b| *b == b'\n').unwrap_or_else(|| panic!("silence, where S: {expected}"));
            let got: Vec<u8> = self.out.drain(..=end).collect();
            let got = String::from_utf8_lossy(&got);
            let got = got.strip_suffix("\r\n").expect("a reply ends with CRLF");
            match expected.strip_suffix('…') {
                Some(prefix) => assert!(got.starts_with(prefix), "S: {got}, where S: {expected}"),
                // The transcript's line lost its last space: that of an empty challenge.
                None => assert_eq!(got.trim_end(), expected),
            }
        }
        if !pending.is_empty() {
            self.run();
            self.session.receive(pending.as_bytes());
        }
        assert!(self.out.is_empty(), "unexpected: {:?}", String::from_utf8_lossy(&self.out));
        self
    }
}
