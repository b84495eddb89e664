//! A SASL exchange: the client's octets go to `mda`, its challenges come back (RFC 5034).

use std::{net::IpAddr, time::Duration};

use proto::directory::{
    Account, AuthenticateRequest, AuthenticateResponse, authenticate_response, directory_client::DirectoryClient,
};
use runtime::grpc::Channel;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Ends on drop: `mda` sees its stream closed.
pub(crate) struct Exchange {
    requests: mpsc::Sender<AuthenticateRequest>,
    answers: Streaming<AuthenticateResponse>,
    /// For one answer.
    timeout: Duration,
}

pub(crate) enum Step {
    Challenge(Vec<u8>),
    Success(Account),
    Failure,
}

impl Exchange {
    pub async fn begin(
        mut directory: DirectoryClient<Channel>,
        mechanism: String,
        initial_response: Option<Vec<u8>>,
        peer: IpAddr,
        channel_binding: Option<[u8; 32]>,
        timeout: Duration,
    ) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(1);
        let first = AuthenticateRequest {
            mechanism,
            has_response: initial_response.is_some(),
            response: initial_response.unwrap_or_default().into(),
            peer: peer.to_string(),
            service: "pop3".into(),
            channel_binding: channel_binding.map(|b| b.to_vec()).unwrap_or_default().into(),
            ..AuthenticateRequest::default()
        };
        requests.send(first).await.map_err(|_| gone())?;
        let answers = directory.authenticate(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests, answers, timeout })
    }

    pub async fn respond(&mut self, response: Vec<u8>) -> Result<(), Status> {
        let request =
            AuthenticateRequest { response: response.into(), has_response: true, ..AuthenticateRequest::default() };
        self.requests.send(request).await.map_err(|_| gone())
    }

    /// What `mda` says to the last response.
    pub async fn step(&mut self) -> Result<Step, Status> {
        let answer = tokio::time::timeout(self.timeout, self.answers.message()).await.map_err(|_| gone())??;
        match answer.and_then(|a| a.step) {
            Some(authenticate_response::Step::Challenge(challenge)) => Ok(Step::Challenge(challenge.into())),
            Some(authenticate_response::Step::Success(account)) => Ok(Step::Success(account)),
            Some(authenticate_response::Step::Failure(_)) => Ok(Step::Failure),
            None => Err(gone()),
        }
    }
}

fn gone() -> Status {
    Status::unavailable("mda ended the exchange")
}
