//! IMAP4rev1 (RFC 3501) and IMAP4rev2 (RFC 9051), sans-IO.
//!
//! - [`Framer`] cuts what a client sends into commands and appended messages, within bounds;
//! - [`parse`] reads a command, with UIDPLUS (RFC 4315), MOVE (RFC 6851), CONDSTORE (RFC 7162),
//!   ESEARCH (RFC 4731), SEARCHRES (RFC 5182), LIST-EXTENDED (RFC 5258), LIST-STATUS (RFC 5819),
//!   SPECIAL-USE (RFC 6154), BINARY's FETCH (RFC 3516), MULTIAPPEND (RFC 3502), REPLACE
//!   (RFC 8508), SORT and THREAD (RFC 5256), PARTIAL (RFC 9394), METADATA (RFC 5464), QUOTA
//!   (RFC 9208), CATENATE (RFC 4469), NOTIFY (RFC 5465), ACL (RFC 4314), ID, ENABLE, IDLE and NAMESPACE;
//! - [`sort`] and [`thread`] put messages in order;
//! - [`structure`], [`section`] and [`respond`] write what the server says;
//! - [`View`] is the selected mailbox as this client knows it: sequence numbers are its matter;
//! - [`search`] decides whether a message matches.
//!
//! Nothing here knows a socket, a clock or where mail is stored. Bytes from the client never
//! panic and never grow memory beyond the framer's bounds (invariant 8).

mod command;
mod cursor;
mod date;
mod flags;
mod framer;
pub mod list;
mod mailbox_name;
pub mod notify;
mod parse_acl;
mod parse_append;
mod parse_fetch;
mod parse_metadata;
mod parse_search;
mod parser;
mod pattern;
pub mod respond;
pub mod search;
pub mod section;
mod sequence;
pub mod sort;
pub mod structure;
pub mod thread;
mod url;
mod view;

pub use command::{
    AppendHead, AppendItem, AppendPiece, Command, CommandBody, FetchItem, ListCommand, ListReturn, ListSelect,
    MetadataRequest, Partial, Qresync, SearchCommand, SearchReturn, StatusItem, StoreMode,
};
pub use cursor::Names;
pub use date::{internal_date, parse_internal_date};
pub use flags::Flags;
pub use framer::{Framed, Framer, LineTooLong, MAX_COMMAND, MAX_LITERAL};
pub use mailbox_name::{decode_utf7, encode_utf7};
pub use parse_acl::{RIGHTS, shown_rights};
pub use parse_append::parse_append_head;
pub use parser::{ParseError, parse, tag_of};
pub use pattern::matches_pattern;
pub use section::{Section, SectionText};
pub use sequence::{Bound, SequenceSet, UidRanges};
pub use url::MessageUrl;
pub use view::View;
