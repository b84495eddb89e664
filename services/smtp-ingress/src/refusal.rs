//! The one table from causes to SMTP replies (RFC 5321 §4.2, RFC 3463).
//!
//! Transient and permanent are never confused: whoever is away is 4yz, so that nothing bounces
//! because of us.

use std::time::Duration;

use smtp::Reply;
use tonic::{Code, Status};

use crate::config::OverQuota;

/// A no, with the word that counts it in the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reply: Reply,
    pub reason: &'static str,
}

fn refusal(reason: &'static str, code: u16, enhanced: (u8, u16, u16), text: impl AsRef<str>) -> Refusal {
    Refusal { reply: Reply::new(code, enhanced, text), reason }
}

impl Refusal {
    /// The domain is ours, the mailbox does not exist.
    pub fn unknown_recipient() -> Self {
        refusal("unknown_recipient", 550, (5, 1, 1), "Recipient address does not exist")
    }

    pub fn relay_denied() -> Self {
        refusal("relay_denied", 550, (5, 7, 1), "Relaying denied")
    }

    pub fn disabled() -> Self {
        refusal("disabled", 550, (5, 2, 1), "Mailbox disabled, not accepting messages")
    }

    /// Somebody may tidy up, so it may be worth another try.
    pub fn over_quota(policy: OverQuota) -> Self {
        match policy {
            OverQuota::Defer => refusal("over_quota", 452, (4, 2, 2), "Mailbox full"),
            OverQuota::Refuse => refusal("over_quota", 552, (5, 2, 2), "Mailbox full"),
        }
    }

    pub fn too_many_connections() -> Self {
        refusal("connection_rate", 421, (4, 7, 0), "Too many connections, try again later")
    }

    pub fn early_talker() -> Self {
        refusal("early_talker", 554, (5, 5, 0), "You talked before the greeting")
    }

    pub fn message_rate() -> Self {
        refusal("message_rate", 450, (4, 7, 1), "Too many messages, try again later")
    }

    pub fn recipient_rate() -> Self {
        refusal("recipient_rate", 450, (4, 7, 1), "Too many recipients, try again later")
    }

    pub fn blocklisted(zone: &str) -> Self {
        refusal("blocklisted", 550, (5, 7, 1), format!("Your address is listed by {zone}"))
    }

    pub fn greylisted(wait: Duration) -> Self {
        refusal("greylisted", 451, (4, 7, 1), format!("Greylisted, come back in {} seconds", wait.as_secs().max(1)))
    }

    pub fn spam() -> Self {
        refusal("spam", 550, (5, 7, 1), "Message content is refused as spam")
    }

    /// A filter said no without a word of its own.
    pub fn filtered() -> Self {
        refusal("filtered", 550, (5, 7, 1), "Refused by a filter")
    }

    pub fn filtered_with(said: milter::Rejection) -> Self {
        let class = if said.code < 500 { 4 } else { 5 };
        let text = if said.text.is_empty() { "Refused by a filter" } else { &said.text };
        refusal("filtered", said.code, said.enhanced.unwrap_or((class, 7, 1)), text)
    }

    pub fn scan_deferred() -> Self {
        refusal("scan_deferred", 451, (4, 7, 1), "Message cannot be taken now, try again later")
    }

    /// RFC 3030 §3: a relay that cannot pass it on must not change it.
    pub fn binary_elsewhere() -> Self {
        refusal("binary_elsewhere", 554, (5, 6, 3), "Binary content cannot be sent to another site")
    }

    /// The same whether the account exists or not.
    pub fn login_throttled() -> Self {
        refusal("login_throttled", 454, (4, 7, 0), "Too many failed logins, try again later")
    }

    pub fn sender_not_owned() -> Self {
        refusal("sender_not_owned", 550, (5, 7, 1), "Sender address not owned by the authenticated account")
    }

    pub fn from_not_owned() -> Self {
        refusal("from_not_owned", 550, (5, 7, 1), "From: address not owned by the authenticated account")
    }

    pub fn no_from() -> Self {
        refusal("malformed", 554, (5, 6, 0), "Message has no From: address")
    }

    pub fn too_many_from() -> Self {
        refusal("malformed", 554, (5, 6, 0), "Message has too many From: addresses")
    }

    /// Its first line would continue a field that we prepend.
    pub fn begins_folded() -> Self {
        refusal("malformed", 554, (5, 6, 0), "Message begins with a continuation line")
    }

    pub fn header_too_large() -> Self {
        refusal("header_too_large", 552, (5, 3, 4), "Message header is too large")
    }

    /// RFC 5321 §6.3.
    pub fn mail_loop() -> Self {
        refusal("loop", 554, (5, 4, 6), "Too many hops, this message is going in circles")
    }

    /// The checker's sentence names domain and policy.
    pub fn policy(text: &str) -> Self {
        refusal("policy", 550, (5, 7, 1), text)
    }

    pub fn undecided(text: &str) -> Self {
        refusal("undecided", 451, (4, 7, 1), text)
    }

    pub fn no_room() -> Self {
        refusal("no_room", 452, (4, 3, 1), "Insufficient system storage, try again later")
    }

    pub fn bad_credentials() -> Self {
        refusal("bad_credentials", 535, (5, 7, 8), "Authentication credentials invalid")
    }

    pub fn cannot_authenticate() -> Self {
        refusal("unavailable", 454, (4, 7, 0), "Temporary authentication failure")
    }

    /// A call to a service of ours failed.
    pub fn of_status(status: &Status) -> Self {
        match status.code() {
            Code::ResourceExhausted => Self::no_room(),
            _ if runtime::grpc::is_transient(status) => {
                refusal("unavailable", 451, (4, 3, 0), "Temporary system problem, try again later")
            }
            _ => refusal("rejected_inside", 554, (5, 3, 0), "Message cannot be processed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filters_words_are_the_reply() {
        let said = |code, enhanced, text: &str| {
            Refusal::filtered_with(milter::Rejection { code, enhanced, text: text.into() }).reply.to_string()
        };
        assert_eq!(said(554, Some((5, 6, 0)), "no\r\n250 ok"), "554 5.6.0 no??250 ok");
        assert_eq!(said(451, None, ""), "451 4.7.1 Refused by a filter");
    }

    #[test]
    fn what_may_pass_is_never_permanent() {
        for status in [Status::unavailable(""), Status::internal(""), Status::unknown(""), Status::cancelled("")] {
            assert_eq!(Refusal::of_status(&status).reply.to_string()[..9], *"451 4.3.0");
        }
        assert!(Refusal::of_status(&Status::deadline_exceeded("")).reply.is_transient());
        assert!(Refusal::of_status(&Status::resource_exhausted("")).reply.is_transient());
        assert!(Refusal::of_status(&Status::invalid_argument("")).reply.is_permanent());
    }
}
