//! DKIM signatures for what we write ourselves: DSNs and TLS reports (RFC 8460 §3 wants them signed).

use address::and_parents;
use proto::auth::SignRequest;
use tonic::Status;

use crate::Relay;

/// DKIM-Signature fields for the host `from` or the nearest domain above it that has keys: a
/// relaxed alignment is enough for DMARC (RFC 7489 §3.1.1). Empty when nobody signs.
pub(crate) async fn fields(relay: &Relay, from: &str, content: &[u8]) -> Result<String, Status> {
    let Some(auth) = &relay.auth else { return Ok(String::new()) };
    for domain in and_parents(from) {
        let mut requests =
            content.chunks(proto::CHUNK).map(|c| SignRequest { content: c.to_vec().into(), ..SignRequest::default() });
        let first = SignRequest { domain: domain.to_owned(), ..requests.next().unwrap_or_default() };
        let requests: Vec<SignRequest> = std::iter::once(first).chain(requests).collect();
        let header = auth.clone().sign(tokio_stream::iter(requests)).await?.into_inner().header;
        if !header.is_empty() {
            return Ok(header);
        }
    }
    Ok(String::new())
}
