//! Whom a client's certificate names: the mail addresses of its subjectAltName (RFC 5280 §4.2.1.6).

/// Looked at of one certificate.
const MAX_ADDRESSES: usize = 16;

const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `[3] EXPLICIT Extensions` of TBSCertificate.
const EXTENSIONS: u8 = 0xa3;
/// `[1] IA5String` of GeneralName.
const RFC822_NAME: u8 = 0x81;
/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// The addresses of a certificate that was verified already; none when it is not as RFC 5280 has it.
pub(crate) fn addresses(certificate: &[u8]) -> Vec<String> {
    alternative_names(certificate).map_or_else(Vec::new, |names| {
        let addresses = Elements(names).filter(|(tag, _)| *tag == RFC822_NAME);
        let text = addresses.filter_map(|(_, value)| std::str::from_utf8(value).ok());
        text.filter(|t| t.contains('@')).take(MAX_ADDRESSES).map(str::to_owned).collect()
    })
}

fn alternative_names(certificate: &[u8]) -> Option<&[u8]> {
    let find = |within, tag| Elements(within).find(|(t, _)| *t == tag).map(|(_, value)| value);
    let tbs = find(find(certificate, SEQUENCE)?, SEQUENCE)?;
    let extensions = find(find(tbs, EXTENSIONS)?, SEQUENCE)?;
    let extension = Elements(extensions)
        .map(|(_, extension)| extension)
        .find(|extension| find(extension, OBJECT_IDENTIFIER) == Some(&SUBJECT_ALT_NAME))?;
    find(find(extension, OCTET_STRING)?, SEQUENCE)
}

/// The elements of DER (X.690 §8.1), tag and value; ends at the first that is broken.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..0x80 => (usize::from(first), rest),
            _ => {
                let octets = rest.get(..usize::from(first & 0x7f)).filter(|o| o.len() <= 4)?;
                let length = octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
                (length, rest.get(octets.len()..)?)
            }
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: Vec<rcgen::SanType>) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.subject_alt_names = names;
        let key = rcgen::KeyPair::generate().expect("a key");
        parameters.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn the_addresses_of_a_certificate() {
        let name = |text: &str| rcgen::SanType::Rfc822Name(text.try_into().expect("ASCII"));
        let host = rcgen::SanType::DnsName("mail@example.com".try_into().expect("ASCII"));
        let der = certificate(vec![name("bob@example.com"), host, name("b@example.com"), name("nobody")]);
        assert_eq!(addresses(&der), ["bob@example.com", "b@example.com"]);
        assert!(addresses(&certificate(Vec::new())).is_empty());
        assert_eq!(addresses(&certificate(vec![name("a@b"); 40])).len(), MAX_ADDRESSES);
        // Cut off anywhere, or with any octet changed, it is read to some end.
        for end in 0..der.len() {
            assert!(addresses(&der[..end]).len() <= 2);
            let mut changed = der.clone();
            changed[end] ^= 0xff;
            assert!(addresses(&changed).len() <= MAX_ADDRESSES);
        }
    }
}
