//! Questions to `mda`'s Directory, good answers remembered for a few seconds.

use std::{net::IpAddr, time::Duration};

use address::Address;
use moka::sync::Cache;
use proto::{
    directory::{
        Account, AuthenticateRequest, AuthenticateResponse, MaySendAsRequest, Resolution, ResolveRequest,
        authenticate_response::Step, directory_client::DirectoryClient, resolution::Kind, target::To as Found,
    },
    spool::{Target, target::To},
};
use runtime::grpc::Channel;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{config::OverQuota, refusal::Refusal};

const CACHED: u64 = 10_000;
/// Before the second try of a question whose pod went away.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a recipient's mail goes.
#[derive(Debug, Default)]
pub struct Route {
    pub targets: Vec<Target>,
    /// Its tenant wants in Junk what DMARC would refuse.
    pub quarantine_rejects: bool,
}

#[derive(Clone)]
pub struct Directory {
    client: DirectoryClient<Channel>,
    timeout: Duration,
    recipients: Cache<String, Resolution>,
    senders: Cache<(u64, String), ()>,
}

impl Directory {
    pub fn new(channel: Channel, timeout: Duration, remember: Duration) -> Self {
        Self {
            client: DirectoryClient::new(channel),
            timeout,
            recipients: Cache::builder().max_capacity(CACHED).time_to_live(remember).build(),
            senders: Cache::builder().max_capacity(CACHED).time_to_live(remember).build(),
        }
    }

    /// Where mail for `address` goes; only who `may_relay` reaches other domains. A declared size
    /// (RFC 1870 §6.1) that the mailbox has no room for is refused before it is sent.
    pub async fn resolve(
        &self,
        address: &Address,
        may_relay: bool,
        over_quota: OverQuota,
        size: Option<u64>,
    ) -> Result<Route, Refusal> {
        let key = address.to_string();
        let resolution = match self.recipients.get(&key) {
            Some(known) => known,
            None => {
                let found = self.ask(&key).await.map_err(|status| Refusal::of_status(&status))?;
                // A no is not remembered: an account that was just created works at once.
                if matches!(found.kind(), Kind::Local | Kind::Remote) {
                    self.recipients.insert(key, found.clone());
                }
                found
            }
        };
        match resolution.kind() {
            Kind::Local if resolution.room.zip(size).is_some_and(|(room, size)| size > room) => {
                Err(Refusal::over_quota(over_quota))
            }
            Kind::Local => Ok(Route {
                targets: resolution.targets.iter().filter_map(target).collect(),
                quarantine_rejects: resolution.dmarc_quarantine,
            }),
            Kind::Remote if may_relay => {
                let targets = vec![Target { to: Some(To::Remote(address.to_string())) }];
                Ok(Route { targets, quarantine_rejects: false })
            }
            Kind::Remote => Err(Refusal::relay_denied()),
            Kind::Unknown => Err(Refusal::unknown_recipient()),
            Kind::Disabled => Err(Refusal::disabled()),
            Kind::OverQuota => Err(Refusal::over_quota(over_quota)),
            // A newer mda may know more kinds (Invariant 9).
            Kind::Unspecified => Err(Refusal::of_status(&Status::unknown("kind of resolution"))),
        }
    }

    async fn ask(&self, recipient: &str) -> Result<Resolution, Status> {
        let question = || ResolveRequest { recipients: vec![recipient.to_owned()] };
        let mut answer = self.client.clone().resolve(question()).await;
        if answer.as_ref().is_err_and(runtime::grpc::is_transient) {
            tokio::time::sleep(PAUSE).await;
            answer = self.client.clone().resolve(question()).await;
        }
        answer?.into_inner().resolutions.pop().ok_or_else(|| Status::internal("empty answer"))
    }

    pub async fn may_send_as(&self, account_id: u64, address: &str) -> Result<bool, Status> {
        let key = (account_id, address.to_owned());
        if self.senders.contains_key(&key) {
            return Ok(true);
        }
        let question = || MaySendAsRequest { account_id, address: address.to_owned() };
        let mut answer = self.client.clone().may_send_as(question()).await;
        if answer.as_ref().is_err_and(runtime::grpc::is_transient) {
            tokio::time::sleep(PAUSE).await;
            answer = self.client.clone().may_send_as(question()).await;
        }
        let allowed = answer?.into_inner().allowed;
        if allowed {
            self.senders.insert(key, ());
        }
        Ok(allowed)
    }

    /// Starts a SASL exchange; the mechanisms are the Directory's business.
    pub async fn authenticate(
        &self,
        mechanism: String,
        initial: Option<Vec<u8>>,
        peer: IpAddr,
        tls: Option<&listener::TlsInfo>,
        channel_binding: Option<[u8; 32]>,
    ) -> Result<(Exchange, Progress), Status> {
        let (requests, stream) = mpsc::channel(1);
        let first = AuthenticateRequest {
            mechanism,
            has_response: initial.is_some(),
            response: initial.unwrap_or_default().into(),
            peer: peer.to_string(),
            service: "smtp".into(),
            channel_binding: channel_binding.map(|b| b.to_vec()).unwrap_or_default().into(),
            certificate_addresses: tls.map(|t| t.client_addresses.clone()).unwrap_or_default(),
        };
        requests.try_send(first).map_err(|_| Status::internal("exchange"))?;
        let answers = self.client.clone().authenticate(ReceiverStream::new(stream)).await?.into_inner();
        let mut exchange = Exchange { requests, answers, timeout: self.timeout };
        let progress = exchange.answer().await?;
        Ok((exchange, progress))
    }
}

fn target(found: &proto::directory::Target) -> Option<Target> {
    let to = match found.to.as_ref()? {
        Found::AccountId(id) => To::AccountId(*id),
        Found::Remote(path) => To::Remote(path.clone()),
    };
    Some(Target { to: Some(to) })
}

/// A SASL exchange that waits for the client.
pub struct Exchange {
    requests: mpsc::Sender<AuthenticateRequest>,
    answers: Streaming<AuthenticateResponse>,
    timeout: Duration,
}

pub enum Progress {
    Challenge(bytes::Bytes),
    Success(Account),
    Failure,
}

impl Exchange {
    pub async fn respond(&mut self, response: Vec<u8>) -> Result<Progress, Status> {
        let next = AuthenticateRequest { response: response.into(), has_response: true, ..Default::default() };
        self.requests.send(next).await.map_err(|_| Status::unavailable("exchange ended"))?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Progress, Status> {
        let answer = tokio::time::timeout(self.timeout, self.answers.message())
            .await
            .map_err(|_| Status::unavailable("no answer in time"))??;
        match answer.and_then(|a| a.step) {
            Some(Step::Challenge(challenge)) => Ok(Progress::Challenge(challenge)),
            Some(Step::Success(account)) => Ok(Progress::Success(account)),
            Some(Step::Failure(_)) => Ok(Progress::Failure),
            None => Err(Status::unavailable("exchange ended")),
        }
    }
}
