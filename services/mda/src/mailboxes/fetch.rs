//! Fetch: rows from what is known of the mailbox or in pages from the table, then their content in
//! batches of bounded bytes, of which the next is read while one is sent.
//!
//! No connection and no snapshot is held while a slow reader reads.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use proto::mailboxes::{FetchRequest, FetchResponse, Message};
use sqlx::{FromRow, PgPool, types::Uuid};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    Memory, account, bounds,
    filter::Filters,
    gone,
    index::{COLUMNS, Entry, Index, Loaded, rows},
    remembered::Kept,
    rights::Reader,
    state::{self, Mailbox},
    structure,
};
use crate::{content::decompress, database::status, ids, journey::fetched, objects::Objects};

const PAGE: usize = 1_000;
/// Messages of one answer without content.
const ROWS: usize = 4_000;
/// What one batch's contents may have together, unless one message alone has more. Larger ones
/// leave the processor's cache between their steps.
const BATCH_BYTES: usize = 256 << 10;
/// A header's or structure's share of it; their true size is not known before they are read.
const ASSUMED_HEADER: usize = 1 << 10;
/// Batches that are read at once.
const AHEAD: usize = 2;
/// Messages asked for from which on it is worth to know the whole mailbox.
const MANY: u64 = 500;
/// Bodies that one batch asks the content store for at once.
const OBJECTS: usize = 8;

#[derive(FromRow)]
struct Content {
    id: Uuid,
    structure: Option<Vec<u8>>,
    header: Option<Vec<u8>>,
    body: Option<Vec<u8>>,
    object: Option<String>,
}

pub struct Fetch {
    pub pool: PgPool,
    pub objects: Objects,
    pub memory: Memory,
    pub reader: Reader,
    pub request: FetchRequest,
}

type Answers = mpsc::Sender<Result<FetchResponse, Status>>;

pub async fn fetch(asked: Fetch, answers: Answers) -> Result<(), Status> {
    let request = &asked.request;
    let key = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let changed_since = ids::signed(request.changed_since)?;
    let work = Work { filters: Filters::of(&request.filters)?, asked: &asked, key, changed_since, answers };
    match work.known().await? {
        Some(index) => work.of_index(&index).await,
        None => work.of_table().await,
    }
}

struct Work<'a> {
    asked: &'a Fetch,
    key: (i64, i64),
    changed_since: i64,
    filters: Filters,
    answers: Answers,
}

impl Work<'_> {
    /// The mailbox as it is now, when that is in memory or worth it.
    async fn known(&self) -> Result<Option<Arc<Index>>, Status> {
        let Fetch { pool, memory, request, .. } = self.asked;
        let wanted = |r: &proto::mailboxes::UidRange| u64::from(r.last.saturating_sub(r.first)) + 1;
        if !memory.indexes.has(self.key) && request.uids.iter().map(wanted).sum::<u64>() < MANY {
            return Ok(None);
        }
        let mailbox = state::by_id(pool, self.key).await?;
        if let Some(known) = memory.indexes.known(&mailbox) {
            return Ok(Some(known));
        }
        let mut snapshot = state::snapshot(pool).await?;
        let mailbox: Mailbox = state::by_id(&mut *snapshot, self.key).await?;
        let index = memory.indexes.read(&mut snapshot, &mailbox).await.map_err(status)?;
        snapshot.rollback().await.map_err(status)?;
        Ok(index)
    }

    async fn of_index(&self, index: &Index) -> Result<(), Status> {
        let mut ranges: Vec<(u32, u32)> = self.asked.request.uids.iter().map(|r| (r.first, r.last)).collect();
        ranges.sort_unstable();
        let mut page = Vec::new();
        let mut next = 0;
        for (first, last) in ranges {
            let from = index.entries().partition_point(|e| e.uid < first).max(next);
            let to = index.entries().partition_point(|e| e.uid <= last).max(from);
            next = to;
            for entry in index.entries().get(from..to).unwrap_or_default() {
                if entry.modseq > self.changed_since {
                    page.push(entry);
                }
                if page.len() >= self.page() {
                    self.send(index, std::mem::take(&mut page)).await?;
                }
            }
        }
        self.send(index, page).await
    }

    async fn of_table(&self) -> Result<(), Status> {
        let (first, last) = bounds(&self.asked.request.uids);
        let mut after = 0i64;
        loop {
            let text = format!(
                "select {COLUMNS} from messages m
                 where m.account_id = $1 and m.mailbox_id = $2 and m.uid > $3 and m.modseq > $4
                   and exists (select from unnest($5::bigint[], $6::bigint[]) r (first, last)
                               where m.uid between r.first and r.last)
                   and m.uid between (select min(f) from unnest($5::bigint[]) f)
                                 and (select max(l) from unnest($6::bigint[]) l)
                 order by m.uid limit $7"
            );
            let loaded: Vec<Loaded> = sqlx::query_as(sqlx::AssertSqlSafe(text))
                .bind(self.key.0)
                .bind(self.key.1)
                .bind(after)
                .bind(self.changed_since)
                .bind(&first)
                .bind(&last)
                .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
                .fetch_all(&self.asked.pool)
                .await
                .map_err(status)?;
            let is_last_page = loaded.len() < PAGE;
            let index = Index::of(loaded);
            let Some(end) = index.entries().last().map(|e| e.uid) else { return Ok(()) };
            after = end.into();
            self.send(&index, index.entries().iter().collect()).await?;
            if is_last_page {
                return Ok(());
            }
        }
    }

    fn wants_content(&self) -> bool {
        let request = &self.asked.request;
        request.structure || request.header || request.body
    }

    fn page(&self) -> usize {
        if self.wants_content() { PAGE } else { ROWS }
    }

    async fn send(&self, index: &Index, page: Vec<&Entry>) -> Result<(), Status> {
        let request = &self.asked.request;
        if page.is_empty() {
            return Ok(());
        }
        if !self.wants_content() {
            self.asked.reader.may_still(&self.asked.pool).await?;
            let answer = if request.as_rows && !request.object_ids {
                FetchResponse { rows: Some(rows(index, &page)), ..FetchResponse::default() }
            } else {
                let messages = page.iter().map(|e| self.plain(index, e)).collect();
                FetchResponse { messages, ..FetchResponse::default() }
            };
            return self.answers.send(Ok(answer)).await.map_err(gone);
        }
        let batch = |range| {
            let batch = page.get::<Range<usize>>(range).unwrap_or_default();
            async move { Ok::<_, Status>((batch, self.contents(batch).await?)) }
        };
        let batches: Vec<_> = batches(&page, request).into_iter().map(batch).collect();
        let mut contents = stream::iter(batches).buffered(AHEAD);
        while let Some((batch, contents)) = contents.try_next().await? {
            let answer = self.answer(index, batch, &contents).await?;
            // What was read when the right was there may be sent (RFC 4314 §4).
            self.asked.reader.may_still(&self.asked.pool).await?;
            self.answers.send(Ok(answer)).await.map_err(gone)?;
            self.tell_fetched(batch).await;
        }
        Ok(())
    }

    async fn tell_fetched(&self, batch: &[&Entry]) {
        let Fetch { pool, memory, request, .. } = self.asked;
        if request.reader.is_empty() || !request.body {
            return;
        }
        let first = |e: &&&Entry| !e.fetched && !is_omitted(e, request);
        let first: Vec<i64> = batch.iter().filter(first).map(|e| i64::from(e.uid)).collect();
        if !first.is_empty() {
            fetched::tell(pool, &request.reader, self.key.0, self.key.1, &first).await;
            memory.indexes.fetched(self.key, &first);
        }
    }

    fn plain(&self, index: &Index, entry: &Entry) -> Message {
        let request = &self.asked.request;
        let mut message = entry.message(index);
        message.body_omitted = is_omitted(entry, request);
        if request.object_ids {
            message.email_id = entry.content_id.simple().to_string();
            message.save_date_ms = entry.saved_ms;
        }
        message
    }

    /// What is wanted of each, from memory or in one statement.
    async fn contents(&self, batch: &[&Entry]) -> Result<HashMap<Uuid, Kept>, Status> {
        let Fetch { pool, objects, memory, request, .. } = self.asked;
        let mut found = HashMap::with_capacity(batch.len());
        let mut missing = Vec::new();
        let mut sizes = HashMap::new();
        for entry in batch {
            let kept = memory.contents.get(entry.content_id);
            let is_whole = (!request.structure || kept.structure.is_some())
                && (!request.header || kept.header.is_some())
                && (!request.body || kept.body.is_some() || is_omitted(entry, request));
            if is_whole {
                found.insert(entry.content_id, kept);
            } else if sizes.insert(entry.content_id, entry.size as usize).is_none() {
                missing.push(entry.content_id);
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let read: Vec<Content> = sqlx::query_as(
            "select id, case when $2 then structure end as structure, case when $3 then header end as header,
                    case when $4 and (size <= $5 or $5 = 0) then body end as body,
                    case when $4 and (size <= $5 or $5 = 0) then object end as object
             from contents where id = any ($1)",
        )
        .bind(&missing)
        .bind(request.structure)
        .bind(request.header)
        .bind(request.body)
        .bind(i32::try_from(request.body_limit).unwrap_or(i32::MAX))
        .fetch_all(pool)
        .await
        .map_err(status)?;
        let whole = async |mut content: Content| {
            if let Some(object) = content.object.take() {
                content.body = Some(objects.body(Vec::new(), Some(&object)).await?.into());
            }
            Ok::<_, Status>(content)
        };
        let mut whole = stream::iter(read).map(whole).buffer_unordered(OBJECTS);
        while let Some(content) = whole.try_next().await? {
            let size = sizes.get(&content.id).copied().unwrap_or_default();
            let unpack = |stored: Option<Vec<u8>>| stored.map(|s| decompress(&s, size)).transpose();
            let kept = Kept {
                header: unpack(content.header)?,
                body: unpack(content.body)?,
                structure: content.structure.map(Bytes::from),
            };
            memory.contents.put(content.id, &kept);
            found.insert(content.id, kept);
        }
        Ok(found)
    }

    async fn answer(
        &self,
        index: &Index,
        batch: &[&Entry],
        contents: &HashMap<Uuid, Kept>,
    ) -> Result<FetchResponse, Status> {
        let request = &self.asked.request;
        let mut messages = Vec::with_capacity(if self.filters.is_empty() { batch.len() } else { 0 });
        let mut passed_over = 0;
        for entry in batch {
            // A message that was expunged and reclaimed since its row was read is not there any more.
            let Some(content) = contents.get(&entry.content_id) else { continue };
            let omitted = is_omitted(entry, request);
            let (mut header, mut body) = (content.header.clone().unwrap_or_default(), Bytes::new());
            if request.body && !omitted {
                body = content.body.clone().unwrap_or_default();
            }
            if !self.filters.is_empty() && !omitted {
                if request.body {
                    // Decoding takes its time: others have their turn.
                    tokio::task::yield_now().await;
                }
                if !self.filters.match_all(&header, &body) {
                    passed_over += 1;
                    continue;
                }
                if request.content_for_filters {
                    (header, body) = (Bytes::new(), Bytes::new());
                }
            }
            let structure = content.structure.as_ref().filter(|_| request.structure);
            let structure = structure.map(|stored| structure::pick(stored, request.structure_fields)).transpose();
            messages.push(Message {
                structure: structure.map_err(|_| Status::data_loss("stored structure is damaged"))?,
                header: if request.header { header } else { Bytes::new() },
                body,
                ..self.plain(index, entry)
            });
        }
        Ok(FetchResponse { messages, filtered: !self.filters.is_empty(), passed_over, ..FetchResponse::default() })
    }
}

/// Neighbours whose contents are read and sent together.
fn batches(page: &[&Entry], request: &FetchRequest) -> Vec<Range<usize>> {
    let small = if request.header || request.structure { ASSUMED_HEADER } else { 0 };
    let cost = |entry: &Entry| match request.body && !is_omitted(entry, request) {
        true => small + entry.size as usize,
        false => small,
    };
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, entry) in page.iter().enumerate() {
        bytes += cost(entry);
        match batches.last_mut() {
            Some(batch) if bytes <= BATCH_BYTES => batch.end = at + 1,
            _ => {
                bytes = cost(entry);
                batches.push(at..at + 1);
            }
        }
    }
    batches
}

fn is_omitted(entry: &Entry, request: &FetchRequest) -> bool {
    request.body && request.body_limit > 0 && entry.size > request.body_limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_bytes_but_never_empty() {
        let entry = |uid: u32, size: u32| Entry {
            uid,
            size,
            modseq: 1,
            internal_date_ms: 0,
            saved_ms: 0,
            content_id: Uuid::nil(),
            flags: 0,
            fetched: false,
        };
        let entries: Vec<Entry> = [100_000, 100_000, 100_000, 9_000_000, 5, 5]
            .into_iter()
            .enumerate()
            .map(|(n, s)| entry(n as u32, s))
            .collect();
        let page: Vec<&Entry> = entries.iter().collect();
        let request = FetchRequest { header: true, body: true, ..FetchRequest::default() };
        assert_eq!(batches(&page, &request), [0..2, 2..3, 3..4, 4..6]);
        let omitting = FetchRequest { body_limit: 1 << 20, ..request };
        assert_eq!(batches(&page, &omitting), [0..2, 2..6]);
        assert_eq!(batches(&page, &FetchRequest::default()).len(), 1);
    }
}
