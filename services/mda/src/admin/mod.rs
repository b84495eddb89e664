//! The gRPC service Admin: what an operator does.

mod accounts;
mod aliases;
mod app_passwords;
mod dkim;
mod dmarc;
mod domains;
mod mailbox;
mod pause;
mod pop3;
mod quarantine;
mod queue;
mod report_days;
mod scope;
mod sending;
mod tenants;

use std::sync::Arc;

use address::{Address, Domain};
use proto::admin::{
    Account, Alias, ChangeGroupRequest, ChangeQueueRequest, ChangeQueueResponse, CreateAccountRequest,
    CreateAppPasswordRequest, CreateAppPasswordResponse, CreateDomainRequest, CreateTenantRequest,
    DeleteAccountRequest, DeleteAccountResponse, DeleteAliasRequest, DeleteAliasResponse, DeleteAppPasswordRequest,
    DeleteAppPasswordResponse, DeleteDomainRequest, DeleteDomainResponse, DeleteTenantRequest, DeleteTenantResponse,
    DkimKeys, Domain as DomainAnswer, ExportTenantRequest, ExportTenantResponse, GetDomainRequest, ListAccountsRequest,
    ListAccountsResponse, ListAliasesRequest, ListAliasesResponse, ListAppPasswordsRequest, ListAppPasswordsResponse,
    ListDkimKeysRequest, ListDomainsRequest, ListDomainsResponse, ListPausedDestinationsRequest,
    ListPausedDestinationsResponse, ListQuarantineRequest, ListQuarantineResponse, ListQueueRequest, ListQueueResponse,
    ListReportsRequest, ListReportsResponse, ListTenantsRequest, ListTenantsResponse, PauseDestinationRequest,
    PauseDestinationResponse, PrepareMailboxRequest, PrepareMailboxResponse, ReleaseQuarantinedRequest,
    ReleaseQuarantinedResponse, RemoveDkimKeyRequest, ResumeDestinationRequest, ResumeDestinationResponse,
    RotateDkimRequest, SetAccountDisabledRequest, SetAliasRequest, SetDmarcOverrideRequest, SetDmarcOverrideResponse,
    SetPasswordRequest, SetPop3Request, SetQuotaRequest, SetSendOnlyRequest, SetSendingLimitRequest,
    SetTenantLimitsRequest, SetTenantQuotaRequest, SummarizeReportsRequest, SummarizeReportsResponse, Tenant,
    admin_server,
};
use sqlx::PgPool;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use self::scope::Scope;
use crate::{bounce::Bouncer, directory::Passwords, metrics::Metrics, vault::Vault, wakes::WakeHub};

pub struct Admin {
    pub pool: PgPool,
    pub passwords: Passwords,
    pub bouncer: Bouncer,
    /// What relays think of destinations.
    pub turns: ::queue::Turns,
    /// For private keys.
    pub vault: Arc<Vault>,
    /// For what is moved between mailboxes.
    pub wakes: WakeHub,
    pub metrics: Metrics,
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

impl Admin {
    /// What is asked, once it is sure that the caller may see the address.
    async fn at_address<T>(&self, request: Request<T>, of: impl Fn(&T) -> &str) -> Result<T, Status> {
        let scope = Scope::of(&request)?;
        let request = request.into_inner();
        let domain = aliases::name(of(&request))?.domain;
        scope.sees(&self.pool, &domain).await?;
        Ok(request)
    }

    /// The same for a domain.
    async fn at_domain<T>(&self, request: Request<T>, of: impl Fn(&T) -> &str) -> Result<Domain, Status> {
        let scope = Scope::of(&request)?;
        let domain = domain(of(request.get_ref()))?;
        scope.sees(&self.pool, &domain).await?;
        Ok(domain)
    }
}

/// The request of who may see all tenants.
fn of_operator<T>(request: Request<T>) -> Result<T, Status> {
    Scope::of(&request)?.all_tenants()?;
    Ok(request.into_inner())
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn create_domain(&self, request: Request<CreateDomainRequest>) -> Result<Response<DomainAnswer>, Status> {
        let request = of_operator(request)?;
        let domain = domain(&request.name)?;
        domains::create(&self.pool, &self.vault, &domain, &request.tenant).await.map(Response::new)
    }

    async fn get_domain(&self, request: Request<GetDomainRequest>) -> Result<Response<DomainAnswer>, Status> {
        let domain = self.at_domain(request, |r| &r.name).await?;
        domains::get(&self.pool, &domain).await.map(Response::new)
    }

    async fn list_domains(
        &self,
        request: Request<ListDomainsRequest>,
    ) -> Result<Response<ListDomainsResponse>, Status> {
        domains::list(&self.pool, &Scope::of(&request)?).await.map(Response::new)
    }

    async fn delete_domain(
        &self,
        request: Request<DeleteDomainRequest>,
    ) -> Result<Response<DeleteDomainResponse>, Status> {
        let domain = self.at_domain(request, |r| &r.name).await?;
        domains::delete(&self.pool, &domain).await.map(Response::new)
    }

    async fn create_account(&self, request: Request<CreateAccountRequest>) -> Result<Response<Account>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        accounts::create(&self.pool, &self.passwords, request).await.map(Response::new)
    }

    async fn set_password(&self, request: Request<SetPasswordRequest>) -> Result<Response<Account>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        accounts::set_password(&self.pool, &self.passwords, request).await.map(Response::new)
    }

    async fn set_account_disabled(
        &self,
        request: Request<SetAccountDisabledRequest>,
    ) -> Result<Response<Account>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        accounts::set_disabled(&self.pool, &address(&request.address)?, request.disabled).await.map(Response::new)
    }

    async fn set_send_only(&self, request: Request<SetSendOnlyRequest>) -> Result<Response<Account>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        accounts::set_send_only(&self.pool, &address(&request.address)?, request.send_only).await.map(Response::new)
    }

    async fn set_quota(&self, request: Request<SetQuotaRequest>) -> Result<Response<Account>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        accounts::set_quota(&self.pool, request).await.map(Response::new)
    }

    async fn set_pop3(&self, request: Request<SetPop3Request>) -> Result<Response<Account>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        pop3::set(&self.pool, request).await.map(Response::new)
    }

    async fn set_sending_limit(&self, request: Request<SetSendingLimitRequest>) -> Result<Response<Account>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        sending::set_limit(&self.pool, request).await.map(Response::new)
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        accounts::list(&self.pool, request.get_ref(), &Scope::of(&request)?).await.map(Response::new)
    }

    async fn delete_account(
        &self,
        request: Request<DeleteAccountRequest>,
    ) -> Result<Response<DeleteAccountResponse>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        accounts::delete(&self.pool, &address(&request.address)?).await.map(Response::new)
    }

    async fn create_app_password(
        &self,
        request: Request<CreateAppPasswordRequest>,
    ) -> Result<Response<CreateAppPasswordResponse>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        app_passwords::create(&self.pool, request).await.map(Response::new)
    }

    async fn list_app_passwords(
        &self,
        request: Request<ListAppPasswordsRequest>,
    ) -> Result<Response<ListAppPasswordsResponse>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        app_passwords::list(&self.pool, &address(&request.address)?).await.map(Response::new)
    }

    async fn delete_app_password(
        &self,
        request: Request<DeleteAppPasswordRequest>,
    ) -> Result<Response<DeleteAppPasswordResponse>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        app_passwords::delete(&self.pool, &address(&request.address)?, request.id).await.map(Response::new)
    }

    async fn set_alias(&self, request: Request<SetAliasRequest>) -> Result<Response<Alias>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        aliases::set(&self.pool, request).await.map(Response::new)
    }

    async fn change_group(&self, request: Request<ChangeGroupRequest>) -> Result<Response<Alias>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        aliases::change_group(&self.pool, request).await.map(Response::new)
    }

    async fn list_aliases(
        &self,
        request: Request<ListAliasesRequest>,
    ) -> Result<Response<ListAliasesResponse>, Status> {
        aliases::list(&self.pool, &request.get_ref().domain, &Scope::of(&request)?).await.map(Response::new)
    }

    async fn delete_alias(
        &self,
        request: Request<DeleteAliasRequest>,
    ) -> Result<Response<DeleteAliasResponse>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        aliases::delete(&self.pool, &aliases::name(&request.address)?).await.map(Response::new)
    }

    async fn create_tenant(&self, request: Request<CreateTenantRequest>) -> Result<Response<Tenant>, Status> {
        tenants::create(&self.pool, &of_operator(request)?.name).await.map(Response::new)
    }

    async fn set_tenant_quota(&self, request: Request<SetTenantQuotaRequest>) -> Result<Response<Tenant>, Status> {
        tenants::set_quota(&self.pool, of_operator(request)?).await.map(Response::new)
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        of_operator(request)?;
        tenants::list(&self.pool).await.map(Response::new)
    }

    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Result<Response<DeleteTenantResponse>, Status> {
        tenants::delete(&self.pool, &of_operator(request)?.name).await.map(Response::new)
    }

    type ExportTenantStream = ReceiverStream<Result<ExportTenantResponse, Status>>;

    async fn export_tenant(
        &self,
        request: Request<ExportTenantRequest>,
    ) -> Result<Response<Self::ExportTenantStream>, Status> {
        let lines = tenants::export(&self.pool, &self.vault, &of_operator(request)?.name).await?;
        Ok(Response::new(ReceiverStream::new(lines)))
    }

    async fn prepare_mailbox(
        &self,
        request: Request<PrepareMailboxRequest>,
    ) -> Result<Response<PrepareMailboxResponse>, Status> {
        let request = self.at_address(request, |r| &r.address).await?;
        mailbox::prepare(&self.pool, request).await.map(Response::new)
    }

    async fn list_queue(&self, request: Request<ListQueueRequest>) -> Result<Response<ListQueueResponse>, Status> {
        let scope = Scope::of(&request)?;
        queue::list(&self.pool, &scope, request.into_inner()).await.map(Response::new)
    }

    async fn change_queue(
        &self,
        request: Request<ChangeQueueRequest>,
    ) -> Result<Response<ChangeQueueResponse>, Status> {
        let scope = Scope::of(&request)?;
        let changed = queue::change(&self.pool, &self.turns, &self.bouncer, &scope, request.into_inner()).await?;
        Ok(Response::new(ChangeQueueResponse { changed }))
    }

    async fn pause_destination(
        &self,
        request: Request<PauseDestinationRequest>,
    ) -> Result<Response<PauseDestinationResponse>, Status> {
        pause::pause(&self.pool, of_operator(request)?).await.map(Response::new)
    }

    async fn resume_destination(
        &self,
        request: Request<ResumeDestinationRequest>,
    ) -> Result<Response<ResumeDestinationResponse>, Status> {
        pause::resume(&self.pool, of_operator(request)?).await.map(Response::new)
    }

    async fn list_paused_destinations(
        &self,
        request: Request<ListPausedDestinationsRequest>,
    ) -> Result<Response<ListPausedDestinationsResponse>, Status> {
        of_operator(request)?;
        pause::list(&self.pool).await.map(Response::new)
    }

    async fn list_dkim_keys(&self, request: Request<ListDkimKeysRequest>) -> Result<Response<DkimKeys>, Status> {
        let domain = self.at_domain(request, |r| &r.domain).await?;
        domains::get(&self.pool, &domain).await?;
        dkim::list(&self.pool, &domain).await.map(Response::new)
    }

    async fn rotate_dkim(&self, request: Request<RotateDkimRequest>) -> Result<Response<DkimKeys>, Status> {
        let rotation = request.get_ref().clone();
        let domain = self.at_domain(request, |r| &r.domain).await?;
        dkim::rotate(&self.pool, &self.vault, &domain, &rotation).await?;
        dkim::list(&self.pool, &domain).await.map(Response::new)
    }

    async fn remove_dkim_key(&self, request: Request<RemoveDkimKeyRequest>) -> Result<Response<DkimKeys>, Status> {
        let selector = request.get_ref().selector.clone();
        let domain = self.at_domain(request, |r| &r.domain).await?;
        dkim::remove(&self.pool, &domain, &selector).await?;
        dkim::list(&self.pool, &domain).await.map(Response::new)
    }

    async fn set_dmarc_override(
        &self,
        request: Request<SetDmarcOverrideRequest>,
    ) -> Result<Response<SetDmarcOverrideResponse>, Status> {
        dmarc::set_override(&self.pool, of_operator(request)?).await?;
        Ok(Response::new(SetDmarcOverrideResponse {}))
    }

    async fn list_reports(
        &self,
        request: Request<ListReportsRequest>,
    ) -> Result<Response<ListReportsResponse>, Status> {
        let scope = Scope::of(&request)?;
        dmarc::reports(&self.pool, request.into_inner(), &scope).await.map(Response::new)
    }

    async fn summarize_reports(
        &self,
        request: Request<SummarizeReportsRequest>,
    ) -> Result<Response<SummarizeReportsResponse>, Status> {
        let scope = Scope::of(&request)?;
        report_days::summarize(&self.pool, request.into_inner(), &scope).await.map(Response::new)
    }

    async fn list_quarantine(
        &self,
        request: Request<ListQuarantineRequest>,
    ) -> Result<Response<ListQuarantineResponse>, Status> {
        let scope = Scope::of(&request)?;
        quarantine::list(&self.pool, request.into_inner(), &scope).await.map(Response::new)
    }

    async fn release_quarantined(
        &self,
        request: Request<ReleaseQuarantinedRequest>,
    ) -> Result<Response<ReleaseQuarantinedResponse>, Status> {
        let scope = Scope::of(&request)?;
        let released = quarantine::release(&self.pool, request.into_inner(), &scope).await;
        // Also those before one that failed: they are committed.
        self.metrics.quarantine_released(released.accounts.len());
        self.wakes.changed(released.accounts.iter().map(|(id, _)| crate::ids::unsigned(*id))).await;
        let addresses =
            released.result.map(|()| released.accounts.into_iter().map(|(_, address)| address).collect())?;
        Ok(Response::new(ReleaseQuarantinedResponse { addresses }))
    }

    async fn set_tenant_limits(&self, request: Request<SetTenantLimitsRequest>) -> Result<Response<Tenant>, Status> {
        tenants::set_limits(&self.pool, of_operator(request)?).await.map(Response::new)
    }
}
