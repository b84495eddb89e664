//! ManageSieve (RFC 5804), the server's side: how mail clients store Sieve scripts.
//!
//! [`Session`] is fed octets and asks for effects; it knows no socket, no storage and no script.
//! Lines, literals and what is kept of a client that talks without waiting are bounded.

mod command;
mod reader;
mod session;

pub use command::Command;
pub use session::{Answer, Config, Effect, Refusal, Session};
