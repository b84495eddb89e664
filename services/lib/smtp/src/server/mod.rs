//! The server's side of SMTP: MX (RFC 5321) and submission (RFC 6409) in one state machine.
//!
//! [`Session`] owns no socket. Its caller keeps the input buffer, asks [`Session::next`] what
//! to do, does it and reports the result through the method that the [`Effect`] names:
//!
//! ```no_run
//! use bytes::{Buf, Bytes, BytesMut};
//! use smtp::{Reply, server::{Config, Effect, Session}};
//! # fn write(_: &[u8]) {} fn read(_: &mut BytesMut) {} fn commit(_: Vec<Bytes>) -> Option<&'static str> { None }
//! # fn handshake() {}
//! # fn run(config: std::sync::Arc<Config>) {
//! let mut session = Session::new(config, false);
//! let mut input = BytesMut::new();
//! loop {
//!     match session.next(&mut input) {
//!         Effect::Read => read(&mut input), // append what the client sends
//!         Effect::Write(bytes) => write(&bytes),
//!         Effect::StartTls => { handshake(); session.tls_started() }
//!         Effect::Sender(_mail) => session.sender_accepted(), // or sender_refused(reply)
//!         Effect::Recipient(_rcpt) => session.recipient_accepted(), // or recipient_refused(reply)
//!         Effect::Message(content) => match commit(content) {
//!             Some(id) => session.committed(id), // the only way to a 250 after the final dot
//!             None => session.message_refused(Reply::new(451, (4, 3, 0), "try again later")),
//!         },
//!         Effect::Authenticate { .. } | Effect::AuthResponse(_) => session.auth_failed(Reply::new(535, (5, 7, 8), "no")),
//!         Effect::AuthAborted => {}
//!         Effect::Close => break,
//!     }
//! }
//! # }
//! ```
//!
//! Nothing that a client sends grows the session beyond one command line, one message of
//! `max_message_size`, and the bounded transcript.

mod command;
mod config;
mod content;
mod date_time;
mod effect;
mod parameters;
mod path;
mod pieces;
mod session;

pub use command::{Command, Hold, MailFrom, RcptTo, SyntaxError};
pub use config::Config;
pub use content::is_binary;
pub use effect::{Effect, Hello};
pub use pieces::{PIECE, Pieces};
pub use session::Session;
