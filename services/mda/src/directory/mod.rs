//! The gRPC service Directory: who is who, and what they may do.

mod authenticate;
pub mod imported;
pub mod issuer;
pub mod password;
pub mod resolve;
pub mod throttle;
pub mod token;

use std::{pin::Pin, sync::Arc};

use address::Address;
use futures::Stream;
use proto::directory::{
    AuthenticateRequest, AuthenticateResponse, DkimKey, DkimKeysRequest, DkimKeysResponse, MaySendAsRequest,
    MaySendAsResponse, ResolveRequest, ResolveResponse, directory_server,
};
use sqlx::PgPool;
use tonic::{Request, Response, Status, Streaming};

pub use authenticate::{Passwords, Secrets, app_digest};

use crate::{
    database::status,
    forward::Forwarder,
    ids,
    vault::{self, Vault},
};

const MAX_RECIPIENTS: usize = 1_000;

pub struct Directory {
    pub pool: PgPool,
    pub passwords: Passwords,
    pub throttle: throttle::Throttle,
    pub issuer: Option<issuer::Issuer>,
    pub forwarder: Forwarder,
    pub vault: Arc<Vault>,
}

#[tonic::async_trait]
impl directory_server::Directory for Directory {
    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        let recipients = request.into_inner().recipients;
        if recipients.len() > MAX_RECIPIENTS {
            return Err(Status::invalid_argument(format!("more than {MAX_RECIPIENTS} recipients at once")));
        }
        let resolutions = resolve::resolve(&self.pool, &self.forwarder, &recipients).await?;
        Ok(Response::new(ResolveResponse { resolutions }))
    }

    type AuthenticateStream = Pin<Box<dyn Stream<Item = Result<AuthenticateResponse, Status>> + Send>>;

    async fn authenticate(
        &self,
        request: Request<Streaming<AuthenticateRequest>>,
    ) -> Result<Response<Self::AuthenticateStream>, Status> {
        let (answers, stream) = tokio::sync::mpsc::channel(1);
        let exchange = authenticate::Exchange {
            pool: self.pool.clone(),
            passwords: self.passwords.clone(),
            throttle: self.throttle.clone(),
            issuer: self.issuer.clone(),
        };
        let requests = request.into_inner();
        tokio::spawn(async move { exchange.run(requests, answers).await });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(stream))))
    }

    async fn may_send_as(&self, request: Request<MaySendAsRequest>) -> Result<Response<MaySendAsResponse>, Status> {
        let request = request.into_inner();
        let Ok(address) = request.address.parse::<Address>() else {
            return Ok(Response::new(MaySendAsResponse { allowed: false }));
        };
        // Its own address, with any sub-address, or an alias of its tenant that leads to it.
        let base = address.without_subaddress().unwrap_or_else(|| address.clone()).key();
        let allowed: bool = sqlx::query_scalar(
            "select exists (select from accounts where id = $1 and not disabled and address in ($2, $3))
                 or exists (select from aliases al join accounts ac on ac.address = any (al.targets)
                            join domains d on d.name = al.domain and d.tenant_id = ac.tenant_id
                            where ac.id = $1 and not ac.disabled and al.kind = 'alias' and al.address in ($2, $3))",
        )
        .bind(ids::signed(request.account_id)?)
        .bind(address.key())
        .bind(base)
        .fetch_one(&self.pool)
        .await
        .map_err(status)?;
        Ok(Response::new(MaySendAsResponse { allowed }))
    }

    async fn dkim_keys(&self, request: Request<DkimKeysRequest>) -> Result<Response<DkimKeysResponse>, Status> {
        let domain = request.into_inner().domain.to_ascii_lowercase();
        let rows: Vec<(String, String, Vec<u8>)> = sqlx::query_as(
            "select selector, algorithm, private_key from dkim_keys
             where domain = $1 and active_from <= now() and (retired_from is null or retired_from > now())
             order by selector",
        )
        .bind(&domain)
        .fetch_all(&self.pool)
        .await
        .map_err(status)?;
        let key = |(selector, algorithm, stored): (String, String, Vec<u8>)| {
            let private_key = self.vault.open(&vault::dkim_row(&domain, &selector), &stored)?.into();
            Ok(DkimKey { selector, algorithm, private_key })
        };
        let keys = rows.into_iter().map(key).collect::<Result<Vec<_>, Status>>()?;
        Ok(Response::new(DkimKeysResponse { keys }))
    }
}
