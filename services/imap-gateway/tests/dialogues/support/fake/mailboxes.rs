use std::sync::atomic::Ordering;

use proto::mailboxes::{mailboxes_server::Mailboxes, store_request::Mode, *};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, Fake, Row, Stored, answers, by_id, named, singles, within};

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
        self.wake();
        Ok(Response::new(CreateResponse { mailbox_id: 0 }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let name = request.into_inner().name;
        let mut boxes = self.boxes()?;
        named(&mut boxes, &name)?;
        boxes.retain(|b| b.name != name);
        drop(boxes);
        self.wake();
        Ok(Response::new(DeleteResponse {}))
    }

    async fn rename(&self, request: Request<RenameRequest>) -> Result<Response<RenameResponse>, Status> {
        let request = request.into_inner();
        named(&mut self.boxes()?, &request.from)?.name = request.to;
        self.wake();
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
            first_unseen: mailbox.messages.iter().find(|m| m.flags.system & 1 == 0).map_or(0, |m| m.uid),
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
        Ok(answers(
            messages.chunks(2).map(|c| FetchResponse { messages: c.to_vec(), ..FetchResponse::default() }).collect(),
        ))
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

    async fn list_shared(&self, _: Request<ListSharedRequest>) -> Result<Response<ListSharedResponse>, Status> {
        drop(self.boxes()?);
        Ok(Response::new(ListSharedResponse::default()))
    }

    async fn get_acl(&self, request: Request<GetAclRequest>) -> Result<Response<GetAclResponse>, Status> {
        named(&mut self.boxes()?, &request.into_inner().name)?;
        let entries = self.acl.lock().map_err(|_| Status::internal("poisoned"))?.clone();
        Ok(Response::new(GetAclResponse { entries, owner: "bob@example.com".into() }))
    }

    async fn set_acl(&self, request: Request<SetAclRequest>) -> Result<Response<SetAclResponse>, Status> {
        let SetAclRequest { identifier, rights, .. } = request.into_inner();
        self.acl.lock().map_err(|_| Status::internal("poisoned"))?.push(AclEntry { identifier, rights });
        Ok(Response::new(SetAclResponse {}))
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
