//! Why a command did not work, and the one table from gRPC status to IMAP's response codes
//! (RFC 9051 §7.1).

use std::{borrow::Cow, io};

use tonic::{Code, Status};

/// The text after the tag: `OK [CODE] text`.
pub(crate) type Outcome = Result<String, Failure>;

#[derive(Debug)]
pub(crate) enum Failure {
    /// `NO [code] text`.
    No { code: Cow<'static, str>, text: Cow<'static, str> },
    /// `BAD text`.
    Bad(&'static str),
    /// The client is not there any more, or must not be.
    Gone(io::Error),
}

impl Failure {
    pub fn no(code: &'static str, text: &'static str) -> Self {
        Self::No { code: code.into(), text: text.into() }
    }

    /// For COPY, MOVE and APPEND: a missing target may be created (RFC 9051 §6.4.7).
    pub fn of_target(status: &Status) -> Self {
        match status.code() {
            Code::NotFound | Code::FailedPrecondition => Self::no("TRYCREATE", "No such mailbox."),
            Code::PermissionDenied if status.message() == proto::NO_RIGHT => status.into(),
            // RFC 9208 §4.4.
            Code::PermissionDenied => Self::no("OVERQUOTA", "Mailbox is full."),
            _ => status.into(),
        }
    }

    /// For CATENATE: which URL it is (RFC 4469 §4.1).
    pub fn bad_url(url: &str) -> Self {
        let url: String = plain(url).replace([']', '"'], "");
        Self::No { code: format!("BADURL \"{url}\"").into(), text: "There is no such message or part.".into() }
    }

    /// For metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::No { .. } => "no",
            Self::Bad(_) => "bad",
            Self::Gone(_) => "gone",
        }
    }
}

impl From<&Status> for Failure {
    fn from(status: &Status) -> Self {
        if runtime::grpc::is_transient(status) {
            tracing::info!(rpc.code = ?status.code(), error = status.message(), "mda did not answer");
            return Self::no("UNAVAILABLE", "Temporary failure, try again later.");
        }
        match status.code() {
            Code::NotFound => Self::no("NONEXISTENT", "No such mailbox."),
            Code::AlreadyExists => Self::no("ALREADYEXISTS", "Mailbox already exists."),
            Code::Unauthenticated => Self::no("AUTHENTICATIONFAILED", "Authentication failed."),
            Code::PermissionDenied => Self::no("NOPERM", "Permission denied."),
            Code::OutOfRange => Self::no("TOOBIG", "Message is too large."),
            _ => Self::No { code: "CANNOT".into(), text: plain(status.message()).into() },
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// What may stand in a response line (RFC 9051 §9, text).
fn plain(text: &str) -> String {
    let text: String = text.chars().filter(|c| (' '..='~').contains(c)).take(200).collect();
    if text.is_empty() { "Cannot do that.".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(status: &Status) -> String {
        match Failure::from(status) {
            Failure::No { code, .. } => code.into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn transient_is_never_permanent() {
        for transient in [Code::Unavailable, Code::DeadlineExceeded, Code::Internal, Code::Unknown, Code::Cancelled] {
            assert_eq!(code(&Status::new(transient, "x")), "UNAVAILABLE");
        }
        assert_eq!(code(&Status::not_found("x")), "NONEXISTENT");
        assert_eq!(code(&Status::already_exists("x")), "ALREADYEXISTS");
        assert_eq!(code(&Status::invalid_argument("x")), "CANNOT");
        let of_target = |status: &Status| match Failure::of_target(status) {
            Failure::No { code, .. } => code.into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(of_target(&Status::not_found("x")), "TRYCREATE");
        assert_eq!(of_target(&Status::unavailable("x")), "UNAVAILABLE");
    }

    #[test]
    fn texts_cannot_break_the_line() {
        let Failure::No { text, .. } = Failure::from(&Status::invalid_argument("a\r\nb ä")) else { panic!() };
        assert_eq!(text, "ab ");
    }
}
