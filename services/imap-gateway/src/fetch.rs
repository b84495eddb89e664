//! FETCH (RFC 9051 §6.4.5): one call, answered in batches, each written as it comes.

use imap::{
    FetchItem, Flags, Partial, SequenceSet, UidRanges,
    respond::{self, Fetch},
    section::{Content, Place, binary, binary_place, can_decode},
};
use message::{PartSpan, decode_transfer};
use proto::mailboxes::{FetchRequest, Message, Rows, StoreRequest, UidRange, store_request::Mode};

use crate::{
    failure::{Failure, Outcome},
    selected::{begin_fetch, from_proto, slow, to_proto},
    session::Session,
    wire::GATHER,
};

/// Octets of a message above which its body is streamed and never held whole.
pub(crate) const STREAM_ABOVE: u32 = 1 << 20;

/// Which messages a FETCH is about.
pub(crate) struct Range {
    pub uid: bool,
    pub set: SequenceSet,
    pub changed_since: Option<u64>,
    pub vanished: bool,
    pub partial: Option<Partial>,
}

/// Bits of `FetchRequest.structure_fields`.
pub(crate) mod field {
    pub const ENVELOPE: u32 = 1;
    pub const BODY: u32 = 2;
    pub const BODYSTRUCTURE: u32 = 4;
    pub const PARTS: u32 = 8;
    pub const PREVIEW: u32 = 16;
    pub const THREAD_ID: u32 = 32;
}

/// What a FETCH asks for, and what that needs.
struct Wanted<'i> {
    items: &'i [FetchItem],
    uid: bool,
    modseq: bool,
    structure: bool,
    /// Of the structure, as in FetchRequest.
    structure_fields: u32,
    header: bool,
    body: bool,
    object_ids: bool,
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
            structure_fields: 0,
            header: false,
            body: false,
            object_ids: false,
            sees: false,
        };
        for item in items {
            match item {
                FetchItem::Envelope => wanted.structure_fields |= field::ENVELOPE,
                FetchItem::Body => wanted.structure_fields |= field::BODY,
                FetchItem::BodyStructure => wanted.structure_fields |= field::BODYSTRUCTURE,
                FetchItem::Preview => wanted.structure_fields |= field::PREVIEW,
                FetchItem::ThreadId => wanted.structure_fields |= field::THREAD_ID,
                FetchItem::EmailId | FetchItem::SaveDate => wanted.object_ids = true,
                FetchItem::Section(section) => {
                    let needs = section.needs();
                    wanted.structure_fields |= if needs.structure { field::PARTS } else { 0 };
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
        // Where the body begins, if it turns out to be too large to come at once.
        wanted.header |= wanted.body;
        wanted.structure = wanted.structure_fields != 0;
        wanted
    }

    fn need_all(&mut self) {
        self.structure_fields |= field::PARTS;
        self.header = true;
        self.body = true;
    }

    fn is_only_uid(&self) -> bool {
        self.items.iter().all(|item| *item == FetchItem::Uid)
    }
}

impl Session {
    pub(crate) async fn fetch(&mut self, account_id: u64, range: &Range, items: &[FetchItem]) -> Outcome {
        let (uid, changed_since) = (range.uid, range.changed_since);
        let wanted = Wanted::new(items, uid, changed_since.is_some());
        self.condstore |= wanted.modseq;
        if uid {
            // "UID n:*" is how many clients ask for what is new.
            self.refresh_when_stale(false).await?;
        }
        if let (true, Some(since)) = (range.vanished, changed_since) {
            let vanished = from_proto(&self.changes(account_id, since).await?.vanished);
            let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
            respond::vanished(&mut self.wire.out, &selected.view.missing(Some(&range.set), &vanished), true);
        }
        let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
        let mut uids = selected.view.resolve(&range.set, uid).ok_or(Failure::Bad("No such message."))?;
        if let Some(partial) = range.partial {
            let all: Vec<u32> = selected.view.uids().iter().copied().filter(|u| uids.contains(*u)).collect();
            uids = UidRanges::from_numbers(partial.of(&all).iter().copied());
        }
        let (mailbox_id, may_see) = (selected.mailbox_id, selected.may_see());
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
            structure_fields: wanted.structure_fields,
            header: wanted.header,
            body: wanted.body,
            body_limit: STREAM_ABOVE,
            object_ids: wanted.object_ids,
            changed_since: changed_since.unwrap_or_default(),
            as_rows: true,
            reader: "imap".into(),
            ..FetchRequest::default()
        };
        let timeout = self.gateway.config.call_timeout();
        let mut answers = self.mailboxes().fetch(self.asking(request)).await?.into_inner();
        let mut trouble = None;
        while let Some(answer) = tokio::time::timeout(timeout, answers.message()).await.map_err(slow)?? {
            let mut messages = answer.messages;
            let mut seen = Vec::new();
            if wanted.sees && may_see && trouble.is_none() {
                match self.see(account_id, mailbox_id, &mut messages).await {
                    Ok(changed) => seen = changed,
                    Err(failure) => trouble = Some(failure),
                }
            }
            for message in messages.into_iter().chain(messages_of(answer.rows.unwrap_or_default())) {
                if trouble.is_none() {
                    trouble = undecodable(&wanted, &message);
                }
                let was_seen = seen.binary_search(&message.uid).is_ok();
                if message.body_omitted {
                    self.write_large(account_id, &wanted, &message, was_seen).await?;
                } else {
                    self.write_message(&wanted, &message, was_seen);
                }
                // A large message need not wait for the rest of its batch.
                if self.wire.out.len() >= GATHER {
                    self.wire.flush().await?;
                }
            }
        }
        trouble.map_or_else(|| Ok("OK Fetch completed.".into()), Err)
    }

    /// The view knows UIDs without asking.
    async fn fetch_uids(&mut self, uids: &UidRanges) -> Outcome {
        let uid_only = self.uid_only;
        let Some(selected) = &self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        let numbered = (1u32..).zip(selected.view.uids().iter().copied());
        let mut todo = numbered.filter(|(_, uid)| uids.contains(*uid));
        loop {
            let some = todo.by_ref().take(1000);
            let before = self.wire.out.len();
            for (seq, uid) in some {
                begin_fetch(&mut self.wire.out, uid_only, seq, uid, true).end();
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
        let stored = self.mailboxes().store(self.asking(request)).await?.into_inner().messages;
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
        let Some(selected) = &self.selected else { return };
        let Some(seq) = selected.view.seq_of(message.uid) else { return };
        self.gateway.metrics.fetched.inc();
        let empty = proto::mailboxes::Structure::default();
        let structure = message.structure.as_ref().unwrap_or(&empty);
        let spans: Vec<PartSpan> = if wanted.structure { spans(structure) } else { Vec::new() };
        let content = Content { header: &message.header, body: &message.body };
        let flags = selected.flags_of(message);
        let mut fetch = begin_fetch(&mut self.wire.out, self.uid_only, seq, message.uid, wanted.uid);
        for item in wanted.items {
            match item {
                FetchItem::Section(section) => fetch.section(section, &section.extract(&spans, content)),
                FetchItem::Binary { path, partial, .. } => {
                    let value = can_decode(&spans, path).then(|| binary(&spans, path, content)).flatten();
                    let value = value.map(|v| cut(v, *partial));
                    fetch.binary(path, partial.map(|p| p.0), value.as_deref());
                }
                FetchItem::BinarySize(path) => {
                    let size = binary(&spans, path, content).map_or(0, |v| v.len());
                    fetch.binary_size(path, size);
                }
                item => write_small(&mut fetch, item, message, structure, &flags),
            }
        }
        write_end(fetch, wanted, message, was_seen, &flags);
    }

    /// A message whose body did not come with it: each item's octets are asked for and passed on.
    async fn write_large(
        &mut self,
        account_id: u64,
        wanted: &Wanted<'_>,
        message: &Message,
        was_seen: bool,
    ) -> Result<(), Failure> {
        let Some(selected) = &self.selected else { return Ok(()) };
        let Some(seq) = selected.view.seq_of(message.uid) else { return Ok(()) };
        self.gateway.metrics.fetched.inc();
        let empty = proto::mailboxes::Structure::default();
        let structure = message.structure.as_ref().unwrap_or(&empty);
        let spans = spans(structure);
        let flags = selected.flags_of(message);
        let (uid, size, header_len) = (message.uid, u64::from(message.size), message.header.len() as u64);
        let start = self.wire.out.len();
        begin_fetch(&mut self.wire.out, self.uid_only, seq, uid, wanted.uid);
        let mut is_first = self.wire.out.get(start..).is_some_and(|text| text.ends_with(b"("));
        for item in wanted.items.iter().filter(|i| !matches!(i, FetchItem::Uid | FetchItem::ModSeq)) {
            // What has to be decoded is held; everything else passes by.
            let held = match item {
                FetchItem::Section(section) => match section.place(&spans, header_len, size) {
                    Place::Octets(start, end) => {
                        let mut fetch = Fetch::resume(&mut self.wire.out, is_first);
                        fetch.section_literal(section, end - start);
                        self.pass_content(account_id, uid, start, end).await?;
                        is_first = false;
                        continue;
                    }
                    Place::Fields(start, end) => Some(self.content(account_id, uid, start, end).await?),
                    Place::Missing => None,
                },
                FetchItem::Binary { path, .. } | FetchItem::BinarySize(path) => {
                    let _large = self.gateway.large.clone().acquire_owned().await;
                    match binary_place(&spans, path, size).filter(|_| can_decode(&spans, path)) {
                        Some((start, end, encoding)) => {
                            let raw = self.content(account_id, uid, start, end).await?;
                            Some(decode_transfer(&raw, Some(encoding.as_bytes())).into_owned())
                        }
                        None => None,
                    }
                }
                _ => None,
            };
            let mut fetch = Fetch::resume(&mut self.wire.out, is_first);
            match item {
                FetchItem::Section(section) => {
                    let extract = match &held {
                        Some(header) => imap::section::Extract::Made(section.fields_of(header)),
                        None => imap::section::Extract::Missing,
                    };
                    fetch.section(section, &extract);
                }
                FetchItem::Binary { path, partial, .. } => {
                    let value = held.map(|v| cut(v, *partial));
                    fetch.binary(path, partial.map(|p| p.0), value.as_deref());
                }
                FetchItem::BinarySize(path) => fetch.binary_size(path, held.map_or(0, |v| v.len())),
                item => write_small(&mut fetch, item, message, structure, &flags),
            }
            is_first = false;
            self.wire.flush_some().await?;
        }
        write_end(Fetch::resume(&mut self.wire.out, is_first), wanted, message, was_seen, &flags);
        Ok(())
    }
}

/// Everything that is not content.
fn write_small(
    fetch: &mut Fetch<'_>,
    item: &FetchItem,
    message: &Message,
    structure: &proto::mailboxes::Structure,
    flags: &Flags,
) {
    match item {
        FetchItem::Flags => fetch.flags(flags),
        FetchItem::InternalDate => fetch.internal_date(message.internal_date_ms),
        FetchItem::Size => fetch.size(message.size),
        FetchItem::Envelope => fetch.stored("ENVELOPE", &structure.envelope),
        FetchItem::Body => fetch.stored("BODY", &structure.body),
        FetchItem::BodyStructure => fetch.stored("BODYSTRUCTURE", &structure.bodystructure),
        FetchItem::EmailId => fetch.object_id("EMAILID", 'M', &message.email_id),
        FetchItem::ThreadId => fetch.object_id("THREADID", 'T', &structure.thread_id),
        FetchItem::SaveDate => fetch.save_date(message.save_date_ms),
        FetchItem::Preview => fetch.preview(structure.preview.as_deref()),
        // UID and MODSEQ have their own places; contents are the callers' matter.
        FetchItem::Uid
        | FetchItem::ModSeq
        | FetchItem::Section(_)
        | FetchItem::Binary { .. }
        | FetchItem::BinarySize(_) => {}
    }
}

fn write_end(mut fetch: Fetch<'_>, wanted: &Wanted<'_>, message: &Message, was_seen: bool, flags: &Flags) {
    if wanted.modseq {
        fetch.modseq(message.modseq);
    }
    if was_seen && !wanted.items.contains(&FetchItem::Flags) {
        fetch.flags(flags);
    }
    fetch.end();
}

/// What came column by column, one after the other.
pub(crate) fn messages_of(rows: Rows) -> impl Iterator<Item = Message> {
    let Rows { uids, flags, modseqs, sizes, internal_dates_ms, keywords } = rows;
    let mut keywords = keywords.into_iter().peekable();
    let columns = uids.into_iter().zip(flags).zip(modseqs).zip(sizes).zip(internal_dates_ms);
    (0u32..).zip(columns).map(move |(row, ((((uid, system), modseq), size), internal_date_ms))| {
        let keywords = keywords.next_if(|k| k.row == row).map(|k| k.keywords).unwrap_or_default();
        let flags = Some(proto::mailboxes::Flags { system, keywords });
        Message { uid, flags, modseq, size, internal_date_ms, ..Message::default() }
    })
}

fn cut(value: Vec<u8>, partial: Option<(u32, u32)>) -> Vec<u8> {
    match partial {
        Some((first, count)) => value.into_iter().skip(first as usize).take(count as usize).collect(),
        None => value,
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

pub(crate) fn spans(structure: &proto::mailboxes::Structure) -> Vec<PartSpan> {
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

#[cfg(test)]
mod tests {
    use proto::mailboxes::RowKeywords;

    use super::*;

    #[test]
    fn rows_are_messages() {
        let rows = Rows {
            uids: vec![3, 5],
            flags: vec![1, 0],
            modseqs: vec![7, 8],
            sizes: vec![10, 20],
            internal_dates_ms: vec![-1, 2],
            keywords: vec![RowKeywords { row: 1, keywords: vec!["Work".into()] }],
        };
        let messages: Vec<Message> = messages_of(rows).collect();
        let flags = |system, keywords: &[&str]| {
            let keywords = keywords.iter().map(|k| (*k).to_owned()).collect();
            Some(proto::mailboxes::Flags { system, keywords })
        };
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].uid, messages[0].size, messages[0].internal_date_ms), (3, 10, -1));
        assert_eq!((&messages[0].flags, &messages[1].flags), (&flags(1, &[]), &flags(0, &["Work"])));
        assert_eq!(messages[1].modseq, 8);
    }
}
