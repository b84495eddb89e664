/// What a script may `require` (RFC 5228 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extension {
    Body,
    AsciiCasemap,
    AsciiNumeric,
    Octet,
    Copy,
    Date,
    Duplicate,
    EncodedCharacter,
    Envelope,
    Environment,
    Ereject,
    FileInto,
    Imap4Flags,
    Index,
    Mailbox,
    Reject,
    Relational,
    SubAddress,
    Vacation,
    VacationSeconds,
    Variables,
}

impl Extension {
    pub const ALL: [Self; 21] = [
        Self::Body,
        Self::AsciiCasemap,
        Self::AsciiNumeric,
        Self::Octet,
        Self::Copy,
        Self::Date,
        Self::Duplicate,
        Self::EncodedCharacter,
        Self::Envelope,
        Self::Environment,
        Self::Ereject,
        Self::FileInto,
        Self::Imap4Flags,
        Self::Index,
        Self::Mailbox,
        Self::Reject,
        Self::Relational,
        Self::SubAddress,
        Self::Vacation,
        Self::VacationSeconds,
        Self::Variables,
    ];

    /// As `require` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::AsciiCasemap => "comparator-i;ascii-casemap",
            Self::AsciiNumeric => "comparator-i;ascii-numeric",
            Self::Octet => "comparator-i;octet",
            Self::Copy => "copy",
            Self::Date => "date",
            Self::Duplicate => "duplicate",
            Self::EncodedCharacter => "encoded-character",
            Self::Envelope => "envelope",
            Self::Environment => "environment",
            Self::Ereject => "ereject",
            Self::FileInto => "fileinto",
            Self::Imap4Flags => "imap4flags",
            Self::Index => "index",
            Self::Mailbox => "mailbox",
            Self::Reject => "reject",
            Self::Relational => "relational",
            Self::SubAddress => "subaddress",
            Self::Vacation => "vacation",
            Self::VacationSeconds => "vacation-seconds",
            Self::Variables => "variables",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.name() == name)
    }
}
