//! Maildir++: folders, file names, and what Dovecot keeps beside them.

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::Context as _;
use proto::mailboxes::Flags;

use super::{ANSWERED, DELETED, DRAFT, Entry, FLAGGED, Folder, SEEN, Uidl};

/// `cur`'s letters and our bits; P (passed on) is a keyword.
const LETTERS: [(char, u32); 5] = [('D', DRAFT), ('F', FLAGGED), ('R', ANSWERED), ('S', SEEN), ('T', DELETED)];
const FORWARDED: &str = "$Forwarded";
/// Keywords that file names can say, `a` to `z`.
pub const MAX_KEYWORDS: usize = 26;

pub fn read(root: &Path, uidl: Uidl) -> anyhow::Result<Vec<Folder>> {
    anyhow::ensure!(root.join("cur").is_dir(), "{} is no Maildir: it has no cur", root.display());
    let mut folders = vec![folder(root, "INBOX".into(), uidl)?];
    let mut paths: Vec<PathBuf> =
        fs::read_dir(root).with_context(|| root.display().to_string())?.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(levels) = name.strip_prefix('.').filter(|_| path.join("cur").is_dir()) {
            let name = levels.split('.').map(decode).collect::<Vec<_>>().join("/");
            folders.push(folder(&path, name, uidl)?);
        }
    }
    Ok(folders)
}

fn folder(path: &Path, name: String, uidl: Uidl) -> anyhow::Result<Folder> {
    let list = optional(&path.join("dovecot-uidlist"))?.map(|text| UidList::read(&text)).unwrap_or_default();
    let keywords = optional(&path.join("dovecot-keywords"))?.map(|text| read_keywords(&text)).unwrap_or_default();
    let mut messages = Vec::new();
    for place in ["cur", "new"] {
        let files = match fs::read_dir(path.join(place)) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            files => files.with_context(|| path.display().to_string())?,
        };
        for file in files {
            let file = file?;
            let file_name = file.file_name().to_string_lossy().into_owned();
            // A file may have been renamed or removed since its name was read.
            let Some(metadata) = file.metadata().ok().filter(|m| m.is_file() && !file_name.starts_with('.')) else {
                continue;
            };
            let (base, letters) = file_name.split_once(":2,").unwrap_or((&file_name, ""));
            let listed = list.uids.get(base);
            let date = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let unique_id = match (uidl, listed, list.uid_validity) {
                (_, Some((_, unique_id)), _) if !unique_id.is_empty() => unique_id.clone(),
                (Uidl::Dovecot, Some((uid, _)), Some(validity)) => format!("{uid:08x}{validity:08x}"),
                _ => String::new(),
            };
            messages.push(Entry {
                key: base.to_owned(),
                file: file.path(),
                range: None,
                size: metadata.len(),
                flags: flags(letters, &keywords),
                date_ms: date.and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or_default(),
                uid: listed.map(|(uid, _)| *uid),
                uidl: unique_id,
            });
        }
    }
    // Those without UID came last; a base name begins with the time of its arrival.
    messages.sort_by(|a, b| (a.uid.is_none(), a.uid, &a.key).cmp(&(b.uid.is_none(), b.uid, &b.key)));
    Ok(Folder { name, uid_validity: list.uid_validity, messages })
}

/// Modified UTF-7, as IMAP has names (RFC 3501 §5.1.3); what is none stays as it is.
fn decode(level: &str) -> String {
    imap::decode_utf7(level.as_bytes()).unwrap_or_else(|| level.to_owned())
}

fn optional(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// `3 V1276528487 N25022 G…`, then `25006 P<unique-id> :1276528487.M364837P9451.host`.
#[derive(Default)]
struct UidList {
    uid_validity: Option<u32>,
    /// By base name: UID and unique-id.
    uids: HashMap<String, (u32, String)>,
}

impl UidList {
    fn read(text: &str) -> Self {
        let mut lines = text.lines();
        let mut head = lines.next().unwrap_or_default().split(' ');
        if head.next() != Some("3") {
            return Self::default();
        }
        let uid_validity = head.find_map(|f| f.strip_prefix('V')).and_then(|v| v.parse().ok());
        let line = |line: &str| {
            let (fields, name) = line.split_once(" :")?;
            let mut fields = fields.split(' ');
            let uid = fields.next()?.parse().ok()?;
            let unique_id = fields.find_map(|f| f.strip_prefix('P')).unwrap_or_default();
            let base = name.split_once(":2,").map_or(name, |(base, _)| base);
            Some((base.to_owned(), (uid, unique_id.to_owned())))
        };
        Self { uid_validity, uids: lines.filter_map(line).collect() }
    }
}

/// `0 $Label1`: what the letter `a` means.
fn read_keywords(text: &str) -> HashMap<char, String> {
    let line = |line: &str| {
        let (number, keyword) = line.split_once(' ')?;
        let letter = ('a'..='z').nth(number.parse().ok()?)?;
        Some((letter, keyword.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn flags(letters: &str, keywords: &HashMap<char, String>) -> Flags {
    let system = LETTERS.iter().filter(|(letter, _)| letters.contains(*letter)).map(|(_, bit)| bit).sum();
    let passed = letters.contains('P').then(|| FORWARDED.to_owned());
    let named = letters.chars().filter_map(|letter| keywords.get(&letter).cloned());
    Flags { system, keywords: passed.into_iter().chain(named).collect() }
}

/// The letters for flags; `keywords` are those that have a letter, in its order.
pub fn letters(flags: &Flags, keywords: &[String]) -> String {
    let forwarded = flags.keywords.iter().any(|k| k.eq_ignore_ascii_case(FORWARDED));
    let mut letters: Vec<char> =
        LETTERS.iter().filter(|(_, bit)| flags.system & bit != 0).map(|(letter, _)| *letter).collect();
    letters.extend(forwarded.then_some('P'));
    letters.sort_unstable();
    let named = ('a'..='z').zip(keywords).filter(|(_, k)| flags.keywords.contains(k)).map(|(letter, _)| letter);
    letters.into_iter().chain(named).collect()
}

/// `.Lists.rust`; a dot within a level is written as modified UTF-7 has it.
pub fn directory(root: &Path, mailbox: &str) -> PathBuf {
    if mailbox == "INBOX" {
        return root.to_owned();
    }
    let levels: Vec<String> = mailbox.split('/').map(|l| imap::encode_utf7(l).replace('.', "&AC4-")).collect();
    root.join(format!(".{}", levels.join(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dovecot_keeps() {
        let list =
            UidList::read("3 V1276528487 N25022 G0123\n25006 W2481 Pabc :1.M3.host,S=5\n7 :2.M4.host:2,S\nx :y\n");
        assert_eq!(list.uid_validity, Some(1_276_528_487));
        assert_eq!(list.uids.get("1.M3.host,S=5"), Some(&(25_006, "abc".to_owned())));
        assert_eq!(list.uids.get("2.M4.host"), Some(&(7, String::new())));
        assert!(UidList::read("1 V5\n7 :a\n").uid_validity.is_none(), "another version");
        let keywords = read_keywords("0 $Label1\n1 Work\n99 no\n");
        let flags = flags("FPSb", &keywords);
        assert_eq!(flags.system, FLAGGED | SEEN);
        assert_eq!(flags.keywords, ["$Forwarded", "Work"]);
        assert_eq!(letters(&flags, &["$Label1".into(), "Work".into()]), "FPSb");
    }

    #[test]
    fn names_of_folders() {
        let root = Path::new("/m");
        assert_eq!(directory(root, "INBOX"), root);
        assert_eq!(directory(root, "Lists/a.b"), root.join(".Lists.a&AC4-b"));
        assert_eq!(decode("a&AC4-b"), "a.b");
        assert_eq!(decode(&imap::encode_utf7("Entwürfe & mehr")), "Entwürfe & mehr");
        assert_eq!(decode("100% &"), "100% &", "what is no UTF-7 stays");
    }
}
