//! What each command does to the session (RFC 5321 §4.1.1).

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::BytesMut;

use super::{Decision, Effect, Hello, Session, State, Step};
use crate::{
    Reply,
    server::{
        command::{Command, MailFrom, RcptTo},
        date_time,
    },
};

/// What HELP tells (RFC 5321 §4.1.1.8).
const HELP: [&str; 3] = [
    "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT",
    "STARTTLS AUTH VRFY HELP",
    "See RFC 5321, and RFC 6409 for submission",
];
/// Commands without a message: more is no mail client.
const MAX_IDLE_COMMANDS: u32 = 1000;

impl Session {
    pub(super) fn on_command(&mut self, line: &[u8], input: &mut BytesMut) -> Step {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(error) => return self.refuse("syntax", &error.reply()),
        };
        self.idle_commands += 1;
        if self.idle_commands > MAX_IDLE_COMMANDS {
            return self.end_because("too_many_commands", &Reply::new(421, (4, 7, 0), "Too many commands"));
        }
        // These must end a group of pipelined commands (RFC 2920 §3.1): who goes on does not
        // listen.
        let ends_group = matches!(command, Command::Ehlo(_) | Command::Helo(_) | Command::Data);
        if self.config.refuse_early && ends_group && !input.is_empty() {
            return self
                .end_because("early_talker", &Reply::new(554, (5, 5, 0), "Wait for the reply before you go on"));
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
            Command::Bdat { size, last } => self.on_bdat(size, last),
            Command::Help => {
                let lines = HELP.map(str::to_owned).to_vec();
                self.say(&Reply { lines, ..Reply::new(214, (2, 0, 0), "") })
            }
            // RFC 5321 §3.5.3: who exists is told by RCPT alone.
            Command::Vrfy => self.say(&Reply::new(252, (2, 5, 2), "Cannot verify, try RCPT")),
            // RFC 5321 §7.3: lists are nobody's business; a client may ask without harm.
            Command::Expn => self.say(&Reply::new(502, (5, 7, 0), "Lists are not shown")),
            Command::NotImplemented => {
                self.refuse("not_implemented", &Reply::new(502, (5, 5, 1), "Command not implemented"))
            }
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
            let offered: Vec<_> = self.mechanisms().collect();
            lines.push(format!("AUTH {}", offered.join(" ")));
        }
        let always = ["ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME"];
        lines.extend(always.map(str::to_owned));
        if self.encrypted {
            // RFC 8689 §2: only where the client is sure of us.
            lines.push("REQUIRETLS".into());
        }
        if let Some(seconds) = self.config.max_hold {
            let until = self.now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX));
            lines.push(format!("FUTURERELEASE {seconds} {}", date_time::format(until)));
        }
        if self.config.priorities {
            lines.push("MT-PRIORITY".into());
        }
        lines.push(format!("LIMITS MAILMAX={} RCPTMAX={}", self.config.max_transactions, self.config.max_recipients));
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
            return self.refuse("login_required", &Reply::new(530, (5, 7, 0), text));
        }
        if self.transactions >= self.config.max_transactions {
            let reply = Reply::new(421, (4, 7, 0), "Too many messages in one session");
            return self.refuse("too_many_messages", &reply);
        }
        if let Some((reason, reply)) = self.parameter_refusal(&mail) {
            return self.refuse(reason, &reply);
        }
        self.transactions += 1;
        self.mail = Some(mail.clone());
        self.recipients = 0;
        self.ask(Decision::Sender, Effect::Sender(mail))
    }

    /// Why a parameter of MAIL cannot be honoured.
    fn parameter_refusal(&self, mail: &MailFrom) -> Option<(&'static str, Reply)> {
        if mail.size.is_some_and(|size| size > self.config.max_message_size) {
            return Some(("too_large", self.too_large()));
        }
        if !mail.smtputf8 && mail.address.as_ref().is_some_and(|a| !a.is_ascii()) {
            return Some(("needs_smtputf8", Reply::new(550, (5, 6, 7), "Address needs SMTPUTF8")));
        }
        if mail.require_tls && !self.encrypted {
            return Some(("needs_tls", Reply::new(530, (5, 7, 10), "REQUIRETLS needs TLS on this connection, too")));
        }
        match (mail.hold, self.config.max_hold) {
            (Some(hold), Some(most)) if hold.seconds(self.now) > most => {
                let reply = Reply::new(501, (5, 5, 4), format!("Messages are held for at most {most} seconds"));
                return Some(("held_too_long", reply));
            }
            (Some(_), None) => return Some(("syntax", super::super::SyntaxError::UnknownParameter.reply())),
            _ => {}
        }
        if mail.priority.is_some() && !self.config.priorities {
            return Some(("syntax", super::super::SyntaxError::UnknownParameter.reply()));
        }
        None
    }

    /// Mechanisms that work on this connection.
    fn mechanisms(&self) -> impl Iterator<Item = &'static str> {
        let (bindable, certified) = (self.bindable, self.certified);
        let works = move |m: &&str| (bindable || !m.ends_with("-PLUS")) && (certified || *m != "EXTERNAL");
        self.config.mechanisms.iter().copied().filter(works)
    }

    fn on_rcpt(&mut self, rcpt: RcptTo) -> Step {
        let Some(mail) = &self.mail else { return self.out_of_order("Send MAIL first") };
        if !mail.smtputf8 && rcpt.address.as_ref().is_some_and(|a| !a.is_ascii()) {
            return self.refuse("needs_smtputf8", &Reply::new(553, (5, 6, 7), "Address needs SMTPUTF8"));
        }
        if self.chunks.is_some() {
            return self.out_of_order("RCPT after BDAT");
        }
        if mail.address.is_none() && self.recipients >= 1 {
            // Reports and their like go to one; many at once are abuse or forged bounces.
            return self.refuse(
                "null_sender_to_many",
                &Reply::new(452, (4, 5, 3), "Null reverse-path: one recipient at a time"),
            );
        }
        if self.recipients >= self.config.max_recipients {
            // RFC 5321 §4.5.3.1.10: the client sends the rest in a further transaction.
            return self.refuse("too_many_recipients", &Reply::new(452, (4, 5, 3), "Too many recipients"));
        }
        self.ask(Decision::Recipient, Effect::Recipient(rcpt))
    }

    fn on_data(&mut self) -> Step {
        let Some(mail) = &self.mail else { return self.out_of_order("Send MAIL first") };
        if self.recipients == 0 {
            return self.refuse("no_recipients", &Reply::new(554, (5, 5, 1), "No valid recipients"));
        }
        if self.chunks.is_some() || mail.binary {
            // RFC 3030 §2 and §3.
            return self.out_of_order("Use BDAT for the rest of this message");
        }
        let reader = self.reader(mail);
        self.state = State::Content { reader, refusal: None };
        self.say_basic(354, "End data with <CR><LF>.<CR><LF>")
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
            return self.refuse("login_not_offered", &Reply::new(502, (5, 5, 1), "Authentication is not offered here"));
        }
        if !self.encrypted {
            return self.refuse("needs_tls", &Reply::new(538, (5, 7, 11), "Encryption required for authentication"));
        }
        let ready = self.hello.as_ref().is_some_and(|h| h.extended) && self.mail.is_none() && !self.authenticated;
        if !ready {
            return self.out_of_order("AUTH not permitted now");
        }
        if !self.mechanisms().any(|m| m == mechanism) {
            return self.refuse("unknown_mechanism", &Reply::new(504, (5, 5, 4), "Mechanism not supported"));
        }
        let initial = match initial.as_deref() {
            None => None,
            Some("=") => Some(Vec::new()), // RFC 4954 §4: an empty initial response
            Some(text) => match BASE64.decode(text) {
                Ok(bytes) => Some(bytes),
                Err(_) => return self.refuse("syntax", &Reply::new(501, (5, 5, 2), "Invalid base64")),
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
        self.refuse("login_broken", &refusal);
        Step::Effect(Effect::AuthAborted)
    }
}
