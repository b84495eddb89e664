//! What each command does in the AUTHORIZATION, TRANSACTION and UPDATE states.

use super::{Effect, Maildrop, Refusal, Session, State};
use crate::command::{Command, Verb};

impl Session {
    /// RFC 1939 §4.
    pub(super) fn in_authorization(&mut self, verb: Verb, command: Command, user: Option<Vec<u8>>) -> State {
        match command {
            Command::User(_) | Command::Pass(_) | Command::Auth { .. } if !self.may_log_in() => {
                self.reject(verb, "passwords are taken under TLS only, use STLS");
            }
            Command::User(name) => {
                // Says nothing about whether there is such a mailbox (RFC 1939 §13).
                self.ok(verb, "send the password");
                return State::Authorization(Some(name));
            }
            Command::Pass(password) => {
                let Some(user) = user else {
                    self.reject(verb, "USER first");
                    return State::Authorization(None);
                };
                if user.contains(&0) || password.contains(&0) {
                    self.refuse(verb, Refusal::Credentials);
                    return State::Authorization(None);
                }
                // RFC 4616 §2: authorization identity, NUL, name, NUL, password.
                let message = [b"", &*user, &*password].join(&0);
                self.effects
                    .push_back(Effect::Authenticate { mechanism: "PLAIN".to_owned(), initial_response: Some(message) });
                return State::LoggingIn { by_pass: true };
            }
            Command::Auth { mechanism, .. } if !self.mechanisms().any(|m| *m == mechanism) => {
                self.reject(verb, "unknown mechanism");
            }
            Command::Auth { mechanism, initial_response } => {
                self.effects.push_back(Effect::Authenticate { mechanism, initial_response });
                return State::LoggingIn { by_pass: false };
            }
            Command::AuthList => self.list_mechanisms(verb),
            Command::Stls if self.tls => self.reject(verb, "TLS is already active"),
            Command::Stls if !self.config.starttls => self.reject(verb, "TLS is not available"),
            Command::Stls => {
                self.ok(verb, "begin TLS");
                self.effects.push_back(Effect::StartTls);
                return State::TlsPending;
            }
            Command::Utf8 => {
                self.utf8 = true;
                self.ok(verb, "UTF-8 enabled");
            }
            Command::Lang(range) => self.language(verb, range.as_deref()),
            Command::Capa => self.capabilities(false),
            Command::Quit => return self.goodbye("signing off"),
            _ => self.reject(verb, "log in first"),
        }
        State::Authorization(user)
    }

    /// RFC 1939 §5 and §7.
    pub(super) fn in_transaction(&mut self, verb: Verb, command: Command, mut maildrop: Maildrop) -> State {
        match command {
            Command::Stat => self.ok(verb, &maildrop.stat()),
            Command::List(None) => self.multi_line(verb, &maildrop.summary(), maildrop.listing()),
            Command::List(Some(number)) => match maildrop.get(number) {
                Ok(message) => self.ok(verb, &format!("{number} {}", message.size)),
                Err(words) => self.error(verb, words),
            },
            Command::Uidl(None) => self.multi_line(verb, "unique-ids follow", maildrop.unique_ids()),
            Command::Uidl(Some(number)) => match maildrop.get(number) {
                Ok(message) => self.ok(verb, &format!("{number} {}", message.unique_id())),
                Err(words) => self.error(verb, words),
            },
            Command::Retr(number) => return self.transfer(verb, maildrop, number, None),
            Command::Top { number, lines } => return self.transfer(verb, maildrop, number, Some(lines)),
            Command::Dele(number) => match maildrop.mark_deleted(number) {
                Ok(()) => self.ok(verb, &format!("message {number} marked as deleted")),
                Err(words) => self.error(verb, words),
            },
            Command::Rset => {
                maildrop.unmark_all();
                self.ok(verb, &maildrop.summary());
            }
            Command::Noop => self.ok(verb, "nothing done"),
            Command::Lang(range) => self.language(verb, range.as_deref()),
            // RFC 6856 §2.1: only before login.
            Command::Utf8 => self.error(verb, "UTF8 comes before the login"),
            Command::Capa => self.capabilities(true),
            Command::Quit => return self.update(&maildrop),
            Command::User(_) | Command::Pass(_) | Command::Auth { .. } | Command::AuthList => {
                self.error(verb, "already logged in");
            }
            // RFC 2595 §4: only before login.
            Command::Stls => self.error(verb, "STLS comes before the login"),
        }
        State::Transaction(maildrop)
    }

    fn transfer(&mut self, verb: Verb, maildrop: Maildrop, number: u32, lines: Option<u32>) -> State {
        match maildrop.get(number) {
            Ok(message) => {
                self.effects.push_back(Effect::Retrieve { uid: message.uid, size: message.size, lines });
                State::Transferring(maildrop, verb)
            }
            Err(words) => {
                self.error(verb, words);
                State::Transaction(maildrop)
            }
        }
    }

    /// The UPDATE state (RFC 1939 §6).
    fn update(&mut self, maildrop: &Maildrop) -> State {
        let deleted = maildrop.deleted();
        let messages_left = maildrop.remaining();
        if deleted.is_empty() {
            return self.goodbye(&format!("signing off ({messages_left} messages left)"));
        }
        self.effects.push_back(Effect::Expunge(deleted));
        State::Updating { messages_left }
    }

    pub(super) fn may_log_in(&self) -> bool {
        self.tls || self.config.plaintext_login
    }
}
