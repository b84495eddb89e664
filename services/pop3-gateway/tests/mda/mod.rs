//! As much of `mda` as POP3 asks for: one account, its INBOX, its lock.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{Stream, StreamExt as _, stream};
use proto::{directory::*, mailboxes::*};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

const ACCOUNT: u64 = 5;
const MAILBOX: u64 = 6;

#[derive(Clone)]
pub struct Mda {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    messages: Vec<(u32, Vec<u8>)>,
    lock: Option<String>,
    down: bool,
    /// Pieces after which a message breaks off.
    cut: Option<usize>,
    /// Where each reader of a message began.
    starts: Vec<u64>,
    /// UIDs of messages that were read together.
    batches: Vec<Vec<u32>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Mda {
    pub async fn start(messages: &[&[u8]]) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), messages).await
    }

    pub async fn start_at(address: SocketAddr, messages: &[&[u8]]) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let messages = messages.iter().enumerate().map(|(i, m)| (i as u32 + 1, m.to_vec())).collect();
        let state = Arc::new(Mutex::new(State {
            messages,
            lock: None,
            down: false,
            cut: None,
            starts: Vec::new(),
            batches: Vec::new(),
        }));
        let mda = Self { address: listener.local_addr().unwrap(), state };
        let server = tonic::transport::Server::builder()
            .add_service(directory_server::DirectoryServer::new(mda.clone()))
            .add_service(
                mailboxes_server::MailboxesServer::new(mda.clone()).max_encoding_message_size(proto::MAX_GRPC_MESSAGE),
            );
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        mda
    }

    pub fn uids(&self) -> Vec<u32> {
        self.state.lock().unwrap().messages.iter().map(|(uid, _)| *uid).collect()
    }

    pub fn is_locked(&self) -> bool {
        self.state.lock().unwrap().lock.is_some()
    }

    /// From now on the database is away.
    pub fn set_down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    /// Messages break off after so many pieces of 1,000 octets.
    pub fn cut_after(&self, pieces: usize) {
        self.state.lock().unwrap().cut = Some(pieces);
    }

    pub fn starts(&self) -> Vec<u64> {
        self.state.lock().unwrap().starts.clone()
    }

    pub fn batches(&self) -> Vec<Vec<u32>> {
        self.state.lock().unwrap().batches.clone()
    }

    pub fn remove(&self, uid: u32) {
        self.state.lock().unwrap().messages.retain(|(u, _)| *u != uid);
    }

    /// Another session has the maildrop now.
    pub fn steal_lock(&self) {
        self.state.lock().unwrap().lock = Some("somebody else".into());
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, Status> {
        let state = self.state.lock().unwrap();
        if state.down { Err(Status::unavailable("database is away")) } else { Ok(state) }
    }
}

#[tonic::async_trait]
impl directory_server::Directory for Mda {
    type AuthenticateStream = Answers<AuthenticateResponse>;

    async fn authenticate(
        &self,
        request: Request<Streaming<AuthenticateRequest>>,
    ) -> Result<Response<Self::AuthenticateStream>, Status> {
        use authenticate_response::Step;
        let _up = self.up()?;
        let mut requests = request.into_inner();
        let (send, receive) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut said: Vec<Vec<u8>> = Vec::new();
            let mut plain = false;
            while let Some(Ok(request)) = requests.next().await {
                plain |= request.mechanism == "PLAIN";
                if request.has_response {
                    said.push(request.response.to_vec());
                }
                let right = Step::Success(Account {
                    account_id: ACCOUNT,
                    address: "bob@example.com".into(),
                    ..Default::default()
                });
                let step = match (plain, &said[..]) {
                    (true, []) => Step::Challenge(Vec::new().into()),
                    (true, [message]) if message == b"\0bob@example.com\0secret word" => right,
                    (false, []) => Step::Challenge("Username:".into()),
                    (false, [_]) => Step::Challenge("Password:".into()),
                    (false, [user, password]) if user == b"bob@example.com" && password == b"secret word" => right,
                    _ => Step::Failure("no".into()),
                };
                if send.send(Ok(AuthenticateResponse { step: Some(step) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receive))))
    }

    async fn resolve(&self, _: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn may_send_as(&self, _: Request<MaySendAsRequest>) -> Result<Response<MaySendAsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn dkim_keys(&self, _: Request<DkimKeysRequest>) -> Result<Response<DkimKeysResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

macro_rules! not_asked_for {
    ($($name:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl mailboxes_server::Mailboxes for Mda {
            type SelectStream = Answers<SelectResponse>;
            type ListMaildropStream = Answers<ListMaildropResponse>;
            type ContentStream = Answers<ContentResponse>;
            type FetchStream = Answers<FetchResponse>;
            type WatchStream = Answers<WatchResponse>;

            async fn select(&self, _: Request<SelectRequest>) -> Result<Response<Self::SelectStream>, Status> {
                Err(Status::unimplemented(""))
            }

            async fn list_maildrop(&self, r: Request<ListMaildropRequest>) -> Result<Response<Self::ListMaildropStream>, Status> {
                self.do_list(&r.into_inner())
            }

            async fn fetch(&self, r: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
                self.do_fetch(&r.into_inner())
            }

            async fn content(&self, r: Request<ContentRequest>) -> Result<Response<Self::ContentStream>, Status> {
                self.do_content(&r.into_inner())
            }

            async fn update_maildrop(&self, r: Request<UpdateMaildropRequest>) -> Result<Response<UpdateMaildropResponse>, Status> {
                self.do_update(&r.into_inner())
            }

            async fn lock_maildrop(&self, r: Request<LockMaildropRequest>) -> Result<Response<LockMaildropResponse>, Status> {
                self.do_lock(r.into_inner())
            }

            async fn unlock_maildrop(&self, r: Request<UnlockMaildropRequest>) -> Result<Response<UnlockMaildropResponse>, Status> {
                self.do_unlock(&r.into_inner())
            }

            async fn append(&self, _: Request<Streaming<AppendRequest>>) -> Result<Response<AppendResponse>, Status> {
                Err(Status::unimplemented(""))
            }

            async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
                Err(Status::unimplemented(""))
            }

            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented(""))
            })*
        }
    };
}

not_asked_for! {
    list(ListRequest) -> ListResponse;
    create(CreateRequest) -> CreateResponse;
    delete(DeleteRequest) -> DeleteResponse;
    rename(RenameRequest) -> RenameResponse;
    subscribe(SubscribeRequest) -> SubscribeResponse;
    status(StatusRequest) -> StatusResponse;
    changes(ChangesRequest) -> ChangesResponse;
    store(StoreRequest) -> StoreResponse;
    copy(CopyRequest) -> CopyResponse;
    expunge(ExpungeRequest) -> ExpungeResponse;
    quota(QuotaRequest) -> QuotaResponse;
    get_metadata(GetMetadataRequest) -> GetMetadataResponse;
    set_metadata(SetMetadataRequest) -> SetMetadataResponse;
    list_shared(ListSharedRequest) -> ListSharedResponse;
    get_acl(GetAclRequest) -> GetAclResponse;
    set_acl(SetAclRequest) -> SetAclResponse;
}

impl Mda {
    fn do_list(&self, request: &ListMaildropRequest) -> Result<Response<Answers<ListMaildropResponse>>, Status> {
        let state = self.up()?;
        assert_eq!(request.account_id, ACCOUNT);
        let first = ListMaildropResponse { mailbox_id: MAILBOX, uid_validity: 77, ..Default::default() };
        // One row a batch: a list may come in pieces. Every third one is known from elsewhere.
        let row = |(uid, m): &(u32, Vec<u8>)| ListMaildropResponse {
            uids: vec![*uid],
            sizes: vec![m.len() as u32],
            uidls: if uid % 3 == 0 { vec!["from-elsewhere".into()] } else { Vec::new() },
            ..first.clone()
        };
        let rows: Vec<_> = state.messages.iter().map(row).collect();
        Ok(Response::new(Box::pin(stream::iter([first].into_iter().chain(rows).map(Ok)))))
    }

    fn do_content(&self, request: &ContentRequest) -> Result<Response<Answers<ContentResponse>>, Status> {
        let mut state = self.up()?;
        state.starts.push(request.start);
        let Some((_, content)) = state.messages.iter().find(|(u, _)| *u == request.uid) else {
            return Err(Status::not_found("no such message"));
        };
        let asked = &content[(request.start as usize).min(content.len())..(request.end as usize).min(content.len())];
        let pieces: Vec<_> = asked.chunks(1000).map(|c| Ok(ContentResponse { chunk: c.to_vec().into() })).collect();
        // Breaks in the middle, once.
        let cut = state.cut.unwrap_or(pieces.len()).min(pieces.len());
        let broken = (cut < pieces.len()).then(|| Err(Status::unavailable("gone")));
        Ok(Response::new(Box::pin(stream::iter(pieces.into_iter().take(cut).chain(broken).collect::<Vec<_>>()))))
    }

    fn do_fetch(&self, request: &FetchRequest) -> Result<Response<Answers<FetchResponse>>, Status> {
        let mut state = self.up()?;
        assert!(request.header && request.body);
        let asked = |uid: u32| request.uids.iter().any(|range| (range.first..=range.last).contains(&uid));
        let found = state.messages.iter().filter(|(uid, _)| asked(*uid)).map(|(uid, content)| {
            let end = content.windows(4).position(|w| w == b"\r\n\r\n").map_or(content.len(), |at| at + 4);
            let (header, body) = content.split_at(end);
            let (header, body) = (header.to_vec().into(), body.to_vec().into());
            Message { uid: *uid, header, body, ..Message::default() }
        });
        let messages: Vec<Message> = found.collect();
        state.batches.push(messages.iter().map(|message| message.uid).collect());
        Ok(Response::new(Box::pin(stream::iter([Ok(FetchResponse { messages, ..FetchResponse::default() })]))))
    }

    fn do_update(&self, request: &UpdateMaildropRequest) -> Result<Response<UpdateMaildropResponse>, Status> {
        let mut state = self.up()?;
        assert_eq!(request.mailbox_id, MAILBOX);
        if state.lock.as_ref() != Some(&request.token) {
            return Err(Status::failed_precondition("not locked by this session"));
        }
        state.messages.retain(|(uid, _)| !request.uids.iter().any(|r| (r.first..=r.last).contains(uid)));
        Ok(Response::new(UpdateMaildropResponse::default()))
    }

    fn do_lock(&self, request: LockMaildropRequest) -> Result<Response<LockMaildropResponse>, Status> {
        let mut state = self.up()?;
        if state.lock.as_ref().is_some_and(|token| *token != request.token) {
            return Err(Status::already_exists("locked"));
        }
        state.lock = Some(request.token);
        Ok(Response::new(LockMaildropResponse {}))
    }

    fn do_unlock(&self, request: &UnlockMaildropRequest) -> Result<Response<UnlockMaildropResponse>, Status> {
        let mut state = self.up()?;
        if state.lock.as_ref() == Some(&request.token) {
            state.lock = None;
        }
        Ok(Response::new(UnlockMaildropResponse {}))
    }
}
