//! Sieve (RFC 5228): the language in which people say what becomes of their mail.
//!
//! A text is read ([`Script::compile`]) and either refused with line and column, or it is a program
//! that can only fail in the ways [`RunError`] names. [`Script::run`] turns a message into a list of
//! [`Action`]s; it does nothing itself, knows no clock and no storage, and is bounded in steps,
//! actions and memory whatever the script and the message are.
//!
//! What a script asks for beyond the header (the content, whether a mailbox exists, whether a
//! message came before) may be unknown when it begins: then it ends with [`Stop::Needs`], and
//! is run again by a caller who knows. A script that looks at the header alone costs the header alone.

mod arguments;
mod body;
mod check;
mod compare;
mod date;
mod error;
mod extension;
mod fields;
mod flags;
mod interpreter;
mod lexer;
mod parser;
mod program;
mod simple;
mod tests_check;
mod tests_run;
mod text;
mod vacation;

pub use error::{RunError, ScriptError};
pub use extension::Extension;
pub use interpreter::{Action, Fact, Limits, Outcome, Stop, Tracked, World};
pub use program::Script;
pub use simple::{Forward, Vacation};
pub use vacation::{Reply, Respond, why_not};

/// What `SIEVE` announces in ManageSieve (RFC 5804 §1.7) and `require` takes.
pub fn capabilities() -> Vec<&'static str> {
    Extension::ALL.iter().map(|e| e.name()).collect()
}
