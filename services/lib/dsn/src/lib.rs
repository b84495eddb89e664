//! Delivery status notifications: the report of RFC 3464 as a message (RFC 3461 §6, RFC 6522).
//!
//! [`Report::to_bytes`] writes the whole message, with no clock and no randomness of its own: the
//! caller brings date, Message-ID and boundary. It is sent with the null reverse-path, so that it
//! can never be bounced itself (RFC 5321 §4.5.5). [`wants_failure`] says whether one is due.

mod field;
mod identity;
mod report;
mod returned;

pub use identity::{report_id, report_id_of, wants_delay, wants_failure, wants_success};
pub use report::{Action, RecipientReport, Report};
pub use returned::{Returned, header_section};
