//! What was found out about a message, in the words of RFC 8601.

use mail_auth::{
    DkimOutput, DkimResult, DmarcOutput, DmarcResult, Error, IprevResult, SpfResult, dkim::DkimError, dmarc::Policy,
};

/// The checks of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Findings {
    /// MAIL FROM; for the null reverse-path the same as `spf_helo`.
    pub spf: &'static str,
    pub spf_helo: &'static str,
    pub signatures: Vec<Signature>,
    /// `None` when the message carries no ARC set.
    pub arc: Option<&'static str>,
    /// A trusted sealer that saw the message pass DMARC.
    pub vouched_by: Option<String>,
    /// `None` when it was not looked at.
    pub iprev: Option<&'static str>,
    pub dmarc: Dmarc,
}

/// One DKIM signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub result: &'static str,
    /// Why it did not pass.
    pub reason: Option<&'static str>,
    /// Empty when the signature could not be read.
    pub domain: String,
    pub selector: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dmarc {
    pub result: &'static str,
    /// The RFC5322.From domain; empty when there is none.
    pub domain: String,
    /// What the domain asks for; `None` when no record is known.
    pub policy: Option<Policy>,
}

impl Findings {
    /// Nothing is known, because time ran out.
    pub fn unknown() -> Self {
        Self {
            spf: "temperror",
            spf_helo: "temperror",
            signatures: Vec::new(),
            arc: None,
            vouched_by: None,
            iprev: None,
            dmarc: Dmarc { result: "temperror", domain: String::new(), policy: None },
        }
    }

    /// One word for all signatures: `pass` if any passed.
    pub fn dkim(&self) -> &'static str {
        let with = |wanted: &str| self.signatures.iter().find(|s| s.result == wanted).map(|s| s.result);
        with("pass")
            .or_else(|| with("temperror"))
            .or_else(|| self.signatures.first().map(|s| s.result))
            .unwrap_or("none")
    }
}

pub(crate) fn spf(result: SpfResult) -> &'static str {
    match result {
        SpfResult::Pass => "pass",
        SpfResult::Fail => "fail",
        SpfResult::SoftFail => "softfail",
        SpfResult::Neutral => "neutral",
        SpfResult::TempError => "temperror",
        SpfResult::PermError => "permerror",
        SpfResult::None => "none",
    }
}

pub(crate) fn iprev(result: &IprevResult) -> &'static str {
    match result {
        IprevResult::Pass => "pass",
        IprevResult::Fail(_) | IprevResult::None => "fail",
        IprevResult::TempError(_) => "temperror",
        IprevResult::PermError(_) => "permerror",
    }
}

pub(crate) fn signature(output: &DkimOutput<'_>) -> Signature {
    let (result, reason) = dkim(output.result());
    let (domain, selector) = output.signature().map(|s| (s.d.clone(), s.s.clone())).unwrap_or_default();
    Signature { result, reason, domain, selector }
}

/// RFC 8601 §2.7.1: `fail` means that a check did not hold, `neutral` that it could not be made.
pub(crate) fn dkim(result: &DkimResult) -> (&'static str, Option<&'static str>) {
    match result {
        DkimResult::Pass => ("pass", None),
        DkimResult::None => ("none", None),
        DkimResult::Neutral(Error::Dkim(DkimError::FailedBodyHashMatch)) => ("fail", Some("body hash did not verify")),
        DkimResult::Neutral(Error::Dkim(DkimError::SignatureExpired)) => ("fail", Some("signature expired")),
        DkimResult::Neutral(Error::Dkim(DkimError::SignatureLength)) => ("neutral", Some("body length limit refused")),
        DkimResult::Neutral(_) => ("neutral", Some("signature not understood")),
        DkimResult::Fail(_) => ("fail", Some("signature did not verify")),
        DkimResult::PermError(_) => ("permerror", Some("no usable key for signature")),
        DkimResult::TempError(_) => ("temperror", Some("name server did not answer")),
    }
}

pub(crate) fn dmarc(output: &DmarcOutput, domain: &str) -> Dmarc {
    let result = match output.result() {
        DmarcResult::Pass => "pass",
        DmarcResult::Fail(_) => "fail",
        DmarcResult::TempError(_) => "temperror",
        DmarcResult::PermError(_) => "permerror",
        DmarcResult::None => "none",
    };
    let policy = output.dmarc_record().map(|_| output.policy());
    Dmarc { result, domain: domain.to_owned(), policy }
}
