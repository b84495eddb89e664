//! The steps of a message as a filter hears them.

use std::net::IpAddr;

use bytes::BytesMut;

use crate::packet::{self, Answer, Broken};

const VERSION: u32 = 6;
/// Versions below have no options to speak of; libmilter has been at 6 since 2009.
const OLDEST: u32 = 2;

/// SMFIF_ADDHDRS and SMFIF_QUARANTINE: what a filter may do with a message.
const ACTIONS: u32 = 0x01 | 0x20;

/// SMFIP_NO…: the filter does not want to hear of a step.
const NO_CONNECT: u32 = 0x01;
const NO_HELO: u32 = 0x02;
const NO_MAIL: u32 = 0x04;
const NO_RCPT: u32 = 0x08;
const NO_BODY: u32 = 0x10;
const NO_HEADERS: u32 = 0x20;
const NO_END_OF_HEADERS: u32 = 0x40;
const NO_UNKNOWN: u32 = 0x100;
const NO_DATA: u32 = 0x200;
const SKIP: u32 = 0x400;
/// SMFIP_NR_…: it hears, and does not answer.
const MUTE_HEADER: u32 = 0x80;
const MUTE_CONNECT: u32 = 0x1000;
const MUTE_HELO: u32 = 0x2000;
const MUTE_MAIL: u32 = 0x4000;
const MUTE_RCPT: u32 = 0x8000;
const MUTE_DATA: u32 = 0x1_0000;
const MUTE_UNKNOWN: u32 = 0x2_0000;
const MUTE_END_OF_HEADERS: u32 = 0x4_0000;
const MUTE_BODY: u32 = 0x8_0000;
/// Values come with the blank behind the colon.
const LEADING_SPACE: u32 = 0x10_0000;
const PROTOCOL: u32 = NO_CONNECT
    | NO_HELO
    | NO_MAIL
    | NO_RCPT
    | NO_BODY
    | NO_HEADERS
    | NO_END_OF_HEADERS
    | NO_UNKNOWN
    | NO_DATA
    | SKIP
    | MUTE_HEADER
    | MUTE_CONNECT
    | MUTE_HELO
    | MUTE_MAIL
    | MUTE_RCPT
    | MUTE_DATA
    | MUTE_UNKNOWN
    | MUTE_END_OF_HEADERS
    | MUTE_BODY
    | LEADING_SPACE;

/// MILTER_CHUNK_SIZE.
pub const MAX_BODY: usize = 65_535;

/// Where a client comes from.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Its name, or its address in brackets.
    pub name: &'a str,
    pub address: IpAddr,
    pub port: u16,
}

/// One conversation with a filter. Steps return whether the filter answers: then write the output
/// and read with [`Client::answer`] until the step has its answer.
#[derive(Debug, Default)]
pub struct Client {
    protocol: u32,
    output: Vec<u8>,
}

impl Client {
    /// Begins with the negotiation, which the filter answers.
    pub fn new() -> Self {
        let mut client = Self::default();
        let offer = [VERSION, ACTIONS, PROTOCOL].map(u32::to_be_bytes).concat();
        packet::write(&mut client.output, b'O', &[&offer]);
        client
    }

    /// What is to be written.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The filter's next word; `None` when it is not complete.
    pub fn answer(&mut self, input: &mut BytesMut) -> Result<Option<Answer>, Broken> {
        match packet::read(input)? {
            Some(Answer::Options { version, actions, protocol }) => {
                let is_ours = actions & !ACTIONS == 0 && protocol & !PROTOCOL == 0;
                if !is_ours || !(OLDEST..=VERSION).contains(&version) {
                    return Err(Broken::NotOffered);
                }
                self.protocol = protocol;
                Ok(Some(Answer::Continue))
            }
            other => Ok(other),
        }
    }

    /// Names such as `i` or `{auth_authen}` for the step that follows.
    pub fn macros(&mut self, step: Step, values: &[(&str, &str)]) {
        let mut data: Vec<&[u8]> = vec![std::slice::from_ref(step.command())];
        for (name, value) in values.iter().filter(|(_, value)| !value.is_empty() && !value.contains('\0')) {
            data.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"]);
        }
        if data.len() > 1 && !self.has(step.unwanted()) {
            packet::write(&mut self.output, b'D', &data);
        }
    }

    pub fn connect(&mut self, peer: Peer<'_>) -> bool {
        let (family, address) = match peer.address {
            IpAddr::V4(v4) => (b"4", v4.to_string()),
            IpAddr::V6(v6) => (b"6", v6.to_string()),
        };
        let port = peer.port.to_be_bytes();
        self.step(Step::Connect, &[&text(peer.name), family, &port, &text(&address)])
    }

    pub fn helo(&mut self, name: &str) -> bool {
        self.step(Step::Helo, &[&text(name)])
    }

    /// The reverse-path without brackets, and its parameters.
    pub fn mail(&mut self, path: &str, parameters: &[String]) -> bool {
        self.path(Step::Mail, path, parameters)
    }

    pub fn rcpt(&mut self, path: &str, parameters: &[String]) -> bool {
        self.path(Step::Rcpt, path, parameters)
    }

    pub fn data(&mut self) -> bool {
        self.step(Step::Data, &[])
    }

    /// One field, its value folded as it came, without its last line end.
    pub fn header(&mut self, name: &[u8], value: &[u8]) -> bool {
        let mut value: Vec<u8> = value.iter().copied().filter(|b| !matches!(b, b'\r' | 0)).collect();
        if !self.has(LEADING_SPACE) && value.first() == Some(&b' ') {
            value.remove(0);
        }
        let name: Vec<u8> = name.iter().copied().filter(|b| *b != 0).collect();
        self.step(Step::Header, &[&name, b"\0", &value, b"\0"])
    }

    pub fn end_of_headers(&mut self) -> bool {
        self.step(Step::EndOfHeaders, &[])
    }

    /// At most [`MAX_BODY`] octets; more is cut.
    pub fn body(&mut self, octets: &[u8]) -> bool {
        self.step(Step::Body, &[octets.get(..MAX_BODY).unwrap_or(octets)])
    }

    /// Always answered, after all that the filter wants to change.
    pub fn end_of_message(&mut self) -> bool {
        self.step(Step::EndOfMessage, &[])
    }

    /// The filter may forget us; it does not answer.
    pub fn quit(&mut self) {
        packet::write(&mut self.output, b'Q', &[]);
    }

    fn path(&mut self, step: Step, path: &str, parameters: &[String]) -> bool {
        let path = text(&format!("<{path}>"));
        let parameters: Vec<Vec<u8>> = parameters.iter().map(|p| text(p)).collect();
        let data: Vec<&[u8]> = std::iter::once(&path).chain(&parameters).map(|p| &p[..]).collect();
        self.step(step, &data)
    }

    fn step(&mut self, step: Step, data: &[&[u8]]) -> bool {
        if self.has(step.unwanted()) {
            return false;
        }
        packet::write(&mut self.output, *step.command(), data);
        !self.has(step.mute())
    }

    fn has(&self, flag: u32) -> bool {
        self.protocol & flag != 0
    }
}

/// A step, for the macros that belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Connect,
    Helo,
    Mail,
    Rcpt,
    Data,
    Header,
    EndOfHeaders,
    Body,
    EndOfMessage,
}

impl Step {
    fn command(self) -> &'static u8 {
        match self {
            Self::Connect => &b'C',
            Self::Helo => &b'H',
            Self::Mail => &b'M',
            Self::Rcpt => &b'R',
            Self::Data => &b'T',
            Self::Header => &b'L',
            Self::EndOfHeaders => &b'N',
            Self::Body => &b'B',
            Self::EndOfMessage => &b'E',
        }
    }

    fn unwanted(self) -> u32 {
        match self {
            Self::Connect => NO_CONNECT,
            Self::Helo => NO_HELO,
            Self::Mail => NO_MAIL,
            Self::Rcpt => NO_RCPT,
            Self::Data => NO_DATA,
            Self::Header => NO_HEADERS,
            Self::EndOfHeaders => NO_END_OF_HEADERS,
            Self::Body => NO_BODY,
            Self::EndOfMessage => 0,
        }
    }

    fn mute(self) -> u32 {
        match self {
            Self::Connect => MUTE_CONNECT,
            Self::Helo => MUTE_HELO,
            Self::Mail => MUTE_MAIL,
            Self::Rcpt => MUTE_RCPT,
            Self::Data => MUTE_DATA,
            Self::Header => MUTE_HEADER,
            Self::EndOfHeaders => MUTE_END_OF_HEADERS,
            Self::Body => MUTE_BODY,
            Self::EndOfMessage => 0,
        }
    }
}

/// Ended by NUL, without one inside.
fn text(text: &str) -> Vec<u8> {
    text.bytes().filter(|b| *b != 0).chain(std::iter::once(0)).collect()
}
