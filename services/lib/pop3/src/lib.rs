//! POP3 (RFC 1939, STD 53), the server's side.
//!
//! [`Session`] turns bytes into [`Effect`]s and takes [`Answer`]s for those that need one;
//! it touches no socket and knows no password. With CAPA and response codes (RFC 2449),
//! SYS and AUTH codes (RFC 3206), STLS (RFC 2595), AUTH (RFC 5034), UTF8 and LANG (RFC 6856).
//!
//! DELE only marks: a session that ends without QUIT removes nothing (RFC 1939 §6).

mod command;
mod session;
mod surrogate;
mod transfer;

pub use command::{Command, Malformed, Verb};
pub use session::{Answer, Config, Effect, Message, Refusal, Session, UniqueId};
pub use surrogate::surrogate;
pub use transfer::Transfer;
