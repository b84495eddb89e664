//! What each command, and the content after DATA, does to the session (RFC 5321 §4.1.1).

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::BytesMut;

use super::{Decision, Effect, Hello, Session, State, Step};
use crate::{
    Reply,
    server::{
        command::{Command, MailFrom, RcptTo},
        content::{ContentReader, Defect},
    },
};

/// Content beyond the limit is read to its end only this much further.
const MAX_EXCESS: u64 = 64 << 20;
/// Commands without a message: more is no mail client.
const MAX_IDLE_COMMANDS: u32 = 1000;

impl Session {
    pub(super) fn on_command(&mut self, line: &[u8], input: &mut BytesMut) -> Step {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(error) => return self.refuse(&error.reply()),
        };
        self.idle_commands += 1;
        if self.idle_commands > MAX_IDLE_COMMANDS {
            self.end(&Reply::new(421, (4, 7, 0), "Too many commands"));
            return Step::Again;
        }
        match command {
            Command::Ehlo(name) => self.on_ehlo(name),
            Command::Helo(name) => {
                self.reset();
                self.hello = Some(Hello { name, extended: false });
                let hostname = self.config.hostname.clone();
                self.say_basic(250, &hostname);
                self.transcript.mark_opening();
                Step::Again
            }
            Command::Mail(mail) => self.on_mail(mail),
            Command::Rcpt(rcpt) => self.on_rcpt(rcpt),
            Command::Data => self.on_data(),
            Command::Rset => {
                self.reset();
                self.ok("Ok")
            }
            Command::Noop => self.ok("Ok"),
            Command::Help => self.say(&Reply::new(214, (2, 0, 0), "See RFC 5321 and RFC 6409")),
            // RFC 5321 §3.5.3: who exists is told by RCPT alone.
            Command::Vrfy => self.say(&Reply::new(252, (2, 5, 2), "Cannot verify, try RCPT")),
            Command::NotImplemented => self.refuse(&Reply::new(502, (5, 5, 1), "Command not implemented")),
            Command::Quit => {
                self.end(&Reply::new(221, (2, 0, 0), format!("{} closing connection", self.config.hostname)));
                Step::Again
            }
            Command::StartTls => self.on_starttls(input),
            Command::Auth { mechanism, initial } => self.on_auth(mechanism, initial),
        }
    }

    fn on_ehlo(&mut self, name: String) -> Step {
        self.reset();
        self.hello = Some(Hello { name, extended: true });
        let mut lines = vec![self.config.hostname.clone(), "PIPELINING".into()];
        lines.push(format!("SIZE {}", self.config.max_message_size));
        if self.config.starttls && !self.encrypted {
            lines.push("STARTTLS".into());
        }
        if self.encrypted && !self.authenticated && !self.config.mechanisms.is_empty() {
            lines.push(format!("AUTH {}", self.config.mechanisms.join(" ")));
        }
        lines.extend(["ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN"].map(str::to_owned));
        self.say(&Reply::basic(250, lines));
        self.transcript.mark_opening();
        Step::Again
    }

    fn on_mail(&mut self, mail: MailFrom) -> Step {
        if self.hello.is_none() {
            return self.out_of_order("Send EHLO first");
        }
        if self.mail.is_some() {
            return self.out_of_order("Nested MAIL command");
        }
        if self.config.auth_required && !self.authenticated {
            let text = if self.encrypted { "Authentication required" } else { "Must issue a STARTTLS command first" };
            return self.refuse(&Reply::new(530, (5, 7, 0), text));
        }
        if mail.size.is_some_and(|size| size > self.config.max_message_size) {
            return self.refuse(&self.too_large());
        }
        if !mail.smtputf8 && mail.address.as_ref().is_some_and(|a| !a.is_ascii()) {
            return self.refuse(&Reply::new(550, (5, 6, 7), "Address needs SMTPUTF8"));
        }
        self.mail = Some(mail.clone());
        self.recipients = 0;
        self.ask(Decision::Sender, Effect::Sender(mail))
    }

    fn on_rcpt(&mut self, rcpt: RcptTo) -> Step {
        let Some(mail) = &self.mail else { return self.out_of_order("Send MAIL first") };
        if !mail.smtputf8 && rcpt.address.as_ref().is_some_and(|a| !a.is_ascii()) {
            return self.refuse(&Reply::new(553, (5, 6, 7), "Address needs SMTPUTF8"));
        }
        if self.recipients >= self.config.max_recipients {
            // RFC 5321 §4.5.3.1.10: the client sends the rest in a further transaction.
            return self.say(&Reply::new(452, (4, 5, 3), "Too many recipients"));
        }
        self.ask(Decision::Recipient, Effect::Recipient(rcpt))
    }

    fn on_data(&mut self) -> Step {
        let Some(mail) = &self.mail else { return self.out_of_order("Send MAIL first") };
        if self.recipients == 0 {
            return self.refuse(&Reply::new(554, (5, 5, 1), "No valid recipients"));
        }
        let reader = ContentReader::new(self.config.max_message_size, mail.size.unwrap_or_default());
        self.state = State::Content { reader, refusal: None };
        self.say_basic(354, "End data with <CR><LF>.<CR><LF>")
    }

    pub(super) fn read_content(&mut self, input: &mut BytesMut) -> Step {
        let State::Content { reader, .. } = &mut self.state else { return Step::Again };
        if !reader.read(input) {
            if reader.seen() > self.config.max_message_size.saturating_add(MAX_EXCESS) {
                self.end(&Reply::new(421, (4, 3, 4), "Message far too large"));
                return Step::Again;
            }
            return Step::Starved;
        }
        let State::Content { reader, refusal } = std::mem::replace(&mut self.state, State::Command) else {
            return Step::Again;
        };
        self.transcript.client(&format!("[content of {} octets]", reader.seen()));
        self.transcript.client(".");
        let refusal = match (refusal, reader.finish()) {
            (Some(reply), _) => reply,
            (None, Ok(content)) => return self.ask(Decision::Message, Effect::Message(content)),
            (None, Err(Defect::TooLarge)) => self.too_large(),
            (None, Err(Defect::BareLineEnd)) => Reply::new(554, (5, 6, 0), "CR and LF must only occur together"),
            (None, Err(Defect::Nul)) => Reply::new(554, (5, 6, 0), "NUL is not allowed in a message"),
        };
        self.reset();
        self.refuse(&refusal)
    }

    fn on_starttls(&mut self, input: &mut BytesMut) -> Step {
        if self.encrypted || !self.config.starttls {
            return self.out_of_order("TLS not available");
        }
        // Whatever is behind the command came in the clear, perhaps from somebody else
        // (RFC 3207 §4.2).
        input.clear();
        self.reset();
        self.say(&Reply::new(220, (2, 0, 0), "Ready to start TLS"));
        self.state = State::Deciding(Decision::Tls);
        Step::Again
    }

    fn on_auth(&mut self, mechanism: String, initial: Option<String>) -> Step {
        if self.config.mechanisms.is_empty() {
            return self.refuse(&Reply::new(502, (5, 5, 1), "Authentication is not offered here"));
        }
        if !self.encrypted {
            return self.refuse(&Reply::new(538, (5, 7, 11), "Encryption required for authentication"));
        }
        let ready = self.hello.as_ref().is_some_and(|h| h.extended) && self.mail.is_none() && !self.authenticated;
        if !ready {
            return self.out_of_order("AUTH not permitted now");
        }
        if !self.config.mechanisms.contains(&mechanism.as_str()) {
            return self.refuse(&Reply::new(504, (5, 5, 4), "Mechanism not supported"));
        }
        let initial = match initial.as_deref() {
            None => None,
            Some("=") => Some(Vec::new()), // RFC 4954 §4: an empty initial response
            Some(text) => match BASE64.decode(text) {
                Ok(bytes) => Some(bytes),
                Err(_) => return self.refuse(&Reply::new(501, (5, 5, 2), "Invalid base64")),
            },
        };
        self.ask(Decision::Auth, Effect::Authenticate { mechanism, initial })
    }

    pub(super) fn on_auth_response(&mut self, line: &[u8]) -> Step {
        self.state = State::Command;
        let refusal = if line == b"*" {
            Reply::new(501, (5, 7, 0), "Authentication cancelled")
        } else {
            match BASE64.decode(line) {
                Ok(bytes) => return self.ask(Decision::Auth, Effect::AuthResponse(bytes)),
                Err(_) => Reply::new(501, (5, 5, 2), "Invalid base64"),
            }
        };
        self.refuse(&refusal);
        Step::Effect(Effect::AuthAborted)
    }
}
