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

contract! { admin auth console directory journey mailboxes relay report rules spool }

/// Content travels in chunks of this many bytes, so that one call costs no connection its turn.
pub const CHUNK: usize = 256 * 1024;

/// No gRPC message is larger: a chunk, or one fetched message of the largest size we accept.
pub const MAX_GRPC_MESSAGE: usize = 160 * 1024 * 1024;

/// Metadata of a Mailboxes call: the account that asks, when it is not the owner (RFC 4314).
pub const ACTOR: &str = "postroad-actor";

/// The text of PERMISSION_DENIED when a right is missing, and not room.
pub const NO_RIGHT: &str = "no right for that";

/// Whether a call may be made twice without harm: the contract says so (`idempotency_level`).
pub fn is_repeatable(path: &str) -> bool {
    const PATHS: &[&str] = include!(concat!(env!("OUT_DIR"), "/repeatable.rs"));
    PATHS.contains(&path)
}

#[cfg(test)]
mod tests {
    use super::is_repeatable;

    #[test]
    fn reading_may_be_repeated_and_claiming_not() {
        assert!(is_repeatable("/postroad.directory.v1.Directory/Resolve"));
        assert!(is_repeatable("/postroad.spool.v1.Spool/Accept"));
        assert!(!is_repeatable("/postroad.spool.v1.Spool/Claim"));
        assert!(!is_repeatable("/postroad.mailboxes.v1.Mailboxes/Append"));
    }
}
