//! Addresses and identifiers of mail (RFC 5321 §4.1.2, RFC 5598).
//!
//! Everything that names a person, a host or a message in the envelope. Header fields are
//! the `message` crate's; they never decide where mail goes (RFC 5321 §2.3.1).

mod mailbox;
mod queue_id;

pub use mailbox::{Address, AddressError, Domain};
pub use queue_id::{QueueId, QueueIdError};
