//! From what a peer or the DNS said to what becomes of a delivery. Pure.

use smtp::{
    Reply,
    client::{Failure, Outcome, Stage},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The peer took responsibility (RFC 5321 §4.2.5).
    Relayed,
    /// Try again later.
    Transient,
    /// Return to sender.
    Permanent,
}

/// One delivery's result of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub kind: Kind,
    /// Enhanced status code (RFC 3463).
    pub status: String,
    /// The peer's reply in one line, or our own words.
    pub words: String,
}

impl Decision {
    pub fn transient(status: &str, words: impl Into<String>) -> Self {
        Self { kind: Kind::Transient, status: status.to_owned(), words: words.into() }
    }

    pub fn permanent(status: &str, words: impl Into<String>) -> Self {
        Self { kind: Kind::Permanent, status: status.to_owned(), words: words.into() }
    }

    pub fn of_outcome(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Accepted(reply) => Self { kind: Kind::Relayed, status: status(reply, 2), words: words(reply) },
            Outcome::Refused { reply, .. } => Self::of_reply(reply),
            Outcome::Failed(failure) => Self::of_failure(failure),
        }
    }

    pub fn of_failure(failure: &Failure) -> Self {
        match failure {
            // Whoever refuses STARTTLS where a policy demands it may be an attacker (RFC 8461
            // §5); wrong credentials are our own mistake. Neither returns mail.
            Failure::Refused { stage: Stage::StartTls | Stage::Auth, reply } => {
                let detail = reply.enhanced.map_or((7, 5), |e| (e.subject, e.detail));
                Self::transient(&format!("4.{}.{}", detail.0, detail.1), words(reply))
            }
            Failure::Refused { reply, .. } => Self::of_reply(reply),
            Failure::NoAuth => Self::transient("4.7.0", failure.to_string()),
            Failure::NeedsRequireTls => Self::permanent("5.7.30", failure.to_string()),
            Failure::TooLarge { .. } => Self::permanent("5.3.4", failure.to_string()),
            Failure::NeedsSmtputf8 => Self::permanent("5.6.7", failure.to_string()),
            Failure::UnsendableAddress => Self::permanent("5.1.3", failure.to_string()),
            Failure::NoTls | Failure::Tls(_) | Failure::Injection => Self::transient("4.7.5", failure.to_string()),
            Failure::Protocol(_) => Self::transient("4.5.0", failure.to_string()),
            Failure::Closed | Failure::Timeout | Failure::Io(_) => Self::transient("4.4.2", failure.to_string()),
        }
    }

    fn of_reply(reply: &Reply) -> Self {
        let (kind, class) = if reply.is_permanent() { (Kind::Permanent, 5) } else { (Kind::Transient, 4) };
        Self { kind, status: status(reply, class), words: words(reply) }
    }
}

/// The peer's enhanced code; its class must be that of the code, which decides (RFC 2034 §4).
fn status(reply: &Reply, class: u8) -> String {
    match reply.enhanced {
        Some(code) => format!("{class}.{}.{}", code.subject, code.detail),
        None => format!("{class}.0.0"),
    }
}

fn words(reply: &Reply) -> String {
    reply.to_string().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, enhanced: (u8, u16, u16)) -> Decision {
        let reply = Reply::new(code, enhanced, "no");
        Decision::of_outcome(&Outcome::Refused { stage: Stage::Rcpt, reply })
    }

    #[test]
    fn the_reply_code_decides() {
        assert_eq!(refused(550, (5, 1, 1)), Decision::permanent("5.1.1", "550 5.1.1 no"));
        assert_eq!(refused(451, (4, 7, 1)), Decision::transient("4.7.1", "451 4.7.1 no"));
        // A class that contradicts the code is corrected.
        assert_eq!(refused(450, (5, 2, 1)).status, "4.2.1");
        // A code that makes no sense where it came is no reason to return mail.
        let odd = Outcome::Refused { stage: Stage::Data, reply: Reply::basic(250, ["ok"]) };
        assert_eq!(Decision::of_outcome(&odd), Decision::transient("4.0.0", "250 ok"));
        let accepted = Decision::of_outcome(&Outcome::Accepted(Reply::new(250, (2, 0, 0), "queued as 1")));
        assert_eq!((accepted.kind, accepted.words.as_str()), (Kind::Relayed, "250 2.0.0 queued as 1"));
    }

    #[test]
    fn connection_trouble_defers_and_impossible_mail_returns() {
        for failure in [Failure::Closed, Failure::Timeout, Failure::Io("reset".into()), Failure::NoTls] {
            assert_eq!(Decision::of_failure(&failure).kind, Kind::Transient, "{failure:?}");
        }
        for failure in [Failure::TooLarge { limit: 1 }, Failure::NeedsSmtputf8, Failure::UnsendableAddress] {
            assert_eq!(Decision::of_failure(&failure).kind, Kind::Permanent, "{failure:?}");
        }
    }

    #[test]
    fn refused_tls_and_credentials_return_no_mail() {
        for stage in [Stage::StartTls, Stage::Auth] {
            let refused = Failure::Refused { stage, reply: Reply::new(554, (5, 7, 3), "no") };
            assert_eq!(Decision::of_failure(&refused), Decision::transient("4.7.3", "554 5.7.3 no"));
        }
    }

    #[test]
    fn a_long_reply_is_one_line() {
        let reply = Reply { lines: vec!["a".into(), "b".into()], ..Reply::new(550, (5, 7, 1), "") };
        let decision = Decision::of_outcome(&Outcome::Refused { stage: Stage::Content, reply });
        assert_eq!(decision.words, "550-5.7.1 a 550 5.7.1 b");
    }
}
