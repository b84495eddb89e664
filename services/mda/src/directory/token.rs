//! Access tokens: JWTs (RFC 7519) signed by a configured issuer's keys (RFC 7517).

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Clocks differ.
const LEEWAY: Duration = Duration::from_secs(60);
const MAX_KEYS: usize = 100;

/// What a token must say.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
    /// The claim that names the account's address.
    pub claim: &'a str,
    /// Seconds since 1970.
    pub now: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a JWT")]
    Malformed,
    #[error("signed with an unknown key")]
    UnknownKey,
    #[error("wrong signature")]
    Signature,
    #[error("not from the issuer, or not for us")]
    Issuer,
    #[error("expired, or not valid yet")]
    Time,
    #[error("names no account")]
    Claim,
}

/// The issuer's public keys.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<HashMap<String, Value>>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

impl Keys {
    /// Reads a JWK set; keys of kinds or for uses that are not ours are left out.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let set: Set = serde_json::from_slice(json)?;
        Ok(Self(set.keys.iter().take(MAX_KEYS).filter_map(key).collect()))
    }

    /// The address that the token speaks for.
    pub fn verify(&self, token: &str, expected: &Expected<'_>) -> Result<String, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |text: &str| BASE64.decode(text).map_err(|_| TokenError::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        let signature = decode(signature)?;
        let mut candidates = self.0.iter().filter(|key| header.kid.is_none() || key.id == header.kid).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        if !candidates.any(|key| key.public.has_signed(&header.alg, signed.as_bytes(), &signature)) {
            return Err(TokenError::Signature);
        }
        // Only now is what it says worth reading.
        let claims: Map<String, Value> =
            serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Malformed)?;
        check(&claims, expected)
    }
}

fn check(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<String, TokenError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let is_ours = |value: &Value| value.as_str() == Some(expected.audience);
    let for_us = match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    if text("iss") != Some(expected.issuer) || !for_us {
        return Err(TokenError::Issuer);
    }
    let seconds = |name: &str| claims.get(name).and_then(Value::as_f64);
    let (now, leeway) = (expected.now as f64, LEEWAY.as_secs_f64());
    // A token without an end is a password; we take none.
    let ended = seconds("exp").is_none_or(|exp| exp + leeway < now);
    if ended || seconds("nbf").is_some_and(|nbf| nbf - leeway > now) {
        return Err(TokenError::Time);
    }
    let unverified = expected.claim == "email" && claims.get("email_verified") == Some(&Value::Bool(false));
    text(expected.claim).filter(|_| !unverified).map(str::to_owned).ok_or(TokenError::Claim)
}

fn key(jwk: &HashMap<String, Value>) -> Option<Key> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| BASE64.decode(text(name)?).ok();
    if text("use").is_some_and(|u| u != "sig") {
        return None;
    }
    let point = || Some([vec![4], bytes("x")?, bytes("y")?].concat());
    let public = match (text("kty")?, text("crv")) {
        ("RSA", _) => Public::Rsa { n: bytes("n")?, e: bytes("e")? },
        ("EC", Some("P-256")) => Public::P256(point()?),
        ("EC", Some("P-384")) => Public::P384(point()?),
        ("OKP", Some("Ed25519")) => Public::Ed25519(bytes("x")?),
        _ => return None,
    };
    Some(Key { id: text("kid").map(str::to_owned), public })
}

impl Public {
    /// The algorithm must be one of the key's kind: a token cannot choose how it is checked.
    fn has_signed(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa { n, e } => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            Self::P256(point) if algorithm == "ES256" => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Self::P384(point) if algorithm == "ES384" => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            Self::Ed25519(key) if algorithm == "EdDSA" => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
    };
    use serde_json::json;

    use super::*;

    const EXPECTED: Expected<'static> =
        Expected { issuer: "https://id.example", audience: "mail", claim: "email", now: 1_000_000 };

    fn pair() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
    }

    fn keys(pair: &EcdsaKeyPair, id: &str) -> Keys {
        let point = pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..65]));
        let set = json!({ "keys": [
            { "kty": "oct", "k": "AAAA" },
            { "kty": "EC", "crv": "P-256", "use": "enc", "kid": id, "x": x, "y": x },
            { "kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y },
        ] });
        Keys::read(set.to_string().as_bytes()).unwrap()
    }

    fn token(pair: &EcdsaKeyPair, header: Value, claims: &Value) -> String {
        let part = |json: &Value| BASE64.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature))
    }

    fn claims() -> Value {
        json!({ "iss": "https://id.example", "aud": ["x", "mail"], "exp": 1_000_100, "email": "bob@example.com" })
    }

    #[test]
    fn a_good_token_names_its_account() {
        let pair = pair();
        let token = token(&pair, json!({ "alg": "ES256", "kid": "a" }), &claims());
        assert_eq!(keys(&pair, "a").verify(&token, &EXPECTED), Ok("bob@example.com".into()));
        assert_eq!(keys(&pair, "b").verify(&token, &EXPECTED), Err(TokenError::UnknownKey));
    }

    #[test]
    fn everything_else_is_refused() {
        let pair = pair();
        let keys = keys(&pair, "a");
        let change = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            keys.verify(&token(&pair, json!({ "alg": "ES256" }), &claims), &EXPECTED)
        };
        assert_eq!(change("iss", json!("https://evil.example")), Err(TokenError::Issuer));
        assert_eq!(change("aud", json!("other")), Err(TokenError::Issuer));
        assert_eq!(change("aud", Value::Null), Err(TokenError::Issuer));
        assert_eq!(change("exp", json!(999_000)), Err(TokenError::Time));
        assert_eq!(change("exp", Value::Null), Err(TokenError::Time));
        assert_eq!(change("nbf", json!(1_000_500)), Err(TokenError::Time));
        assert_eq!(change("email", json!(5)), Err(TokenError::Claim));
        assert_eq!(change("email_verified", json!(false)), Err(TokenError::Claim));
        // Another key, no signature at all, a signature by the public key as a secret.
        let other = token(&self::pair(), json!({ "alg": "ES256" }), &claims());
        assert_eq!(keys.verify(&other, &EXPECTED), Err(TokenError::Signature));
        for algorithm in ["none", "HS256", "RS256", ""] {
            let forged = token(&pair, json!({ "alg": algorithm }), &claims());
            assert_eq!(keys.verify(&forged, &EXPECTED), Err(TokenError::Signature), "{algorithm}");
        }
        for bad in ["", "a", "a.b", "a.b.c", "..", "e30.e30."] {
            assert_eq!(keys.verify(bad, &EXPECTED), Err(TokenError::Malformed), "{bad}");
        }
    }
}
