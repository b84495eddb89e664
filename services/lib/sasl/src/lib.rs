//! Simple Authentication and Security Layer (RFC 4422), the server's side of a login.
//!
//! PLAIN, LOGIN, SCRAM-SHA-256 with and without channel binding, OAUTHBEARER, XOAUTH2 and EXTERNAL.
//! A state machine over raw bytes: the protocol around it (SMTP, IMAP, POP3) does the base64,
//! the directory verifies passwords and tokens. `*` cancels are the protocol's, too.
//!
//! ```
//! use sasl::{Mechanism, Server, Step};
//! let (mut server, step) = Server::start(Mechanism::Login, None);
//! assert_eq!(step, Step::Challenge(b"Username:".to_vec()));
//! assert_eq!(server.step(b"bob@example.com"), Step::Challenge(b"Password:".to_vec()));
//! let Step::Verify(login) = server.step(b"secret") else { panic!() };
//! assert_eq!(login.authcid, "bob@example.com");
//! ```

mod bearer;
mod client;
pub mod scram;
mod server;

pub use bearer::Bearer;
pub use client::plain_initial_response;
pub use server::{Login, Mechanism, Reason, Server, Step, UnknownMechanism};
