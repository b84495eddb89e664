//! A CA and a certificate of our own, when none is given: enough for a trial, and for tests
//! that verify against `DIR/tls/ca.pem`.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use address::Domain;
use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// The PEM files that the services get.
#[derive(Debug, Clone)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Makes what is missing. The CA stays across restarts; the certificate is made anew when the
/// names change.
pub fn ensure(directory: &Path, hostname: &Domain, domains: &[Domain], listen: IpAddr) -> anyhow::Result<Files> {
    let names = names(hostname, domains, listen);
    let files = Files { cert: directory.join("cert.pem"), key: directory.join("key.pem") };
    let ca_key = ca(directory)?;
    // Written last: when it fits, the others are complete.
    let marker = directory.join("names");
    let wanted = names.join("\n");
    if fs::read_to_string(&marker).is_ok_and(|n| n == wanted) && files.cert.exists() && files.key.exists() {
        return Ok(files);
    }
    let mut params = CertificateParams::new(names)?;
    set_validity(&mut params);
    params.distinguished_name = name(hostname.as_str());
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &Issuer::new(ca_params()?, ca_key))?;
    let _ = fs::remove_file(&marker);
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.cert, &certificate.pem(), 0o644)?;
    write(&marker, &wanted, 0o644)?;
    Ok(files)
}

/// The CA's key; with `ca.pem` beside it.
fn ca(directory: &Path) -> anyhow::Result<KeyPair> {
    let (certificate_file, key_file) = (directory.join("ca.pem"), directory.join("ca.key"));
    if certificate_file.exists() && key_file.exists() {
        let pem = fs::read_to_string(&key_file).with_context(|| key_file.display().to_string())?;
        return KeyPair::from_pem(&pem).with_context(|| key_file.display().to_string());
    }
    let key = KeyPair::generate()?;
    write(&key_file, &key.serialize_pem(), 0o600)?;
    write(&certificate_file, &ca_params()?.self_signed(&key)?.pem(), 0o644)?;
    // A certificate of another CA would not fit any more.
    let _ = fs::remove_file(directory.join("names"));
    Ok(key)
}

/// Always the same, so that the issuer can be built again from its key alone.
fn ca_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    set_validity(&mut params);
    params.distinguished_name = name("Postroad CA of this data directory");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn set_validity(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2045, 1, 1);
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Postroad");
    // X.520 allows 64 characters; the name that counts is in subjectAltName.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name
}

/// subjectAltName: what clients may have connected to.
fn names(hostname: &Domain, domains: &[Domain], listen: IpAddr) -> Vec<String> {
    let mut names = vec![hostname.to_string()];
    names.extend(domains.iter().map(Domain::to_string));
    names.push("localhost".to_owned());
    names.push("127.0.0.1".to_owned());
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|n| n.is_ascii() && seen.insert(n.clone()));
    names
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).with_context(named)?;
    file.write_all(text.as_bytes()).with_context(named)?;
    fs::rename(new, path).with_context(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_stays_and_the_certificate_follows_the_names() {
        let directory = std::env::temp_dir().join(format!("postroad-tls-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&directory).expect("made");
        let domain = |d: &str| d.parse::<Domain>().expect("valid");
        let listen = "127.0.0.2".parse().expect("valid");
        let read = |name: &str| fs::read_to_string(directory.join(name)).expect("is there");
        let make = |domains: &[Domain]| {
            ensure(&directory, &domain("mail.example.com"), domains, listen).expect("made");
            (read("ca.pem"), read("cert.pem"))
        };
        let first = make(&[domain("example.com")]);
        assert_eq!(read("names"), "mail.example.com\nexample.com\nlocalhost\n127.0.0.1\n127.0.0.2");
        assert_eq!(make(&[domain("example.com")]), first);
        let second = make(&[domain("example.com"), domain("example.net")]);
        assert_eq!(first.0, second.0);
        assert_ne!(first.1, second.1);
        fs::remove_dir_all(directory).expect("removed");
    }
}
