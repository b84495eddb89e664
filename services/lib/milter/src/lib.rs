//! The milter protocol, the mail server's side: what Sendmail's libmilter speaks, version 6.
//!
//! No RFC has it; the words are those of libmilter's `mfdef.h`. A filter hears of a message step by
//! step and answers each step. [`Client`] owns no socket: each step queues octets ([`Client::output`])
//! and tells whether an answer is due, which [`Client::answer`] reads.
//!
//! A filter may add header fields and ask for quarantine, no more: what a client sent is stored as it
//! came (Invariant 10). One that insists on rewriting messages ends the negotiation itself.

mod client;
mod packet;

pub use client::{Client, MAX_BODY, Peer, Step};
pub use packet::{Answer, Broken, Field, Rejection};
