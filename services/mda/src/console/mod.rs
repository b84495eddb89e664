//! The gRPC service Console: tokens, whose domain is whose, search in one tenant's messages.

mod domains;
mod messages;
mod tokens;

use proto::console::{
    CheckTokenRequest, CreateTokenRequest, CreateTokenResponse, FindMessagesRequest, FindMessagesResponse,
    ListDomainsRequest, ListDomainsResponse, ListTokensRequest, ListTokensResponse, RevokeTokenRequest,
    RevokeTokenResponse, Token, console_server,
};
use sqlx::PgPool;
use tonic::{Request, Response, Status};

pub struct Console {
    pub pool: PgPool,
}

#[tonic::async_trait]
impl console_server::Console for Console {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        tokens::create(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        tokens::list(&self.pool, &request.into_inner().tenant).await.map(Response::new)
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        tokens::revoke(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn check_token(&self, request: Request<CheckTokenRequest>) -> Result<Response<Token>, Status> {
        tokens::check(&self.pool, &request.into_inner().hash).await.map(Response::new)
    }

    async fn list_domains(
        &self,
        request: Request<ListDomainsRequest>,
    ) -> Result<Response<ListDomainsResponse>, Status> {
        domains::list(&self.pool, &request.into_inner().tenant).await.map(Response::new)
    }

    async fn find_messages(
        &self,
        request: Request<FindMessagesRequest>,
    ) -> Result<Response<FindMessagesResponse>, Status> {
        messages::find(&self.pool, request.into_inner()).await.map(Response::new)
    }
}
