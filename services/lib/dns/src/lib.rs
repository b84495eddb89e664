//! DNS as mail uses it: one resolver for a process, and the answers a relay needs.
//!
//! [`Resolver`] wraps hickory with our defaults and our errors; [`mx`] is the pure choice of
//! hosts (RFC 5321 §5.1). Whether a failure may pass by itself is [`LookupError::is_transient`]:
//! a name server that is down must never bounce mail.

mod config;
mod error;
pub mod mx;
mod resolver;

pub use config::Config;
pub use error::LookupError;
pub use hickory_resolver::TokioResolver;
pub use resolver::{BuildError, Resolver};
