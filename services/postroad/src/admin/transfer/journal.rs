//! What an import has done so far, so that the next one goes on there and doubles nothing.
//!
//! A group of messages is appended all or not at all. `begin` is written before, with the
//! mailbox's UIDNEXT, and `done` after it: of one group at most nobody knows, and the mailbox
//! itself tells.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
};

use anyhow::Context as _;
use serde_json::{Value, json};

pub struct Journal {
    file: File,
    done: HashSet<(String, String)>,
    /// Begun and not known to be done.
    pub open: Option<Open>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub mailbox: String,
    pub uid_next: u32,
    pub keys: Vec<String>,
}

impl Journal {
    /// `account` guards against going on with another one's journal.
    pub fn open(path: &Path, account: &str) -> anyhow::Result<Self> {
        let name = || path.display().to_string();
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).with_context(name)?;
        let (mut done, mut open) = (HashSet::new(), None);
        let mut is_new = true;
        for line in BufReader::new(&file).lines() {
            // The last line may be cut off: then it was not written.
            let Ok(entry) = serde_json::from_str::<Value>(&line.with_context(name)?) else { continue };
            if let Some(of) = entry.get("account").and_then(Value::as_str) {
                anyhow::ensure!(of == account, "{} is of an import into {of}", path.display());
                is_new = false;
            } else if let Some(begun) = entry.get("begin").and_then(read) {
                open = Some(begun);
            } else if entry.get("done").is_some() {
                let Open { mailbox, keys, .. } =
                    open.take().unwrap_or(Open { mailbox: String::new(), uid_next: 0, keys: vec![] });
                done.extend(keys.into_iter().map(|key| (mailbox.clone(), key)));
            } else if entry.get("undone").is_some() {
                open = None;
            }
        }
        if is_new {
            writeln!(file, "{}", json!({ "account": account }))?;
        } else {
            // A line that was cut off ends here.
            writeln!(file)?;
        }
        Ok(Self { file, done, open })
    }

    pub fn has(&self, mailbox: &str, key: &str) -> bool {
        self.done.contains(&(mailbox.to_owned(), key.to_owned()))
    }

    pub fn begin(&mut self, open: Open) -> anyhow::Result<()> {
        let begin = json!({ "mailbox": open.mailbox, "uid_next": open.uid_next, "keys": open.keys });
        self.open = Some(open);
        self.write(&json!({ "begin": begin }))
    }

    /// The open group is in the mailbox, or (`false`) is not.
    pub fn end(&mut self, is_done: bool) -> anyhow::Result<()> {
        if let Some(open) = self.open.take().filter(|_| is_done) {
            self.done.extend(open.keys.into_iter().map(|key| (open.mailbox.clone(), key)));
        }
        self.write(&if is_done { json!({ "done": true }) } else { json!({ "undone": true }) })
    }

    fn write(&mut self, entry: &Value) -> anyhow::Result<()> {
        writeln!(self.file, "{entry}").context("journal of the import")?;
        self.file.sync_data().context("journal of the import")
    }
}

fn read(entry: &Value) -> Option<Open> {
    Some(Open {
        mailbox: entry.get("mailbox")?.as_str()?.to_owned(),
        uid_next: u32::try_from(entry.get("uid_next")?.as_u64()?).ok()?,
        keys: entry.get("keys")?.as_array()?.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_next_run_knows_what_is_done_and_what_is_open() {
        let path = std::env::temp_dir().join(format!("postroad-journal-{}", uuid::Uuid::new_v4()));
        let group = |key: &str| Open { mailbox: "INBOX".into(), uid_next: 7, keys: vec![key.into()] };
        let mut journal = Journal::open(&path, "a@b.c").unwrap();
        journal.begin(group("1")).unwrap();
        journal.end(true).unwrap();
        journal.begin(group("2")).unwrap();
        journal.end(false).unwrap();
        journal.begin(group("3")).unwrap();
        drop(journal);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"begin\":{\"mailb").unwrap();
        for _ in 0..2 {
            let journal = Journal::open(&path, "a@b.c").unwrap();
            assert!(journal.has("INBOX", "1") && !journal.has("INBOX", "2") && !journal.has("Sent", "1"));
            assert_eq!(journal.open, Some(group("3")));
        }
        assert!(Journal::open(&path, "other@b.c").is_err());
        std::fs::remove_file(path).unwrap();
    }
}
