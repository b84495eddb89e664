//! Header fields as tests see them: decoded values and addresses.

/// What a header holds at most for one test: nobody writes more, and memory stays bounded.
const MAX_VALUES: usize = 1_000;
const MAX_ADDRESSES: usize = 2_000;

/// RFC 5322 §2.2.
pub(crate) fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b':')
}

/// Fields whose values are addresses (RFC 5228 §5.1): those of RFC 5322, and what mailers add.
pub(crate) fn may_hold_addresses(name: &str) -> bool {
    const KNOWN: [&str; 26] = [
        "from",
        "sender",
        "reply-to",
        "to",
        "cc",
        "bcc",
        "resent-from",
        "resent-sender",
        "resent-to",
        "resent-cc",
        "resent-bcc",
        "resent-reply-to",
        "return-path",
        "delivered-to",
        "errors-to",
        "disposition-notification-to",
        "return-receipt-to",
        "apparently-to",
        "envelope-to",
        "mail-followup-to",
        "mail-reply-to",
        "x-original-to",
        "x-envelope-to",
        "x-envelope-from",
        "x-delivered-to",
        "x-forwarded-to",
    ];
    KNOWN.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Values of a field in their order: unfolded, decoded, without blanks around (RFC 5228 §2.7.2).
pub(crate) fn values(header: &[u8], name: &str) -> Vec<String> {
    let fields = message::fields(header).filter(|f| f.is(name)).take(MAX_VALUES);
    fields.map(|f| message::decode_words(f.value).trim().to_owned()).collect()
}

pub(crate) fn exists(header: &[u8], name: &str) -> bool {
    message::fields(header).any(|f| f.is(name))
}

/// One address as its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addr {
    pub local: String,
    pub domain: String,
}

impl Addr {
    /// The null reverse-path has neither.
    pub fn of_path(path: &str) -> Self {
        let (local, domain) = path.rsplit_once('@').unwrap_or((path, ""));
        let plain = local.strip_prefix('"').and_then(|l| l.strip_suffix('"')).unwrap_or(local);
        Self { local: plain.to_owned(), domain: domain.to_owned() }
    }

    pub fn all(&self) -> String {
        if self.domain.is_empty() { self.local.clone() } else { format!("{}@{}", self.local, self.domain) }
    }
}

/// Every address of every field of that name, each field's on their own.
pub(crate) fn addresses(header: &[u8], name: &str) -> Vec<Vec<Addr>> {
    let text = |bytes: &Option<Vec<u8>>| String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned();
    let of_field = |value: &[u8]| {
        let list = message::addresses(value, MAX_ADDRESSES);
        // Without a host it begins or ends a group.
        let real = list.into_iter().filter(|a| a.host.is_some());
        real.map(|a| Addr { local: text(&a.mailbox), domain: text(&a.host) }).collect()
    };
    message::fields(header).filter(|f| f.is(name)).take(MAX_VALUES).map(|f| of_field(f.value)).collect()
}
