//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt).
//!
//! A load balancer tells the client's address in front of the client's bytes. The header is
//! believed from configured networks only, where it is required: optional would be forgeable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// §2.2: "the binary header format starts with a constant 12 bytes block".
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// §2.1: 107 characters is the longest line of version 1.
const V1_MAX: usize = 107;
/// Room for the addresses and the usual TLVs; §2.2 allows 64 kB, nobody needs it.
const V2_MAX: usize = 16 + 4096;

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Octets of the input that belong to the header.
    pub length: usize,
    /// Client and server as the balancer saw them; `None` for LOCAL and UNKNOWN, where the
    /// addresses of the connection itself hold.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("connection does not begin with a PROXY header")]
    Missing,
    #[error("PROXY header is malformed")]
    Malformed,
    #[error("PROXY header is too long")]
    TooLong,
}

/// `None` while the header is incomplete.
pub fn parse_proxy_header(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let common = input.len().min(V2_SIGNATURE.len());
    if input.get(..common) == V2_SIGNATURE.get(..common) {
        return if common == V2_SIGNATURE.len() { parse_v2(input) } else { Ok(None) };
    }
    const V1: &[u8] = b"PROXY ";
    let common = input.len().min(V1.len());
    if input.get(..common) == V1.get(..common) { parse_v1(input) } else { Err(ProxyError::Missing) }
}

fn parse_v1(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some(end) = input.windows(2).take(V1_MAX - 1).position(|w| w == b"\r\n") else {
        return if input.len() >= V1_MAX { Err(ProxyError::TooLong) } else { Ok(None) };
    };
    let line = input.get(..end).and_then(|l| std::str::from_utf8(l).ok()).ok_or(ProxyError::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or(ProxyError::Malformed)?;
    let header = |addresses| Ok(Some(ProxyHeader { length: end + 2, addresses }));
    if family == "UNKNOWN" {
        return header(None); // §2.1: what follows UNKNOWN is to be ignored
    }
    let mut word = || words.next().ok_or(ProxyError::Malformed);
    let (source, destination) = (address_v1(family, word()?)?, address_v1(family, word()?)?);
    let (source_port, destination_port) = (port_v1(word()?)?, port_v1(word()?)?);
    if words.next().is_some() {
        return Err(ProxyError::Malformed);
    }
    header(Some((SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port))))
}

fn address_v1(family: &str, text: &str) -> Result<IpAddr, ProxyError> {
    let address = match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6),
        _ => return Err(ProxyError::Malformed),
    };
    address.map_err(|_| ProxyError::Malformed)
}

fn port_v1(text: &str) -> Result<u16, ProxyError> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }.ok_or(ProxyError::Malformed)
}

fn parse_v2(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some(&[version_command, family, high, low]) = input.get(12..16) else { return Ok(None) };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 {
        return Err(ProxyError::Malformed);
    }
    if length > V2_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(payload) = input.get(16..length) else { return Ok(None) };
    let addresses = match (version_command & 0x0f, family) {
        (0, _) => None, // LOCAL: the balancer's own health check
        (1, 0x11) => Some(addresses_v2::<4>(payload)?),
        (1, 0x21) => Some(addresses_v2::<16>(payload)?),
        (1, _) => None, // UNSPEC, datagrams, UNIX sockets: §2.2 says to use the socket's address
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(ProxyHeader { length, addresses }))
}

fn addresses_v2<const N: usize>(payload: &[u8]) -> Result<(SocketAddr, SocketAddr), ProxyError>
where
    IpAddr: From<[u8; N]>,
{
    let ip = |at: usize| payload.get(at..at + N).and_then(|b| <[u8; N]>::try_from(b).ok()).map(IpAddr::from);
    let port = |at: usize| payload.get(at..at + 2).and_then(|b| <[u8; 2]>::try_from(b).ok()).map(u16::from_be_bytes);
    let read = || {
        let source = SocketAddr::new(ip(0)?, port(2 * N)?);
        Some((source, SocketAddr::new(ip(N)?, port(2 * N + 2)?)))
    };
    read().ok_or(ProxyError::Malformed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = V2_SIGNATURE.to_vec();
        out.extend([0x20 | command, family]);
        out.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        out.extend(payload);
        out
    }

    fn source(input: &[u8]) -> Option<String> {
        parse_proxy_header(input).unwrap().unwrap().addresses.map(|(s, _)| s.to_string())
    }

    #[test]
    fn version_1() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\nEHLO x\r\n";
        let header = parse_proxy_header(line).unwrap().unwrap();
        assert_eq!(header.length, line.len() - 8);
        assert_eq!(source(line).unwrap(), "192.0.2.7:56324");
        assert_eq!(source(b"PROXY TCP6 2001:db8::7 2001:db8::1 1 25\r\n").unwrap(), "[2001:db8::7]:1");
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(source(b"PROXY UNKNOWN ffff:: :: 1 2\r\n"), None);
    }

    #[test]
    fn version_2() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 0, 25];
        assert_eq!(source(&v2(1, 0x11, &v4)).unwrap(), "192.0.2.7:56324");
        assert_eq!(source(&v2(0, 0, &[])), None, "LOCAL");
        assert_eq!(source(&v2(1, 0x31, &[0; 216])), None, "UNIX");
        let mut v6 = [0u8; 36];
        v6[15] = 1;
        v6[33] = 9;
        let mut with_tlv = v6.to_vec();
        with_tlv.extend([4, 0, 1, 0]);
        assert_eq!(source(&v2(1, 0x21, &with_tlv)).unwrap(), "[::1]:9");
    }

    #[test]
    fn every_prefix_of_a_header_is_incomplete() {
        let v4 = v2(1, 0x11, &[1; 12]);
        for whole in [b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n".as_slice(), &v4] {
            for n in 0..whole.len() {
                assert_eq!(parse_proxy_header(&whole[..n]), Ok(None), "{n}");
            }
            assert!(parse_proxy_header(whole).unwrap().is_some());
        }
    }

    #[test]
    fn refuses_everything_else() {
        assert_eq!(parse_proxy_header(b"EHLO x\r\n"), Err(ProxyError::Missing));
        assert_eq!(parse_proxy_header(b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 25\r\n"), Err(ProxyError::Malformed));
        assert_eq!(parse_proxy_header(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n"), Err(ProxyError::Malformed));
        assert_eq!(parse_proxy_header(b"PROXY TCP4 ::1 ::1 1 25\r\n"), Err(ProxyError::Malformed));
        assert_eq!(parse_proxy_header(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 25 x\r\n"), Err(ProxyError::Malformed));
        assert_eq!(parse_proxy_header(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()), Err(ProxyError::TooLong));
        assert_eq!(parse_proxy_header(&v2(1, 0x11, &[1; 11])), Err(ProxyError::Malformed));
        assert_eq!(parse_proxy_header(&v2(7, 0x11, &[1; 12])), Err(ProxyError::Malformed));
        let mut version_3 = v2(1, 0x11, &[1; 12]);
        version_3[12] = 0x31;
        assert_eq!(parse_proxy_header(&version_3), Err(ProxyError::Malformed));
        let mut huge = v2(1, 0x11, &[1; 12]);
        huge[14] = 0xff;
        assert_eq!(parse_proxy_header(&huge), Err(ProxyError::TooLong));
    }
}
