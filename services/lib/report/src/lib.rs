//! Reports between mail systems: DMARC's aggregate reports (RFC 9990) written and read, TLS
//! reports (RFC 8460) read.
//!
//! What comes from others is bounded before it is looked at: packed documents unpack to at most
//! [`MAX_DOCUMENT`] octets, and what is kept of them is counted and cut.

mod aggregate;
mod tls;
mod unpack;
mod xml;

pub use aggregate::{Aggregate, AuthDkim, AuthSpf, Override, Policy, Record, Row};
pub use tls::{Tls, TlsFailure, TlsPolicy};
pub use unpack::{Document, MAX_DOCUMENT, documents, gzip};

/// Why a document is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error("not well-formed: {0}")]
    Syntax(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("more than {0} records")]
    TooLarge(usize),
}

/// Names and words of others are cut here.
const MAX_TEXT: usize = 512;

fn cut(text: &str) -> String {
    let text = text.trim();
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default().to_owned()
}
