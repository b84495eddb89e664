//! Addresses and identifiers of mail (RFC 5321 §4.1.2, RFC 5598).
//!
//! Everything that names a person, a host or a message in the envelope. Header fields are
//! the `message` crate's; they never decide where mail goes (RFC 5321 §2.3.1).

mod mailbox;
mod queue_id;

pub use mailbox::{Address, AddressError, Domain};
pub use queue_id::{QueueId, QueueIdError};

/// A host and the domains above it that can be somebody's: `mx.a.example`, `a.example`.
pub fn and_parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, parent)| parent))
        .filter(|name| name.contains('.'))
        .take(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_its_domains() {
        assert_eq!(and_parents("mx.a.example").collect::<Vec<_>>(), ["mx.a.example", "a.example"]);
        assert_eq!(and_parents("localhost").count(), 0);
    }
}
