//! Dialogues with the gateway, over a real socket, against an mda in memory.

mod catenate;
mod clients;
mod extensions;
mod login;
mod notify;
mod sessions;
mod support;
