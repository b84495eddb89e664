//! What the rules of an account want done with a message: forward and vacation first, then the script.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use sieve::{Action, Fact, Limits, Script, Stop, Tracked, World};

/// Addresses of a forward.
pub const MAX_FORWARDS: usize = 16;

/// An account's rules, compiled.
#[derive(Clone, Default)]
pub struct Programs {
    /// And whether the message stays here too.
    pub forward: Option<(Arc<Script>, bool)>,
    pub vacation: Option<Arc<Script>>,
    /// With its name; an error is why it cannot be run.
    pub script: Option<(String, Result<Arc<Script>, String>)>,
}

/// What is known about a message, more from run to run.
pub struct Facts {
    pub header: Bytes,
    pub size: u64,
    pub content: Option<Vec<u8>>,
    pub reverse_path: String,
    pub forward_path: String,
    pub now: i64,
    pub hostname: String,
    pub domain: String,
    pub mailboxes: HashMap<String, bool>,
    pub tracked: HashMap<String, bool>,
}

impl World for Facts {
    fn header(&self) -> &[u8] {
        &self.header
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn content(&self) -> Option<&[u8]> {
        self.content.as_deref()
    }

    fn reverse_path(&self) -> &str {
        &self.reverse_path
    }

    fn forward_path(&self) -> &str {
        &self.forward_path
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
        match item {
            "domain" => Some(self.domain.clone()),
            "host" => Some(self.hostname.clone()),
            "location" => Some("MDA".into()),
            "name" => Some("Postroad".into()),
            "phase" => Some("during".into()),
            "version" => Some(env!("CARGO_PKG_VERSION").into()),
            _ => None,
        }
    }
}

/// Without any action the message is discarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub tracked: Vec<Tracked>,
    /// Why the script did not end well; the message is kept then (RFC 5228 §2.10.6).
    pub failure: Option<String>,
}

/// `Err` is what has to be known first.
pub fn decide(programs: &Programs, facts: &Facts, limits: Limits) -> Result<Decision, Fact> {
    let mut actions = Vec::new();
    let mut stays = true;
    if let Some((forward, keep)) = &programs.forward {
        actions.extend(simple(forward, facts)?);
        stays = *keep;
    }
    if let Some(vacation) = &programs.vacation {
        actions.extend(simple(vacation, facts)?);
    }
    let Some((_, script)) = programs.script.as_ref().filter(|_| stays) else {
        if stays {
            actions.push(Action::Keep { flags: Vec::new() });
        }
        return Ok(Decision { actions, ..Decision::default() });
    };
    let outcome = match script {
        Ok(script) => match script.run(facts, limits) {
            Ok(outcome) => Ok(outcome),
            Err(Stop::Needs(fact)) => return Err(fact),
            Err(Stop::Failed(error)) => Err(error.to_string()),
        },
        Err(why) => Err(why.clone()),
    };
    Ok(match outcome {
        Ok(outcome) => match joined(actions, outcome.actions) {
            Ok(actions) => Decision { actions, tracked: outcome.tracked, failure: None },
            Err((mut actions, why)) => {
                actions.push(Action::Keep { flags: Vec::new() });
                Decision { actions, failure: Some(why.into()), ..Decision::default() }
            }
        },
        Err(why) => {
            actions.push(Action::Keep { flags: Vec::new() });
            Decision { actions, failure: Some(why), ..Decision::default() }
        }
    })
}

/// The actions of a forward or vacation; what stays here is not theirs to say.
fn simple(script: &Script, facts: &Facts) -> Result<Vec<Action>, Fact> {
    match script.run(facts, Limits { redirects: MAX_FORWARDS, ..Limits::default() }) {
        Ok(outcome) => Ok(outcome
            .actions
            .into_iter()
            .filter(|a| matches!(a, Action::Redirect { .. } | Action::Vacation(_)))
            .collect()),
        Err(Stop::Needs(fact)) => Err(fact),
        // They are ours and ask for nothing that fails; if they do, they did nothing.
        Err(Stop::Failed(_)) => Ok(Vec::new()),
    }
}

/// A message is answered once, and what comes back to its sender is not answered at all.
fn joined(mut ours: Vec<Action>, theirs: Vec<Action>) -> Result<Vec<Action>, (Vec<Action>, &'static str)> {
    if theirs.iter().any(|a| matches!(a, Action::Reject { .. })) {
        ours.retain(|a| !matches!(a, Action::Vacation(_)));
        if !ours.is_empty() {
            return Err((ours, "a reject cannot go together with a forward"));
        }
    }
    let is_answered = ours.iter().any(|a| matches!(a, Action::Vacation(_)));
    ours.extend(theirs.into_iter().filter(|a| !(is_answered && matches!(a, Action::Vacation(_)))));
    Ok(ours)
}

/// A quarantined message may be forged: nothing about it leaves the account. What it says to
/// the journey instead.
pub fn confine(decision: &mut Decision) -> Vec<&'static str> {
    let mut notes = Vec::new();
    decision.actions.retain(|action| {
        let note = match action {
            Action::Redirect { .. } => "not redirected: the message is quarantined",
            Action::Vacation(_) => "not answered: the message is quarantined",
            Action::Reject { .. } => "not rejected: the message is quarantined",
            Action::Keep { .. } | Action::FileInto { .. } => return true,
        };
        notes.push(note);
        false
    });
    if decision.actions.is_empty() && !notes.is_empty() {
        decision.actions.push(Action::Keep { flags: Vec::new() });
    }
    notes
}

#[cfg(test)]
mod tests {
    use sieve::{Forward, Vacation};

    use super::*;

    fn facts() -> Facts {
        Facts {
            header: Bytes::from_static(b"Subject: x\r\n\r\n"),
            size: 20,
            content: None,
            reverse_path: "a@else.org".into(),
            forward_path: "bob@example.com".into(),
            now: 1_000,
            hostname: "mx.example.com".into(),
            domain: "example.com".into(),
            mailboxes: HashMap::new(),
            tracked: HashMap::new(),
        }
    }

    fn program(text: &str) -> Arc<Script> {
        Arc::new(Script::compile(text).expect("a script"))
    }

    /// One letter for each action.
    fn letters(programs: &Programs) -> (String, bool) {
        let decision = decide(programs, &facts(), Limits::default()).expect("nothing is needed");
        let letter = |a: &Action| match a {
            Action::Keep { .. } => 'k',
            Action::FileInto { .. } => 'f',
            Action::Redirect { .. } => 'r',
            Action::Reject { .. } => 'x',
            Action::Vacation(_) => 'v',
        };
        (decision.actions.iter().map(letter).collect(), decision.failure.is_some())
    }

    #[test]
    fn forward_vacation_and_script_together() {
        let forward = |keep| Forward { to: vec!["c@d.org".into(), "e@d.org".into()], keep };
        let forward = |keep| Some((program(&forward(keep).to_script()), keep));
        let vacation =
            |until| program(&Vacation { text: "away".into(), until: Some(until), ..Vacation::default() }.to_script());
        let script = |text: &str| Some(("main".to_owned(), Ok(program(text))));
        let filing = "require [\"fileinto\", \"vacation\"]; fileinto \"x\"; vacation \"mine\";";
        let reject = "require \"reject\"; reject \"no\";";
        for (forward, vacation, script, expected) in [
            (None, None, None, ("k", false)),
            (forward(true), None, None, ("rrk", false)),
            (forward(false), None, None, ("rr", false)),
            (forward(false), Some(vacation(2_000)), script(filing), ("rrv", false)),
            (None, Some(vacation(2_000)), script(filing), ("vf", false)),
            (None, Some(vacation(999)), script(filing), ("fv", false)),
            (None, Some(vacation(2_000)), script(reject), ("x", false)),
            (forward(true), None, script(reject), ("rrk", true)),
            (None, None, script("discard;"), ("", false)),
            (None, None, Some(("main".to_owned(), Err("line 1".to_owned()))), ("k", true)),
        ] {
            let (letters, failed) = letters(&Programs { forward, vacation, script });
            assert_eq!((letters.as_str(), failed), expected);
        }
    }

    #[test]
    fn nothing_leaves_for_a_quarantined_message() {
        let mut decision =
            Decision { actions: vec![Action::Redirect { address: "c@d.org".into() }], ..Decision::default() };
        assert_eq!(confine(&mut decision).len(), 1);
        assert_eq!(decision.actions, [Action::Keep { flags: vec![] }]);
        let mut discarded = Decision::default();
        assert!(confine(&mut discarded).is_empty() && discarded.actions.is_empty());
    }
}
