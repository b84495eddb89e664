//! An mda in memory.

mod directory;
mod mailboxes;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::Stream;
use proto::mailboxes::*;
use tokio::sync::watch;
use tonic::{Response, Status};

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
    acl: Arc<Mutex<Vec<AclEntry>>>,
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
            acl: Arc::default(),
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
