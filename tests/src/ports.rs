//! Ports of loopback that one test alone has, whatever other processes look for one in the same moment.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

/// The range in which `postroad up` finds its inside ports too, below those that connections get.
const OURS: std::ops::Range<u16> = 20_000..32_000;

/// Takes a port on which nobody listens, until this process ends; false when it has an owner.
///
/// The mark is a UDP socket, as with `postroad up`: a TCP socket would have to be closed before the server can
/// have the port, and then anyone might.
pub fn reserve(port: u16) -> bool {
    static MARKS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let Ok(mark) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { return false };
    let is_free = nobody_listens("127.0.0.1", port);
    if is_free {
        MARKS.lock().unwrap().push(mark);
    }
    is_free
}

/// Asked by connecting: a listener of our own could live on for a moment in a child that is just being started.
pub fn nobody_listens(host: &str, port: u16) -> bool {
    TcpStream::connect((host, port)).is_err()
}

/// For a server of the test's own.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let size = OURS.end - OURS.start;
    let first = (std::process::id() % 100) as u16 * 120;
    let port = (0..size)
        .map(|_| OURS.start + (first + NEXT.fetch_add(1, Ordering::Relaxed) % size) % size)
        .find(|port| reserve(*port))
        .expect("free ports on loopback");
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
