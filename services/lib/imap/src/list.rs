//! LIST and LSUB (RFC 9051 §6.3.9, RFC 3501 §6.3.9): which mailboxes, with which attributes.

use std::collections::BTreeSet;

use crate::{ListCommand, matches_pattern, respond};

/// A mailbox of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// `\Sent` and alike, or empty.
    pub special_use: String,
    pub subscribed: bool,
    /// A subscription may outlive its mailbox.
    pub exists: bool,
}

/// Writes the answer; returns the names of existing mailboxes in it, for LIST-STATUS.
pub fn list(command: &ListCommand, entries: &[Entry], utf8: bool, out: &mut Vec<u8>) -> Vec<String> {
    if !command.extended && command.patterns.iter().all(String::is_empty) {
        // The question for the hierarchy delimiter (RFC 9051 §6.3.9).
        out.extend_from_slice(b"* LIST (\\Noselect) \"/\" \"\"\r\n");
        return Vec::new();
    }
    let tree = Tree::new(entries);
    let select = command.select;
    let mut selected = Vec::new();
    for name in &tree.names {
        if !command.patterns.iter().any(|p| matches_pattern(&format!("{}{p}", command.reference), name)) {
            continue;
        }
        let entry = tree.entry(name);
        let subscribed = entry.is_some_and(|e| e.subscribed);
        let special = entry.map_or("", |e| e.special_use.as_str());
        let chosen = match (select.subscribed, select.special_use) {
            (true, true) => subscribed && !special.is_empty(),
            (true, false) => subscribed,
            (false, true) => !special.is_empty(),
            (false, false) => entry.is_some_and(|e| e.exists) || entry.is_none() && tree.has_children(name),
        };
        let child_info = select.recursive_match && !chosen && tree.has_subscribed_below(name);
        if !chosen && !child_info {
            continue;
        }
        let mut attributes = Vec::new();
        let exists = entry.is_some_and(|e| e.exists);
        if !exists {
            // RFC 5258 §3.4: the second follows from the first, but older clients know only it.
            attributes.push("\\NonExistent");
            attributes.push("\\Noselect");
        }
        attributes.push(if tree.has_children(name) { "\\HasChildren" } else { "\\HasNoChildren" });
        if subscribed && (select.subscribed || command.returns.subscribed) {
            attributes.push("\\Subscribed");
        }
        if !special.is_empty() {
            attributes.push(special);
        }
        let child_info = select.recursive_match && tree.has_subscribed_below(name);
        respond::list(out, "LIST", &attributes, name, utf8, child_info);
        if exists {
            selected.push(name.clone());
        }
    }
    selected
}

/// LSUB: a parent whose subscribed children `%` does not reach is told with \Noselect
/// (RFC 3501 §6.3.9).
pub fn lsub(reference: &str, pattern: &str, entries: &[Entry], utf8: bool, out: &mut Vec<u8>) {
    if pattern.is_empty() {
        out.extend_from_slice(b"* LSUB (\\Noselect) \"/\" \"\"\r\n");
        return;
    }
    let tree = Tree::new(entries);
    let pattern = format!("{reference}{pattern}");
    for name in tree.names.iter().filter(|name| matches_pattern(&pattern, name)) {
        if tree.entry(name).is_some_and(|e| e.subscribed) {
            respond::list(out, "LSUB", &[], name, utf8, false);
        } else if pattern.ends_with('%') && tree.has_subscribed_below(name) {
            respond::list(out, "LSUB", &["\\Noselect"], name, utf8, false);
        }
    }
}

/// The names and all their parents, INBOX first.
struct Tree<'e> {
    entries: &'e [Entry],
    names: Vec<String>,
    sorted: BTreeSet<String>,
    subscribed: BTreeSet<&'e str>,
}

impl<'e> Tree<'e> {
    fn new(entries: &'e [Entry]) -> Self {
        let mut sorted = BTreeSet::new();
        for entry in entries {
            let parents = entry.name.match_indices('/').filter_map(|(at, _)| entry.name.get(..at));
            sorted.extend(parents.filter(|p| !p.is_empty()).map(str::to_owned));
            sorted.insert(entry.name.clone());
        }
        let inbox = sorted.iter().filter(|n| *n == "INBOX");
        let names = inbox.chain(sorted.iter().filter(|n| *n != "INBOX")).cloned().collect();
        let subscribed = entries.iter().filter(|e| e.subscribed).map(|e| e.name.as_str()).collect();
        Self { entries, names, sorted, subscribed }
    }

    fn entry(&self, name: &str) -> Option<&'e Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    fn has_children(&self, name: &str) -> bool {
        let below = format!("{name}/");
        self.sorted.range(below.clone()..).next().is_some_and(|n| n.starts_with(&below))
    }

    fn has_subscribed_below(&self, name: &str) -> bool {
        let below = format!("{name}/");
        self.subscribed.range(below.as_str()..).next().is_some_and(|n| n.starts_with(&below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommandBody, Names, parse};

    fn entry(name: &str, special_use: &str, subscribed: bool) -> Entry {
        Entry { name: name.to_owned(), special_use: special_use.to_owned(), subscribed, exists: true }
    }

    fn ask(text: &str) -> Vec<String> {
        let entries = [
            entry("Sent", "\\Sent", true),
            entry("INBOX", "", true),
            entry("a/b/c", "", true),
            entry("Entwürfe", "\\Drafts", false),
            Entry { exists: false, ..entry("gone", "", true) },
        ];
        let mut out = Vec::new();
        match parse(format!("t {text}").as_bytes(), Names::Utf7).expect(text).body {
            CommandBody::List(command) => {
                list(&command, &entries, false, &mut out);
            }
            CommandBody::Lsub { reference, pattern } => lsub(&reference, &pattern, &entries, false, &mut out),
            _ => panic!("LIST or LSUB"),
        }
        String::from_utf8(out).expect("UTF-8").lines().map(|l| l.trim_start_matches("* ").to_owned()).collect()
    }

    #[test]
    fn plain_list() {
        assert_eq!(ask("LIST \"\" \"\""), [r#"LIST (\Noselect) "/" """#]);
        assert_eq!(
            ask("LIST \"\" *"),
            [
                r#"LIST (\HasNoChildren) "/" "INBOX""#,
                r#"LIST (\HasNoChildren \Drafts) "/" "Entw&APw-rfe""#,
                r#"LIST (\HasNoChildren \Sent) "/" "Sent""#,
                r#"LIST (\NonExistent \Noselect \HasChildren) "/" "a""#,
                r#"LIST (\NonExistent \Noselect \HasChildren) "/" "a/b""#,
                r#"LIST (\HasNoChildren) "/" "a/b/c""#,
            ]
        );
        assert_eq!(ask("LIST a/ %"), [r#"LIST (\NonExistent \Noselect \HasChildren) "/" "a/b""#]);
        assert_eq!(ask("LIST \"\" inbox"), [r#"LIST (\HasNoChildren) "/" "INBOX""#]);
    }

    #[test]
    fn extended_list() {
        assert_eq!(
            ask("LIST (SPECIAL-USE) \"\" (Se* x) RETURN (CHILDREN)"),
            [r#"LIST (\HasNoChildren \Sent) "/" "Sent""#]
        );
        assert_eq!(
            ask("LIST (SUBSCRIBED RECURSIVEMATCH) \"\" %"),
            [
                r#"LIST (\HasNoChildren \Subscribed) "/" "INBOX""#,
                r#"LIST (\HasNoChildren \Subscribed \Sent) "/" "Sent""#,
                r#"LIST (\NonExistent \Noselect \HasChildren) "/" "a" ("CHILDINFO" ("SUBSCRIBED"))"#,
                r#"LIST (\NonExistent \Noselect \HasNoChildren \Subscribed) "/" "gone""#,
            ]
        );
    }

    #[test]
    fn lsub_tells_parents() {
        assert_eq!(
            ask("LSUB \"\" %"),
            [r#"LSUB () "/" "INBOX""#, r#"LSUB () "/" "Sent""#, r#"LSUB (\Noselect) "/" "a""#, r#"LSUB () "/" "gone""#]
        );
        assert_eq!(ask("LSUB \"\" a/*"), [r#"LSUB () "/" "a/b/c""#]);
    }
}
