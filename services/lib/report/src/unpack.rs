//! Reports within messages: the parts that may be one, unpacked within bounds.

use std::io::{Read as _, Write as _};

use flate2::{
    Compression,
    read::{DeflateDecoder, GzDecoder},
    write::GzEncoder,
};
use message::{Part, Structure, decode_transfer};

/// Octets of one document after unpacking. Compression makes a thousandth of anything: a limit for
/// what comes is none for what it becomes.
pub const MAX_DOCUMENT: usize = 16 << 20;
/// Documents of one message.
const MAX_DOCUMENTS: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Xml(Vec<u8>),
    Json(Vec<u8>),
}

/// What a message carries, packed as gzip or zip, or not packed at all.
pub fn documents(raw: &[u8]) -> Vec<Document> {
    let structure = Structure::parse(raw);
    let found = structure.leaves().into_iter().filter(|part| may_be_report(part));
    let bodies = found.filter_map(|part| {
        let body = raw.get(part.body())?;
        unpack(&decode_transfer(body, part.encoding.as_deref()))
    });
    bodies.filter_map(document).take(MAX_DOCUMENTS).collect()
}

/// Media types differ widely; text for people is what none of them is.
fn may_be_report(part: &Part) -> bool {
    let is_text = part.media.is("text", "plain") || part.media.is("text", "html");
    !is_text || part.disposition.is_some()
}

fn document(text: Vec<u8>) -> Option<Document> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").map(<[u8]>::to_vec).unwrap_or(text);
    match text.iter().find(|b| !b.is_ascii_whitespace())? {
        b'<' => Some(Document::Xml(text)),
        b'{' => Some(Document::Json(text)),
        _ => None,
    }
}

fn unpack(octets: &[u8]) -> Option<Vec<u8>> {
    match octets {
        [0x1f, 0x8b, ..] => bounded(GzDecoder::new(octets)),
        [b'P', b'K', 3, 4, ..] => unzip(octets),
        _ => (octets.len() <= MAX_DOCUMENT).then(|| octets.to_vec()),
    }
}

/// The first file: a report is packed alone. Deflate tells its own end, so that sizes, which may
/// stand behind the data, are not needed (PKWARE's APPNOTE 4.3.7).
fn unzip(octets: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| octets.get(at..at + 2).map(|n| usize::from(u16::from_le_bytes([n[0], n[1]])));
    let start = 30 + number(26)? + number(28)?;
    let data = octets.get(start..)?;
    match number(8)? {
        8 => bounded(DeflateDecoder::new(data)),
        0 => {
            let size = octets.get(18..22)?;
            let size = usize::try_from(u32::from_le_bytes([size[0], size[1], size[2], size[3]])).ok()?;
            data.get(..size.min(MAX_DOCUMENT)).map(<[u8]>::to_vec)
        }
        _ => None,
    }
}

fn bounded(reader: impl std::io::Read) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    reader.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut text).ok()?;
    (text.len() <= MAX_DOCUMENT).then_some(text)
}

/// For those that we send.
pub fn gzip(octets: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(octets)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflated(octets: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(octets).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zip(method: u8, size: u32, data: &[u8]) -> Vec<u8> {
        let mut zip = vec![b'P', b'K', 3, 4, 20, 0, 0, 0, method, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        zip.extend_from_slice(&size.to_le_bytes());
        zip.extend_from_slice(&[0; 4]);
        zip.extend_from_slice(&[1, 0, 0, 0, b'x']);
        zip.extend_from_slice(data);
        zip
    }

    fn message(kind: &str, body: &[u8]) -> Vec<u8> {
        // Binary, as BINARYMIME may bring it.
        let head = format!("Content-Type: {kind}\r\nContent-Transfer-Encoding: binary\r\n\r\n");
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn packed_and_plain() {
        let xml = b"<feedback/>".to_vec();
        let wanted = vec![Document::Xml(xml.clone())];
        for (kind, body) in [
            ("application/gzip", gzip(&xml).expect("memory")),
            ("application/octet-stream", gzip(&xml).expect("memory")),
            ("application/zip", zip(8, 0, &deflated(&xml))),
            ("application/zip", zip(0, 11, &[&xml[..], b"PK"].concat())),
            ("text/xml", xml.clone()),
        ] {
            assert_eq!(documents(&message(kind, &body)), wanted, "{kind}");
        }
        assert_eq!(documents(&message("application/tlsrpt+json", b" {}")), [Document::Json(b" {}".to_vec())]);
        assert!(documents(&message("text/plain", &xml)).is_empty());
    }

    #[test]
    fn bombs_and_fragments_are_nothing() {
        let zeros = vec![b'<'; MAX_DOCUMENT + 1];
        assert!(documents(&message("application/gzip", &gzip(&zeros).expect("memory"))).is_empty());
        assert!(documents(&message("application/zip", &zip(8, 0, &deflated(&zeros)))).is_empty());
        let whole = zip(8, 0, &deflated(b"<feedback/>"));
        for end in 0..whole.len() - 1 {
            assert!(documents(&message("application/zip", &whole[..end])).is_empty());
        }
        assert!(documents(&message("application/zip", &zip(0, u32::MAX, b"<"))).is_empty());
        assert!(documents(&message("application/zip", &zip(99, 0, b"<"))).is_empty());
    }
}
