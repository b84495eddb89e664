use bytes::Bytes;

use super::command::{MailFrom, RcptTo};

/// How the client introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub name: String,
    /// EHLO, not HELO.
    pub extended: bool,
}

/// What the caller must do next, and how to report the result.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append octets to the input, then ask again.
    Read,
    Write(Vec<u8>),
    /// Handshake, then [`super::Session::tls_started`]; on failure drop the connection.
    StartTls,
    /// Start a SASL exchange; the initial response is decoded. Report with
    /// [`super::Session::auth_challenge`], [`super::Session::auth_succeeded`] or [`super::Session::auth_failed`].
    Authenticate {
        mechanism: String,
        initial: Option<Vec<u8>>,
    },
    /// The decoded answer to a challenge. Report as for `Authenticate`.
    AuthResponse(Vec<u8>),
    /// The client ended the exchange; nothing to report.
    AuthAborted,
    /// [`super::Session::sender_accepted`] or [`super::Session::sender_refused`].
    Sender(MailFrom),
    /// [`super::Session::recipient_accepted`] or [`super::Session::recipient_refused`].
    Recipient(RcptTo),
    /// The whole content, in pieces. [`super::Session::committed`] or [`super::Session::message_refused`].
    Message(Vec<Bytes>),
    /// Close the connection.
    Close,
}
