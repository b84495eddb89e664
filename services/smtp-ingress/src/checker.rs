//! Calls to `auth-checker`: verdicts on what comes in, signatures for what goes out.

use bytes::Bytes;
use proto::auth::{
    SignRequest, VerifyParameters, VerifyRequest, VerifyResponse, auth_client::AuthClient, verify_response::Action,
};
use runtime::grpc::Channel;
use tonic::Status;

use crate::{refusal::Refusal, spool::chunks};

#[derive(Clone)]
pub struct Checker(AuthClient<Channel>);

impl Checker {
    pub fn new(channel: Channel) -> Self {
        Self(AuthClient::new(channel))
    }

    pub async fn verify(&self, parameters: VerifyParameters, content: &[Bytes]) -> Result<VerifyResponse, Status> {
        let mut parameters = Some(parameters);
        let requests: Vec<_> = chunks(content)
            .into_iter()
            .map(|content| VerifyRequest { parameters: parameters.take(), content })
            .collect();
        let verify = || {
            let (mut client, requests) = (self.0.clone(), requests.clone());
            async move { client.verify(tokio_stream::iter(requests)).await }
        };
        Ok(runtime::grpc::again(verify).await?.into_inner())
    }

    /// The fields to prepend; empty when the domain has no keys.
    pub async fn sign(&self, domain: &str, pieces: &[Bytes]) -> Result<String, Status> {
        let mut domain = Some(domain.to_owned());
        let requests: Vec<_> = chunks(pieces)
            .into_iter()
            .map(|content| SignRequest { domain: domain.take().unwrap_or_default(), content })
            .collect();
        let sign = || {
            let (mut client, requests) = (self.0.clone(), requests.clone());
            async move { client.sign(tokio_stream::iter(requests)).await }
        };
        Ok(runtime::grpc::again(sign).await?.into_inner().header)
    }
}

/// Whether a message with this verdict goes to Junk, or why it is refused.
pub fn judge(verdict: &VerifyResponse) -> Result<bool, Refusal> {
    match verdict.action() {
        Action::Accept => Ok(false),
        Action::Quarantine => Ok(true),
        Action::Reject => Err(Refusal::policy(&verdict.reason)),
        Action::Defer => Err(Refusal::undecided(&verdict.reason)),
        // A newer checker may know more actions (Invariant 9).
        Action::Unspecified => Err(Refusal::undecided("Verdict is not understood, try again later")),
    }
}
