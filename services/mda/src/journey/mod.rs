//! The gRPC service Journey: what happened to a message, durable, in order.
//!
//! Events are committed with the state changes that they describe, by the statements that make
//! those changes; here they are read ([`find`], [`trace`]), told where nothing else changes
//! ([`refused`], [`fetched`]), and forgotten day by day ([`days`]).

pub mod days;
pub mod fetched;
mod find;
pub mod refused;
mod trace;

use std::pin::Pin;

use futures::Stream;
use proto::journey::{FindRequest, FindResponse, TraceRequest, TraceResponse, journey_server};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub(crate) use self::find::find;
use crate::ids;

pub struct Journey {
    pub pool: PgPool,
}

#[tonic::async_trait]
impl journey_server::Journey for Journey {
    async fn find(&self, request: Request<FindRequest>) -> Result<Response<FindResponse>, Status> {
        let messages = find::find(&self.pool, request.into_inner()).await?;
        Ok(Response::new(FindResponse { messages }))
    }

    type TraceStream = Pin<Box<dyn Stream<Item = Result<TraceResponse, Status>> + Send>>;

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        let request = request.into_inner();
        let queue_id = ids::parse(&request.queue_id)?;
        let (answers, stream) = mpsc::channel(1);
        let pool = self.pool.clone();
        tokio::spawn(async move {
            if let Err(status) = trace::follow(&pool, queue_id, request.follow, &answers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Dialogue lines as `journey_dialogues` has them.
pub fn lines(dialogue: &[String]) -> String {
    let line = |l: &String| crate::content::plain(&l.replace(['\r', '\n'], " "));
    dialogue.iter().map(line).collect::<Vec<_>>().join("\n")
}
