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
    relay::{self as pb_relay, egress_server, relay_server},
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
    /// Words and number of deliveries that were given back.
    pub given_back: Vec<String>,
    pub policies: HashMap<String, pb_relay::StsPolicy>,
    pub pools: Vec<pb_relay::EgressPool>,
    pub pool_asks: usize,
    pub rests: Vec<pb_relay::RestRequest>,
    pub tls_results: Vec<pb_relay::TlsResult>,
    pub tls_reports: Vec<pb_relay::TlsReport>,
    pub finished_reports: usize,
    /// Whole contents that were fetched.
    pub content_calls: usize,
    /// Settle fails so many times.
    pub fails_settle: usize,
}

#[derive(Clone, Default)]
pub struct Mda(pub Arc<Mutex<State>>);

impl Mda {
    pub fn routes(&self) -> tonic::service::Routes {
        tonic::service::Routes::new(spool_server::SpoolServer::new(self.clone()))
            .add_service(directory_server::DirectoryServer::new(self.clone()))
            .add_service(relay_server::RelayServer::new(self.clone()))
            .add_service(egress_server::EgressServer::new(self.clone()))
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
        let limit = request.content_limit as usize;
        let ids: std::collections::BTreeSet<String> =
            claimed.iter().filter_map(|c| Some(c.id.as_ref()?.queue_id.clone())).collect();
        let contents = ids.into_iter().filter_map(|queue_id| {
            let content = state.contents.get(&queue_id).filter(|c| c.len() <= limit)?.clone().into();
            Some(pb::ClaimedContent { queue_id, content })
        });
        let contents = contents.collect();
        Ok(Response::new(pb::ClaimResponse { claimed, contents }))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let refuses = self.0.lock().unwrap().refuses_renew;
        let leases = request.into_inner().leases;
        let renewed = if refuses { Vec::new() } else { leases.into_iter().filter_map(|l| l.id).collect() };
        Ok(Response::new(pb::RenewResponse { renewed }))
    }

    async fn give_back(&self, request: Request<pb::GiveBackRequest>) -> Result<Response<pb::GiveBackResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        let mut given_back = Vec::new();
        for id in request.leases.into_iter().filter_map(|l| l.id) {
            let due = Instant::now() + Duration::from_millis(request.after_ms.into());
            if let Some(delivery) = state.deliveries.get_mut(&(id.queue_id.clone(), id.number)) {
                delivery.leased_until = Some(due);
                given_back.push(id);
            }
        }
        state.given_back.extend(given_back.iter().map(|_| request.text.clone()));
        Ok(Response::new(pb::GiveBackResponse { given_back }))
    }

    async fn content(&self, request: Request<pb::ContentRequest>) -> Result<Response<Self::ContentStream>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock().unwrap();
        state.content_calls += usize::from(!request.header_only);
        let content = state.contents.get(&request.queue_id).ok_or_else(|| Status::not_found("content"))?;
        let wanted = if request.header_only { dsn::header_section(content) } else { content };
        let chunks: Vec<_> =
            wanted.chunks(1_000).map(|c| Ok(pb::ContentResponse { content: c.to_vec().into() })).collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn refuse(&self, _: Request<pb::RefuseRequest>) -> Result<Response<pb::RefuseResponse>, Status> {
        Err(Status::unimplemented("not for the relay"))
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
                ..Default::default()
            },
            _ => dir::Resolution { kind: Kind::Remote.into(), ..Default::default() },
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

#[tonic::async_trait]
impl relay_server::Relay for Mda {
    async fn get_sts_policy(
        &self,
        request: Request<pb_relay::GetStsPolicyRequest>,
    ) -> Result<Response<pb_relay::StsPolicy>, Status> {
        let state = self.0.lock().unwrap();
        let policy = state.policies.get(&request.into_inner().domain).cloned();
        policy.map(Response::new).ok_or_else(|| Status::not_found("none"))
    }

    async fn put_sts_policy(
        &self,
        request: Request<pb_relay::StsPolicy>,
    ) -> Result<Response<pb_relay::PutStsPolicyResponse>, Status> {
        let policy = request.into_inner();
        self.0.lock().unwrap().policies.insert(policy.domain.clone(), policy);
        Ok(Response::new(pb_relay::PutStsPolicyResponse {}))
    }

    async fn rest(&self, request: Request<pb_relay::RestRequest>) -> Result<Response<pb_relay::RestResponse>, Status> {
        self.0.lock().unwrap().rests.push(request.into_inner());
        Ok(Response::new(pb_relay::RestResponse {}))
    }

    async fn add_tls_results(
        &self,
        request: Request<pb_relay::AddTlsResultsRequest>,
    ) -> Result<Response<pb_relay::AddTlsResultsResponse>, Status> {
        self.0.lock().unwrap().tls_results.extend(request.into_inner().results);
        Ok(Response::new(pb_relay::AddTlsResultsResponse {}))
    }

    async fn claim_tls_report(
        &self,
        _: Request<pb_relay::ClaimTlsReportRequest>,
    ) -> Result<Response<pb_relay::TlsReport>, Status> {
        Ok(Response::new(self.0.lock().unwrap().tls_reports.pop().unwrap_or_default()))
    }

    async fn finish_tls_report(
        &self,
        _: Request<pb_relay::FinishTlsReportRequest>,
    ) -> Result<Response<pb_relay::FinishTlsReportResponse>, Status> {
        self.0.lock().unwrap().finished_reports += 1;
        Ok(Response::new(pb_relay::FinishTlsReportResponse {}))
    }
}

#[tonic::async_trait]
impl egress_server::Egress for Mda {
    async fn set_pool(&self, _: Request<pb_relay::EgressPool>) -> Result<Response<pb_relay::EgressPool>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_pool(
        &self,
        _: Request<pb_relay::DeletePoolRequest>,
    ) -> Result<Response<pb_relay::DeletePoolResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_pools(
        &self,
        _: Request<pb_relay::ListPoolsRequest>,
    ) -> Result<Response<pb_relay::ListPoolsResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        state.pool_asks += 1;
        Ok(Response::new(pb_relay::ListPoolsResponse { pools: state.pools.clone() }))
    }
}
