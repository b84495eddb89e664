//! Which ports are used: the mail ports that were asked for, and free ones for the inside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, bail};

/// Below the range that outgoing connections take theirs from, so that a port stays ours
/// while its process is started again.
const INSIDE: std::ops::Range<u16> = 20_000..32_000;

/// The console's, before the offset.
pub const CONSOLE: u16 = 8080;

/// The mail ports and the console's, with their offset.
#[derive(Debug, Clone, Copy)]
pub struct MailPorts {
    address: IpAddr,
    offset: u16,
}

impl MailPorts {
    pub fn new(address: IpAddr, offset: u16) -> Self {
        Self { address, offset }
    }

    /// The address of a well-known port.
    pub fn at(self, well_known: u16) -> SocketAddr {
        SocketAddr::new(self.address, well_known.saturating_add(self.offset))
    }

    pub fn all(self) -> impl Iterator<Item = SocketAddr> {
        [25, 587, 465, 143, 993, 110, 995, 4190, CONSOLE].into_iter().map(move |port| self.at(port))
    }

    /// The services share ports by SO_REUSEPORT, so they would not notice a stranger (or another
    /// `up`) who does the same; a socket without it does.
    pub fn ensure_free(self) -> anyhow::Result<()> {
        for address in self.all() {
            TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        }
        Ok(())
    }
}

/// Takes free ports of the loopback address and holds them until it is dropped, so that no
/// port is given twice.
#[derive(Debug, Default)]
pub struct InsidePorts(Vec<TcpListener>);

impl InsidePorts {
    pub fn take(&mut self) -> anyhow::Result<SocketAddr> {
        let size = INSIDE.end - INSIDE.start;
        // Two `up` that start together look in different places.
        let first = (uuid::Uuid::new_v4().as_u128() % u128::from(size)) as u16;
        for step in 0..size {
            let port = INSIDE.start + (first + step) % size;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if let Ok(listener) = TcpListener::bind(address) {
                self.0.push(listener);
                return Ok(address);
            }
        }
        bail!("no free port between {} and {}", INSIDE.start, INSIDE.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_ports_are_different_and_free() {
        let mut ports = InsidePorts::default();
        let taken: std::collections::BTreeSet<_> = (0..20).map(|_| ports.take().expect("free")).collect();
        assert_eq!(taken.len(), 20);
        drop(ports);
        for address in taken {
            TcpListener::bind(address).expect("given back");
        }
    }

    #[test]
    fn a_taken_mail_port_is_named() {
        let mut ports = InsidePorts::default();
        let taken = ports.take().expect("free");
        let error = MailPorts::new(taken.ip(), taken.port() - 25).ensure_free().expect_err("is in use");
        assert!(format!("{error:#}").contains(&taken.to_string()));
    }
}
