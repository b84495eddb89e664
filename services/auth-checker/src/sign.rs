//! DKIM signing of submitted mail: relaxed/relaxed, RSA and Ed25519 (RFC 6376, RFC 8463).

use std::{collections::HashSet, sync::Arc, time::Duration};

use mail_auth::{
    common::{
        crypto::{Algorithm, DkimKey, Ed25519Key, RsaKey, Sha256, SigningKey},
        headers::{HeaderWriter as _, Writable},
    },
    dkim::DkimSigner,
};
use moka::future::Cache;
use proto::directory::{DkimKeysRequest, directory_client::DirectoryClient};
use runtime::grpc::Channel;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::Status;

use crate::trailing_space;

/// Signed once more than they occur, absent ones too: a field added on the way breaks the
/// signature (RFC 6376 §8.15).
const OVERSIGNED: [&str; 12] = [
    "From",
    "Subject",
    "Date",
    "To",
    "Message-ID",
    "Cc",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Reply-To",
    "In-Reply-To",
    "References",
];
/// Signed when present; a list or a resender may add them.
const SIGNED: [&str; 5] = ["Sender", "List-Id", "List-Unsubscribe", "List-Unsubscribe-Post", "Auto-Submitted"];

/// A changed key is seen after this long.
const KEEP: Duration = Duration::from_secs(60);

/// A domain's key as the directory has it is unusable; the operator must look.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("algorithm {0:?} is not rsa or ed25519")]
    Algorithm(String),
    #[error("private key of selector {selector:?} is not usable: {source}")]
    Key {
        selector: String,
        #[source]
        source: mail_auth::Error,
    },
}

/// One key of a domain; clones share it.
#[derive(Clone)]
pub(crate) struct Key {
    selector: String,
    key: Arc<DkimKey>,
}

impl Key {
    pub fn selector(&self) -> &str {
        &self.selector
    }

    fn parse(key: &proto::directory::DkimKey) -> Result<Self, KeyError> {
        let unusable = |source| KeyError::Key { selector: key.selector.clone(), source };
        let parsed = match key.algorithm.as_str() {
            "rsa" => {
                let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.private_key.as_ref()));
                DkimKey::Rsa(RsaKey::<Sha256>::from_key_der(der).map_err(unusable)?)
            }
            "ed25519" => {
                DkimKey::Ed25519(Ed25519Key::from_pkcs8_maybe_unchecked_der(&key.private_key).map_err(unusable)?)
            }
            other => return Err(KeyError::Algorithm(other.to_owned())),
        };
        Ok(Self { selector: key.selector.clone(), key: Arc::new(parsed) })
    }
}

impl SigningKey for Key {
    type Hasher = Sha256;

    fn sign(&self, input: impl Writable) -> mail_auth::Result<Vec<u8>> {
        self.key.sign(input)
    }

    fn algorithm(&self) -> Algorithm {
        self.key.algorithm()
    }
}

/// The keys of one domain, RSA first: a verifier that looks at one signature only knows RSA.
#[derive(Clone, Default)]
pub(crate) struct Keys(Vec<Key>);

impl Keys {
    pub fn parse(keys: &[proto::directory::DkimKey]) -> Result<Self, KeyError> {
        let mut keys = keys.iter().map(Key::parse).collect::<Result<Vec<_>, _>>()?;
        keys.sort_by_key(|k| matches!(*k.key, DkimKey::Ed25519(_)));
        Ok(Self(keys))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one for ARC, which knows no other algorithm (RFC 8617 §4.1.3 follows RFC 6376).
    pub fn rsa(&self) -> Option<Key> {
        self.0.iter().find(|k| matches!(*k.key, DkimKey::Rsa(_))).cloned()
    }

    /// The DKIM-Signature fields, one for each key; empty without keys.
    pub fn sign(&self, domain: &str, content: &[u8]) -> mail_auth::Result<String> {
        let names = names_to_sign(content);
        let content = trailing_space::to_sign(content);
        let mut fields = String::new();
        for key in &self.0 {
            let signer =
                DkimSigner::from_key(key.clone()).domain(domain).selector(&key.selector).headers(names.iter().copied());
            fields.push_str(&signer.sign(content)?.to_header());
        }
        Ok(fields)
    }
}

/// mail-auth signs every occurrence of a name in the list, and a name that it does not find
/// (any more) as absent: so a present name listed twice is oversigned.
fn names_to_sign(content: &[u8]) -> Vec<&'static str> {
    let present = field_names(content);
    let is_present = |name: &str| present.contains(name.to_ascii_lowercase().as_bytes());
    let mut names = Vec::new();
    for name in OVERSIGNED {
        names.push(name);
        if is_present(name) {
            names.push(name);
        }
    }
    names.extend(SIGNED.iter().filter(|name| is_present(name)));
    names
}

/// The names of the header section's fields, in lower case.
fn field_names(content: &[u8]) -> HashSet<Vec<u8>> {
    content
        .split(|b| *b == b'\n')
        .take_while(|line| !matches!(line, [] | [b'\r']))
        .filter(|line| !matches!(line.first(), Some(b' ' | b'\t')))
        .filter_map(|line| line.iter().position(|b| *b == b':').and_then(|colon| line.get(..colon)))
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .collect()
}

/// Keys by domain, asked of the directory once a minute.
pub(crate) struct KeyStore {
    directory: DirectoryClient<Channel>,
    known: Cache<String, Keys>,
}

impl KeyStore {
    pub fn new(directory: DirectoryClient<Channel>) -> Self {
        Self { directory, known: Cache::builder().max_capacity(10_000).time_to_live(KEEP).build() }
    }

    /// The keys of `domain`. Calls at the same time ask once; failures are not kept.
    pub async fn of(&self, domain: &str) -> Result<Keys, Status> {
        let load = async {
            let request = DkimKeysRequest { domain: domain.to_owned() };
            let answer = self.directory.clone().dkim_keys(request).await?.into_inner();
            Keys::parse(&answer.keys).map_err(|error| {
                tracing::error!(mail.domain = domain, %error, "DKIM key not usable");
                Status::internal("the domain's DKIM key is not usable")
            })
        };
        self.known.try_get_with(domain.to_owned(), load).await.map_err(|status| (*status).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_names_are_oversigned() {
        let names = names_to_sign(b"From: a\r\nsubject : x\r\n to: folded\r\nSender: b\r\n\r\nTo: body\r\n");
        let count = |wanted: &str| names.iter().filter(|n| **n == wanted).count();
        assert_eq!((count("From"), count("Subject"), count("To"), count("Sender")), (2, 2, 1, 1));
        assert_eq!(count("List-Id"), 0);
    }

    #[test]
    fn a_bad_key_is_named() {
        let key = |algorithm: &str| proto::directory::DkimKey {
            selector: "s1".into(),
            algorithm: algorithm.into(),
            private_key: vec![1, 2, 3].into(),
        };
        assert!(matches!(Keys::parse(&[key("rsa")]), Err(KeyError::Key { selector, .. }) if selector == "s1"));
        assert!(matches!(Keys::parse(&[key("dsa")]), Err(KeyError::Algorithm(_))));
    }

    #[test]
    fn no_keys_no_header() {
        assert_eq!(Keys::default().sign("example.com", b"From: a\r\n\r\n").as_deref(), Ok(""));
    }
}
