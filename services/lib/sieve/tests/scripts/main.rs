//! Scripts against messages, as the RFCs show them.

#![allow(clippy::unwrap_used)]

mod base;
mod extensions;
mod world;
