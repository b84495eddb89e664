//! What people set without writing a script, as scripts: one interpreter for all.

/// An answer while somebody is away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vacation {
    /// Empty: made from the message's own.
    pub subject: String,
    pub text: String,
    /// The same sender is answered once in so many days; 0 is a week.
    pub days: u32,
    /// Seconds since 1970; the answer is given from here.
    pub from: Option<i64>,
    /// And no longer from here.
    pub until: Option<i64>,
}

/// Mail that goes elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forward {
    pub to: Vec<String>,
    /// And stays here too.
    pub keep: bool,
}

impl Vacation {
    /// A script that answers at its time and keeps the message.
    pub fn to_script(&self) -> String {
        let mut tests = Vec::new();
        for (relation, at) in [("ge", self.from), ("lt", self.until)] {
            if let Some(at) = at {
                let moment = crate::date::Moment { at, zone: 0 }.part(crate::date::DatePart::Iso8601);
                tests.push(format!("currentdate :zone \"+0000\" :value \"{relation}\" \"iso8601\" \"{moment}\""));
            }
        }
        if tests.is_empty() {
            tests.push("true".into());
        }
        let subject = match self.subject.trim() {
            "" => String::new(),
            subject => format!(":subject {} ", quote(subject)),
        };
        let days = if self.days == 0 { 7 } else { self.days };
        format!(
            "require [\"vacation\", \"date\", \"relational\"];\r\nif allof ({}) {{ vacation :days {days} {subject}:handle \"vacation\" {}; }}\r\n",
            tests.join(", "),
            quote(&self.text)
        )
    }
}

impl Forward {
    /// A script that redirects, and keeps or does not.
    pub fn to_script(&self) -> String {
        let copy = if self.keep { ":copy " } else { "" };
        let redirects = self.to.iter().map(|to| format!("redirect {copy}{};\r\n", quote(to)));
        format!("require \"copy\";\r\n{}", redirects.collect::<String>())
    }
}

/// RFC 5228 §2.4.2.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Script;

    #[test]
    fn they_are_scripts_whatever_they_say() {
        for text in ["away", "say \"hi\" \\ \r\n.\r\n", "${hex:40} ; } #", ""] {
            let vacation = Vacation { subject: text.into(), text: text.into(), from: Some(0), until: Some(1), days: 0 };
            Script::compile(&vacation.to_script()).expect("a script");
        }
        let forward = Forward { to: vec!["\"a b\"@x.org".into(), "c@d.org".into()], keep: true };
        Script::compile(&forward.to_script()).expect("a script");
    }
}
