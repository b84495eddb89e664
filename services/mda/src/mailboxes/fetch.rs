//! Fetch: pages of rows, then their content in batches of bounded bytes.
//!
//! No connection and no snapshot is held while a slow reader reads.

use std::collections::HashMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use proto::mailboxes::{FetchRequest, FetchResponse, Message, Structure};
use sqlx::{FromRow, PgPool, types::Uuid};
use tokio::sync::mpsc;
use tonic::Status;

use super::{account, bounds, gone, state::MessageRow};
use crate::{content::decompress, database::status, ids, journey::fetched, objects::Objects};

const PAGE: i64 = 1_000;
/// What one batch's contents may have together, unless one message alone has more.
const BATCH_BYTES: usize = 1 << 20;
/// A header's or structure's share of it; their true size is not known before they are read.
const ASSUMED_HEADER: usize = 4 << 10;
/// Bodies that one batch asks the content store for at once.
const OBJECTS: usize = 8;

#[derive(FromRow)]
struct Row {
    uid: i64,
    modseq: i64,
    flags: i16,
    keywords: Vec<String>,
    size: i32,
    internal_date: DateTime<Utc>,
    saved_at: Option<DateTime<Utc>>,
    content_id: Uuid,
    fetched: bool,
}

#[derive(FromRow)]
struct Content {
    id: Uuid,
    structure: Option<Vec<u8>>,
    header: Option<Vec<u8>>,
    body: Option<Vec<u8>>,
    object: Option<String>,
}

pub async fn fetch(
    pool: PgPool,
    objects: Objects,
    request: FetchRequest,
    answers: mpsc::Sender<Result<FetchResponse, Status>>,
) -> Result<(), Status> {
    let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let changed_since = ids::signed(request.changed_since)?;
    let (first, last) = bounds(&request.uids);
    let wants_content = request.structure || request.header || request.body;
    let mut after = 0i64;
    loop {
        let rows: Vec<Row> = sqlx::query_as(
            "select m.uid, m.modseq, m.flags, m.keywords, m.size, m.internal_date, m.saved_at, m.content_id, m.fetched
             from messages m
             where m.account_id = $1 and m.mailbox_id = $2 and m.uid > $3 and m.modseq > $4
               and exists (select from unnest($5::bigint[], $6::bigint[]) r (first, last)
                           where m.uid between r.first and r.last)
               and m.uid between (select min(f) from unnest($5::bigint[]) f)
                             and (select max(l) from unnest($6::bigint[]) l)
             order by m.uid limit $7",
        )
        .bind(account_id)
        .bind(mailbox_id)
        .bind(after)
        .bind(changed_since)
        .bind(&first)
        .bind(&last)
        .bind(PAGE)
        .fetch_all(&pool)
        .await
        .map_err(status)?;
        let Some(end) = rows.last().map(|r| r.uid) else { return Ok(()) };
        let is_last_page = rows.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        after = end;
        for batch in batches(rows, &request) {
            let first = |row: &&Row| request.body && !row.fetched && !is_omitted(row, &request);
            let first: Vec<i64> = batch.iter().filter(first).map(|row| row.uid).collect();
            let messages = if wants_content {
                with_content(&pool, &objects, batch, &request).await?
            } else {
                batch.into_iter().map(|row| plain(row, &request)).collect()
            };
            answers.send(Ok(FetchResponse { messages })).await.map_err(gone)?;
            fetched::tell(&pool, &request.reader, account_id, mailbox_id, &first).await;
        }
        if is_last_page {
            return Ok(());
        }
    }
}

fn batches(rows: Vec<Row>, request: &FetchRequest) -> Vec<Vec<Row>> {
    let cost = |row: &Row| match (request.body && !is_omitted(row, request), request.header || request.structure) {
        (true, _) => usize::try_from(row.size).unwrap_or_default(),
        (false, true) => ASSUMED_HEADER,
        (false, false) => 0,
    };
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for row in rows {
        bytes += cost(&row);
        match batches.last_mut() {
            Some(batch) if bytes <= BATCH_BYTES || batch.is_empty() => batch.push(row),
            _ => {
                bytes = cost(&row);
                batches.push(vec![row]);
            }
        }
    }
    batches
}

fn is_omitted(row: &Row, request: &FetchRequest) -> bool {
    request.body && request.body_limit > 0 && row.size.unsigned_abs() > request.body_limit
}

fn plain(row: Row, request: &FetchRequest) -> Message {
    let body_omitted = is_omitted(&row, request);
    let Row { uid, modseq, flags, keywords, size, internal_date, saved_at, content_id, .. } = row;
    let message: Message = MessageRow { uid, modseq, flags, keywords, size, internal_date }.into();
    let (mut email_id, mut save_date_ms) = (String::new(), 0);
    if request.object_ids {
        email_id = content_id.simple().to_string();
        save_date_ms = saved_at.map_or(0, |at| at.timestamp_millis());
    }
    Message { body_omitted, email_id, save_date_ms, ..message }
}

async fn with_content(
    pool: &PgPool,
    objects: &Objects,
    rows: Vec<Row>,
    request: &FetchRequest,
) -> Result<Vec<Message>, Status> {
    let ids: Vec<Uuid> = rows.iter().map(|r| r.content_id).collect();
    let contents: Vec<Content> = sqlx::query_as(
        "select id, case when $2 then structure end as structure, case when $3 then header end as header,
                case when $4 and (size <= $5 or $5 = 0) then body end as body,
                case when $4 and (size <= $5 or $5 = 0) then object end as object
         from contents where id = any ($1)",
    )
    .bind(&ids)
    .bind(request.structure)
    .bind(request.header)
    .bind(request.body)
    .bind(i32::try_from(request.body_limit).unwrap_or(i32::MAX))
    .fetch_all(pool)
    .await
    .map_err(status)?;
    let whole = |mut content: Content| async {
        if let Some(object) = content.object.take() {
            content.body = Some(objects.body(Vec::new(), Some(&object)).await?.into());
        }
        Ok::<_, Status>((content.id, content))
    };
    let contents: HashMap<Uuid, Content> =
        stream::iter(contents).map(whole).buffer_unordered(OBJECTS).try_collect().await?;
    // A message that was expunged and reclaimed since its row was read is not there any more.
    let found = rows.into_iter().filter_map(|row| contents.get(&row.content_id).map(|content| (row, content)));
    found.map(|(row, content)| join(row, content, request)).collect()
}

fn join(row: Row, content: &Content, request: &FetchRequest) -> Result<Message, Status> {
    let size = usize::try_from(row.size).unwrap_or_default();
    let unpack = |stored: &Option<Vec<u8>>| stored.as_ref().map_or(Ok(Bytes::new()), |s| decompress(s, size));
    let structure = content.structure.as_deref().map(Structure::decode).transpose();
    Ok(Message {
        structure: structure.map_err(|_| Status::data_loss("stored structure is damaged"))?,
        header: unpack(&content.header)?,
        body: unpack(&content.body)?,
        ..plain(row, request)
    })
}
