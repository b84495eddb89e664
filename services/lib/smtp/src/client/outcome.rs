use super::ReplyError;
use crate::Reply;

/// What to send, without its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Without angle brackets; empty is the null reverse-path.
    pub reverse_path: String,
    pub recipients: Vec<Recipient>,
    /// Octets of the content, before dot-stuffing.
    pub size: u64,
    /// The content has octets above 127. Declared where the server knows 8BITMIME, else just
    /// sent: servers without it that damage such octets are a thing of the past.
    pub eight_bit: bool,
    /// Needs SMTPUTF8 (RFC 6531); refused when the server lacks it.
    pub smtputf8: bool,
    /// Only over TLS to servers that go on requiring it (RFC 8689).
    pub require_tls: bool,
    /// RFC 3461 §4.4 and §4.3, in their encoded form; empty is none. Sent where DSN is offered.
    pub envid: String,
    pub ret: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipient {
    /// Without angle brackets.
    pub forward_path: String,
    /// RFC 3461 §4.1 and §4.2, in their encoded form; empty is none. Sent where DSN is offered.
    pub notify: String,
    pub orcpt: String,
}

/// How far a transaction or connection had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Hello,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// The final dot.
    Content,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server took responsibility.
    Accepted(Reply),
    /// The server's own decision; `reply` tells whether to try again.
    Refused { stage: Stage, reply: Reply },
    /// There is no answer for this recipient.
    Failed(Failure),
}

impl Outcome {
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_))
    }

    /// A further attempt is pointless.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Accepted(_) => false,
            Self::Refused { reply, .. } => reply.is_permanent(),
            Self::Failed(failure) => failure.is_permanent(),
        }
    }

    /// The server's words, if it had any.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Accepted(reply) | Self::Refused { reply, .. } => Some(reply),
            Self::Failed(Failure::Refused { reply, .. }) => Some(reply),
            Self::Failed(_) => None,
        }
    }
}

/// Why a connection or message got no answer, or none to go on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Transient: the peer hung up.
    #[error("connection closed by the peer")]
    Closed,
    /// Transient: the peer was silent too long.
    #[error("timed out")]
    Timeout,
    /// Transient: the socket's error, or ours while producing content.
    #[error("{0}")]
    Io(String),
    /// The server refuses to talk (greeting, EHLO) or to secure the connection.
    #[error("refused: {reply}")]
    Refused { stage: Stage, reply: Reply },
    /// Transient: the peer does not speak SMTP.
    #[error("peer broke the protocol: {0}")]
    Protocol(#[from] ReplyError),
    /// Transient: plain text behind the reply to STARTTLS is injected (RFC 3207 §6).
    #[error("peer sent plain text into STARTTLS")]
    Injection,
    /// Transient: TLS was required and not offered.
    #[error("peer offers no TLS")]
    NoTls,
    /// Transient: the handshake failed.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// Transient: the smarthost offers no AUTH that we speak, or not over TLS.
    #[error("peer offers no AUTH PLAIN or LOGIN over TLS")]
    NoAuth,
    /// Permanent: the server does not support REQUIRETLS (RFC 8689 §4.2.1; 5.7.30).
    #[error("message requires TLS on the whole way, and the peer does not support REQUIRETLS")]
    NeedsRequireTls,
    /// Permanent: larger than the server takes (RFC 1870 §6.2; 5.3.4).
    #[error("message is larger than the {limit} octets that the peer accepts")]
    TooLarge { limit: u64 },
    /// Permanent: the server lacks SMTPUTF8 (RFC 6531 §3.5; 5.6.7).
    #[error("peer does not accept internationalised addresses")]
    NeedsSmtputf8,
    /// Permanent: an address that cannot stand in a command (5.1.3).
    #[error("address cannot be sent")]
    UnsendableAddress,
}

impl Failure {
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::TooLarge { .. } | Self::NeedsSmtputf8 | Self::UnsendableAddress | Self::NeedsRequireTls => true,
            // Our own credentials are wrong: no reason to return mail.
            Self::Refused { stage: Stage::Auth, .. } => false,
            // Another host of the domain may think otherwise (RFC 5321 §5.1): the caller decides
            // when there is none left.
            Self::Refused { reply, .. } => reply.is_permanent(),
            _ => false,
        }
    }
}
