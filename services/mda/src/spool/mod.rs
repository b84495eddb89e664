//! The gRPC service Spool: from a message's acceptance to its last recipient's final state.

mod accept;
pub mod batch;
mod claim;
mod recent;
mod settle;

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use proto::{
    CHUNK,
    spool::{
        AcceptRequest, AcceptResponse, ClaimRequest, ClaimResponse, ContentRequest, ContentResponse, GiveBackRequest,
        GiveBackResponse, RefuseRequest, RefuseResponse, RenewRequest, RenewResponse, SettleRequest, SettleResponse,
        spool_server,
    },
};
use sqlx::PgPool;
use tonic::{Request, Response, Status, Streaming};

pub use accept::{Accepting, Draft, Ready, over_quota};

pub use claim::{columns, delivery_id};
pub use settle::release;

use crate::{content, database::status, ids, journey};

pub struct Spool {
    pub pool: PgPool,
    pub accepting: Accepting,
    pub max_message_size: usize,
}

#[tonic::async_trait]
impl spool_server::Spool for Spool {
    async fn accept(&self, request: Request<Streaming<AcceptRequest>>) -> Result<Response<AcceptResponse>, Status> {
        let mut stream = request.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::invalid_argument("empty stream"))?;
        let envelope = first.envelope.ok_or_else(|| Status::invalid_argument("the first request has no envelope"))?;
        tracing::Span::current().record("mail.queue_id", &envelope.queue_id);
        let content = content::gather(stream, first.content, self.max_message_size, |r| r.content).await?;
        self.accepting.accept(Draft { envelope, content }).await?;
        Ok(Response::new(AcceptResponse {}))
    }

    async fn claim(&self, request: Request<ClaimRequest>) -> Result<Response<ClaimResponse>, Status> {
        claim::claim(&self.pool, self.accepting.recent(), request.into_inner()).await.map(Response::new)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let renewed = claim::renew(&self.pool, request.into_inner()).await?;
        Ok(Response::new(RenewResponse { renewed }))
    }

    async fn give_back(&self, request: Request<GiveBackRequest>) -> Result<Response<GiveBackResponse>, Status> {
        let given_back = claim::give_back(&self.pool, request.into_inner()).await?;
        Ok(Response::new(GiveBackResponse { given_back }))
    }

    type ContentStream = Pin<Box<dyn Stream<Item = Result<ContentResponse, Status>> + Send>>;

    async fn content(&self, request: Request<ContentRequest>) -> Result<Response<Self::ContentStream>, Status> {
        let request = request.into_inner();
        let row: Option<(i32, Vec<u8>, Vec<u8>, Option<String>)> = sqlx::query_as(
            "select size, header, case when $2 then ''::bytea else body end, object from contents where id = $1",
        )
        .bind(ids::parse(&request.queue_id)?)
        .bind(request.header_only)
        .fetch_optional(&self.pool)
        .await
        .map_err(status)?;
        let (size, header, body, object) = row.ok_or_else(|| Status::not_found("no such message"))?;
        let size = usize::try_from(size).unwrap_or_default();
        let header = content::decompress(&header, size)?;
        let body = if request.header_only {
            Bytes::new()
        } else {
            content::decompress(&self.accepting.objects().body(body, object.as_deref()).await?, size)?
        };
        let chunks = [header, body].into_iter().flat_map(chunked).map(|content| Ok(ContentResponse { content }));
        Ok(Response::new(Box::pin(futures::stream::iter(chunks.collect::<Vec<_>>()))))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        let settled = settle::settle(&self.pool, request.into_inner().outcomes).await?;
        Ok(Response::new(SettleResponse { settled }))
    }

    async fn refuse(&self, request: Request<RefuseRequest>) -> Result<Response<RefuseResponse>, Status> {
        journey::refused::tell(&self.pool, request.into_inner().refused).await?;
        Ok(Response::new(RefuseResponse {}))
    }
}

fn chunked(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    let starts = (0..bytes.len()).step_by(CHUNK);
    starts.map(move |start| bytes.slice(start..bytes.len().min(start + CHUNK)))
}
