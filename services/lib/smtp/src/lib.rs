//! The Simple Mail Transfer Protocol (RFC 5321) without sockets: both sides as state machines.
//!
//! - [`server`]: MX and submission (RFC 6409). Bytes in, replies and effects out.
//! - [`client`]: one connection of a relay, transaction after transaction.
//!
//! Both keep a bounded [`Transcript`] of the dialogue, without bodies and credentials.

pub mod client;
mod reply;
pub mod server;
mod transcript;

pub use reply::{EnhancedCode, Reply};
pub use transcript::Transcript;
