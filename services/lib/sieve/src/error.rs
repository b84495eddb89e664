/// Why a text is no script, and where. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct ScriptError {
    pub line: usize,
    pub column: usize,
    /// What was expected, or is wrong.
    pub what: String,
}

impl ScriptError {
    /// At an octet of the text.
    pub(crate) fn at(source: &str, at: usize, what: impl Into<String>) -> Self {
        let before = source.get(..source.floor_char_boundary(at)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |lf| lf + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            what: what.into(),
        }
    }
}

/// Why a run ended without an outcome; the message is then kept (RFC 5228 §2.10.6).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    #[error("the script takes too long for this message")]
    TooLong,
    #[error("the script has more than {0} actions")]
    TooManyActions(usize),
    #[error("the script redirects to more than {0} addresses")]
    TooManyRedirects(usize),
    #[error("{0:?} is no address to redirect to")]
    NoAddress(String),
    #[error("{0:?} is no mailbox name")]
    NoMailbox(String),
    /// RFC 5429 §2.1, RFC 5230 §4.7.
    #[error("{0} cannot go together with {1}")]
    Conflict(&'static str, &'static str),
}
