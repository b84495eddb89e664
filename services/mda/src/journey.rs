//! The gRPC service Journey: what happened to a message, durable, in order.

use std::{pin::Pin, time::Duration};

use futures::Stream;
use proto::journey::{FindRequest, FindResponse, JourneyEvent, Message, TraceRequest, TraceResponse, journey_server};
use sqlx::{FromRow, PgPool, types::Uuid};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{database::status, ids};

/// Followers ask again this often.
const FOLLOW_EVERY: Duration = Duration::from_millis(300);

pub struct Journey {
    pub pool: PgPool,
}

#[derive(FromRow)]
struct Head {
    queue_id: Uuid,
    message_id: String,
    reverse_path: String,
    accepted_at_ms: i64,
    size: i32,
    traceparent: String,
    open: i64,
}

impl From<Head> for Message {
    fn from(head: Head) -> Self {
        Self {
            queue_id: ids::show(head.queue_id),
            message_id: head.message_id,
            reverse_path: head.reverse_path,
            accepted_at_ms: head.accepted_at_ms,
            size: u64::from(head.size.unsigned_abs()),
            trace_id: runtime::telemetry::trace_id(&head.traceparent).to_owned(),
            open: u32::try_from(head.open).unwrap_or(u32::MAX),
        }
    }
}

#[derive(FromRow)]
struct Event {
    id: i64,
    at_ms: i64,
    name: String,
    service: String,
    recipient: String,
    text: String,
    detail: String,
    traceparent: String,
}

#[tonic::async_trait]
impl journey_server::Journey for Journey {
    async fn find(&self, request: Request<FindRequest>) -> Result<Response<FindResponse>, Status> {
        let request = request.into_inner();
        let id = request.id.trim().trim_start_matches('<').trim_end_matches('>');
        let queue_id = ids::parse(id).ok();
        if id.is_empty() && request.sender.is_empty() && request.recipient.is_empty() {
            return Err(Status::invalid_argument("expected an id, a sender or a recipient"));
        }
        let limit = if request.limit == 0 { 50 } else { request.limit.min(1_000) };
        let heads: Vec<Head> = sqlx::query_as(
            "select queue_id, message_id, reverse_path, (extract(epoch from accepted_at) * 1000)::bigint as accepted_at_ms,
                    size, traceparent, (select count(*) from deliveries d where d.queue_id = s.queue_id) as open
             from spool s
             where ($1 = '' or message_id = $1 or queue_id = $2)
               and ($3 = '' or lower(reverse_path) = lower($3))
               and ($4 = '' or exists (select from journey j
                                       where j.queue_id = s.queue_id and lower(j.recipient) = lower($4)))
             order by accepted_at desc limit $5",
        )
        .bind(id)
        .bind(queue_id)
        .bind(&request.sender)
        .bind(&request.recipient)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(status)?;
        Ok(Response::new(FindResponse { messages: heads.into_iter().map(Into::into).collect() }))
    }

    type TraceStream = Pin<Box<dyn Stream<Item = Result<TraceResponse, Status>> + Send>>;

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        let request = request.into_inner();
        let queue_id = ids::parse(&request.queue_id)?;
        let (answers, stream) = mpsc::channel(1);
        let pool = self.pool.clone();
        tokio::spawn(async move {
            if let Err(status) = follow(&pool, queue_id, request.follow, &answers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn follow(
    pool: &PgPool,
    queue_id: Uuid,
    follow: bool,
    answers: &mpsc::Sender<Result<TraceResponse, Status>>,
) -> Result<(), Status> {
    let mut after = 0;
    loop {
        // Asked before the events: when nothing is open, the events that follow are all.
        let open: i64 = sqlx::query_scalar("select count(*) from deliveries where queue_id = $1")
            .bind(queue_id)
            .fetch_one(pool)
            .await
            .map_err(status)?;
        let events: Vec<Event> = sqlx::query_as(
            "select id, (extract(epoch from at) * 1000)::bigint as at_ms, name, service, recipient, text, detail, traceparent
             from journey join spool using (queue_id)
             where queue_id = $1 and id > $2 order by id",
        )
        .bind(queue_id)
        .bind(after)
        .fetch_all(pool)
        .await
        .map_err(status)?;
        if after == 0 && events.is_empty() {
            return Err(Status::not_found("no such message"));
        }
        if let Some(last) = events.last() {
            after = last.id;
            let events = events.into_iter().map(event).collect();
            if answers.send(Ok(TraceResponse { events })).await.is_err() {
                return Ok(());
            }
        }
        if !follow || open == 0 {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => (),
            () = answers.closed() => return Ok(()),
        }
    }
}

fn event(e: Event) -> JourneyEvent {
    JourneyEvent {
        at_ms: e.at_ms,
        name: e.name,
        service: e.service,
        recipient: e.recipient,
        text: e.text,
        detail: e.detail,
        trace_id: runtime::telemetry::trace_id(&e.traceparent).to_owned(),
    }
}
