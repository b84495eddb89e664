//! Mail in and out of other formats: `postroad admin import` and `export`.

mod export;
mod import;
mod journal;
mod maildir;
mod mbox;
mod progress;

use std::path::PathBuf;

use clap::Args;
pub use export::Export;
pub use import::Import;
use proto::mailboxes::Flags;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Maildir++ as Dovecot and Courier have it: folders are `.Name` beside `cur`
    Maildir,
    /// One file a mailbox
    Mbox,
}

/// POP3 clients know messages by a unique-id (RFC 1939 §7) and fetch those again whose id is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Uidl {
    /// Those that dovecot-uidlist has, else our own
    Listed,
    /// As Dovecot makes them when it is not told otherwise: UID and UIDVALIDITY, `%08Xu%08Xv`
    Dovecot,
}

/// What is to be imported into one mailbox.
#[derive(Debug, PartialEq, Eq)]
struct Folder {
    /// UTF-8, `/` between levels.
    name: String,
    uid_validity: Option<u32>,
    messages: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// The same in the next run.
    key: String,
    file: PathBuf,
    /// A part of the file; all of it when `None`.
    range: Option<(u64, u64)>,
    size: u64,
    flags: Flags,
    date_ms: i64,
    uid: Option<u32>,
    /// Empty: none.
    uidl: String,
}

const SEEN: u32 = 1;
const ANSWERED: u32 = 2;
const FLAGGED: u32 = 4;
const DELETED: u32 = 8;
const DRAFT: u32 = 16;

/// Files on a server's disk have bare LF as line ends; a message has CRLF (RFC 5322 §2.1). One that
/// has CRLF anywhere is taken as it is.
fn with_crlf(bytes: Vec<u8>) -> Vec<u8> {
    if bytes.windows(2).any(|pair| pair == b"\r\n") {
        return bytes;
    }
    let lines = bytes.iter().filter(|b| **b == b'\n').count();
    let mut out = Vec::with_capacity(bytes.len() + lines);
    for byte in bytes {
        if byte == b'\n' {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}

#[derive(Debug, Args)]
struct Whose {
    /// The account
    address: String,
    /// Maildir: a directory. mbox: a file, or (for export) a directory
    path: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Maildir)]
    format: Format,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends() {
        assert_eq!(with_crlf(b"a\nb\n".to_vec()), b"a\r\nb\r\n");
        assert_eq!(with_crlf(b"a\r\nb\n".to_vec()), b"a\r\nb\n");
        assert_eq!(with_crlf(Vec::new()), b"");
    }
}
