//! What is known of every message of a mailbox beside its content, as it was at one mod-sequence.
//!
//! It is kept in memory between calls and brought up to date by what changed since, so that whoever
//! asks again pays for the changes and not for the mailbox. Postgres tells at each call which
//! mod-sequence holds; nothing here is ever taken for the truth without that (Invariant 5).

use std::{
    collections::{HashMap, HashSet},
    mem::size_of,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use proto::mailboxes::{Flags, Message, RowKeywords, Rows};
use sqlx::{FromRow, PgConnection, types::Uuid};

use super::{state::Mailbox, uid};
use crate::ids;

/// After this time it is read anew, in case the database was put back behind our back.
const TRUSTED: Duration = Duration::from_secs(600);
/// A mailbox with a larger share of the memory than one in so many is not kept.
const SHARE: u64 = 4;

/// One message without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub uid: u32,
    pub size: u32,
    pub modseq: i64,
    pub internal_date_ms: i64,
    /// 0: unknown.
    pub saved_ms: i64,
    pub content_id: Uuid,
    pub flags: i16,
    /// The journey was told that a mail program has it.
    pub fetched: bool,
}

/// As the table has it.
#[derive(FromRow)]
pub struct Loaded {
    uid: i64,
    modseq: i64,
    flags: i16,
    keywords: Option<Vec<String>>,
    size: i32,
    internal_date: DateTime<Utc>,
    saved_at: Option<DateTime<Utc>>,
    content_id: Uuid,
    fetched: bool,
    uidl: Option<String>,
}

/// Columns of [`Loaded`].
pub const COLUMNS: &str = "m.uid, m.modseq, m.flags, nullif(m.keywords, '{}') as keywords, m.size, m.internal_date, \
                           m.saved_at, m.content_id, m.fetched, m.uidl";

/// Messages in ascending UID order.
#[derive(Debug, Clone)]
pub struct Index {
    modseq: i64,
    uid_validity: i64,
    read_at: Instant,
    entries: Vec<Entry>,
    keywords: HashMap<u32, Vec<String>>,
    uidls: HashMap<u32, String>,
}

impl Index {
    fn new(modseq: i64, uid_validity: i64) -> Self {
        Self {
            modseq,
            uid_validity,
            read_at: Instant::now(),
            entries: Vec::new(),
            keywords: HashMap::new(),
            uidls: HashMap::new(),
        }
    }

    /// Of rows in ascending order, of whatever part of a mailbox.
    pub fn of(rows: Vec<Loaded>) -> Self {
        let mut index = Self::new(0, 0);
        rows.into_iter().for_each(|row| index.put(row));
        index
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn keywords_of(&self, uid: u32) -> &[String] {
        self.keywords.get(&uid).map_or(&[], Vec::as_slice)
    }

    /// Imported from another server (RFC 1939 §7).
    pub fn uidl_of(&self, uid: u32) -> Option<&str> {
        self.uidls.get(&uid).map(String::as_str)
    }

    pub fn has_uidls(&self) -> bool {
        !self.uidls.is_empty()
    }

    /// Each once, whatever its case, and not more than a client wants to hear of.
    pub fn keywords(&self) -> Vec<String> {
        const MOST: usize = 200;
        let mut seen = HashSet::new();
        let mut all: Vec<&String> = self.keywords.values().flatten().collect();
        all.sort_unstable();
        all.retain(|k| seen.insert(k.to_ascii_lowercase()));
        all.into_iter().take(MOST).cloned().collect()
    }

    /// Octets of memory, nearly.
    fn weight(&self) -> u64 {
        let words: usize = self.keywords.values().flatten().map(|k| k.len() + 64).sum();
        let uidls: usize = self.uidls.values().map(|u| u.len() + 64).sum();
        (self.entries.capacity() * size_of::<Entry>() + words + uidls + 512) as u64
    }

    fn put(&mut self, row: Loaded) {
        let number = uid(row.uid);
        let entry = Entry {
            uid: number,
            size: row.size.unsigned_abs(),
            modseq: row.modseq,
            internal_date_ms: row.internal_date.timestamp_millis(),
            saved_ms: row.saved_at.map_or(0, |at| at.timestamp_millis()),
            content_id: row.content_id,
            flags: row.flags,
            fetched: row.fetched,
        };
        match row.keywords {
            Some(keywords) => drop(self.keywords.insert(number, keywords)),
            None => drop(self.keywords.remove(&number)),
        }
        if let Some(uidl) = row.uidl {
            self.uidls.insert(number, uidl);
        }
        match self.entries.last() {
            Some(last) if last.uid >= number => match self.entries.binary_search_by_key(&number, |e| e.uid) {
                Ok(at) => self.entries[at] = entry,
                Err(at) => self.entries.insert(at, entry),
            },
            _ => self.entries.push(entry),
        }
    }

    fn remove(&mut self, vanished: &HashSet<u32>) {
        if vanished.is_empty() {
            return;
        }
        self.entries.retain(|e| !vanished.contains(&e.uid));
        self.keywords.retain(|uid, _| !vanished.contains(uid));
        self.uidls.retain(|uid, _| !vanished.contains(uid));
    }

    fn is_of(&self, mailbox: &Mailbox) -> bool {
        self.modseq == mailbox.highest_modseq
            && self.uid_validity == mailbox.uid_validity
            && u32::try_from(self.entries.len()) == Ok(mailbox.messages.unsigned_abs())
    }
}

impl Entry {
    pub fn message(&self, index: &Index) -> Message {
        Message {
            uid: self.uid,
            flags: Some(Flags {
                system: u32::from(self.flags.unsigned_abs()),
                keywords: index.keywords_of(self.uid).to_vec(),
            }),
            modseq: ids::unsigned(self.modseq),
            size: self.size,
            internal_date_ms: self.internal_date_ms,
            ..Message::default()
        }
    }
}

/// Column by column.
pub fn rows(index: &Index, entries: &[&Entry]) -> Rows {
    let keywords = |(row, e): (usize, &&Entry)| {
        let keywords = index.keywords_of(e.uid);
        let row = u32::try_from(row).unwrap_or(u32::MAX);
        (!keywords.is_empty()).then(|| RowKeywords { row, keywords: keywords.to_vec() })
    };
    Rows {
        uids: entries.iter().map(|e| e.uid).collect(),
        flags: entries.iter().map(|e| u32::from(e.flags.unsigned_abs())).collect(),
        modseqs: entries.iter().map(|e| ids::unsigned(e.modseq)).collect(),
        sizes: entries.iter().map(|e| e.size).collect(),
        internal_dates_ms: entries.iter().map(|e| e.internal_date_ms).collect(),
        keywords: entries.iter().enumerate().filter_map(keywords).collect(),
    }
}

/// The mailboxes that are kept; the least used go first.
#[derive(Clone)]
pub struct Indexes {
    kept: moka::sync::Cache<(i64, i64), Arc<Index>>,
    largest: u64,
}

impl Indexes {
    /// `bytes`: what they may have together; 0 keeps none.
    pub fn new(bytes: u64) -> Self {
        let weight = |_: &(i64, i64), index: &Arc<Index>| u32::try_from(index.weight()).unwrap_or(u32::MAX);
        let kept = moka::sync::Cache::builder().max_capacity(bytes).weigher(weight).build();
        Self { kept, largest: bytes / SHARE }
    }

    /// What is kept of it, if that is how the mailbox is now.
    pub fn known(&self, mailbox: &Mailbox) -> Option<Arc<Index>> {
        self.kept.get(&mailbox.key()).filter(|index| index.is_of(mailbox) && index.read_at.elapsed() < TRUSTED)
    }

    /// Whether anything is kept of it.
    pub fn has(&self, key: (i64, i64)) -> bool {
        self.kept.contains_key(&key)
    }

    /// Reads what is not known. `snapshot` sees the mailbox as it was when `mailbox` was read.
    /// `None` when the mailbox is too large to be held.
    pub async fn read(
        &self,
        snapshot: &mut PgConnection,
        mailbox: &Mailbox,
    ) -> Result<Option<Arc<Index>>, sqlx::Error> {
        if let Some(known) = self.known(mailbox) {
            return Ok(Some(known));
        }
        let key = mailbox.key();
        let mut index = None;
        if let Some(older) = self.kept.get(&key).filter(|old| is_behind(old, mailbox)) {
            self.kept.invalidate(&key);
            let advanced = advance(snapshot, mailbox, older).await?;
            index = Some(advanced).filter(|advanced| advanced.is_of(mailbox));
        }
        let index = match index {
            Some(index) => index,
            None if u64::from(mailbox.messages.unsigned_abs()) * size_of::<Entry>() as u64 > self.largest => {
                return Ok(None);
            }
            None => Arc::new(whole(snapshot, mailbox).await?),
        };
        self.kept.insert(key, index.clone());
        Ok(Some(index))
    }

    /// The journey was told of these: nobody need tell it again.
    pub fn fetched(&self, key: (i64, i64), uids: &[i64]) {
        let Some(mut index) = self.kept.get(&key) else { return };
        self.kept.invalidate(&key);
        let changed = Arc::make_mut(&mut index);
        for uid in uids.iter().filter_map(|uid| u32::try_from(*uid).ok()) {
            if let Ok(at) = changed.entries.binary_search_by_key(&uid, |e| e.uid) {
                changed.entries[at].fetched = true;
            }
        }
        self.kept.insert(key, index);
    }
}

/// Whether what is missing can be asked for.
fn is_behind(old: &Index, mailbox: &Mailbox) -> bool {
    old.modseq < mailbox.highest_modseq
        && old.modseq >= mailbox.forgotten_modseq
        && old.uid_validity == mailbox.uid_validity
        && old.read_at.elapsed() < TRUSTED
}

/// All of it, whatever its size.
pub async fn whole(snapshot: &mut PgConnection, mailbox: &Mailbox) -> Result<Index, sqlx::Error> {
    let (account_id, mailbox_id) = mailbox.key();
    let mut index = Index::new(mailbox.highest_modseq, mailbox.uid_validity);
    index.entries.reserve_exact(usize::try_from(mailbox.messages).unwrap_or_default());
    let text = format!("select {COLUMNS} from messages m where m.account_id = $1 and m.mailbox_id = $2 order by m.uid");
    let query = sqlx::query_as::<_, Loaded>(sqlx::AssertSqlSafe(text)).bind(account_id).bind(mailbox_id);
    let mut rows = query.fetch(snapshot);
    while let Some(row) = rows.try_next().await? {
        index.put(row);
    }
    Ok(index)
}

async fn advance(
    snapshot: &mut PgConnection,
    mailbox: &Mailbox,
    mut index: Arc<Index>,
) -> Result<Arc<Index>, sqlx::Error> {
    let (account_id, mailbox_id) = mailbox.key();
    let vanished: Vec<i64> =
        sqlx::query_scalar("select uid from expunged where account_id = $1 and mailbox_id = $2 and modseq > $3")
            .bind(account_id)
            .bind(mailbox_id)
            .bind(index.modseq)
            .fetch_all(&mut *snapshot)
            .await?;
    let text = format!(
        "select {COLUMNS} from messages m where m.account_id = $1 and m.mailbox_id = $2 and m.modseq > $3 order by m.uid"
    );
    let changed: Vec<Loaded> = sqlx::query_as(sqlx::AssertSqlSafe(text))
        .bind(account_id)
        .bind(mailbox_id)
        .bind(index.modseq)
        .fetch_all(&mut *snapshot)
        .await?;
    // Copied only when somebody still reads the older one.
    let newer = Arc::make_mut(&mut index);
    newer.remove(&vanished.into_iter().map(uid).collect());
    changed.into_iter().for_each(|row| newer.put(row));
    newer.modseq = mailbox.highest_modseq;
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(uid: i64, modseq: i64, flags: i16) -> Loaded {
        Loaded {
            uid,
            modseq,
            flags,
            keywords: (flags & 4 != 0).then(|| vec!["Work".to_owned()]),
            size: 10,
            internal_date: DateTime::UNIX_EPOCH,
            saved_at: None,
            content_id: Uuid::nil(),
            fetched: false,
            uidl: None,
        }
    }

    #[test]
    fn changes_find_their_place() {
        let mut index = Index::of(vec![row(1, 1, 0), row(3, 2, 4), row(5, 3, 0)]);
        assert_eq!(index.keywords(), ["Work"]);
        index.remove(&HashSet::from([5, 9]));
        for changed in [row(3, 5, 1), row(6, 4, 0), row(2, 6, 0)] {
            index.put(changed);
        }
        let seen: Vec<_> = index.entries().iter().map(|e| (e.uid, e.modseq, e.flags)).collect();
        assert_eq!(seen, [(1, 1, 0), (2, 6, 0), (3, 5, 1), (6, 4, 0)]);
        assert!(index.keywords().is_empty(), "the keyword went with the change");
    }

    #[test]
    fn keywords_stand_beside_their_rows() {
        let index = Index::of(vec![row(1, 1, 0), row(3, 2, 4)]);
        let rows = rows(&index, &index.entries().iter().collect::<Vec<_>>());
        assert_eq!((rows.uids, rows.modseqs, rows.flags), (vec![1, 3], vec![1, 2], vec![0, 4]));
        assert_eq!(rows.keywords, [RowKeywords { row: 1, keywords: vec!["Work".to_owned()] }]);
    }
}
