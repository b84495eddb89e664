//! Content: the octets of one message, read and unpacked piece by piece.
//!
//! `contents.body` is stored as one zstd frame outside of its row, uncompressed by Postgres, so
//! that a slice of it costs the slice. Nothing here holds more than a piece, however large the
//! message is, and no connection is held while a slow reader reads. A body in the content store is read in
//! ranges likewise.

use bytes::Bytes;
use proto::mailboxes::{ContentRequest, ContentResponse};
use sqlx::{FromRow, PgPool, types::Uuid};
use tokio::sync::mpsc;
use tonic::Status;
use zstd::stream::raw::{Decoder, Operation as _};

use super::{account, gone, rights::Reader};
use crate::{content::decompress, database::status, ids, journey::fetched, objects::Objects};

/// Stored octets of one read; the first is small, so that sending begins soon.
const FIRST_SLICE: i32 = 64 << 10;
const SLICE: i32 = 512 << 10;
/// The same from the content store, where a call costs more.
const RANGE: u64 = 1 << 20;
/// Octets of one answer, which with its head fits into a frame of HTTP/2.
const CHUNK: usize = (64 << 10) - 64;

type Answers = mpsc::Sender<Result<ContentResponse, Status>>;

#[derive(FromRow)]
struct Found {
    id: Uuid,
    size: i32,
    header: Vec<u8>,
    fetched: bool,
    object: Option<String>,
}

pub async fn content(
    pool: PgPool,
    objects: Objects,
    reader: Reader,
    request: ContentRequest,
    answers: Answers,
) -> Result<(), Status> {
    let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let found: Option<Found> = sqlx::query_as(
        "select c.id, c.size, c.header, m.fetched, c.object from messages m join contents c on c.id = m.content_id
         where m.account_id = $1 and m.mailbox_id = $2 and m.uid = $3",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(i64::from(request.uid))
    .fetch_optional(&pool)
    .await
    .map_err(status)?;
    let Found { id, size, header, fetched: is_fetched, object } =
        found.ok_or_else(|| Status::not_found("no such message"))?;
    let header = decompress(&header, usize::try_from(size).unwrap_or_default())?;
    let mut window = Window { skip: request.start, left: request.end.saturating_sub(request.start), answers };
    // That the content store is away is said before the first octet, while the client can still be told.
    let needs_body = request.start < request.end && request.end > header.len() as u64;
    let stored = Stored { pool, id, objects, object };
    let first = if needs_body { Some(Coming::read(&stored, 0).get().await?) } else { None };
    reader.may_still(&stored.pool).await?;
    window.send(header).await?;
    if let Some(first) = first {
        body(&stored, reader, first, &mut window).await?;
    }
    if !is_fetched && request.start < request.end {
        fetched::tell(&stored.pool, &request.reader, account_id, mailbox_id, &[i64::from(request.uid)]).await;
    }
    Ok(())
}

/// Octets of the frame, and where the next ones begin, if there are more.
type Slice = (Bytes, Option<u64>);

/// A read that ends with its reader.
struct Coming(tokio::task::JoinHandle<Result<Slice, Status>>);

impl Coming {
    fn read(stored: &Stored, at: u64) -> Self {
        Self(tokio::spawn(stored.clone().slice(at)))
    }

    async fn get(&mut self) -> Result<Slice, Status> {
        (&mut self.0).await.map_err(|_| Status::unavailable("reading ended"))?
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Unpacks slice after slice until the window is full or the frame ends; the next one is read
/// meanwhile.
async fn body(stored: &Stored, reader: Reader, first: Slice, window: &mut Window) -> Result<(), Status> {
    let damaged = |_| Status::data_loss("stored content is damaged");
    let mut decoder = Decoder::new().map_err(damaged)?;
    let (mut slice, mut next) = first;
    loop {
        let coming = next.map(|at| Coming::read(stored, at));
        reader.may_still(&stored.pool).await?;
        let mut used = 0;
        while window.left > 0 {
            let mut unpacked = vec![0; CHUNK];
            let step = decoder.run_on_buffers(slice.get(used..).unwrap_or_default(), &mut unpacked).map_err(damaged)?;
            used += step.bytes_read;
            unpacked.truncate(step.bytes_written);
            window.send(unpacked.into()).await?;
            // A full buffer may mean that more waits inside the decoder.
            if used >= slice.len() && step.bytes_written < CHUNK {
                break;
            }
        }
        let Some(mut coming) = coming.filter(|_| window.left > 0) else { return Ok(()) };
        (slice, next) = coming.get().await?;
    }
}

/// Where the frame is.
#[derive(Clone)]
struct Stored {
    pool: PgPool,
    id: Uuid,
    objects: Objects,
    object: Option<String>,
}

impl Stored {
    async fn slice(self, at: u64) -> Result<Slice, Status> {
        if let Some(object) = &self.object {
            let (range, size) = self.objects.range(object, at, Some(RANGE)).await?;
            let next = at + range.len() as u64;
            return Ok((range, (next < size).then_some(next)));
        }
        let wanted = if at == 0 { FIRST_SLICE } else { SLICE };
        let slice: Option<Vec<u8>> = sqlx::query_scalar("select substr(body, $2, $3) from contents where id = $1")
            .bind(self.id)
            .bind(i32::try_from(at + 1).unwrap_or(i32::MAX))
            .bind(wanted)
            .fetch_optional(&self.pool)
            .await
            .map_err(status)?;
        let slice = slice.ok_or_else(|| Status::not_found("message is gone"))?;
        // A short slice is the last.
        let next = (i32::try_from(slice.len()) == Ok(wanted)).then(|| at + slice.len() as u64);
        Ok((slice.into(), next))
    }
}

/// The octets that were asked for, of all that come by.
struct Window {
    skip: u64,
    left: u64,
    answers: Answers,
}

impl Window {
    async fn send(&mut self, octets: Bytes) -> Result<(), Status> {
        let skipped = octets.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
        self.skip -= skipped as u64;
        let rest = octets.len() - skipped;
        let wanted = rest.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= wanted as u64;
        let mut wanted = octets.slice(skipped..skipped + wanted);
        while !wanted.is_empty() {
            let chunk = wanted.split_to(wanted.len().min(CHUNK));
            self.answers.send(Ok(ContentResponse { chunk })).await.map_err(gone)?;
        }
        Ok(())
    }
}
