//! DNS as mail uses it: one resolver for a process, and the answers a relay needs.
//!
//! [`Resolver`] wraps hickory with our defaults and our errors; [`mx`] is the pure choice of
//! hosts (RFC 5321 §5.1). Whether a failure may pass by itself is [`LookupError::is_transient`]:
//! a name server that is down must never bounce mail.

mod config;
mod error;
mod flight;
pub mod mx;
mod resolver;
mod secure;

pub use config::Config;
pub use error::LookupError;
pub use hickory_resolver::TokioResolver;
pub use resolver::{BuildError, Resolver};
pub use secure::{Answer, SecureResolver, Tlsa};

/// A name in the form the DNS knows (RFC 5890 A-labels), in lower case; none when it has no such.
pub fn to_ascii(name: &str) -> Option<String> {
    idna::domain_to_ascii(name).ok().filter(|ascii| !ascii.is_empty())
}
