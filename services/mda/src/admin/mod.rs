//! The gRPC service Admin: what an operator does.

mod accounts;
mod aliases;
mod dkim;
mod dmarc;
mod domains;
mod pause;
mod pop3;
mod queue;

use std::sync::Arc;

use address::{Address, Domain};
use proto::admin::{
    Account, Alias, ChangeQueueRequest, ChangeQueueResponse, CreateAccountRequest, CreateDomainRequest,
    DeleteAccountRequest, DeleteAccountResponse, DeleteAliasRequest, DeleteAliasResponse, DeleteDomainRequest,
    DeleteDomainResponse, DkimKeys, Domain as DomainAnswer, GetDomainRequest, ListAccountsRequest, ListAccountsResponse,
    ListAliasesRequest, ListAliasesResponse, ListDkimKeysRequest, ListDomainsRequest, ListDomainsResponse, ListPausedDestinationsRequest,
    ListPausedDestinationsResponse, ListQueueRequest, ListQueueResponse, ListReportsRequest, ListReportsResponse,
    PauseDestinationRequest,
    PauseDestinationResponse, RemoveDkimKeyRequest, ResumeDestinationRequest, ResumeDestinationResponse, RotateDkimRequest, SetAccountDisabledRequest,
    SetAliasRequest, SetDmarcOverrideRequest, SetDmarcOverrideResponse, SetPasswordRequest, SetPop3Request, admin_server,
};
use sqlx::PgPool;
use tonic::{Request, Response, Status};

use crate::{bounce::Bouncer, directory::Passwords, vault::Vault};

pub struct Admin {
    pub pool: PgPool,
    pub passwords: Passwords,
    pub bouncer: Bouncer,
    /// What relays think of destinations.
    pub turns: ::queue::Turns,
    /// For private keys.
    pub vault: Arc<Vault>,
}

fn domain(name: &str) -> Result<Domain, Status> {
    let domain: Domain = name.parse().map_err(|e| Status::invalid_argument(format!("domain {name:?}: {e}")))?;
    if domain.is_literal() {
        return Err(Status::invalid_argument(format!("domain {name:?}: an address literal is no domain")));
    }
    Ok(domain)
}

fn address(text: &str) -> Result<Address, Status> {
    text.parse().map_err(|e| Status::invalid_argument(format!("address {text:?}: {e}")))
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn create_domain(&self, request: Request<CreateDomainRequest>) -> Result<Response<DomainAnswer>, Status> {
        domains::create(&self.pool, &self.vault, &domain(&request.into_inner().name)?).await.map(Response::new)
    }

    async fn get_domain(&self, request: Request<GetDomainRequest>) -> Result<Response<DomainAnswer>, Status> {
        domains::get(&self.pool, &domain(&request.into_inner().name)?).await.map(Response::new)
    }

    async fn list_domains(&self, _: Request<ListDomainsRequest>) -> Result<Response<ListDomainsResponse>, Status> {
        domains::list(&self.pool).await.map(Response::new)
    }

    async fn delete_domain(
        &self,
        request: Request<DeleteDomainRequest>,
    ) -> Result<Response<DeleteDomainResponse>, Status> {
        domains::delete(&self.pool, &domain(&request.into_inner().name)?).await.map(Response::new)
    }

    async fn create_account(&self, request: Request<CreateAccountRequest>) -> Result<Response<Account>, Status> {
        accounts::create(&self.pool, &self.passwords, request.into_inner()).await.map(Response::new)
    }

    async fn set_password(&self, request: Request<SetPasswordRequest>) -> Result<Response<Account>, Status> {
        accounts::set_password(&self.pool, &self.passwords, request.into_inner()).await.map(Response::new)
    }

    async fn set_account_disabled(
        &self,
        request: Request<SetAccountDisabledRequest>,
    ) -> Result<Response<Account>, Status> {
        let request = request.into_inner();
        accounts::set_disabled(&self.pool, &address(&request.address)?, request.disabled).await.map(Response::new)
    }

    async fn set_pop3(&self, request: Request<SetPop3Request>) -> Result<Response<Account>, Status> {
        pop3::set(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        accounts::list(&self.pool, &request.into_inner().domain).await.map(Response::new)
    }

    async fn delete_account(
        &self,
        request: Request<DeleteAccountRequest>,
    ) -> Result<Response<DeleteAccountResponse>, Status> {
        accounts::delete(&self.pool, &address(&request.into_inner().address)?).await.map(Response::new)
    }

    async fn set_alias(&self, request: Request<SetAliasRequest>) -> Result<Response<Alias>, Status> {
        aliases::set(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn list_aliases(
        &self,
        request: Request<ListAliasesRequest>,
    ) -> Result<Response<ListAliasesResponse>, Status> {
        aliases::list(&self.pool, &request.into_inner().domain).await.map(Response::new)
    }

    async fn delete_alias(
        &self,
        request: Request<DeleteAliasRequest>,
    ) -> Result<Response<DeleteAliasResponse>, Status> {
        aliases::delete(&self.pool, &address(&request.into_inner().address)?).await.map(Response::new)
    }

    async fn list_queue(&self, request: Request<ListQueueRequest>) -> Result<Response<ListQueueResponse>, Status> {
        queue::list(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn change_queue(
        &self,
        request: Request<ChangeQueueRequest>,
    ) -> Result<Response<ChangeQueueResponse>, Status> {
        let changed = queue::change(&self.pool, &self.turns, &self.bouncer, request.into_inner()).await?;
        Ok(Response::new(ChangeQueueResponse { changed }))
    }

    async fn pause_destination(
        &self,
        request: Request<PauseDestinationRequest>,
    ) -> Result<Response<PauseDestinationResponse>, Status> {
        pause::pause(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn resume_destination(
        &self,
        request: Request<ResumeDestinationRequest>,
    ) -> Result<Response<ResumeDestinationResponse>, Status> {
        pause::resume(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn list_paused_destinations(
        &self,
        _: Request<ListPausedDestinationsRequest>,
    ) -> Result<Response<ListPausedDestinationsResponse>, Status> {
        pause::list(&self.pool).await.map(Response::new)
    }

    async fn list_dkim_keys(&self, request: Request<ListDkimKeysRequest>) -> Result<Response<DkimKeys>, Status> {
        let domain = domain(&request.into_inner().domain)?;
        domains::get(&self.pool, &domain).await?;
        dkim::list(&self.pool, &domain).await.map(Response::new)
    }

    async fn rotate_dkim(&self, request: Request<RotateDkimRequest>) -> Result<Response<DkimKeys>, Status> {
        let request = request.into_inner();
        let domain = domain(&request.domain)?;
        dkim::rotate(&self.pool, &self.vault, &domain, request).await?;
        dkim::list(&self.pool, &domain).await.map(Response::new)
    }

    async fn remove_dkim_key(&self, request: Request<RemoveDkimKeyRequest>) -> Result<Response<DkimKeys>, Status> {
        let request = request.into_inner();
        let domain = domain(&request.domain)?;
        dkim::remove(&self.pool, &domain, &request.selector).await?;
        dkim::list(&self.pool, &domain).await.map(Response::new)
    }

    async fn set_dmarc_override(
        &self,
        request: Request<SetDmarcOverrideRequest>,
    ) -> Result<Response<SetDmarcOverrideResponse>, Status> {
        dmarc::set_override(&self.pool, request.get_ref()).await?;
        Ok(Response::new(SetDmarcOverrideResponse {}))
    }

    async fn list_reports(
        &self,
        request: Request<ListReportsRequest>,
    ) -> Result<Response<ListReportsResponse>, Status> {
        dmarc::reports(&self.pool, request.into_inner()).await.map(Response::new)
    }
}
