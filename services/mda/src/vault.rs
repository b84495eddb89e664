//! Private keys at rest: AES-256-GCM under keys that the database never sees.
//!
//! A sealed value is `1`, four octets that tell the key, the nonce, the ciphertext with its tag; it
//! is bound to its row by the additional data. A value that begins otherwise is from before there
//! were keys (PKCS#8 begins with 0x30) and is sealed at the next start.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, rand,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use sqlx::PgPool;
use tonic::Status;

const SEALED: u8 = 1;
const ID: usize = 4;
const PREFIX: usize = 1 + ID + NONCE_LEN;

/// Keys as the configuration has them: 32 octets in base64; several are separated by commas.
#[derive(Clone, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Keys(Vec<[u8; 32]>);

impl TryFrom<String> for Keys {
    type Error = String;

    /// The error must not repeat the value: it is a secret.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        let key = |part: &str| STANDARD.decode(part).ok().and_then(|octets| octets.try_into().ok());
        let keys: Option<Vec<[u8; 32]>> = parts.map(key).collect();
        keys.map(Self).ok_or_else(|| {
            "expected 32 octets in base64, as \"openssl rand -base64 32\" prints them; several separated by commas"
                .to_owned()
        })
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Seals with the first key, opens with any.
pub struct Vault(Vec<([u8; ID], LessSafeKey)>);

impl Vault {
    pub fn new(keys: &Keys) -> Self {
        let ready = |key: &[u8; 32]| {
            let mut id = [0; ID];
            id.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref().get(..ID)?);
            Some((id, LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?)))
        };
        Self(keys.0.iter().filter_map(ready).collect())
    }

    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Without keys, the plain text.
    pub fn seal(&self, row: &str, plain: &[u8]) -> Result<Vec<u8>, Status> {
        let Some((id, key)) = self.0.first() else { return Ok(plain.to_vec()) };
        let failed = |_| Status::internal("cannot encrypt");
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(failed)?;
        let mut text = plain.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(row.as_bytes()), &mut text)
            .map_err(failed)?;
        Ok([&[SEALED], &id[..], &nonce, &text].concat())
    }

    pub fn open(&self, row: &str, stored: &[u8]) -> Result<Vec<u8>, Status> {
        if stored.first() != Some(&SEALED) {
            return Ok(stored.to_vec());
        }
        let unusable = |why: &str| {
            tracing::error!(row, why, "a private key cannot be decrypted: look at encryption_keys");
            // Mail waits until the operator has mended it: 451, never a bounce.
            Status::unavailable("a private key cannot be decrypted")
        };
        let (id, nonce, text) = match (stored.get(1..1 + ID), stored.get(1 + ID..PREFIX), stored.get(PREFIX..)) {
            (Some(id), Some(nonce), Some(text)) => (id, nonce, text),
            _ => return Err(unusable("too short")),
        };
        let key = self.0.iter().find(|(known, _)| known == id).ok_or_else(|| unusable("no such key"))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| unusable("nonce"))?;
        let mut text = text.to_vec();
        let plain = key.1.open_in_place(nonce, Aad::from(row.as_bytes()), &mut text);
        plain.map(|p| p.to_vec()).map_err(|_| unusable("wrong key or changed row"))
    }

    /// Whether the first key sealed it.
    fn is_current(&self, stored: &[u8]) -> bool {
        self.0.first().is_none_or(|(id, _)| stored.first() == Some(&SEALED) && stored.get(1..1 + ID) == Some(id))
    }
}

/// What a DKIM key's ciphertext is bound to.
pub fn dkim_row(domain: &str, selector: &str) -> String {
    format!("dkim_keys/{domain}/{selector}")
}

/// Seals what is plain or under an older key. Several processes may do so at once.
pub async fn seal_old(pool: &PgPool, vault: &Vault) -> Result<usize, Status> {
    let rows: Vec<(String, String, Vec<u8>)> = sqlx::query_as("select domain, selector, private_key from dkim_keys")
        .fetch_all(pool)
        .await
        .map_err(crate::database::status)?;
    let mut sealed = 0;
    for (domain, selector, stored) in rows {
        if vault.is_current(&stored) {
            continue;
        }
        let row = dkim_row(&domain, &selector);
        // One that cannot be opened keeps no other from being sealed.
        let Ok(plain) = vault.open(&row, &stored) else { continue };
        let changed = sqlx::query(
            "update dkim_keys set private_key = $4 where domain = $1 and selector = $2 and private_key = $3",
        )
        .bind(&domain)
        .bind(&selector)
        .bind(&stored)
        .bind(vault.seal(&row, &plain)?)
        .execute(pool)
        .await
        .map_err(crate::database::status)?;
        sealed += usize::from(changed.rows_affected() > 0);
    }
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(keys: &[u8]) -> Vault {
        let text: Vec<String> = keys.iter().map(|n| STANDARD.encode([*n; 32])).collect();
        Vault::new(&Keys::try_from(text.join(", ")).expect("valid"))
    }

    #[test]
    fn what_is_sealed_opens_in_its_row_only() {
        let vault = vault(&[7]);
        let sealed = vault.seal("a", b"\x30secret").expect("sealed");
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        assert_eq!(vault.open("a", &sealed).expect("opened"), b"\x30secret");
        assert!(vault.open("b", &sealed).is_err());
        let mut changed = sealed.clone();
        *changed.last_mut().expect("not empty") ^= 1;
        assert!(vault.open("a", &changed).is_err());
        assert!(vault.open("a", sealed.get(..9).expect("long enough")).is_err());
        assert_ne!(sealed, vault.seal("a", b"\x30secret").expect("sealed"), "a nonce is never used twice");
    }

    #[test]
    fn older_keys_open_and_the_first_seals() {
        let old = vault(&[1]).seal("a", b"x").expect("sealed");
        let both = vault(&[2, 1]);
        assert_eq!(both.open("a", &old).expect("opened"), b"x");
        assert!(!both.is_current(&old));
        let new = both.seal("a", b"x").expect("sealed");
        assert!(both.is_current(&new) && vault(&[1]).open("a", &new).is_err());
        let none = Vault::new(&Keys::default());
        assert!(none.is_open() && none.open("a", &new).is_err());
        assert_eq!(none.open("a", b"\x30plain").expect("plain"), b"\x30plain");
    }

    #[test]
    fn a_wrong_key_is_not_repeated_in_the_error() {
        let error = Keys::try_from("c2hvcnQ=".to_owned()).expect_err("too short");
        assert!(error.contains("32 octets") && !error.contains("c2hvcnQ"), "{error}");
        assert!(!format!("{:?}", Keys::try_from(STANDARD.encode([9; 32]))).contains('9'));
    }
}
