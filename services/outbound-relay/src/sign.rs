//! DKIM signatures for what we write ourselves: DSNs and TLS reports (RFC 8460 §3 wants them signed).

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

/// The name and those above it that can be somebody's: `mx.a.example`, `a.example`.
fn and_parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, parent)| parent))
        .filter(|name| name.contains('.'))
        .take(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_its_domains() {
        assert_eq!(and_parents("mx.a.example").collect::<Vec<_>>(), ["mx.a.example", "a.example"]);
        assert_eq!(and_parents("localhost").count(), 0);
    }
}
