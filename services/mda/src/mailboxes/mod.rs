//! The gRPC service Mailboxes: what IMAP and POP3 need, streamed and batched.

mod account;
mod append;
mod change;
mod content;
mod fetch;
mod filter;
mod folders;
mod index;
mod lock;
mod maildrop;
mod remembered;
mod rights;
mod state;
mod structure;

use std::pin::Pin;

use futures::Stream;
use proto::mailboxes::{
    AppendRequest, AppendResponse, ChangesRequest, ChangesResponse, ContentRequest, ContentResponse, CopyRequest,
    CopyResponse, CreateRequest, CreateResponse, DeleteRequest, DeleteResponse, ExpungeRequest, ExpungeResponse,
    FetchRequest, FetchResponse, GetAclRequest, GetAclResponse, GetMetadataRequest, GetMetadataResponse,
    ListMaildropRequest, ListMaildropResponse, ListRequest, ListResponse, ListSharedRequest, ListSharedResponse,
    LockMaildropRequest, LockMaildropResponse, QuotaRequest, QuotaResponse, RenameRequest, RenameResponse,
    SelectRequest, SelectResponse, SetAclRequest, SetAclResponse, SetMetadataRequest, SetMetadataResponse,
    StatusRequest, StatusResponse, StoreRequest, StoreResponse, SubscribeRequest, SubscribeResponse, UidRange,
    UnlockMaildropRequest, UnlockMaildropResponse, UpdateMaildropRequest, UpdateMaildropResponse, WatchRequest,
    WatchResponse, mailboxes_server,
};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub use append::batcher as appending;
pub use change::copy_in;
pub use folders::{create, create_defaults, empty, ensure};
use rights::{Reader, Which, actor, looked_up, require, require_parent};

use crate::{ids, objects::Objects, spool::batch::Batcher, wakes::WakeHub};

pub struct Mailboxes {
    pub pool: PgPool,
    pub objects: Objects,
    pub appends: Batcher<append::Group>,
    pub wakes: WakeHub,
    pub max_message_size: usize,
    pub memory: Memory,
}

/// What calls leave behind for the next ones; every process has its own, and none is needed.
#[derive(Clone)]
pub struct Memory {
    indexes: index::Indexes,
    contents: remembered::Remembered,
}

impl Memory {
    /// `bytes`: of all of it; a quarter is for the mailboxes' indexes. 0: nothing is remembered.
    pub fn new(bytes: u64) -> Self {
        let indexes = bytes / 4;
        Self { indexes: index::Indexes::new(indexes), contents: remembered::Remembered::new(bytes - indexes) }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Batches on their way to a reader that may be slow.
const IN_FLIGHT: usize = 2;

/// Runs `work` beside the answer it streams into.
fn streamed<T, F>(work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F) -> Response<Answers<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let work = work(sender.clone());
    tokio::spawn(async move {
        if let Err(status) = work.await {
            let _ = sender.send(Err(status)).await;
        }
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

/// The reader is gone: nothing more to do for it.
fn gone<T>(_: mpsc::error::SendError<T>) -> Status {
    Status::cancelled("reader is gone")
}

/// Ranges for UNNEST.
fn bounds(ranges: &[UidRange]) -> (Vec<i64>, Vec<i64>) {
    ranges.iter().map(|r| (i64::from(r.first), i64::from(r.last))).unzip()
}

/// Ascending UIDs as few ranges.
fn ranges(uids: impl IntoIterator<Item = u32>) -> Vec<UidRange> {
    let mut ranges: Vec<UidRange> = Vec::new();
    for uid in uids {
        match ranges.last_mut() {
            Some(range) if range.last.checked_add(1) == Some(uid) => range.last = uid,
            _ => ranges.push(UidRange { first: uid, last: uid }),
        }
    }
    ranges
}

/// UIDs are 32 bits in the protocol (RFC 9051 §2.3.1.1); the table keeps room to see the end.
fn uid(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl mailboxes_server::Mailboxes for Mailboxes {
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        own(who, asked.account_id)?;
        folders::list(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let account = asked.account_id;
        let answer = looked_up(|| async {
            let granted = require_parent(&self.pool, who, account, &asked.name).await?;
            folders::create(&self.pool, granted, asked.clone()).await
        })
        .await?;
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let account = asked.account_id;
        let answer = looked_up(|| async {
            let granted = require(&self.pool, who, account, Which::Name(&asked.name), "x").await?;
            folders::delete(&self.pool, granted, asked.clone()).await
        })
        .await?;
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Result<Response<RenameResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let account = asked.account_id;
        let answer = looked_up(|| async {
            let from = require(&self.pool, who, account, Which::Name(&asked.from), "x").await?;
            let above = require_parent(&self.pool, who, account, &asked.to).await?;
            folders::rename(&self.pool, (from, above), asked.clone()).await
        })
        .await?;
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<SubscribeResponse>, Status> {
        let who = actor(&request)?;
        let request = request.into_inner();
        if let Some(who) = who.filter(|who| ids::signed(request.account_id).is_ok_and(|owner| owner != *who)) {
            let which = Which::Name(&request.name);
            require(&self.pool, Some(who), request.account_id, which, "l").await?;
            rights::subscribe(&self.pool, who, request.account_id, &request.name, request.subscribed).await?;
            self.wakes.changed([ids::unsigned(who)].into_iter()).await;
            return Ok(Response::new(SubscribeResponse {}));
        }
        let account = request.account_id;
        let answer = folders::subscribe(&self.pool, request).await?;
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let states = state::states(&self.pool, asked.clone()).await?;
        // What was read when the right was there may be told.
        for name in &asked.names {
            require(&self.pool, who, asked.account_id, Which::Name(name), "r").await?;
        }
        Ok(Response::new(states))
    }

    type SelectStream = Answers<SelectResponse>;

    async fn select(&self, request: Request<SelectRequest>) -> Result<Response<Self::SelectStream>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        require(&self.pool, who, asked.account_id, Which::Name(&asked.name), "r").await?;
        let (pool, memory) = (self.pool.clone(), self.memory.clone());
        let select = state::Select { pool, memory, actor: who, request: request.into_inner() };
        Ok(streamed(move |answers| state::select(select, answers)))
    }

    type FetchStream = Answers<FetchResponse>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        require(&self.pool, who, asked.account_id, Which::Id(asked.mailbox_id), "r").await?;
        let reader = Reader { actor: who, owner: asked.account_id, mailbox_id: asked.mailbox_id };
        let (pool, objects, memory) = (self.pool.clone(), self.objects.clone(), self.memory.clone());
        let fetch = fetch::Fetch { pool, objects, memory, reader, request: request.into_inner() };
        Ok(streamed(move |answers| fetch::fetch(fetch, answers)))
    }

    type ContentStream = Answers<ContentResponse>;

    async fn content(&self, request: Request<ContentRequest>) -> Result<Response<Self::ContentStream>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        require(&self.pool, who, asked.account_id, Which::Id(asked.mailbox_id), "r").await?;
        let reader = Reader { actor: who, owner: asked.account_id, mailbox_id: asked.mailbox_id };
        let (pool, objects) = (self.pool.clone(), self.objects.clone());
        Ok(streamed(move |answers| content::content(pool, objects, reader, request.into_inner(), answers)))
    }

    async fn quota(&self, request: Request<QuotaRequest>) -> Result<Response<QuotaResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        own(who, asked.account_id)?;
        account::quota(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn get_metadata(
        &self,
        request: Request<GetMetadataRequest>,
    ) -> Result<Response<GetMetadataResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let answer = looked_up(|| async {
            let granted = require(&self.pool, who, asked.account_id, Which::Name(&asked.mailbox), "r").await?;
            account::get_metadata(&self.pool, granted, asked.clone()).await
        });
        answer.await.map(Response::new)
    }

    async fn set_metadata(
        &self,
        request: Request<SetMetadataRequest>,
    ) -> Result<Response<SetMetadataResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let answer = looked_up(|| async {
            let granted = require(&self.pool, who, asked.account_id, Which::Name(&asked.mailbox), "a").await?;
            account::set_metadata(&self.pool, granted, asked.clone()).await
        });
        answer.await.map(Response::new)
    }

    async fn changes(&self, request: Request<ChangesRequest>) -> Result<Response<ChangesResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let changes = state::changes(&self.pool, *asked).await?;
        // What was read when the right was there may be told.
        require(&self.pool, who, asked.account_id, Which::Id(asked.mailbox_id), "r").await?;
        Ok(Response::new(changes))
    }

    async fn store(&self, request: Request<StoreRequest>) -> Result<Response<StoreResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let account = asked.account_id;
        let answer = looked_up(|| async {
            let mut request = asked.clone();
            let granted = rights::for_store(&self.pool, who, &mut request).await?;
            change::store(&self.pool, granted, request).await
        })
        .await?;
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }

    async fn copy(&self, request: Request<CopyRequest>) -> Result<Response<CopyResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let account = asked.account_id;
        let target = if asked.target_account_id == 0 { account } else { asked.target_account_id };
        let needed = if asked.r#move { "rte" } else { "r" };
        let answer = looked_up(|| async {
            let from = require(&self.pool, who, account, Which::Id(asked.mailbox_id), needed).await?;
            let actor = who.or(ids::signed(account).ok());
            let to = require(&self.pool, actor, target, Which::Name(&asked.target), "i").await?;
            change::copy(&self.pool, (from, to), asked.clone()).await
        })
        .await?;
        self.wakes.changed([account, target].into_iter()).await;
        Ok(Response::new(answer))
    }

    async fn expunge(&self, request: Request<ExpungeRequest>) -> Result<Response<ExpungeResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let account = asked.account_id;
        let answer = looked_up(|| async {
            let granted = require(&self.pool, who, account, Which::Id(asked.mailbox_id), "e").await?;
            change::expunge(&self.pool, granted, asked.clone()).await
        })
        .await?;
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<AppendResponse>, Status> {
        let who = actor(&request)?;
        let (account, answer) = append::append(self, who, request.into_inner()).await?;
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }

    async fn list_shared(&self, request: Request<ListSharedRequest>) -> Result<Response<ListSharedResponse>, Status> {
        let who = actor(&request)?;
        own(who, request.get_ref().account_id)?;
        rights::list_shared(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn get_acl(&self, request: Request<GetAclRequest>) -> Result<Response<GetAclResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let answer = looked_up(|| async {
            let granted = require(&self.pool, who, asked.account_id, Which::Name(&asked.name), "a").await?;
            rights::get_acl(&self.pool, granted, asked.clone()).await
        });
        answer.await.map(Response::new)
    }

    async fn set_acl(&self, request: Request<SetAclRequest>) -> Result<Response<SetAclResponse>, Status> {
        let who = actor(&request)?;
        let asked = request.get_ref();
        let account = asked.account_id;
        let answer = looked_up(|| async {
            let granted = require(&self.pool, who, account, Which::Name(&asked.name), "a").await?;
            rights::set_acl(&self.pool, granted, asked.clone()).await
        })
        .await?;
        // Whoever watches and may not any more hears of it.
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }

    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let who = actor(&request)?;
        let owner = request.get_ref().account_id;
        let changes = self.wakes.watch(owner);
        rights::may_watch(&self.pool, who, owner).await?;
        // Changes that come while the reader is busy are one.
        let stream = tokio_stream::wrappers::WatchStream::from_changes(changes);
        if who.is_none_or(|who| ids::signed(owner).is_ok_and(|owner| owner == who)) {
            return Ok(Response::new(Box::pin(futures::StreamExt::map(stream, |_| Ok(WatchResponse {})))));
        }
        let pool = self.pool.clone();
        let told = futures::StreamExt::then(stream, move |_| {
            let pool = pool.clone();
            async move { rights::may_watch(&pool, who, owner).await.map(|()| WatchResponse {}) }
        });
        Ok(Response::new(Box::pin(told)))
    }

    async fn lock_maildrop(
        &self,
        request: Request<LockMaildropRequest>,
    ) -> Result<Response<LockMaildropResponse>, Status> {
        lock::lock(&self.pool, request.into_inner()).await.map(Response::new)
    }

    async fn unlock_maildrop(
        &self,
        request: Request<UnlockMaildropRequest>,
    ) -> Result<Response<UnlockMaildropResponse>, Status> {
        lock::unlock(&self.pool, request.into_inner()).await.map(Response::new)
    }

    type ListMaildropStream = Answers<ListMaildropResponse>;

    async fn list_maildrop(
        &self,
        request: Request<ListMaildropRequest>,
    ) -> Result<Response<Self::ListMaildropStream>, Status> {
        let (pool, memory) = (self.pool.clone(), self.memory.clone());
        Ok(streamed(move |answers| maildrop::list(pool, memory, request.into_inner(), answers)))
    }

    async fn update_maildrop(
        &self,
        request: Request<UpdateMaildropRequest>,
    ) -> Result<Response<UpdateMaildropResponse>, Status> {
        let request = request.into_inner();
        let account = request.account_id;
        let answer = maildrop::update(&self.pool, request).await?;
        self.wakes.changed([account].into_iter()).await;
        Ok(Response::new(answer))
    }
}

/// What is an account's as a whole is nobody else's.
fn own(who: Option<i64>, account_id: u64) -> Result<(), Status> {
    match who {
        Some(who) if who != account(account_id)? => Err(Status::permission_denied(proto::NO_RIGHT)),
        _ => Ok(()),
    }
}

fn account(id: u64) -> Result<i64, Status> {
    ids::signed(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_become_ranges() {
        let range = |first, last| UidRange { first, last };
        assert_eq!(ranges([1, 2, 3, 5, 7, 8]), [range(1, 3), range(5, 5), range(7, 8)]);
        assert_eq!(ranges([]), []);
        assert_eq!(ranges([u32::MAX]), [range(u32::MAX, u32::MAX)]);
    }
}
