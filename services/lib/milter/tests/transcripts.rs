//! A message as a filter hears it, packet by packet.
#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use milter::{Answer, Broken, Client, Peer, Step};

/// Packets as `command data`, NUL shown as `|`.
fn shown(mut octets: &[u8]) -> Vec<String> {
    let mut packets = Vec::new();
    while let Some((length, rest)) = octets.split_first_chunk::<4>() {
        let (packet, rest) = rest.split_at(usize::try_from(u32::from_be_bytes(*length)).unwrap());
        let text = String::from_utf8_lossy(packet).replace('\0', "|");
        packets.push(text);
        octets = rest;
    }
    packets
}

fn options(version: u32, actions: u32, protocol: u32) -> BytesMut {
    let words = [13u32, version, actions, protocol].map(u32::to_be_bytes).concat();
    BytesMut::from_iter(words[..4].iter().chain(b"O").chain(&words[4..]).copied())
}

/// After a negotiation in which the filter asked for `protocol`.
fn client(protocol: u32) -> Client {
    let mut client = Client::new();
    let offer = client.output();
    assert_eq!(offer, *b"\0\0\0\x0dO\0\0\0\x06\0\0\0\x21\0\x1f\xf7\xff");
    assert_eq!(client.answer(&mut options(6, 0x01, protocol)), Ok(Some(Answer::Continue)));
    client
}

const PEER: Peer<'static> =
    Peer { name: "[192.0.2.1]", address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), port: 0x4142 };

#[test]
fn a_message_step_by_step() {
    let mut c = client(0);
    c.macros(Step::Connect, &[("j", "mx.example"), ("{client_addr}", "192.0.2.1"), ("_", "")]);
    assert!(c.connect(PEER));
    assert!(c.helo("client.example"));
    assert!(c.mail("a@x.example", &["SIZE=7".into()]));
    assert!(c.rcpt("b@y.example", &[]));
    assert!(c.data());
    assert!(c.header(b"Subject", b" one\r\n two"));
    assert!(c.end_of_headers());
    assert!(c.body(b"hello\r\n"));
    c.macros(Step::EndOfMessage, &[("i", "QID")]);
    assert!(c.end_of_message());
    c.quit();
    assert_eq!(
        shown(&c.output()),
        [
            "DCj|mx.example|{client_addr}|192.0.2.1|",
            "C[192.0.2.1]|4AB192.0.2.1|",
            "Hclient.example|",
            "M<a@x.example>|SIZE=7|",
            "R<b@y.example>|",
            "T",
            "LSubject|one\n two|",
            "N",
            "Bhello\r\n",
            "DEi|QID|",
            "E",
            "Q",
        ]
    );
    assert!(c.output().is_empty());
}

#[test]
fn a_filter_hears_and_answers_what_it_asked_for() {
    // NOHELO, NOBODY, NR_HDR, NR_MAIL, HDR_LEADSPC.
    let mut c = client(0x02 | 0x10 | 0x80 | 0x4000 | 0x10_0000);
    c.macros(Step::Helo, &[("{tls_version}", "TLSv1.3")]);
    assert!(!c.helo("x") && !c.body(b"x"), "not heard");
    assert!(!c.mail("", &[]) && !c.header(b"A", b" b"), "heard, not answered");
    assert!(c.rcpt("b@x", &[]) && c.end_of_message());
    assert_eq!(shown(&c.output()), ["M<>|", "LA| b|", "R<b@x>|", "E"]);
}

#[test]
fn nul_never_ends_a_word_early() {
    let mut c = client(0);
    c.macros(Step::Mail, &[("i", "a\0b")]);
    c.mail("a\0b@x", &["X=\0".into()]);
    c.header(b"A\0", b"\0b\r\n\tc");
    assert_eq!(shown(&c.output()), ["M<ab@x>|X=|", "LA|b\n\tc|"]);
    c.body(&[b'x'; 70_000]);
    assert_eq!(c.output().len(), 65_535 + 5);
}

#[test]
fn a_filter_that_wants_more_than_is_offered_is_not_used() {
    for (version, actions, protocol) in [(6, 0x02, 0), (6, 0x10, 0), (6, 0, 0x800), (7, 0, 0), (1, 0, 0)] {
        let answer = Client::new().answer(&mut options(version, actions, protocol));
        assert_eq!(answer, Err(Broken::NotOffered), "{version} {actions} {protocol}");
    }
    assert_eq!(Client::new().answer(&mut options(2, 0, 0x7f)), Ok(Some(Answer::Continue)), "an old one");
}
