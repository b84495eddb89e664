//! The relay against scripted MTAs, one file a scenario.

#![allow(clippy::unwrap_used)]

mod disconnects;
mod dsn_options;
mod greylisting;
mod mta_sts;
mod mx_down;
mod refused_data;
mod relay;
mod routes;
mod some_recipients_later;
mod support;
mod tarpit;
mod tls_policies;
