//! What a client can ask for.

use crate::{Flags, Section, SequenceSet, search::Key};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Echoed in the completion; printable ASCII without blanks.
    pub tag: String,
    pub body: CommandBody,
}

/// Mailbox names are UTF-8, INBOX in capitals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandBody {
    Capability,
    Noop,
    Logout,
    StartTls,
    Login {
        user: Vec<u8>,
        password: Vec<u8>,
    },
    /// The initial response (RFC 4959) is decoded from base64; `=` stands for an empty one.
    Authenticate {
        mechanism: String,
        initial: Option<Vec<u8>>,
    },
    /// Names in capitals.
    Enable(Vec<String>),
    Id(Vec<(String, Option<String>)>),
    Namespace,
    /// SELECT, or EXAMINE when `read_only`.
    Select {
        mailbox: String,
        read_only: bool,
        condstore: bool,
    },
    /// With the special use of RFC 6154 §3, such as `\Sent`.
    Create {
        mailbox: String,
        special_use: Option<String>,
    },
    Delete(String),
    Rename {
        from: String,
        to: String,
    },
    Subscribe(String),
    Unsubscribe(String),
    List(ListCommand),
    Lsub {
        reference: String,
        pattern: String,
    },
    Status {
        mailbox: String,
        items: Vec<StatusItem>,
    },
    Check,
    Close,
    Unselect,
    /// With a set: UID EXPUNGE (RFC 4315 §2.1).
    Expunge(Option<SequenceSet>),
    Idle,
    Search(SearchCommand),
    Fetch {
        uid: bool,
        set: SequenceSet,
        items: Vec<FetchItem>,
        changed_since: Option<u64>,
    },
    Store {
        uid: bool,
        set: SequenceSet,
        unchanged_since: Option<u64>,
        mode: StoreMode,
        silent: bool,
        flags: Flags,
    },
    /// COPY, or MOVE (RFC 6851) when `remove`.
    Copy {
        uid: bool,
        set: SequenceSet,
        mailbox: String,
        remove: bool,
    },
}

impl CommandBody {
    /// For logs and metrics: one of a fixed set.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Capability => "CAPABILITY",
            Self::Noop => "NOOP",
            Self::Logout => "LOGOUT",
            Self::StartTls => "STARTTLS",
            Self::Login { .. } => "LOGIN",
            Self::Authenticate { .. } => "AUTHENTICATE",
            Self::Enable(_) => "ENABLE",
            Self::Id(_) => "ID",
            Self::Namespace => "NAMESPACE",
            Self::Select { read_only: false, .. } => "SELECT",
            Self::Select { read_only: true, .. } => "EXAMINE",
            Self::Create { .. } => "CREATE",
            Self::Delete(_) => "DELETE",
            Self::Rename { .. } => "RENAME",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::Unsubscribe(_) => "UNSUBSCRIBE",
            Self::List(_) => "LIST",
            Self::Lsub { .. } => "LSUB",
            Self::Status { .. } => "STATUS",
            Self::Check => "CHECK",
            Self::Close => "CLOSE",
            Self::Unselect => "UNSELECT",
            Self::Expunge(_) => "EXPUNGE",
            Self::Idle => "IDLE",
            Self::Search(_) => "SEARCH",
            Self::Fetch { .. } => "FETCH",
            Self::Store { .. } => "STORE",
            Self::Copy { remove: false, .. } => "COPY",
            Self::Copy { remove: true, .. } => "MOVE",
        }
    }
}

/// APPEND up to the message itself, which the framer hands on in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendHead {
    pub tag: String,
    pub mailbox: String,
    pub flags: Flags,
    /// Milliseconds since 1970.
    pub internal_date_ms: Option<i64>,
}

/// LIST with the options of RFC 5258 (RFC 9051 §6.3.9).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListCommand {
    pub select: ListSelect,
    pub reference: String,
    pub patterns: Vec<String>,
    pub returns: ListReturn,
    /// Any extended syntax was used; then LIST "" "" is not the question for the delimiter.
    pub extended: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListSelect {
    pub subscribed: bool,
    pub recursive_match: bool,
    pub special_use: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListReturn {
    pub subscribed: bool,
    pub children: bool,
    pub special_use: bool,
    /// LIST-STATUS (RFC 5819).
    pub status: Option<Vec<StatusItem>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusItem {
    Messages,
    Recent,
    UidNext,
    UidValidity,
    Unseen,
    Deleted,
    Size,
    HighestModSeq,
}

impl StatusItem {
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "MESSAGES",
            Self::Recent => "RECENT",
            Self::UidNext => "UIDNEXT",
            Self::UidValidity => "UIDVALIDITY",
            Self::Unseen => "UNSEEN",
            Self::Deleted => "DELETED",
            Self::Size => "SIZE",
            Self::HighestModSeq => "HIGHESTMODSEQ",
        }
    }

    pub(crate) const ALL: [Self; 8] = [
        Self::Messages,
        Self::Recent,
        Self::UidNext,
        Self::UidValidity,
        Self::Unseen,
        Self::Deleted,
        Self::Size,
        Self::HighestModSeq,
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchCommand {
    pub uid: bool,
    /// `None` for a SEARCH without RETURN.
    pub returns: Option<SearchReturn>,
    /// In capitals; anything but US-ASCII and UTF-8 is answered with BADCHARSET.
    pub charset: Option<String>,
    pub key: Key,
}

/// RETURN options (RFC 4731 §3.1, RFC 5182); an empty list means ALL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SearchReturn {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
    pub save: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchItem {
    Uid,
    Flags,
    InternalDate,
    Size,
    Envelope,
    /// BODY without section: the structure without extension data.
    Body,
    BodyStructure,
    ModSeq,
    /// BODY[…], BODY.PEEK[…] and RFC822, RFC822.HEADER, RFC822.TEXT.
    Section(Section),
    /// BINARY[…], BINARY.PEEK[…] (RFC 9051 §6.4.5.2): the part decoded.
    Binary {
        path: Vec<u32>,
        peek: bool,
        partial: Option<(u32, u32)>,
    },
    BinarySize(Vec<u32>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    Replace,
    Add,
    Remove,
}
