//! The structure of a message (RFC 5322, RFC 2045–2047).
//!
//! Reads header fields, addresses and the tree of MIME parts out of bytes that anybody may have
//! sent. Nothing here fails: a message that breaks the rules still has a structure, because IMAP
//! has to show it. Nothing here changes a byte either (invariant 10): everything is offsets into
//! the message and copies of short values, all of them bounded.

mod addresses;
mod date;
mod decode;
mod envelope;
mod header;
mod media;
mod preview;
mod spans;
mod structure;
mod thread;

pub use addresses::{EnvelopeAddress, addresses, from_addresses};
pub use date::{Day, sent_day, sent_time};
pub use decode::{charset_to_utf8, decode_transfer, decode_words, knows_charset};
pub use envelope::Envelope;
pub use header::{Field, Fields, count_fields, field, fields, is_empty_line, remove_fields, split, unfold};
pub use media::{Disposition, MediaType, Parameter};
pub use preview::preview;
pub use spans::PartSpan;
pub use structure::{MAX_DEPTH, MAX_PARTS, Part, PartKind, Structure};
pub use thread::{base_subject, message_ids, references, thread_root};
