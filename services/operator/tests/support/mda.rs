//! `mda`'s HTTP/2 side, for the two calls that the operator makes. Not a generated server: that
//! would have to know every other call of Admin, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use proto::{
    admin::{
        CreateDomainRequest, CreateTenantRequest, DeleteDomainRequest, DeleteDomainResponse, DeleteTenantRequest,
        DeleteTenantResponse, DnsRecord, Domain, SetTenantQuotaRequest, Tenant,
    },
    relay::{DeletePoolRequest, DeletePoolResponse, EgressPool, ListPoolsRequest, ListPoolsResponse, egress_server},
};
use runtime::grpc::Peers;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codegen::http,
    server::{Grpc, NamedService, UnaryService},
    service::Routes,
};

#[derive(Clone, Default)]
pub struct FakeMda(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    domains: BTreeSet<String>,
    pools: BTreeMap<String, EgressPool>,
    tenants: BTreeMap<String, Tenant>,
    refusal: Option<(Code, &'static str)>,
}

impl FakeMda {
    pub async fn start(&self) -> Peers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = listener.local_addr().unwrap().into();
        tokio::spawn(runtime::grpc::serve(
            listener,
            Routes::new(self.clone()).add_service(egress_server::EgressServer::new(self.clone())),
            CancellationToken::new(),
        ));
        peers
    }

    pub fn domains(&self) -> Vec<String> {
        self.0.lock().unwrap().domains.iter().cloned().collect()
    }

    pub fn pool(&self, name: &str) -> Option<EgressPool> {
        self.0.lock().unwrap().pools.get(name).cloned()
    }

    pub fn tenant(&self, name: &str) -> Option<Tenant> {
        self.0.lock().unwrap().tenants.get(name).cloned()
    }

    /// What every call is answered with.
    pub fn refuse(&self, refusal: Option<(Code, &'static str)>) {
        self.0.lock().unwrap().refusal = refusal;
    }

    fn refused(&self) -> Result<(), Status> {
        self.0.lock().unwrap().refusal.map_or(Ok(()), |(code, words)| Err(Status::new(code, words)))
    }
}

#[allow(clippy::needless_update, reason = "fields are added to messages")]
impl UnaryService<CreateDomainRequest> for FakeMda {
    type Response = Domain;
    type Future = BoxFuture<'static, Result<Response<Domain>, Status>>;

    fn call(&mut self, request: Request<CreateDomainRequest>) -> Self::Future {
        let mda = self.clone();
        Box::pin(async move {
            mda.refused()?;
            let name = request.into_inner().name;
            let txt = |name: String, value: &str| DnsRecord { name, r#type: "TXT".into(), value: value.into() };
            let records = vec![
                txt(format!("s1._domainkey.{name}"), "v=DKIM1; k=rsa; p=KEY"),
                txt(name.clone(), "v=spf1 mx -all"),
                txt(format!("_dmarc.{name}"), "v=DMARC1; p=reject"),
            ];
            mda.0.lock().unwrap().domains.insert(name.clone());
            Ok(Response::new(Domain { name, records, ..Domain::default() }))
        })
    }
}

impl UnaryService<DeleteDomainRequest> for FakeMda {
    type Response = DeleteDomainResponse;
    type Future = BoxFuture<'static, Result<Response<DeleteDomainResponse>, Status>>;

    fn call(&mut self, request: Request<DeleteDomainRequest>) -> Self::Future {
        let mda = self.clone();
        Box::pin(async move {
            mda.refused()?;
            match mda.0.lock().unwrap().domains.remove(&request.into_inner().name) {
                true => Ok(Response::new(DeleteDomainResponse {})),
                false => Err(Status::not_found("not ours")),
            }
        })
    }
}

impl UnaryService<CreateTenantRequest> for FakeMda {
    type Response = Tenant;
    type Future = BoxFuture<'static, Result<Response<Tenant>, Status>>;

    fn call(&mut self, request: Request<CreateTenantRequest>) -> Self::Future {
        let mda = self.clone();
        Box::pin(async move {
            mda.refused()?;
            let name = request.into_inner().name;
            let mut state = mda.0.lock().unwrap();
            let tenant = state.tenants.entry(name.clone()).or_insert(Tenant { name, ..Tenant::default() });
            Ok(Response::new(tenant.clone()))
        })
    }
}

impl UnaryService<SetTenantQuotaRequest> for FakeMda {
    type Response = Tenant;
    type Future = BoxFuture<'static, Result<Response<Tenant>, Status>>;

    fn call(&mut self, request: Request<SetTenantQuotaRequest>) -> Self::Future {
        let mda = self.clone();
        Box::pin(async move {
            mda.refused()?;
            let request = request.into_inner();
            let mut state = mda.0.lock().unwrap();
            let tenant = state.tenants.get_mut(&request.name).ok_or_else(|| Status::not_found("no such tenant"))?;
            (tenant.quota_bytes, tenant.quota_messages) = (request.quota_bytes, request.quota_messages);
            Ok(Response::new(tenant.clone()))
        })
    }
}

impl UnaryService<DeleteTenantRequest> for FakeMda {
    type Response = DeleteTenantResponse;
    type Future = BoxFuture<'static, Result<Response<DeleteTenantResponse>, Status>>;

    fn call(&mut self, request: Request<DeleteTenantRequest>) -> Self::Future {
        let mda = self.clone();
        Box::pin(async move {
            mda.refused()?;
            match mda.0.lock().unwrap().tenants.remove(&request.into_inner().name) {
                Some(_) => Ok(Response::new(DeleteTenantResponse {})),
                None => Err(Status::not_found("no such tenant")),
            }
        })
    }
}

impl NamedService for FakeMda {
    const NAME: &'static str = "postroad.admin.v1.Admin";
}

impl tower::Service<http::Request<Body>> for FakeMda {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mda = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/postroad.admin.v1.Admin/CreateDomain" => {
                    let mut grpc = Grpc::new(tonic_prost::ProstCodec::<Domain, CreateDomainRequest>::default());
                    grpc.unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/DeleteDomain" => {
                    let mut grpc =
                        Grpc::new(tonic_prost::ProstCodec::<DeleteDomainResponse, DeleteDomainRequest>::default());
                    grpc.unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/CreateTenant" => {
                    let mut grpc = Grpc::new(tonic_prost::ProstCodec::<Tenant, CreateTenantRequest>::default());
                    grpc.unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/SetTenantQuota" => {
                    let mut grpc = Grpc::new(tonic_prost::ProstCodec::<Tenant, SetTenantQuotaRequest>::default());
                    grpc.unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/DeleteTenant" => {
                    let mut grpc =
                        Grpc::new(tonic_prost::ProstCodec::<DeleteTenantResponse, DeleteTenantRequest>::default());
                    grpc.unary(mda, request).await
                }
                other => panic!("{other} is not expected"),
            })
        })
    }
}

#[tonic::async_trait]
impl egress_server::Egress for FakeMda {
    async fn set_pool(&self, request: Request<EgressPool>) -> Result<Response<EgressPool>, Status> {
        self.refused()?;
        let pool = request.into_inner();
        self.0.lock().unwrap().pools.insert(pool.name.clone(), pool.clone());
        Ok(Response::new(pool))
    }

    async fn delete_pool(&self, request: Request<DeletePoolRequest>) -> Result<Response<DeletePoolResponse>, Status> {
        self.refused()?;
        match self.0.lock().unwrap().pools.remove(&request.into_inner().name) {
            Some(_) => Ok(Response::new(DeletePoolResponse {})),
            None => Err(Status::not_found("no such pool")),
        }
    }

    async fn list_pools(&self, _: Request<ListPoolsRequest>) -> Result<Response<ListPoolsResponse>, Status> {
        Err(Status::unimplemented("the operator does not ask"))
    }
}
