//! The door of every mail port: TCP, TLS, the PROXY protocol, connection limits, drain.
//!
//! ```no_run
//! # async fn example(config: listener::ListenerConfig, shutdown: tokio_util::sync::CancellationToken)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let tls = config.tls()?; // None without certificate; reloads itself when the files change
//! let port = listener::Port {
//!     address: "0.0.0.0:25".parse()?,
//!     implicit_tls: None, // Some(tls) on 465, 993 and 995
//!     refusal: b"421 4.7.0 too many connections\r\n",
//! };
//! let mx = listener::Listener::bind(port, &config)?; // bind all ports first, then say "ready"
//! mx.serve(shutdown, |connection| async move {
//!     // connection.stream, .peer, .local, .tls, .shutdown
//!     // later: let (stream, info) = connection.stream.starttls(&tls).await?;
//! })
//! .await; // returns when `shutdown` is cancelled and the sessions have ended
//! # Ok(()) }
//! ```

mod config;
mod identity;
mod limits;
mod metrics;
mod proxy;
mod serve;
mod stream;
mod tls;

pub use config::{CertificateFiles, ListenerConfig};
pub use metrics::Metrics;
pub use proxy::{ProxyError, ProxyHeader, parse_proxy_header};
pub use serve::{Connection, Listener, Port};
pub use stream::Stream;
pub use tls::{Tls, TlsError, TlsInfo};
