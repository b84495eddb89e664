//! What a client can ask for.

use crate::{Flags, Section, SequenceSet, search::Key, sort::Criterion, thread::Algorithm};

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
        /// What the client knows from an earlier session (RFC 7162 §3.2.5).
        qresync: Option<Qresync>,
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
    /// SORT (RFC 5256 §3); ESORT (RFC 5267 §3) when the search has RETURN.
    Sort {
        criteria: Vec<Criterion>,
        search: SearchCommand,
    },
    /// THREAD (RFC 5256 §3).
    Thread {
        algorithm: Algorithm,
        search: SearchCommand,
    },
    Fetch {
        uid: bool,
        set: SequenceSet,
        items: Vec<FetchItem>,
        changed_since: Option<u64>,
        /// VANISHED with CHANGEDSINCE (RFC 7162 §3.2.6).
        vanished: bool,
        /// RFC 9394 §3.4.
        partial: Option<Partial>,
    },
    Store {
        uid: bool,
        set: SequenceSet,
        unchanged_since: Option<u64>,
        mode: StoreMode,
        silent: bool,
        flags: Flags,
    },
    /// APPEND or REPLACE of URLs alone (RFC 4469), so without any literal.
    Append(AppendHead),
    /// RFC 4314 §3: rights in their order, `mode` as that of flags. DELETEACL sets none.
    SetAcl {
        mailbox: String,
        identifier: String,
        mode: StoreMode,
        rights: String,
    },
    GetAcl(String),
    ListRights {
        mailbox: String,
        identifier: String,
    },
    MyRights(String),
    /// RFC 5465 §3.
    Notify(crate::notify::Notify),
    /// COMPRESS DEFLATE (RFC 4978).
    Compress,
    /// RFC 8437.
    Unauthenticate,
    /// RFC 9208 §4.1.1, §4.1.2.
    GetQuota(String),
    GetQuotaRoot(String),
    /// RFC 5464 §4.2. An empty mailbox stands for the server.
    GetMetadata(MetadataRequest),
    /// RFC 5464 §4.3: names in lower case, NIL removes.
    SetMetadata {
        mailbox: String,
        entries: Vec<(String, Option<Vec<u8>>)>,
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
            Self::Sort { .. } => "SORT",
            Self::Thread { .. } => "THREAD",
            Self::Append(head) if head.replaces.is_none() => "APPEND",
            Self::Append(_) => "REPLACE",
            Self::SetAcl { .. } => "SETACL",
            Self::GetAcl(_) => "GETACL",
            Self::ListRights { .. } => "LISTRIGHTS",
            Self::MyRights(_) => "MYRIGHTS",
            Self::Notify(_) => "NOTIFY",
            Self::Compress => "COMPRESS",
            Self::Unauthenticate => "UNAUTHENTICATE",
            Self::GetQuota(_) => "GETQUOTA",
            Self::GetQuotaRoot(_) => "GETQUOTAROOT",
            Self::GetMetadata(_) => "GETMETADATA",
            Self::SetMetadata { .. } => "SETMETADATA",
            Self::Fetch { .. } => "FETCH",
            Self::Store { .. } => "STORE",
            Self::Copy { remove: false, .. } => "COPY",
            Self::Copy { remove: true, .. } => "MOVE",
        }
    }
}

/// APPEND or REPLACE up to its first literal, which the framer hands on in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendHead {
    pub tag: String,
    pub mailbox: String,
    /// The message that a REPLACE is about (RFC 8508), and whether by its UID.
    pub replaces: Option<(SequenceSet, bool)>,
    /// Begins with a message; a literal that follows belongs to the last one.
    pub pieces: Vec<AppendPiece>,
}

/// What stands between the literals of an APPEND.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendPiece {
    /// A message begins; MULTIAPPEND (RFC 3502) has several.
    Message(AppendItem),
    /// The message goes on with what an URL names (RFC 4469).
    Url(String),
}

/// What is said of one message to be appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppendItem {
    pub flags: Flags,
    /// Milliseconds since 1970.
    pub internal_date_ms: Option<i64>,
    /// `UTF8 (~{n}`: the message is in parentheses (RFC 6855 §4).
    pub utf8: bool,
}

/// QRESYNC's parameters (RFC 7162 §3.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qresync {
    pub uid_validity: u32,
    pub modseq: u64,
    /// UIDs that the client has; `None` means that it cannot say.
    pub known: Option<SequenceSet>,
    /// Sequence numbers and UIDs that match, pair by pair, for servers that forget what vanished.
    pub sample: Option<(SequenceSet, SequenceSet)>,
}

/// A window of results: from the first on, or backwards from the last when `from_end`
/// (RFC 9394 §3.1). 1 is the first; `low` ≤ `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    pub low: u32,
    pub high: u32,
    pub from_end: bool,
}

impl Partial {
    /// The part of `all` that lies in the window.
    pub fn of<T>(self, all: &[T]) -> &[T] {
        let (low, high) = ((self.low as usize).saturating_sub(1).min(all.len()), (self.high as usize).min(all.len()));
        let (from, to) = if self.from_end { (all.len() - high, all.len() - low) } else { (low, high) };
        all.get(from..to).unwrap_or_default()
    }
}

/// `1:10` or `-1:-10`, as the client wrote it but for the order of the ends.
impl std::fmt::Display for Partial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.from_end { "-" } else { "" };
        write!(f, "{sign}{}:{sign}{}", self.low, self.high)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataRequest {
    pub mailbox: String,
    /// Larger values are left out.
    pub max_size: Option<u64>,
    /// Levels below an entry that are told too; `None` is infinity.
    pub depth: Option<u32>,
    /// In lower case.
    pub entries: Vec<String>,
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
    /// RFC 8474 §4.3.
    MailboxId,
    /// RFC 9208 §5.1.
    DeletedStorage,
    /// RFC 7889 §4.
    AppendLimit,
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
            Self::MailboxId => "MAILBOXID",
            Self::DeletedStorage => "DELETED-STORAGE",
            Self::AppendLimit => "APPENDLIMIT",
        }
    }

    pub(crate) const ALL: [Self; 11] = [
        Self::Messages,
        Self::Recent,
        Self::UidNext,
        Self::UidValidity,
        Self::Unseen,
        Self::Deleted,
        Self::Size,
        Self::HighestModSeq,
        Self::MailboxId,
        Self::DeletedStorage,
        Self::AppendLimit,
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchCommand {
    pub uid: bool,
    /// `None` for a SEARCH without RETURN.
    pub returns: Option<SearchReturn>,
    /// As the client named it; one that nobody knows is answered with BADCHARSET.
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
    /// RFC 9394 §3.1.
    pub partial: Option<Partial>,
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
    /// RFC 8474 §5.
    EmailId,
    ThreadId,
    /// RFC 8514 §4.2.
    SaveDate,
    /// RFC 8970; LAZY is no different, because it is stored.
    Preview,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    Replace,
    Add,
    Remove,
}
