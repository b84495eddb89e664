//! The contracts between the services, generated from `postroad/*/v1/*.proto`.
//!
//! Fields are only ever added (Invariant 9): N and N-1 talk to each other.

macro_rules! contract {
    ($($name:ident)*) => {$(
        pub mod $name {
            #![allow(clippy::all, reason = "generated")]
            include!(concat!(env!("OUT_DIR"), "/postroad.", stringify!($name), ".v1.rs"));
        }
    )*};
}

contract! { admin auth directory journey mailboxes relay rules spool }

/// Content travels in chunks of this many bytes, so that one call costs no connection its turn.
pub const CHUNK: usize = 256 * 1024;

/// No gRPC message is larger: a chunk, or one fetched message of the largest size we accept.
pub const MAX_GRPC_MESSAGE: usize = 160 * 1024 * 1024;

/// Metadata of a Mailboxes call: the account that asks, when it is not the owner (RFC 4314).
pub const ACTOR: &str = "postroad-actor";

/// The text of PERMISSION_DENIED when a right is missing, and not room.
pub const NO_RIGHT: &str = "no right for that";
