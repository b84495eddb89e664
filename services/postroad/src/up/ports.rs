//! Which ports are used: the mail ports that were asked for, and free ones for the inside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context as _, bail};

/// Below the range that outgoing connections take theirs from, so that a port stays ours
/// while its process is started again.
const INSIDE: std::ops::Range<u16> = 20_000..32_000;
const SIZE: u16 = INSIDE.end - INSIDE.start;

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

/// Free ports of the loopback address. A UDP socket marks each as ours until this is dropped: no other `up`
/// is given it, not even while its process is started again.
#[derive(Debug, Default)]
pub struct InsidePorts(Vec<UdpSocket>);

impl InsidePorts {
    pub fn take(&mut self) -> anyhow::Result<SocketAddr> {
        // Two `up` that start together look in different places.
        self.take_from((uuid::Uuid::new_v4().as_u128() % u128::from(SIZE)) as u16)
    }

    /// The first free one, beginning with that number of them.
    fn take_from(&mut self, first: u16) -> anyhow::Result<SocketAddr> {
        for step in 0..SIZE {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, INSIDE.start + (first + step) % SIZE));
            if let Ok(mark) = UdpSocket::bind(address)
                && TcpListener::bind(address).is_ok()
            {
                self.0.push(mark);
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
        for address in taken {
            TcpListener::bind(address).expect("free for its service");
        }
    }

    #[test]
    fn two_sites_never_share_an_inside_port() {
        let (mut one, mut other) = (InsidePorts::default(), InsidePorts::default());
        // Nobody listens on the first one's.
        let taken = one.take().expect("free");
        let next = other.take_from(taken.port() - INSIDE.start).expect("free");
        assert_ne!(next, taken);
    }

    #[test]
    fn a_taken_mail_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free");
        let taken = listener.local_addr().expect("bound");
        let error = MailPorts::new(taken.ip(), taken.port() - 25).ensure_free().expect_err("is in use");
        assert!(format!("{error:#}").contains(&taken.to_string()));
    }
}
