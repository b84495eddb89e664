//! Finding messages as the Journey does, with what a list of them tells besides.

use std::collections::HashMap;

use proto::{
    console::{FindMessagesRequest, FindMessagesResponse, Message},
    journey::FindRequest,
};
use sqlx::{FromRow, PgPool};
use tonic::Status;
use uuid::Uuid;

use crate::{database::status, ids, journey};

const MOST: u32 = 500;
/// The year 9999, which Postgres still knows.
const LATEST: i64 = 253_402_300_799_000;

#[derive(FromRow)]
struct Told {
    queue_id: Uuid,
    recipients: Vec<String>,
    last_event: String,
}

const TOLD: &str = "
select queue_id,
       coalesce((select array_agg(r) from (select distinct recipient as r from journey j
                 where j.queue_id = m.queue_id and recipient <> '' limit 20) few), '{}') as recipients,
       coalesce((select name from journey j where j.queue_id = m.queue_id order by id desc limit 1), '') as last_event
from unnest($1::uuid[]) as m (queue_id)";

pub async fn find(pool: &PgPool, request: FindMessagesRequest) -> Result<FindMessagesResponse, Status> {
    let find = FindRequest {
        id: request.id,
        sender: request.sender,
        recipient: request.recipient,
        tenant: request.tenant,
        // From the beginning, when nothing else is asked for.
        since_ms: request.from_ms.clamp(1, LATEST),
        until_ms: if request.to_ms <= 0 { 0 } else { request.to_ms.min(LATEST) },
        limit: request.limit.min(MOST),
    };
    let heads = journey::find(pool, find).await?;
    let queue_ids: Vec<Uuid> = heads.iter().map(|m| ids::parse(&m.queue_id)).collect::<Result<_, _>>()?;
    let told: Vec<Told> = sqlx::query_as(TOLD).bind(&queue_ids).fetch_all(pool).await.map_err(status)?;
    let mut told: HashMap<String, Told> = told.into_iter().map(|t| (ids::show(t.queue_id), t)).collect();
    let messages = heads.into_iter().map(|m| {
        let (recipients, last_event) =
            told.remove(&m.queue_id).map(|t| (t.recipients, t.last_event)).unwrap_or_default();
        Message {
            queue_id: m.queue_id,
            message_id: m.message_id,
            reverse_path: m.reverse_path,
            recipients,
            accepted_at_ms: m.accepted_at_ms,
            size: m.size,
            trace_id: m.trace_id,
            open: m.open,
            last_event,
        }
    });
    Ok(FindMessagesResponse { messages: messages.collect() })
}
