//! A message and what is known about it, for tests.

use std::collections::HashMap;

use sieve::{Action, Fact, Limits, Outcome, Script, Stop, World};

pub struct Message {
    pub content: Vec<u8>,
    pub is_loaded: bool,
    pub from: String,
    pub to: String,
    pub now: i64,
    pub mailboxes: HashMap<String, bool>,
    pub tracked: HashMap<String, bool>,
}

impl Message {
    pub fn new(text: &str) -> Self {
        Self {
            content: text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes(),
            is_loaded: true,
            from: "coyote@desert.example.org".into(),
            to: "roadrunner+fast@acme.example.com".into(),
            now: 1_140_587_545,
            mailboxes: HashMap::new(),
            tracked: HashMap::new(),
        }
    }
}

impl World for Message {
    fn header(&self) -> &[u8] {
        let end = self.content.windows(4).position(|w| w == b"\r\n\r\n").map_or(self.content.len(), |at| at + 4);
        &self.content[..end]
    }

    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn content(&self) -> Option<&[u8]> {
        self.is_loaded.then_some(&self.content)
    }

    fn reverse_path(&self) -> &str {
        &self.from
    }

    fn forward_path(&self) -> &str {
        &self.to
    }

    fn now(&self) -> i64 {
        self.now
    }

    fn has_mailbox(&self, name: &str) -> Option<bool> {
        self.mailboxes.get(name).copied()
    }

    fn is_tracked(&self, key: &str) -> Option<bool> {
        self.tracked.get(key).copied()
    }

    fn environment(&self, item: &str) -> Option<String> {
        (item == "location").then(|| "MDA".into())
    }
}

pub fn run(script: &str, message: &Message) -> Result<Outcome, Stop> {
    let compiled = Script::compile(script).unwrap_or_else(|e| panic!("{e} in {script}"));
    compiled.run(message, Limits::default())
}

/// The outcome in words: `keep`, `fileinto X`, `redirect X`, `reject X`, `vacation X`, flags in brackets.
pub fn outcome(script: &str, message: &Message) -> Vec<String> {
    let outcome = run(script, message).unwrap_or_else(|e| panic!("{e:?} of {script}"));
    let flags = |f: &[String]| if f.is_empty() { String::new() } else { format!(" [{}]", f.join(" ")) };
    let show = |action: &Action| match action {
        Action::Keep { flags: f } => format!("keep{}", flags(f)),
        Action::FileInto { mailbox, create, flags: f } => {
            format!("fileinto {mailbox}{}{}", if *create { " :create" } else { "" }, flags(f))
        }
        Action::Redirect { address } => format!("redirect {address}"),
        Action::Reject { reason } => format!("reject {reason}"),
        Action::Vacation(reply) => format!("vacation {} {}", reply.seconds, reply.reason),
    };
    outcome.actions.iter().map(show).collect()
}

/// Whether a test holds: `require` is prepended.
pub fn holds(require: &[&str], test: &str, message: &Message) -> bool {
    let quoted: Vec<String> = require.iter().map(|r| format!("\"{r}\"")).collect();
    let require = if quoted.is_empty() { String::new() } else { format!("require [{}];", quoted.join(",")) };
    let outcome = outcome(&format!("{require} if {test} {{ discard; }}"), message);
    outcome.is_empty()
}

/// The error of a script that is refused.
pub fn refused(script: &str) -> String {
    Script::compile(script).expect_err(script).to_string()
}

pub fn needs(script: &str, message: &Message) -> Option<Fact> {
    match run(script, message) {
        Err(Stop::Needs(fact)) => Some(fact),
        _ => None,
    }
}
