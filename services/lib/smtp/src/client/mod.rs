//! The client's side of SMTP (RFC 5321), as a relay speaks it.
//!
//! [`Client`] is driven by its caller: ask [`Client::next`] what to do, do it, tell the result.
//!
//! ```no_run
//! use smtp::client::{Action, Client, Envelope, Failure, StartTls};
//! # fn write(_: &[u8]) {} fn read() -> Vec<u8> { Vec::new() } fn chunks() -> Vec<Vec<u8>> { Vec::new() }
//! # fn handshake() -> bool { true }
//! # fn run(envelope: Envelope) {
//! let mut client = Client::new("mx.sender.example", StartTls::Opportunistic);
//! let mut envelope = Some(envelope);
//! loop {
//!     match client.next() {
//!         Action::Write(bytes) => write(&bytes),
//!         // Read with this timeout: octets, or the end of the connection.
//!         Action::Read(_timeout) => match read() {
//!             bytes if bytes.is_empty() => client.fail(Failure::Closed),
//!             bytes => client.receive(&bytes),
//!         },
//!         Action::StartTls if handshake() => client.tls_started(),
//!         Action::StartTls => client.fail(Failure::Tls("certificate …".into())),
//!         // Greeted, and after every transaction: the connection may be kept for the next one.
//!         Action::Idle => match envelope.take() {
//!             Some(envelope) => client.send(envelope),
//!             None => client.quit(),
//!         },
//!         Action::SendContent => {
//!             let mut out = Vec::new();
//!             for chunk in chunks() {
//!                 client.encode(&chunk, &mut out); // dot-stuffed, write as you like
//!             }
//!             client.end_of_content(&mut out); // appends the final dot
//!             write(&out);
//!         }
//!         // One outcome a recipient, in the envelope's order.
//!         Action::Finished(outcomes) => drop(outcomes),
//!         // No transaction was open: greeting, EHLO or TLS did not work.
//!         Action::Failed(failure) => drop(failure),
//!         Action::Close => break,
//!     }
//! }
//! # }
//! ```

mod auth;
mod capabilities;
mod content;
mod dot_stuffing;
mod machine;
mod outcome;
mod reply_parser;
mod transaction;

pub use auth::Credentials;
pub use capabilities::Capabilities;
pub use dot_stuffing::DotStuffer;
pub use machine::{Action, Client, StartTls};
pub use outcome::{Envelope, Failure, Outcome, Recipient, Stage};
pub use reply_parser::{ReplyError, ReplyParser};
