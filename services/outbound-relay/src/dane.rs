//! DANE for SMTP (RFC 7672): whether a chain matches the TLSA records of a host. Pure.

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use dns::Tlsa;
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;

const DANE_TA: u8 = 2;
const DANE_EE: u8 = 3;
const FULL: u8 = 0;
const SPKI: u8 = 1;
/// More are not looked at: a chain is checked against each.
const MAX_RECORDS: usize = 32;

/// The records that can be used here. PKIX-TA and PKIX-EE cannot (RFC 7672 §3.1.3), nor can
/// selectors and digests that nobody has heard of.
pub(crate) fn usable(records: &[Tlsa]) -> Vec<Tlsa> {
    let usable =
        |r: &&Tlsa| matches!(r.usage, DANE_TA | DANE_EE) && matches!(r.selector, FULL | SPKI) && r.matching <= 2;
    records.iter().filter(usable).take(MAX_RECORDS).cloned().collect()
}

/// How a chain matches.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match<'a> {
    /// The server's own certificate: neither its names nor its dates matter (§3.1.1).
    EndEntity,
    /// This one signs for it: the rest of the chain has to be checked up to it (§3.1.2).
    TrustAnchor(CertificateDer<'a>),
}

/// All ways in which the chain, the server's own certificate first, matches.
pub(crate) fn matches<'a>(records: &[Tlsa], chain: &[CertificateDer<'a>]) -> Vec<Match<'a>> {
    let mut found = Vec::new();
    for record in records {
        match record.usage {
            DANE_EE if chain.first().is_some_and(|own| is_match(record, own)) => found.push(Match::EndEntity),
            DANE_TA => {
                let anchors = chain.iter().filter(|c| is_match(record, c));
                found.extend(anchors.map(|c| Match::TrustAnchor(c.clone())));
                // A whole certificate in the DNS need not be sent again.
                if record.selector == FULL && record.matching == 0 {
                    found.push(Match::TrustAnchor(CertificateDer::from(record.data.clone())));
                }
            }
            _ => {}
        }
    }
    found
}

fn is_match(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let key;
    let selected: &[u8] = match record.selector {
        SPKI => match ParsedCertificate::try_from(certificate) {
            Ok(parsed) => {
                key = parsed.subject_public_key_info();
                &key
            }
            Err(_) => return false,
        },
        _ => certificate,
    };
    match record.matching {
        0 => selected == record.data,
        1 => digest(&SHA256, selected).as_ref() == record.data,
        _ => digest(&SHA512, selected).as_ref() == record.data,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn certificate() -> CertificateDer<'static> {
        rcgen::generate_simple_self_signed(vec!["mx.example".to_owned()]).unwrap().cert.der().clone()
    }

    fn record(usage: u8, selector: u8, matching: u8, data: &[u8]) -> Tlsa {
        Tlsa { usage, selector, matching, data: data.to_vec() }
    }

    #[test]
    fn every_selector_and_digest() {
        let (own, other) = (certificate(), certificate());
        let parsed = ParsedCertificate::try_from(&own).unwrap();
        let key = parsed.subject_public_key_info();
        for (selector, data) in [(FULL, own.as_ref()), (SPKI, key.as_ref())] {
            for (matching, data) in [
                (0, data.to_vec()),
                (1, digest(&SHA256, data).as_ref().to_vec()),
                (2, digest(&SHA512, data).as_ref().to_vec()),
            ] {
                let record = [record(DANE_EE, selector, matching, &data)];
                assert_eq!(matches(&record, std::slice::from_ref(&own)), [Match::EndEntity]);
                assert_eq!(matches(&record, &[other.clone(), own.clone()]), []);
            }
        }
        let anchor = [record(DANE_TA, FULL, 1, digest(&SHA256, &own).as_ref())];
        assert_eq!(matches(&anchor, &[other, own.clone()]), [Match::TrustAnchor(own)]);
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let all = [
            record(0, 0, 1, b""),
            record(1, 1, 1, b""),
            record(3, 2, 1, b""),
            record(3, 1, 3, b""),
            record(3, 1, 1, b""),
        ];
        assert_eq!(usable(&all), [record(3, 1, 1, b"")]);
        assert_eq!(usable(&vec![record(3, 1, 1, b""); 1_000]).len(), MAX_RECORDS);
    }

    #[test]
    fn garbage_matches_nothing() {
        let garbage = CertificateDer::from(b"no certificate".to_vec());
        assert_eq!(matches(&[record(DANE_EE, SPKI, 1, b"x")], &[garbage]), []);
        assert_eq!(matches(&[record(DANE_EE, SPKI, 0, b"")], &[]), []);
    }
}
