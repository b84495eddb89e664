//! Content: the octets of one message, read and unpacked piece by piece.
//!
//! `contents.body` is stored as one zstd frame outside of its row, uncompressed by Postgres, so
//! that a slice of it costs the slice. Nothing here holds more than a piece, however large the
//! message is, and no connection is held while a slow reader reads. A body in the content store is read in
//! ranges likewise.

use bytes::Bytes;
use proto::mailboxes::{ContentRequest, ContentResponse};
use sqlx::{PgPool, types::Uuid};
use tokio::sync::mpsc;
use tonic::Status;
use zstd::stream::raw::{Decoder, Operation as _};

use super::{account, gone};
use crate::{content::decompress, database::status, ids, journey::fetched, objects::Objects};

/// Stored octets of one read.
const SLICE: i32 = 256 << 10;
/// The same from the content store, where a call costs more.
const RANGE: u64 = 1 << 20;
/// Octets of one answer.
const CHUNK: usize = 128 << 10;

type Answers = mpsc::Sender<Result<ContentResponse, Status>>;

pub async fn content(pool: PgPool, objects: Objects, request: ContentRequest, answers: Answers) -> Result<(), Status> {
    let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let found: Option<(Uuid, i32, Vec<u8>, bool, Option<String>)> = sqlx::query_as(
        "select c.id, c.size, c.header, m.fetched, c.object from messages m join contents c on c.id = m.content_id
         where m.account_id = $1 and m.mailbox_id = $2 and m.uid = $3",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(i64::from(request.uid))
    .fetch_optional(&pool)
    .await
    .map_err(status)?;
    let (id, size, header, is_fetched, object) = found.ok_or_else(|| Status::not_found("no such message"))?;
    let header = decompress(&header, usize::try_from(size).unwrap_or_default())?;
    let mut window = Window { skip: request.start, left: request.end.saturating_sub(request.start), answers };
    let mut stored = Stored { pool: &pool, id, objects: &objects, object, at: 0, size: None };
    // That the content store is away is said before the first octet, while the client can still be told.
    let needs_body = stored.object.is_some() && request.start < request.end && request.end > header.len() as u64;
    let first = if needs_body { Some(stored.next().await?) } else { None };
    window.send(&header).await?;
    body(stored, first, &mut window).await?;
    if !is_fetched && request.start < request.end {
        fetched::tell(&pool, &request.reader, account_id, mailbox_id, &[i64::from(request.uid)]).await;
    }
    Ok(())
}

/// Unpacks slice after slice until the window is full or the frame ends.
async fn body(mut stored: Stored<'_>, mut first: Option<Bytes>, window: &mut Window) -> Result<(), Status> {
    let damaged = |_| Status::data_loss("stored content is damaged");
    let mut decoder = Decoder::new().map_err(damaged)?;
    let mut unpacked = vec![0; CHUNK];
    while window.left > 0 {
        let slice = match first.take() {
            Some(slice) => slice,
            None => stored.next().await?,
        };
        if slice.is_empty() {
            return Ok(());
        }
        let mut used = 0;
        while window.left > 0 {
            let step = decoder.run_on_buffers(slice.get(used..).unwrap_or_default(), &mut unpacked).map_err(damaged)?;
            used += step.bytes_read;
            window.send(unpacked.get(..step.bytes_written).unwrap_or_default()).await?;
            // A full buffer may mean that more waits inside the decoder.
            if used >= slice.len() && step.bytes_written < CHUNK {
                break;
            }
        }
    }
    Ok(())
}

/// The frame, read slice after slice.
struct Stored<'a> {
    pool: &'a PgPool,
    id: Uuid,
    objects: &'a Objects,
    object: Option<String>,
    at: u64,
    /// Of the object, when it is known.
    size: Option<u64>,
}

impl Stored<'_> {
    /// Empty at the end.
    async fn next(&mut self) -> Result<Bytes, Status> {
        let slice = match &self.object {
            Some(_) if self.size.is_some_and(|size| self.at >= size) => Bytes::new(),
            Some(object) => {
                let (range, size) = self.objects.range(object, self.at, Some(RANGE)).await?;
                self.size = Some(size);
                range
            }
            None => {
                let slice: Option<Vec<u8>> =
                    sqlx::query_scalar("select substr(body, $2, $3) from contents where id = $1")
                        .bind(self.id)
                        .bind(i32::try_from(self.at + 1).unwrap_or(i32::MAX))
                        .bind(SLICE)
                        .fetch_optional(self.pool)
                        .await
                        .map_err(status)?;
                slice.ok_or_else(|| Status::not_found("message is gone"))?.into()
            }
        };
        self.at += slice.len() as u64;
        Ok(slice)
    }
}

/// The octets that were asked for, of all that come by.
struct Window {
    skip: u64,
    left: u64,
    answers: Answers,
}

impl Window {
    async fn send(&mut self, octets: &[u8]) -> Result<(), Status> {
        let skipped = octets.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        let rest = octets.get(skipped..).unwrap_or_default();
        let wanted = rest.get(..rest.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))).unwrap_or_default();
        self.left -= wanted.len() as u64;
        for piece in wanted.chunks(CHUNK) {
            let answer = ContentResponse { chunk: Bytes::copy_from_slice(piece) };
            self.answers.send(Ok(answer)).await.map_err(gone)?;
        }
        Ok(())
    }
}
