use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::Stream;
use proto::{
    directory::{self, authenticate_response::Step, directory_server::Directory},
    mailboxes::{mailboxes_server::Mailboxes, store_request::Mode, *},
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Account 1 is bob, with the password "secret".
#[derive(Clone)]
pub struct Fake {
    boxes: Arc<Mutex<Vec<Stored>>>,
    pub down: Arc<AtomicBool>,
    /// Contents that an Append has handed over whole.
    pub appended: Arc<AtomicUsize>,
    wakes: watch::Sender<u32>,
    annotations: Arc<Mutex<Vec<(String, Annotation)>>>,
    /// Bytes that one Append may bring; 0 means any number.
    pub quota: Arc<AtomicUsize>,
    /// Whether messages are \\Recent; most dialogues are about other things.
    pub tells_recent: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Stored {
    id: u64,
    name: String,
    special_use: String,
    subscribed: bool,
    uid_next: u32,
    modseq: u64,
    messages: Vec<Row>,
    expunged: Vec<(u64, u32)>,
    recent_uid: u32,
}

#[derive(Clone)]
struct Row {
    uid: u32,
    modseq: u64,
    flags: Flags,
    date: i64,
    raw: Vec<u8>,
}

impl Default for Fake {
    fn default() -> Self {
        let fake = Self {
            boxes: Arc::default(),
            down: Arc::default(),
            appended: Arc::default(),
            wakes: watch::Sender::new(0),
            annotations: Arc::default(),
            quota: Arc::default(),
            tells_recent: Arc::default(),
        };
        for (name, special_use) in [("INBOX", ""), ("Sent", "\\Sent"), ("Trash", "\\Trash")] {
            fake.make(name, special_use);
        }
        fake
    }
}

impl Fake {
    fn make(&self, name: &str, special_use: &str) {
        let mut boxes = self.boxes.lock().expect("not poisoned");
        let id = boxes.len() as u64 + 1;
        boxes.push(Stored {
            id,
            name: name.into(),
            special_use: special_use.into(),
            subscribed: true,
            uid_next: 1,
            modseq: 1,
            messages: vec![],
            expunged: vec![],
            recent_uid: 1,
        });
    }

    /// Delivers to INBOX.
    pub fn deliver(&self, raw: &[u8]) {
        self.boxes.lock().expect("not poisoned")[0].add(raw.to_vec(), Flags::default(), 0);
        self.wake();
    }

    /// Removes from INBOX, as another session would.
    pub fn remove(&self, uid: u32) {
        self.boxes.lock().expect("not poisoned")[0].take(|row| row.uid == uid);
        self.wake();
    }

    pub fn flag(&self, uid: u32, system: u32) {
        let mut boxes = self.boxes.lock().expect("not poisoned");
        boxes[0].modseq += 1;
        let modseq = boxes[0].modseq;
        let row = boxes[0].messages.iter_mut().find(|r| r.uid == uid).expect("there");
        row.flags.system = system;
        row.modseq = modseq;
        drop(boxes);
        self.wake();
    }

    fn wake(&self) {
        self.wakes.send_modify(|n| *n += 1);
    }

    fn boxes(&self) -> Result<MutexGuard<'_, Vec<Stored>>, Status> {
        if self.down.load(Ordering::Relaxed) {
            return Err(Status::unavailable("database is down"));
        }
        self.boxes.lock().map_err(|_| Status::internal("poisoned"))
    }
}

impl Stored {
    fn add(&mut self, raw: Vec<u8>, flags: Flags, date: i64) -> u32 {
        self.modseq += 1;
        self.uid_next += 1;
        let uid = self.uid_next - 1;
        self.messages.push(Row { uid, modseq: self.modseq, flags, date, raw });
        uid
    }

    fn take(&mut self, unwanted: impl Fn(&Row) -> bool) -> Vec<Row> {
        let (gone, kept): (Vec<_>, Vec<_>) = self.messages.drain(..).partition(unwanted);
        self.messages = kept;
        self.modseq += u64::from(!gone.is_empty());
        self.expunged.extend(gone.iter().map(|r| (self.modseq, r.uid)));
        gone
    }

    fn state(&self) -> MailboxState {
        MailboxState {
            mailbox_id: self.id,
            uid_validity: 7,
            uid_next: self.uid_next,
            highest_modseq: self.modseq,
            messages: self.messages.len() as u32,
            unseen: self.messages.iter().filter(|m| m.flags.system & 1 == 0).count() as u32,
            size: self.messages.iter().map(|m| m.raw.len() as u64).sum(),
            deleted: self.messages.iter().filter(|m| m.flags.system & 8 != 0).count() as u32,
            recent: self.messages.iter().filter(|m| m.uid >= self.recent_uid).count() as u32,
            deleted_size: 0,
        }
    }

    fn first_recent(&mut self, claim: bool) -> u32 {
        let first = if self.recent_uid < self.uid_next { self.recent_uid } else { 0 };
        if claim {
            self.recent_uid = self.uid_next;
        }
        first
    }
}

impl Row {
    fn message(&self) -> Message {
        Message {
            uid: self.uid,
            flags: Some(self.flags.clone()),
            modseq: self.modseq,
            size: self.raw.len() as u32,
            internal_date_ms: self.date,
            ..Message::default()
        }
    }

    fn is_large(&self, request: &FetchRequest) -> bool {
        request.body_limit > 0 && self.raw.len() > request.body_limit as usize
    }

    fn with_content(&self, request: &FetchRequest) -> Message {
        let (header, body) = self.raw.split_at(message::split(&self.raw));
        let parsed = message::Structure::parse(&self.raw);
        let part = |s: message::PartSpan| Part {
            section: s.section,
            header_start: s.header_start,
            body_start: s.body_start,
            end: s.end,
            inner_body_start: s.inner_body_start,
            encoding: s.encoding,
        };
        Message {
            structure: request.structure.then(|| Structure {
                envelope: imap::structure::envelope_text(&parsed.envelope).into(),
                body: imap::structure::body_text(&parsed).into(),
                bodystructure: imap::structure::bodystructure_text(&parsed).into(),
                parts: parsed.spans().into_iter().map(part).collect(),
                preview: Some(message::preview(&parsed, &self.raw)),
                thread_id: message::thread_root(header).map(|r| r.len().to_string()).unwrap_or_default(),
            }),
            email_id: if request.object_ids { format!("{:x}", self.raw.len()) } else { String::new() },
            save_date_ms: if request.object_ids { 1000 } else { 0 },
            body_omitted: request.body && self.is_large(request),
            header: if request.header { header.to_vec().into() } else { Default::default() },
            body: if request.body && !self.is_large(request) { body.to_vec().into() } else { Default::default() },
            ..self.message()
        }
    }
}

fn named<'b>(boxes: &'b mut [Stored], name: &str) -> Result<&'b mut Stored, Status> {
    boxes.iter_mut().find(|b| b.name == name).ok_or_else(|| Status::not_found("no such mailbox"))
}

fn by_id(boxes: &mut [Stored], id: u64) -> Result<&mut Stored, Status> {
    boxes.iter_mut().find(|b| b.id == id).ok_or_else(|| Status::not_found("no such mailbox"))
}

fn within(ranges: &[UidRange], uid: u32) -> bool {
    ranges.iter().any(|r| (r.first..=r.last).contains(&uid))
}

fn singles(uids: impl IntoIterator<Item = u32>) -> Vec<UidRange> {
    uids.into_iter().map(|uid| UidRange { first: uid, last: uid }).collect()
}

fn answers<T: Send + 'static>(items: Vec<T>) -> Response<Answers<T>> {
    Response::new(Box::pin(futures::stream::iter(items.into_iter().map(Ok))))
}

#[tonic::async_trait]
impl Mailboxes for Fake {
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let mailbox = |b: &Stored| Mailbox {
            mailbox_id: b.id,
            name: b.name.clone(),
            special_use: b.special_use.clone(),
            subscribed: b.subscribed,
        };
        Ok(Response::new(ListResponse { mailboxes: self.boxes()?.iter().map(mailbox).collect() }))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateResponse>, Status> {
        let request = request.into_inner();
        if named(&mut self.boxes()?, &request.name).is_ok() {
            return Err(Status::already_exists("mailbox exists"));
        }
        self.make(&request.name, &request.special_use);
        Ok(Response::new(CreateResponse { mailbox_id: 0 }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let name = request.into_inner().name;
        let mut boxes = self.boxes()?;
        named(&mut boxes, &name)?;
        boxes.retain(|b| b.name != name);
        Ok(Response::new(DeleteResponse {}))
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Result<Response<RenameResponse>, Status> {
        let request = request.into_inner();
        named(&mut self.boxes()?, &request.from)?.name = request.to;
        Ok(Response::new(RenameResponse {}))
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<SubscribeResponse>, Status> {
        let request = request.into_inner();
        named(&mut self.boxes()?, &request.name)?.subscribed = request.subscribed;
        Ok(Response::new(SubscribeResponse {}))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let mut boxes = self.boxes()?;
        let states = request.into_inner().names.into_iter().filter_map(|name| {
            let state = named(&mut boxes, &name).ok()?.state();
            Some(NamedState { name, state: Some(state) })
        });
        Ok(Response::new(StatusResponse { states: states.collect() }))
    }

    type SelectStream = Answers<SelectResponse>;

    async fn select(&self, request: Request<SelectRequest>) -> Result<Response<Self::SelectStream>, Status> {
        let mut boxes = self.boxes()?;
        let request = request.into_inner();
        let mailbox = named(&mut boxes, &request.name)?;
        let first_recent =
            if self.tells_recent.load(Ordering::Relaxed) { mailbox.first_recent(request.claim_recent) } else { 0 };
        let answer = SelectResponse {
            first_recent,
            state: Some(mailbox.state()),
            uids: mailbox.messages.iter().map(|m| m.uid).collect(),
            ..SelectResponse::default()
        };
        Ok(answers(vec![answer]))
    }

    type FetchStream = Answers<FetchResponse>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        let mut boxes = self.boxes()?;
        let rows = by_id(&mut boxes, request.mailbox_id)?.messages.iter();
        let wanted = rows.filter(|m| within(&request.uids, m.uid) && m.modseq > request.changed_since);
        let messages: Vec<Message> = wanted.map(|m| m.with_content(&request)).collect();
        Ok(answers(messages.chunks(2).map(|c| FetchResponse { messages: c.to_vec() }).collect()))
    }

    async fn changes(&self, request: Request<ChangesRequest>) -> Result<Response<ChangesResponse>, Status> {
        let request = request.into_inner();
        let mut boxes = self.boxes()?;
        let mailbox = by_id(&mut boxes, request.mailbox_id)?;
        let since = request.since_modseq;
        let first_recent =
            if self.tells_recent.load(Ordering::Relaxed) { mailbox.first_recent(request.claim_recent) } else { 0 };
        Ok(Response::new(ChangesResponse {
            state: Some(mailbox.state()),
            first_recent,
            messages: mailbox.messages.iter().filter(|m| m.modseq > since).map(Row::message).collect(),
            vanished: singles(mailbox.expunged.iter().filter(|(m, _)| *m > since).map(|(_, uid)| *uid)),
        }))
    }

    async fn store(&self, request: Request<StoreRequest>) -> Result<Response<StoreResponse>, Status> {
        let request = request.into_inner();
        let mut boxes = self.boxes()?;
        let mailbox = by_id(&mut boxes, request.mailbox_id)?;
        let given = request.flags.clone().unwrap_or_default();
        mailbox.modseq += 1;
        let mut answer = StoreResponse { highest_modseq: mailbox.modseq, ..StoreResponse::default() };
        for row in mailbox.messages.iter_mut().filter(|m| within(&request.uids, m.uid)) {
            if request.unchanged_since.is_some_and(|limit| row.modseq > limit) {
                answer.modified.extend(singles([row.uid]));
                continue;
            }
            let before = row.flags.clone();
            match request.mode() {
                Mode::Add => {
                    row.flags.system |= given.system;
                    row.flags.keywords.extend(given.keywords.clone());
                }
                Mode::Remove => {
                    row.flags.system &= !given.system;
                    row.flags.keywords.retain(|k| !given.keywords.contains(k));
                }
                _ => row.flags = given.clone(),
            }
            if row.flags != before {
                row.modseq = mailbox.modseq;
            }
            answer.messages.push(row.message());
        }
        drop(boxes);
        self.wake();
        Ok(Response::new(answer))
    }

    async fn copy(&self, request: Request<CopyRequest>) -> Result<Response<CopyResponse>, Status> {
        let request = request.into_inner();
        let mut boxes = self.boxes()?;
        named(&mut boxes, &request.target)?;
        let source = by_id(&mut boxes, request.mailbox_id)?;
        let rows: Vec<Row> = if request.r#move {
            source.take(|m| within(&request.uids, m.uid))
        } else {
            source.messages.iter().filter(|m| within(&request.uids, m.uid)).cloned().collect()
        };
        let target = named(&mut boxes, &request.target)?;
        let target_uids = rows.iter().map(|r| target.add(r.raw.clone(), r.flags.clone(), r.date)).collect();
        let source_uids = rows.iter().map(|r| r.uid).collect();
        Ok(Response::new(CopyResponse { uid_validity: 7, source_uids, target_uids, highest_modseq: 0 }))
    }

    async fn expunge(&self, request: Request<ExpungeRequest>) -> Result<Response<ExpungeResponse>, Status> {
        let request = request.into_inner();
        let mut boxes = self.boxes()?;
        let mailbox = by_id(&mut boxes, request.mailbox_id)?;
        let gone =
            mailbox.take(|m| m.flags.system & 8 != 0 && (request.uids.is_empty() || within(&request.uids, m.uid)));
        let expunged = singles(gone.iter().map(|m| m.uid));
        Ok(Response::new(ExpungeResponse { expunged, highest_modseq: mailbox.modseq }))
    }

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<AppendResponse>, Status> {
        let mut stream = request.into_inner();
        let mut messages: Vec<(AppendTarget, Vec<u8>)> = Vec::new();
        while let Some(request) = stream.message().await? {
            messages.extend(request.target.map(|target| (target, Vec::new())));
            let (_, raw) = messages.last_mut().ok_or_else(|| Status::invalid_argument("no target"))?;
            raw.extend_from_slice(&request.content);
        }
        self.appended.fetch_add(1, Ordering::Relaxed);
        let limit = self.quota.load(Ordering::Relaxed);
        if limit > 0 && messages.iter().map(|(_, raw)| raw.len()).sum::<usize>() > limit {
            return Err(Status::permission_denied("quota exceeded"));
        }
        let mut boxes = self.boxes()?;
        let name = messages[0].0.mailbox.clone();
        let replaces = messages[0].0.replaces;
        let mailbox = named(&mut boxes, &name)?;
        let add = |(target, raw): (AppendTarget, Vec<u8>)| {
            mailbox.add(raw, target.flags.unwrap_or_default(), target.internal_date_ms)
        };
        let uids: Vec<u32> = messages.into_iter().map(add).collect();
        let mut highest_modseq = 0;
        if let Some(replaced) = replaces {
            let mailbox = by_id(&mut boxes, replaced.mailbox_id)?;
            mailbox.take(|row| row.uid == replaced.uid);
            highest_modseq = mailbox.modseq;
        }
        drop(boxes);
        self.wake();
        Ok(Response::new(AppendResponse { uid_validity: 7, uid: uids[0], uids, highest_modseq }))
    }

    type ContentStream = Answers<ContentResponse>;

    async fn content(&self, request: Request<ContentRequest>) -> Result<Response<Self::ContentStream>, Status> {
        let request = request.into_inner();
        let mut boxes = self.boxes()?;
        let row = by_id(&mut boxes, request.mailbox_id)?.messages.iter().find(|m| m.uid == request.uid);
        let raw = &row.ok_or_else(|| Status::not_found("no such message"))?.raw;
        let end = request.end.min(raw.len() as u64) as usize;
        let octets = raw.get(request.start as usize..end).unwrap_or_default();
        Ok(answers(octets.chunks(100_000).map(|c| ContentResponse { chunk: c.to_vec().into() }).collect()))
    }

    async fn quota(&self, _: Request<QuotaRequest>) -> Result<Response<QuotaResponse>, Status> {
        let used_bytes = self.boxes()?.iter().map(|b| b.state().size).sum();
        let limit_bytes = self.quota.load(Ordering::Relaxed) as u64;
        Ok(Response::new(QuotaResponse { used_bytes, limit_bytes, ..QuotaResponse::default() }))
    }

    async fn get_metadata(
        &self,
        request: Request<GetMetadataRequest>,
    ) -> Result<Response<GetMetadataResponse>, Status> {
        let name = request.into_inner().mailbox;
        let all = self.annotations.lock().map_err(|_| Status::internal("poisoned"))?;
        let entries = all.iter().filter(|(mailbox, _)| *mailbox == name).map(|(_, e)| e.clone()).collect();
        Ok(Response::new(GetMetadataResponse { entries }))
    }

    async fn set_metadata(
        &self,
        request: Request<SetMetadataRequest>,
    ) -> Result<Response<SetMetadataResponse>, Status> {
        let request = request.into_inner();
        let mut all = self.annotations.lock().map_err(|_| Status::internal("poisoned"))?;
        for entry in request.entries {
            if entry.value.as_ref().is_some_and(|v| v.len() > 1000) {
                return Err(Status::out_of_range("too large"));
            }
            all.retain(|(mailbox, e)| *mailbox != request.mailbox || e.name != entry.name);
            if entry.value.is_some() {
                all.push((request.mailbox.clone(), entry));
            }
        }
        Ok(Response::new(SetMetadataResponse {}))
    }

    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        drop(self.boxes()?);
        let wakes = tokio_stream::wrappers::WatchStream::from_changes(self.wakes.subscribe());
        Ok(Response::new(Box::pin(futures::StreamExt::map(wakes, |_| Ok(WatchResponse {})))))
    }

    async fn lock_maildrop(&self, _: Request<LockMaildropRequest>) -> Result<Response<LockMaildropResponse>, Status> {
        Err(Status::unimplemented("POP3"))
    }

    async fn unlock_maildrop(
        &self,
        _: Request<UnlockMaildropRequest>,
    ) -> Result<Response<UnlockMaildropResponse>, Status> {
        Err(Status::unimplemented("POP3"))
    }

    type ListMaildropStream = Answers<ListMaildropResponse>;

    async fn list_maildrop(
        &self,
        _: Request<ListMaildropRequest>,
    ) -> Result<Response<Self::ListMaildropStream>, Status> {
        Err(Status::unimplemented("POP3"))
    }

    async fn update_maildrop(
        &self,
        _: Request<UpdateMaildropRequest>,
    ) -> Result<Response<UpdateMaildropResponse>, Status> {
        Err(Status::unimplemented("POP3"))
    }
}

#[tonic::async_trait]
impl Directory for Fake {
    async fn resolve(
        &self,
        _: Request<directory::ResolveRequest>,
    ) -> Result<Response<directory::ResolveResponse>, Status> {
        Err(Status::unimplemented("SMTP"))
    }

    type AuthenticateStream = Answers<directory::AuthenticateResponse>;

    /// PLAIN, with or without initial response.
    async fn authenticate(
        &self,
        request: Request<Streaming<directory::AuthenticateRequest>>,
    ) -> Result<Response<Self::AuthenticateStream>, Status> {
        drop(self.boxes()?);
        let mut requests = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            let answer = |step| Ok(directory::AuthenticateResponse { step: Some(step) });
            while let Ok(Some(request)) = requests.message().await {
                let step = if !request.has_response {
                    Step::Challenge(Default::default())
                } else if request.response.as_ref() == b"\0bob\0secret" {
                    Step::Success(directory::Account {
                        account_id: 1,
                        address: "bob@example.com".into(),
                        ..Default::default()
                    })
                } else {
                    Step::Failure("authentication failed".into())
                };
                if sender.send(answer(step)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn may_send_as(
        &self,
        _: Request<directory::MaySendAsRequest>,
    ) -> Result<Response<directory::MaySendAsResponse>, Status> {
        Err(Status::unimplemented("SMTP"))
    }

    async fn dkim_keys(
        &self,
        _: Request<directory::DkimKeysRequest>,
    ) -> Result<Response<directory::DkimKeysResponse>, Status> {
        Err(Status::unimplemented("auth-checker"))
    }
}
