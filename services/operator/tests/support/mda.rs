//! `mda`'s HTTP/2 side, for the calls that the operator makes. Not a generated server: that
//! would have to know every other call of Admin, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use proto::{
    admin::{
        Alias, CreateDomainRequest, CreateTenantRequest, DeleteAliasRequest, DeleteAliasResponse, DeleteDomainRequest,
        DeleteDomainResponse, DeleteTenantRequest, DeleteTenantResponse, DkimKey, DkimKeys, DnsRecord, Domain,
        ListDkimKeysRequest, RotateDkimRequest, SetAliasRequest, SetDmarcOverrideRequest, SetDmarcOverrideResponse,
        SetTenantLimitsRequest, SetTenantQuotaRequest, Tenant,
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
    aliases: BTreeMap<String, Vec<String>>,
    overrides: Vec<SetDmarcOverrideRequest>,
    keys: Vec<DkimKey>,
    rotations: Vec<RotateDkimRequest>,
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

    pub fn alias(&self, address: &str) -> Option<Vec<String>> {
        self.0.lock().unwrap().aliases.get(address).cloned()
    }

    pub fn overrides(&self) -> Vec<SetDmarcOverrideRequest> {
        self.0.lock().unwrap().overrides.clone()
    }

    pub fn rotations(&self) -> Vec<RotateDkimRequest> {
        self.0.lock().unwrap().rotations.clone()
    }

    /// The domain's keys; what rotations add are pending.
    pub fn set_keys(&self, keys: Vec<DkimKey>) {
        self.0.lock().unwrap().keys = keys;
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
            if !mda.0.lock().unwrap().aliases.is_empty() {
                return Err(Status::failed_precondition("still has accounts or aliases"));
            }
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

/// Calls whose answer is made of the request and what is remembered.
macro_rules! calls {
    ($($request:ident -> $response:ident: $answer:expr;)*) => {$(
        impl UnaryService<$request> for FakeMda {
            type Response = $response;
            type Future = BoxFuture<'static, Result<Response<$response>, Status>>;

            fn call(&mut self, request: Request<$request>) -> Self::Future {
                let mda = self.clone();
                Box::pin(async move {
                    mda.refused()?;
                    let answer: fn(&mut State, $request) -> Result<$response, Status> = $answer;
                    answer(&mut mda.0.lock().unwrap(), request.into_inner()).map(Response::new)
                })
            }
        }
    )*};
}

calls! {
    SetTenantLimitsRequest -> Tenant: |state, request| {
        let tenant = state.tenants.get_mut(&request.name).ok_or_else(|| Status::not_found("no such tenant"))?;
        tenant.max_accounts = request.max_accounts.unwrap_or(tenant.max_accounts);
        tenant.daily_recipients = request.daily_recipients.unwrap_or(tenant.daily_recipients);
        Ok(tenant.clone())
    };
    SetDmarcOverrideRequest -> SetDmarcOverrideResponse: |state, request| {
        state.overrides.push(request);
        Ok(SetDmarcOverrideResponse {})
    };
    SetAliasRequest -> Alias: |state, request| {
        state.aliases.insert(request.address.clone(), request.targets.clone());
        Ok(Alias { address: request.address, targets: request.targets, group: false })
    };
    DeleteAliasRequest -> DeleteAliasResponse: |state, request| {
        let removed = state.aliases.remove(&request.address);
        removed.map(|_| DeleteAliasResponse {}).ok_or_else(|| Status::not_found("no such alias"))
    };
    ListDkimKeysRequest -> DkimKeys: |state, request| Ok(DkimKeys { domain: request.domain, keys: state.keys.clone() });
    RotateDkimRequest -> DkimKeys: |state, request| {
        let pending = proto::admin::dkim_key::State::Pending;
        if state.keys.iter().any(|k| k.state() == pending) {
            return Err(Status::failed_precondition("has keys that wait for their time already"));
        }
        let created_at_ms = state.keys.iter().map(|k| k.created_at_ms).max().unwrap_or_default() + 1;
        let selector = format!("s{}", state.keys.len() + 1);
        state.keys.push(DkimKey { selector, state: pending.into(), created_at_ms, ..DkimKey::default() });
        state.rotations.push(request.clone());
        Ok(DkimKeys { domain: request.domain, keys: state.keys.clone() })
    };
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
                "/postroad.admin.v1.Admin/SetTenantLimits" => {
                    let mut grpc = Grpc::new(tonic_prost::ProstCodec::<Tenant, SetTenantLimitsRequest>::default());
                    grpc.unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/SetDmarcOverride" => {
                    type Codec = tonic_prost::ProstCodec<SetDmarcOverrideResponse, SetDmarcOverrideRequest>;
                    Grpc::new(Codec::default()).unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/SetAlias" => {
                    let mut grpc = Grpc::new(tonic_prost::ProstCodec::<Alias, SetAliasRequest>::default());
                    grpc.unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/DeleteAlias" => {
                    type Codec = tonic_prost::ProstCodec<DeleteAliasResponse, DeleteAliasRequest>;
                    Grpc::new(Codec::default()).unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/ListDkimKeys" => {
                    let mut grpc = Grpc::new(tonic_prost::ProstCodec::<DkimKeys, ListDkimKeysRequest>::default());
                    grpc.unary(mda, request).await
                }
                "/postroad.admin.v1.Admin/RotateDkim" => {
                    let mut grpc = Grpc::new(tonic_prost::ProstCodec::<DkimKeys, RotateDkimRequest>::default());
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
