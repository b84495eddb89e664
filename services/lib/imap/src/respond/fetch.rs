//! What FETCH answers (RFC 9051 §7.5.2).

use super::{literal, nstring, number, text};
use crate::{
    Flags,
    date::internal_date,
    section::{Extract, Section},
};

/// One FETCH response, written item by item; [`Fetch::end`] closes it.
#[derive(Debug)]
pub struct Fetch<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Fetch<'o> {
    pub fn begin(out: &'o mut Vec<u8>, seq: u32) -> Self {
        out.extend_from_slice(b"* ");
        number(out, seq.into());
        out.extend_from_slice(b" FETCH (");
        Self { out, first: true }
    }

    /// `* 42 UIDFETCH (`, for clients that know no sequence numbers (RFC 9586 §3.2).
    pub fn begin_uid(out: &'o mut Vec<u8>, uid: u32) -> Self {
        text(out, format_args!("* {uid} UIDFETCH ("));
        Self { out, first: true }
    }

    /// The buffer, for a literal that comes in pieces.
    pub fn out(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Goes on with a response whose beginning was written before.
    pub fn resume(out: &'o mut Vec<u8>, first: bool) -> Self {
        Self { out, first }
    }

    /// `EMAILID (M1)`, `THREADID (T1)`, or NIL for an empty one (RFC 8474 §5).
    pub fn object_id(&mut self, name: &str, prefix: char, id: &str) {
        self.item(name);
        if id.is_empty() {
            self.out.extend_from_slice(b" NIL");
        } else {
            text(self.out, format_args!(" ({prefix}{id})"));
        }
    }

    /// Milliseconds since 1970; 0 is unknown: NIL (RFC 8514 §4.2).
    pub fn save_date(&mut self, ms: i64) {
        self.item("SAVEDATE ");
        if ms == 0 {
            self.out.extend_from_slice(b"NIL");
        } else {
            text(self.out, format_args!("\"{}\"", internal_date(ms)));
        }
    }

    pub fn preview(&mut self, preview: Option<&str>) {
        self.item("PREVIEW ");
        nstring(self.out, preview.map(str::as_bytes));
    }

    /// The item's name and the announcement of its literal; the octets follow.
    pub fn section_literal(&mut self, section: &Section, size: u64) {
        self.item("");
        section.write_name(self.out);
        text(self.out, format_args!(" {{{size}}}\r\n"));
    }

    fn item(&mut self, name: &str) {
        if !self.first {
            self.out.push(b' ');
        }
        self.first = false;
        self.out.extend_from_slice(name.as_bytes());
    }

    pub fn uid(&mut self, uid: u32) {
        self.item("UID ");
        number(self.out, uid.into());
    }

    pub fn flags(&mut self, flags: &Flags) {
        self.item("FLAGS ");
        flags.write(self.out);
    }

    pub fn modseq(&mut self, modseq: u64) {
        self.item("MODSEQ (");
        number(self.out, modseq);
        self.out.push(b')');
    }

    pub fn size(&mut self, size: u32) {
        self.item("RFC822.SIZE ");
        number(self.out, size.into());
    }

    /// Milliseconds since 1970.
    pub fn internal_date(&mut self, ms: i64) {
        self.item("INTERNALDATE ");
        text(self.out, format_args!("\"{}\"", internal_date(ms)));
    }

    /// ENVELOPE, BODY or BODYSTRUCTURE, as [`crate::structure`] wrote it.
    pub fn stored(&mut self, name: &str, stored: &[u8]) {
        self.item(name);
        self.out.push(b' ');
        self.out.extend_from_slice(stored);
    }

    pub fn section(&mut self, section: &Section, extract: &Extract<'_>) {
        self.item("");
        section.write_name(self.out);
        self.out.push(b' ');
        match extract {
            Extract::Missing => self.out.extend_from_slice(b"NIL"),
            Extract::Pieces(first, second) => literal(self.out, first, second),
            Extract::Made(made) => literal(self.out, made, &[]),
        }
    }

    /// `BINARY[1]<0> ~{5}CRLF…`: a literal8, for it may hold NUL (RFC 9051 §4.3).
    pub fn binary(&mut self, path: &[u32], first: Option<u32>, value: Option<&[u8]>) {
        self.item("BINARY[");
        text(self.out, format_args!("{}]", crate::section::dotted(path)));
        if let Some(first) = first {
            text(self.out, format_args!("<{first}>"));
        }
        match value {
            None => self.out.extend_from_slice(b" NIL"),
            Some(value) => {
                self.out.extend_from_slice(if value.contains(&0) { b" ~" } else { b" " });
                literal(self.out, value, &[]);
            }
        }
    }

    pub fn binary_size(&mut self, path: &[u32], size: usize) {
        self.item("BINARY.SIZE[");
        text(self.out, format_args!("{}] {size}", crate::section::dotted(path)));
    }

    pub fn end(self) {
        self.out.extend_from_slice(b")\r\n");
    }
}
