//! FETCH (RFC 9051 §6.4.5): one call, answered in batches, each written as it comes.

use imap::{
    FetchItem, Flags, SequenceSet,
    respond::Fetch,
    section::{Content, binary, can_decode},
};
use message::PartSpan;
use proto::mailboxes::{FetchRequest, Message, StoreRequest, UidRange, store_request::Mode};

use crate::{
    failure::{Failure, Outcome},
    selected::{flags_of, slow, to_proto},
    session::Session,
    wire::GATHER,
};

/// What a FETCH asks for, and what that needs.
struct Wanted<'i> {
    items: &'i [FetchItem],
    uid: bool,
    modseq: bool,
    structure: bool,
    header: bool,
    body: bool,
    /// Any item that sets \Seen.
    sees: bool,
}

impl<'i> Wanted<'i> {
    fn new(items: &'i [FetchItem], uid: bool, modseq: bool) -> Self {
        let mut wanted = Self {
            items,
            uid: uid || items.contains(&FetchItem::Uid),
            modseq: modseq || items.contains(&FetchItem::ModSeq),
            structure: false,
            header: false,
            body: false,
            sees: false,
        };
        for item in items {
            match item {
                FetchItem::Envelope | FetchItem::Body | FetchItem::BodyStructure => wanted.structure = true,
                FetchItem::Section(section) => {
                    let needs = section.needs();
                    wanted.structure |= needs.structure;
                    wanted.header |= needs.header;
                    wanted.body |= needs.body;
                    wanted.sees |= !section.peek;
                }
                FetchItem::Binary { peek, .. } => {
                    wanted.need_all();
                    wanted.sees |= !peek;
                }
                FetchItem::BinarySize(_) => wanted.need_all(),
                _ => {}
            }
        }
        wanted
    }

    fn need_all(&mut self) {
        self.structure = true;
        self.header = true;
        self.body = true;
    }

    fn is_only_uid(&self) -> bool {
        self.items.iter().all(|item| *item == FetchItem::Uid)
    }
}

impl Session {
    pub(crate) async fn fetch(
        &mut self,
        account_id: u64,
        uid: bool,
        set: &SequenceSet,
        items: &[FetchItem],
        changed_since: Option<u64>,
    ) -> Outcome {
        let wanted = Wanted::new(items, uid, changed_since.is_some());
        self.condstore |= wanted.modseq;
        if uid {
            // "UID n:*" is how many clients ask for what is new.
            self.refresh_when_stale(false).await?;
        }
        let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
        let uids = selected.view.resolve(set, uid).ok_or(Failure::Bad("No such message."))?;
        let (mailbox_id, read_only) = (selected.mailbox_id, selected.read_only);
        if uids.is_empty() {
            return Ok("OK Fetch completed.".into());
        }
        if wanted.is_only_uid() && changed_since.is_none() {
            return self.fetch_uids(&uids).await;
        }
        let request = FetchRequest {
            account_id,
            mailbox_id,
            uids: to_proto(&uids),
            structure: wanted.structure,
            header: wanted.header,
            body: wanted.body,
            changed_since: changed_since.unwrap_or_default(),
        };
        let timeout = self.gateway.config.call_timeout();
        let mut answers = self.mailboxes().fetch(request).await?.into_inner();
        let mut trouble = None;
        while let Some(answer) = tokio::time::timeout(timeout, answers.message()).await.map_err(slow)?? {
            let mut messages = answer.messages;
            let mut seen = Vec::new();
            if wanted.sees && !read_only && trouble.is_none() {
                match self.see(account_id, mailbox_id, &mut messages).await {
                    Ok(changed) => seen = changed,
                    Err(failure) => trouble = Some(failure),
                }
            }
            for message in messages {
                if trouble.is_none() {
                    trouble = undecodable(&wanted, &message);
                }
                self.write_message(&wanted, &message, seen.binary_search(&message.uid).is_ok());
                // A large message need not wait for the rest of its batch.
                if self.wire.out.len() >= GATHER {
                    self.wire.flush().await?;
                }
            }
        }
        trouble.map_or_else(|| Ok("OK Fetch completed.".into()), Err)
    }

    /// The view knows UIDs without asking.
    async fn fetch_uids(&mut self, uids: &imap::UidRanges) -> Outcome {
        let Some(selected) = &self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        let numbered = (1u32..).zip(selected.view.uids().iter().copied());
        let mut todo = numbered.filter(|(_, uid)| uids.contains(*uid));
        loop {
            let some = todo.by_ref().take(1000);
            let before = self.wire.out.len();
            for (seq, uid) in some {
                let mut fetch = Fetch::begin(&mut self.wire.out, seq);
                fetch.uid(uid);
                fetch.end();
            }
            if self.wire.out.len() == before {
                return Ok("OK Fetch completed.".into());
            }
            self.wire.flush_some().await?;
        }
    }

    /// Sets \Seen on those of a batch that lack it (RFC 9051 §6.4.5). Returns their UIDs, ascending.
    async fn see(&mut self, account_id: u64, mailbox_id: u64, batch: &mut [Message]) -> Result<Vec<u32>, Failure> {
        let is_unseen = |m: &&Message| m.flags.as_ref().is_none_or(|f| f.system & Flags::SEEN == 0);
        let unseen: Vec<u32> = batch.iter().filter(is_unseen).map(|m| m.uid).collect();
        if unseen.is_empty() {
            return Ok(unseen);
        }
        let request = StoreRequest {
            account_id,
            mailbox_id,
            uids: unseen.iter().map(|uid| UidRange { first: *uid, last: *uid }).collect(),
            mode: Mode::Add.into(),
            flags: Some(proto::mailboxes::Flags { system: Flags::SEEN, keywords: Vec::new() }),
            unchanged_since: None,
        };
        let stored = self.mailboxes().store(request).await?.into_inner().messages;
        for now in stored {
            if let Some(selected) = &mut self.selected {
                selected.know(now.uid, now.modseq);
            }
            if let Ok(at) = batch.binary_search_by_key(&now.uid, |m| m.uid) {
                batch[at].flags = now.flags;
                batch[at].modseq = now.modseq;
            }
        }
        Ok(unseen)
    }

    fn write_message(&mut self, wanted: &Wanted<'_>, message: &Message, was_seen: bool) {
        let Some(seq) = self.selected.as_ref().and_then(|s| s.view.seq_of(message.uid)) else { return };
        self.gateway.metrics.fetched.inc();
        let empty = proto::mailboxes::Structure::default();
        let structure = message.structure.as_ref().unwrap_or(&empty);
        let spans: Vec<PartSpan> = if wanted.structure { spans(structure) } else { Vec::new() };
        let content = Content { header: &message.header, body: &message.body };
        let flags = flags_of(message);
        let mut fetch = Fetch::begin(&mut self.wire.out, seq);
        if wanted.uid {
            fetch.uid(message.uid);
        }
        for item in wanted.items {
            match item {
                FetchItem::Uid | FetchItem::ModSeq => {}
                FetchItem::Flags => fetch.flags(&flags),
                FetchItem::InternalDate => fetch.internal_date(message.internal_date_ms),
                FetchItem::Size => fetch.size(message.size),
                FetchItem::Envelope => fetch.stored("ENVELOPE", &structure.envelope),
                FetchItem::Body => fetch.stored("BODY", &structure.body),
                FetchItem::BodyStructure => fetch.stored("BODYSTRUCTURE", &structure.bodystructure),
                FetchItem::Section(section) => fetch.section(section, &section.extract(&spans, content)),
                FetchItem::Binary { path, partial, .. } => {
                    let value = can_decode(&spans, path).then(|| binary(&spans, path, content)).flatten();
                    let value = value.map(|v| match partial {
                        Some((first, count)) => v.into_iter().skip(*first as usize).take(*count as usize).collect(),
                        None => v,
                    });
                    fetch.binary(path, partial.map(|p| p.0), value.as_deref());
                }
                FetchItem::BinarySize(path) => {
                    let size = binary(&spans, path, content).map_or(0, |v| v.len());
                    fetch.binary_size(path, size);
                }
            }
        }
        if wanted.modseq {
            fetch.modseq(message.modseq);
        }
        if was_seen && !wanted.items.contains(&FetchItem::Flags) {
            fetch.flags(&flags);
        }
        fetch.end();
    }
}

/// BINARY of an encoding that nobody knows (RFC 9051 §7.1, UNKNOWN-CTE).
fn undecodable(wanted: &Wanted<'_>, message: &Message) -> Option<Failure> {
    let paths = wanted.items.iter().filter_map(|item| match item {
        FetchItem::Binary { path, .. } | FetchItem::BinarySize(path) => Some(path),
        _ => None,
    });
    let mut paths = paths.peekable();
    paths.peek()?;
    let spans = spans(message.structure.as_ref()?);
    paths
        .any(|path| !can_decode(&spans, path))
        .then(|| Failure::no("UNKNOWN-CTE", "A part has an unknown transfer encoding."))
}

fn spans(structure: &proto::mailboxes::Structure) -> Vec<PartSpan> {
    let span = |part: &proto::mailboxes::Part| PartSpan {
        section: part.section.clone(),
        header_start: part.header_start,
        body_start: part.body_start,
        end: part.end,
        inner_body_start: part.inner_body_start,
        encoding: part.encoding.clone(),
    };
    structure.parts.iter().map(span).collect()
}
