//! The replies, and the response codes that programs read (RFC 2449 §8, RFC 3206).

use super::{Effect, Malformed, Session, State};
use crate::command::Verb;

/// Why something cannot be done, in the terms the client's program understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The name or the password is wrong, or the account may not log in.
    Credentials,
    /// Another session holds the maildrop (RFC 1939 §4).
    InUse,
    /// Ours to solve, soon: the client tries again by itself.
    Temporary,
    /// Ours to solve, by somebody's hand.
    Permanent,
    /// The message has been removed by another protocol since the login.
    Gone,
    /// This server is going away, or lost the lock; the next session may do better.
    ShuttingDown,
}

impl Refusal {
    fn words(self) -> &'static str {
        match self {
            Refusal::Credentials => "[AUTH] user name or password is wrong",
            Refusal::InUse => "[IN-USE] maildrop is locked by another session",
            Refusal::Temporary => "[SYS/TEMP] try again later",
            Refusal::Permanent => "[SYS/PERM] maildrop cannot be opened, tell your administrator",
            Refusal::Gone => "message is no longer there",
            Refusal::ShuttingDown => "[SYS/TEMP] session ended by the server, connect again",
        }
    }
}

impl Session {
    pub(super) fn ok(&mut self, verb: Verb, words: &str) {
        self.effects.push_back(Effect::Reply { verb, ok: true, text: format!("+OK {words}\r\n").into_bytes() });
    }

    /// `lines`: each with its CRLF; none of ours begins with a dot.
    pub(super) fn multi_line(&mut self, verb: Verb, words: &str, lines: String) {
        let text = format!("+OK {words}\r\n{lines}.\r\n");
        self.effects.push_back(Effect::Reply { verb, ok: true, text: text.into_bytes() });
    }

    pub(super) fn refuse(&mut self, verb: Verb, refusal: Refusal) {
        self.error(verb, refusal.words());
    }

    pub(super) fn error(&mut self, verb: Verb, words: &str) {
        self.effects.push_back(Effect::Reply { verb, ok: false, text: format!("-ERR {words}\r\n").into_bytes() });
    }

    /// Refuses what no orderly client sends; too much of it ends the session.
    pub(super) fn reject(&mut self, verb: Verb, words: &str) {
        self.errors += 1;
        self.error(verb, words);
    }

    pub(super) fn malformed(&mut self, verb: Verb, malformed: Malformed) {
        self.reject(verb, &malformed.to_string());
    }

    pub(super) fn goodbye(&mut self, words: &str) -> State {
        self.ok(Verb::Quit, words);
        self.effects.push_back(Effect::Close);
        State::Closed
    }

    pub(super) fn list_mechanisms(&mut self, verb: Verb) {
        let may_log_in = self.may_log_in();
        let lines = self.mechanisms().filter(|_| may_log_in).map(|m| format!("{m}\r\n")).collect();
        self.multi_line(verb, "mechanisms follow", lines);
    }

    /// What can be used on this connection.
    pub(super) fn mechanisms(&self) -> impl Iterator<Item = &String> {
        self.config.mechanisms.iter().filter(|m| self.channel_binding || !m.ends_with("-PLUS"))
    }

    /// Our replies are in English alone (RFC 6856 §3).
    pub(super) fn language(&mut self, verb: Verb, range: Option<&str>) {
        match range {
            None => self.multi_line(verb, "languages follow", "en English\r\ni-default English\r\n".to_owned()),
            Some("*" | "i-default") => self.ok(verb, "i-default replies are in English"),
            // RFC 4647 §3.4: `en-GB` finds `en`.
            Some(range) if range == "en" || range.starts_with("en-") => self.ok(verb, "en replies are in English"),
            Some(_) => self.error(verb, "language is not known"),
        }
    }

    /// CAPA (RFC 2449 §5). What needs TLS first is not announced before it.
    pub(super) fn capabilities(&mut self, logged_in: bool) {
        let mut lines = String::from(
            "TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\n\
             EXPIRE NEVER\r\nLOGIN-DELAY 0\r\nUTF8\r\nLANG\r\n",
        );
        if self.may_log_in() {
            lines.push_str("USER\r\n");
            let mechanisms: String = self.mechanisms().map(|m| format!(" {m}")).collect();
            if !mechanisms.is_empty() {
                lines.push_str(&format!("SASL{mechanisms}\r\n"));
            }
        }
        if self.config.starttls && !self.tls && !logged_in {
            lines.push_str("STLS\r\n");
        }
        lines.push_str("IMPLEMENTATION Postroad\r\n");
        self.multi_line(Verb::Capa, "capabilities follow", lines);
    }
}
