//! New DKIM key pairs: RSA-2048 (RFC 8301) and Ed25519 (RFC 8463).

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tonic::Status;

pub struct KeyPair {
    pub algorithm: &'static str,
    /// PKCS#8.
    pub private_key: Vec<u8>,
    /// As `p=` has it.
    pub public_key: String,
}

/// Takes a second: not for an async thread.
pub fn generate() -> Result<[KeyPair; 2], Status> {
    let failed = |_| Status::internal("key generation");
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private: Pkcs8V1Der<'_> = rsa.as_der().map_err(failed)?;
    let public: PublicKeyX509Der<'_> = rsa.public_key().as_der().map_err(failed)?;
    let rsa = KeyPair {
        algorithm: "rsa",
        private_key: private.as_ref().to_vec(),
        public_key: STANDARD.encode(public.as_ref()),
    };
    let ed25519 = Ed25519KeyPair::generate().map_err(failed)?;
    let ed25519 = KeyPair {
        algorithm: "ed25519",
        private_key: ed25519.to_pkcs8().map_err(failed)?.as_ref().to_vec(),
        // The bare 32 octets (RFC 8463 §4).
        public_key: STANDARD.encode(ed25519.public_key().as_ref()),
    };
    Ok([rsa, ed25519])
}
