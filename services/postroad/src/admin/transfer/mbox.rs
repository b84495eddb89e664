//! mbox (RFC 4155): messages behind "From " lines, one file a mailbox.
//!
//! Read in one pass that keeps offsets only. In the text `>From `, `>>From ` … lose one `>` (mboxrd).

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use anyhow::Context as _;
use proto::mailboxes::Flags;

use super::{ANSWERED, DELETED, DRAFT, Entry, FLAGGED, Folder, SEEN};

/// A line beyond this is not looked at further: it is no field of ours.
const MAX_LOOK: u64 = 1_000;

pub fn read(path: &Path, mailbox: &str) -> anyhow::Result<Folder> {
    let mut reader = BufReader::new(File::open(path).with_context(|| path.display().to_string())?);
    let mut folder = Folder { name: mailbox.to_owned(), uid_validity: None, messages: Vec::new() };
    let (mut at, mut line) = (0, Vec::new());
    let mut is_after_blank = true;
    let mut is_header = false;
    loop {
        line.clear();
        let begin = at;
        let read = next_line(&mut reader, &mut line)?;
        at += read;
        if read == 0 {
            break;
        }
        let text = line.trim_ascii_end();
        if is_after_blank && line.starts_with(b"From ") {
            close(&mut folder, begin);
            folder.messages.push(Entry {
                key: begin.to_string(),
                file: path.to_owned(),
                range: Some((at, at)),
                size: 0,
                flags: Flags::default(),
                date_ms: date(text).unwrap_or_default(),
                uid: None,
                uidl: String::new(),
            });
            is_header = true;
        } else if folder.messages.is_empty() {
            anyhow::ensure!(text.is_empty(), "{} is no mbox: it does not begin with \"From \"", path.display());
        } else if is_header {
            is_header = !text.is_empty();
            field(&mut folder, text);
        }
        is_after_blank = text.is_empty();
    }
    close(&mut folder, at);
    Ok(folder)
}

/// The first octets of a line into `line`, and its whole length.
fn next_line(reader: &mut BufReader<File>, line: &mut Vec<u8>) -> anyhow::Result<u64> {
    let mut read = reader.by_ref().take(MAX_LOOK).read_until(b'\n', line)? as u64;
    let mut is_cut = line.last() != Some(&b'\n') && read == MAX_LOOK;
    while is_cut {
        let mut more = Vec::new();
        read += reader.by_ref().take(1 << 16).read_until(b'\n', &mut more)? as u64;
        is_cut = more.last() != Some(&b'\n') && !more.is_empty();
    }
    Ok(read)
}

fn close(folder: &mut Folder, end: u64) {
    if let Some(last) = folder.messages.last_mut() {
        let begin = last.range.map_or(end, |(begin, _)| begin);
        last.range = Some((begin, end));
        last.size = end - begin;
    }
}

/// What mail programs note in the header: flags, UID, and the mailbox's UIDVALIDITY.
fn field(folder: &mut Folder, line: &[u8]) {
    let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|l| l.split_once(':')) else { return };
    let value = value.trim();
    let is_first = folder.messages.len() == 1;
    let Some(message) = folder.messages.last_mut() else { return };
    let marks: &[(char, u32)] = match name.to_ascii_lowercase().as_str() {
        "status" => &[('R', SEEN)],
        "x-status" => &[('A', ANSWERED), ('F', FLAGGED), ('D', DELETED), ('T', DRAFT)],
        "x-uid" => {
            message.uid = value.parse().ok();
            return;
        }
        "x-imap" | "x-imapbase" if is_first => {
            folder.uid_validity = value.split(' ').next().and_then(|v| v.parse().ok());
            return;
        }
        _ => return,
    };
    message.flags.system |= marks.iter().filter(|(mark, _)| value.contains(*mark)).map(|(_, bit)| bit).sum::<u32>();
}

/// `From bob@example.com Thu Jan  1 00:00:00 1970`, in UTC.
fn date(line: &[u8]) -> Option<i64> {
    let line = std::str::from_utf8(line).ok()?;
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let at = fields.iter().position(|f| f.len() == 8 && f.as_bytes().get(2) == Some(&b':'))?;
    let before = |n: usize| fields.get(at.checked_sub(n)?).copied();
    let text = format!("{} {} {} {}", before(2)?, before(1)?, fields.get(at)?, fields.get(at + 1)?);
    let civil = jiff::civil::DateTime::strptime("%b %d %H:%M:%S %Y", text).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// The message's own bytes: without the empty line before the next "From ", unquoted.
pub fn content(file: &Path, (begin, end): (u64, u64)) -> anyhow::Result<Vec<u8>> {
    let mut reader = File::open(file)?;
    reader.seek(SeekFrom::Start(begin))?;
    let mut stored = Vec::new();
    reader.take(end - begin).read_to_end(&mut stored)?;
    let stored = stored.strip_suffix(b"\r\n\r\n").map(|s| [s, b"\r\n"].concat()).unwrap_or(stored);
    let stored = stored.strip_suffix(b"\n\n").map(|s| [s, b"\n"].concat()).unwrap_or(stored);
    let mut content = Vec::with_capacity(stored.len());
    for line in stored.split_inclusive(|b| *b == b'\n') {
        content.extend_from_slice(if is_from(line, 1) { line.get(1..).unwrap_or_default() } else { line });
    }
    Ok(content)
}

/// A message as it stands in an mbox.
pub fn write(content: &[u8], date_ms: i64) -> Vec<u8> {
    let at = jiff::Timestamp::from_millisecond(date_ms).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC);
    let mut out = format!("From MAILER-DAEMON {}\n", at.strftime("%a %b %e %H:%M:%S %Y")).into_bytes();
    for line in content.split_inclusive(|b| *b == b'\n') {
        if is_from(line, 0) {
            out.push(b'>');
        }
        match line.strip_suffix(b"\r\n") {
            Some(text) => {
                out.extend_from_slice(text);
                out.push(b'\n');
            }
            None => out.extend_from_slice(line),
        }
    }
    if !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    out.push(b'\n');
    out
}

/// `From ` behind at least so many `>`.
fn is_from(line: &[u8], quotes: usize) -> bool {
    let quoted = line.iter().take_while(|b| **b == b'>').count();
    quoted >= quotes && line.get(quoted..).is_some_and(|rest| rest.starts_with(b"From "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn messages_flags_and_quotes() {
        let path = std::env::temp_dir().join(format!("postroad-mbox-{}", uuid::Uuid::new_v4()));
        let long = "x".repeat(70_000);
        let text = format!(
            "From bob@example.com Thu Jan  1 00:01:00 1970\nX-IMAP: 77 12\nStatus: RO\nX-Status: AF\nX-UID: 9\n\n\
             one\nFrom here on\n>From quoted\n{long}\n\n\
             From ann@example.com Fri Jan  2 00:00:00 1970\nSubject: two\n\nStatus: R\n"
        );
        std::fs::write(&path, &text).unwrap();
        let folder = read(&path, "Old").unwrap();
        assert_eq!((folder.name.as_str(), folder.uid_validity, folder.messages.len()), ("Old", Some(77), 2));
        let [one, two] = &folder.messages[..] else { unreachable!() };
        assert_eq!((one.date_ms, one.uid, one.flags.system), (60_000, Some(9), SEEN | ANSWERED | FLAGGED));
        assert_eq!((two.date_ms, two.uid, two.flags.system), (86_400_000, None, 0), "a body is no header");
        let first = content(&path, one.range.unwrap()).unwrap();
        assert!(first.ends_with(format!("one\nFrom here on\nFrom quoted\n{long}\n").as_bytes()));
        assert_eq!(content(&path, two.range.unwrap()).unwrap(), b"Subject: two\n\nStatus: R\n");
        std::fs::write(&path, "no mbox\n").unwrap();
        assert!(read(&path, "Old").is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_written_is_read_again() {
        let message = b"Subject: x\r\n\r\nFrom me\r\n>From you\r\n\r\n";
        let path = std::env::temp_dir().join(format!("postroad-mbox-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, [write(message, 60_000), write(b"A: b\r\n\r\nend", 0)].concat()).unwrap();
        let folder = read(&path, "x").unwrap();
        let back = |n: usize| super::super::with_crlf(content(&path, folder.messages[n].range.unwrap()).unwrap());
        assert_eq!(back(0), message);
        assert_eq!(back(1), b"A: b\r\n\r\nend\r\n");
        assert_eq!(folder.messages[0].date_ms, 60_000);
        std::fs::remove_file(path).unwrap();
    }
}
