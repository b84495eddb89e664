//! `mda` as far as the relay knows it, in memory.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::Stream;
use proto::{
    directory::{self as dir, directory_server, resolution::Kind},
    spool::{self as pb, spool_server},
};
use tonic::{Request, Response, Status, Streaming};

pub struct Delivery {
    pub claimed: pb::Claimed,
    pub leased_until: Option<Instant>,
}

#[derive(Default)]
pub struct State {
    pub deliveries: HashMap<(String, u32), Delivery>,
    pub contents: HashMap<String, Vec<u8>>,
    pub outcomes: Vec<pb::Outcome>,
    pub accepted: Vec<(pb::Envelope, Vec<u8>)>,
    pub refuses_renew: bool,
    /// Settle fails so many times.
    pub fails_settle: usize,
}

#[derive(Clone, Default)]
pub struct Mda(pub Arc<Mutex<State>>);

impl Mda {
    pub fn routes(&self) -> tonic::service::Routes {
        tonic::service::Routes::new(spool_server::SpoolServer::new(self.clone()))
            .add_service(directory_server::DirectoryServer::new(self.clone()))
    }
}

#[tonic::async_trait]
impl spool_server::Spool for Mda {
    type ContentStream = Pin<Box<dyn Stream<Item = Result<pb::ContentResponse, Status>> + Send>>;

    async fn accept(
        &self,
        request: Request<Streaming<pb::AcceptRequest>>,
    ) -> Result<Response<pb::AcceptResponse>, Status> {
        let mut stream = request.into_inner();
        let first = stream.message().await?.unwrap();
        let mut content = first.content.to_vec();
        while let Some(more) = stream.message().await? {
            content.extend_from_slice(&more.content);
        }
        self.0.lock().unwrap().accepted.push((first.envelope.unwrap(), content));
        Ok(Response::new(pb::AcceptResponse {}))
    }

    async fn claim(&self, request: Request<pb::ClaimRequest>) -> Result<Response<pb::ClaimResponse>, Status> {
        let request = request.into_inner();
        let lease = Duration::from_millis(request.lease_ms.into());
        let mut state = self.0.lock().unwrap();
        let mut claimed = Vec::new();
        for id in request.deliveries {
            let Some(delivery) = state.deliveries.get_mut(&(id.queue_id.clone(), id.number)) else { continue };
            if delivery.leased_until.is_none_or(|until| until < Instant::now()) {
                delivery.leased_until = Some(Instant::now() + lease);
                claimed.push(delivery.claimed.clone());
            }
        }
        Ok(Response::new(pb::ClaimResponse { claimed }))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let refuses = self.0.lock().unwrap().refuses_renew;
        let leases = request.into_inner().leases;
        let renewed = if refuses { Vec::new() } else { leases.into_iter().filter_map(|l| l.id).collect() };
        Ok(Response::new(pb::RenewResponse { renewed }))
    }

    async fn content(&self, request: Request<pb::ContentRequest>) -> Result<Response<Self::ContentStream>, Status> {
        let request = request.into_inner();
        let state = self.0.lock().unwrap();
        let content = state.contents.get(&request.queue_id).ok_or_else(|| Status::not_found("content"))?;
        let wanted = if request.header_only { dsn::header_section(content) } else { content };
        let chunks: Vec<_> =
            wanted.chunks(1_000).map(|c| Ok(pb::ContentResponse { content: c.to_vec().into() })).collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn settle(&self, request: Request<pb::SettleRequest>) -> Result<Response<pb::SettleResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        if state.fails_settle > 0 {
            state.fails_settle -= 1;
            return Err(Status::unavailable("down"));
        }
        let mut settled = Vec::new();
        for outcome in request.into_inner().outcomes {
            let id = outcome.lease.clone().unwrap().id.unwrap();
            if state.deliveries.remove(&(id.queue_id.clone(), id.number)).is_some() {
                settled.push(id);
                state.outcomes.push(outcome);
            }
        }
        Ok(Response::new(pb::SettleResponse { settled }))
    }
}

#[tonic::async_trait]
impl directory_server::Directory for Mda {
    type AuthenticateStream = Pin<Box<dyn Stream<Item = Result<dir::AuthenticateResponse, Status>> + Send>>;

    /// alice@sender.com is account 7, all else is elsewhere.
    async fn resolve(&self, request: Request<dir::ResolveRequest>) -> Result<Response<dir::ResolveResponse>, Status> {
        let resolve = |recipient: String| match recipient.as_str() {
            "alice@sender.com" => dir::Resolution {
                kind: Kind::Local.into(),
                targets: vec![dir::Target { to: Some(dir::target::To::AccountId(7)) }],
            },
            _ => dir::Resolution { kind: Kind::Remote.into(), targets: Vec::new() },
        };
        let resolutions = request.into_inner().recipients.into_iter().map(resolve).collect();
        Ok(Response::new(dir::ResolveResponse { resolutions }))
    }

    async fn authenticate(
        &self,
        _: Request<Streaming<dir::AuthenticateRequest>>,
    ) -> Result<Response<Self::AuthenticateStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn may_send_as(&self, _: Request<dir::MaySendAsRequest>) -> Result<Response<dir::MaySendAsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn dkim_keys(&self, _: Request<dir::DkimKeysRequest>) -> Result<Response<dir::DkimKeysResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}
