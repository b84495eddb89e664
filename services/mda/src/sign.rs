//! DKIM signatures (RFC 6376) for what `mda` writes itself: DSNs and the answers of vacations.

use address::and_parents;
use proto::auth::{SignRequest, auth_client::AuthClient};
use runtime::grpc::{Channel, Peers};

/// Nobody waits longer for a signature: without one, DMARC still has SPF.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

#[derive(Clone, Default)]
pub struct Signer(Option<AuthClient<Channel>>);

impl Signer {
    /// Without `auth-checker` nothing is signed.
    pub fn new(auth_checker: Option<&Peers>) -> Self {
        Self(auth_checker.map(|peers| AuthClient::new(runtime::grpc::channel(peers, TIMEOUT))))
    }

    /// The content with signatures of `host`, or of the nearest domain above it that has keys, which is
    /// aligned enough for DMARC (RFC 7489 §3.1.1). As it is when nobody signs.
    pub async fn sign(&self, host: &str, mut content: Vec<u8>) -> Vec<u8> {
        let Some(auth) = &self.0 else { return content };
        for domain in and_parents(host) {
            let chunks = content.chunks(proto::CHUNK);
            let requests: Vec<SignRequest> =
                chunks.map(|c| SignRequest { domain: domain.to_owned(), content: c.to_vec().into() }).collect();
            match auth.clone().sign(tokio_stream::iter(requests)).await {
                Ok(response) => {
                    let header = response.into_inner().header;
                    if !header.is_empty() {
                        content.splice(..0, header.bytes());
                        return content;
                    }
                }
                Err(e) => {
                    tracing::warn!(error = %e, "a message of ours goes unsigned");
                    return content;
                }
            }
        }
        content
    }
}
