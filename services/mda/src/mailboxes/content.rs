//! Content: the octets of one message, read and unpacked piece by piece.
//!
//! `contents.body` is stored as one zstd frame outside of its row, uncompressed by Postgres, so
//! that a slice of it costs the slice. Nothing here holds more than a piece, however large the
//! message is, and no connection is held while a slow reader reads.

use bytes::Bytes;
use proto::mailboxes::{ContentRequest, ContentResponse};
use sqlx::{PgPool, types::Uuid};
use tokio::sync::mpsc;
use tonic::Status;
use zstd::stream::raw::{Decoder, Operation as _};

use super::{account, gone, rights::Reader};
use crate::{content::decompress, database::status, ids, journey::fetched};

/// Stored octets of one read.
const SLICE: i32 = 256 << 10;
/// Octets of one answer.
const CHUNK: usize = 128 << 10;

type Answers = mpsc::Sender<Result<ContentResponse, Status>>;

pub async fn content(pool: PgPool, reader: Reader, request: ContentRequest, answers: Answers) -> Result<(), Status> {
    let (account_id, mailbox_id) = (account(request.account_id)?, ids::signed(request.mailbox_id)?);
    let found: Option<(Uuid, i32, Vec<u8>, bool)> = sqlx::query_as(
        "select c.id, c.size, c.header, m.fetched from messages m join contents c on c.id = m.content_id
         where m.account_id = $1 and m.mailbox_id = $2 and m.uid = $3",
    )
    .bind(account_id)
    .bind(mailbox_id)
    .bind(i64::from(request.uid))
    .fetch_optional(&pool)
    .await
    .map_err(status)?;
    let (id, size, header, is_fetched) = found.ok_or_else(|| Status::not_found("no such message"))?;
    let header = decompress(&header, usize::try_from(size).unwrap_or_default())?;
    let mut window = Window { skip: request.start, left: request.end.saturating_sub(request.start), answers };
    reader.may_still(&pool).await?;
    window.send(header).await?;
    body(&pool, reader, id, &mut window).await?;
    if !is_fetched && request.start < request.end {
        fetched::tell(&pool, &request.reader, account_id, mailbox_id, &[i64::from(request.uid)]).await;
    }
    Ok(())
}

/// A task that ends with its reader.
struct Slice(tokio::task::JoinHandle<Result<Option<Vec<u8>>, sqlx::Error>>);

impl Slice {
    fn read(pool: &PgPool, id: Uuid, at: i32) -> Self {
        let query = sqlx::query_scalar("select substr(body, $2, $3) from contents where id = $1");
        let query = query.bind(id).bind(at).bind(SLICE);
        let pool = pool.clone();
        Self(tokio::spawn(async move { query.fetch_optional(&pool).await }))
    }

    async fn get(&mut self) -> Result<Vec<u8>, Status> {
        let slice = (&mut self.0).await.map_err(|_| Status::unavailable("reading ended"))?;
        slice.map_err(status)?.ok_or_else(|| Status::not_found("message is gone"))
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Unpacks slice after slice until the window is full or the frame ends; the next one is read
/// meanwhile.
async fn body(pool: &PgPool, reader: Reader, id: Uuid, window: &mut Window) -> Result<(), Status> {
    let damaged = |_| Status::data_loss("stored content is damaged");
    let mut decoder = Decoder::new().map_err(damaged)?;
    let mut at = 1i32;
    let mut next = (window.left > 0).then(|| Slice::read(pool, id, at));
    while let Some(mut coming) = next.take() {
        let slice = coming.get().await?;
        if slice.is_empty() {
            return Ok(());
        }
        at = at.saturating_add(i32::try_from(slice.len()).unwrap_or(i32::MAX));
        // A short slice is the last.
        next = (i32::try_from(slice.len()) == Ok(SLICE)).then(|| Slice::read(pool, id, at));
        reader.may_still(pool).await?;
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
        if window.left == 0 {
            return Ok(());
        }
    }
    Ok(())
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
