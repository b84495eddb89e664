use super::pieces::Pieces;

/// What a port offers.
#[derive(Debug, Clone)]
pub struct Config {
    /// In the greeting and the reply to EHLO.
    pub hostname: String,
    /// Offer STARTTLS on plain connections.
    pub starttls: bool,
    /// SASL mechanisms offered once the connection is encrypted; empty on an MX.
    pub mechanisms: Vec<&'static str>,
    /// Submission: no mail without AUTH (RFC 6409 §4.3).
    pub auth_required: bool,
    /// Octets of content.
    pub max_message_size: u64,
    /// Octets of a line of content without CRLF (RFC 5321 §4.5.3.1.6); 0 is no limit.
    pub max_line: usize,
    pub max_recipients: usize,
    /// MAIL commands of a session (RFC 9422: MAILMAX).
    pub max_transactions: u32,
    /// Refused commands before the session is ended.
    pub max_errors: u32,
    /// Seconds that a message may be held back (RFC 4865); `None`: not offered.
    pub max_hold: Option<u64>,
    /// Offer MT-PRIORITY (RFC 6710).
    pub priorities: bool,
    /// Ends sessions whose client pipelines where it must wait for us (RFC 2920 §3.1).
    pub refuse_early: bool,
    /// Room for content, shared by all sessions of the ports that have it.
    pub pieces: Pieces,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            starttls: false,
            mechanisms: Vec::new(),
            auth_required: false,
            max_message_size: 50 << 20,
            max_line: 998,
            max_recipients: 1000,
            max_transactions: 1000,
            max_errors: 20,
            max_hold: None,
            priorities: false,
            refuse_early: false,
            pieces: Pieces::default(),
        }
    }
}
