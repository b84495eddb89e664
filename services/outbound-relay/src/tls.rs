//! TLS as each policy wants it.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use dns::Tlsa;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use tokio_rustls::TlsConnector;

use crate::dane::{self, Match};

/// What a host's certificate must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Any certificate is better than clear text (RFC 7435). Whoever can fake one here could as
    /// well have removed STARTTLS from the EHLO reply.
    Nothing,
    /// As [`Demand::Nothing`], but [`Seen`] tells what [`Demand::Web`] would have said.
    Observe,
    /// Valid for the host's name, from a CA of the Web's (RFC 8461 §4.1).
    Web,
    /// RFC 7672; the names are those that a DANE-TA certificate may bear (§3.2.3).
    Dane { records: Vec<Tlsa>, names: Vec<String> },
}

/// Why a certificate was, or would have been, refused: a result type of RFC 8460 §4.3.
pub(crate) type Seen = Arc<Mutex<Option<&'static str>>>;

/// Builds connectors; shares what they have in common.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    web: Arc<WebPkiServerVerifier>,
    opportunistic: TlsConnector,
    https: TlsConnector,
}

impl Tls {
    /// `ca` instead of the Web's roots.
    pub fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(file) = ca {
            roots = RootCertStore::empty();
            let named = || format!("configuration key \"tls_ca\" = {}", file.display());
            for certificate in CertificateDer::pem_file_iter(file).with_context(named)? {
                roots.add(certificate.with_context(named)?).with_context(named)?;
            }
        }
        let roots = Arc::new(roots);
        let web = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        let https = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let opportunistic = connector(&provider, &web, Demand::Nothing, Seen::default())?;
        Ok(Self { provider, web, opportunistic, https: TlsConnector::from(Arc::new(https)) })
    }

    pub fn https(&self) -> TlsConnector {
        self.https.clone()
    }

    pub fn connector(&self, demand: &Demand, seen: &Seen) -> Result<TlsConnector, Error> {
        match demand {
            // The one that resumes sessions.
            Demand::Nothing => Ok(self.opportunistic.clone()),
            demand => connector(&self.provider, &self.web, demand.clone(), Arc::clone(seen)),
        }
    }
}

fn connector(
    provider: &Arc<CryptoProvider>,
    web: &Arc<WebPkiServerVerifier>,
    demand: Demand,
    seen: Seen,
) -> Result<TlsConnector, Error> {
    let verifier = Verifier { provider: Arc::clone(provider), web: Arc::clone(web), demand, seen };
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    web: Arc<WebPkiServerVerifier>,
    demand: Demand,
    seen: Seen,
}

impl Verifier {
    fn dane(
        &self,
        records: &[Tlsa],
        names: &[String],
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let mut last = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let (Some(own), intermediates) = (chain.first(), chain.get(1..).unwrap_or_default()) else { return Err(last) };
        for found in dane::matches(records, chain) {
            let Match::TrustAnchor(anchor) = found else { return Ok(()) };
            let mut roots = RootCertStore::empty();
            if roots.add(anchor.into_owned()).is_err() {
                continue;
            }
            let built =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider)).build();
            let Ok(verifier) = built else { continue };
            for name in names.iter().filter_map(|n| ServerName::try_from(n.clone()).ok()) {
                match verifier.verify_server_cert(own, intermediates, &name, &[], now) {
                    Ok(_) => return Ok(()),
                    Err(e) => last = e,
                }
            }
        }
        Err(last)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = match &self.demand {
            Demand::Nothing => return Ok(ServerCertVerified::assertion()),
            Demand::Observe | Demand::Web => self.web.verify_server_cert(own, intermediates, name, ocsp, now).map(drop),
            Demand::Dane { records, names } => {
                let chain: Vec<_> = std::iter::once(own).chain(intermediates).cloned().collect();
                self.dane(records, names, &chain, now)
            }
        };
        let Err(error) = verdict else { return Ok(ServerCertVerified::assertion()) };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(result_type(&error));
        if self.demand == Demand::Observe { Ok(ServerCertVerified::assertion()) } else { Err(error) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if matches!(self.demand, Demand::Nothing | Demand::Observe) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if matches!(self.demand, Demand::Nothing | Demand::Observe) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// RFC 8460 §4.3.
fn result_type(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "certificate-expired"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "certificate-host-mismatch",
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => "certificate-not-trusted",
        _ => "validation-failure",
    }
}
