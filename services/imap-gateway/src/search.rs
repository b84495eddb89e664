//! SEARCH (RFC 9051 §6.4.4), SORT and THREAD (RFC 5256): candidates come from `mda`, the `imap`
//! crate decides and orders.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use imap::{
    SearchCommand, SearchReturn, UidRanges,
    respond::Found,
    search::{ContentKey, Facts, Key},
    sort::{Criterion, SortKey, Sortable},
    thread::{Algorithm, Threadable},
};
use proto::mailboxes::{FetchRequest, Filter, Message, filter::Where};

use crate::{
    failure::{Failure, Outcome},
    fetch::{STREAM_ABOVE, field, messages_of},
    selected::{slow, to_proto},
    session::Session,
};

/// UID and mod-sequence.
type Hit = (u32, u64);

/// Columns beside those that the keys need.
#[derive(Clone, Copy, Default)]
struct Also {
    header: bool,
}

/// How often a client that waits is told how far the search is (RFC 9585).
const PROGRESS: Duration = Duration::from_secs(5);

impl Session {
    pub(crate) async fn search(&mut self, account_id: u64, tag: &str, command: SearchCommand) -> Outcome {
        let SearchCommand { uid, returns, charset, key } = command;
        let key = self.resolve(key, charset.as_deref()).await?;
        let hits = match &self.selected {
            // The view knows UIDs without asking.
            Some(selected) if key.is_only_sets() => {
                let none = imap::Flags::default();
                let uids = selected.view.uids().iter().copied();
                uids.filter(|uid| key.matches(&Facts::new(*uid, &none, 0, 0, 0))).map(|uid| (uid, 0)).collect()
            }
            _ => self.scan(account_id, tag, &key, Also::default(), |m| (m.uid, m.modseq)).await?,
        };
        let returns = returns.or_else(|| {
            // IMAP4rev2 has no other answer (RFC 9051 §6.4.4).
            self.rev2.then_some(SearchReturn { all: true, ..SearchReturn::default() })
        });
        self.tell_found(tag, uid, hits, returns, key.asks_modseq(), false);
        Ok("OK Search completed.".into())
    }

    pub(crate) async fn sort(
        &mut self,
        account_id: u64,
        tag: &str,
        criteria: Vec<Criterion>,
        command: SearchCommand,
    ) -> Outcome {
        let SearchCommand { uid, returns, charset, key } = command;
        let key = self.resolve(key, charset.as_deref()).await?;
        let also = Also { header: criteria.iter().any(|c: &Criterion| SortKey::needs_header(c.key)) };
        let sortable = |m: &Message| Sortable::new(&criteria, (m.uid, m.modseq), &m.header, m.internal_date_ms, m.size);
        let mut found = self.scan(account_id, tag, &key, also, sortable).await?;
        imap::sort::sort(&mut found, &criteria);
        let hits = found.into_iter().map(|m| (m.uid, m.modseq)).collect();
        self.tell_found(tag, uid, hits, returns, key.asks_modseq(), true);
        Ok("OK Sort completed.".into())
    }

    pub(crate) async fn thread(
        &mut self,
        account_id: u64,
        tag: &str,
        algorithm: Algorithm,
        command: SearchCommand,
    ) -> Outcome {
        let SearchCommand { uid, charset, key, .. } = command;
        let key = self.resolve(key, charset.as_deref()).await?;
        let threadable = |m: &Message| Threadable::new(algorithm, m.uid, m.uid, &m.header, m.internal_date_ms);
        let mut found = self.scan(account_id, tag, &key, Also { header: true }, threadable).await?;
        let Some(selected) = &self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        if !uid {
            found.retain_mut(|m| selected.view.seq_of(m.uid).map(|seq| m.number = seq).is_some());
        }
        let out = &mut self.wire.out;
        out.extend_from_slice(if found.is_empty() { b"* THREAD" } else { b"* THREAD " });
        imap::thread::thread(algorithm, &found, out);
        out.extend_from_slice(b"\r\n");
        Ok("OK Thread completed.".into())
    }

    async fn resolve(&mut self, key: Key, charset: Option<&str>) -> Result<Key, Failure> {
        match charset {
            // RFC 6855 §3.
            Some(_) if self.utf8 && !self.rev2 => return Err(Failure::Bad("UTF-8 is the only charset now.")),
            Some(charset) if !message::knows_charset(charset.as_bytes()) => {
                return Err(Failure::no("BADCHARSET (US-ASCII UTF-8)", "Unknown charset."));
            }
            _ => {}
        }
        if self.uid_only && key.has_sequence() {
            return Err(Failure::Bad(crate::session::UID_REQUIRED));
        }
        self.refresh_when_stale(false).await?;
        let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
        self.condstore |= key.asks_modseq();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        key.resolve(&selected.view, now).ok_or(Failure::Bad("No such message."))
    }

    fn tell_found(
        &mut self,
        tag: &str,
        uid: bool,
        hits: Vec<Hit>,
        returns: Option<SearchReturn>,
        asks_modseq: bool,
        sorted: bool,
    ) {
        let Some(selected) = &mut self.selected else { return };
        let only_ends = returns.is_some_and(|r| (r.min || r.max) && !r.all && !r.count && r.partial.is_none());
        let hits = match returns {
            // Only the ends that were asked for count, for MODSEQ and SAVE too
            // (RFC 7162 §3.1.10, RFC 5182 §2.4).
            Some(returns) if only_ends => {
                let first = hits.first().filter(|_| returns.min);
                let last = hits.last().filter(|_| returns.max);
                let mut ends: Vec<Hit> = first.into_iter().chain(last).copied().collect();
                ends.dedup();
                ends
            }
            _ => hits,
        };
        let numbers: Vec<u32> = if uid {
            hits.iter().map(|(uid, _)| *uid).collect()
        } else {
            hits.iter().filter_map(|(uid, _)| selected.view.seq_of(*uid)).collect()
        };
        let modseq = if asks_modseq { hits.iter().map(|(_, modseq)| *modseq).max() } else { None };
        let found = Found { tag, uid, numbers: &numbers, modseq, sorted };
        match returns {
            None => found.write_search(&mut self.wire.out),
            // SAVE alone says nothing (RFC 5182 §2.1).
            Some(SearchReturn { min: false, max: false, all: false, count: false, partial: None, .. }) => {}
            Some(returns) => found.write_esearch(&mut self.wire.out, returns),
        }
        if returns.is_some_and(|r| r.save) {
            selected.view.save(UidRanges::from_numbers(hits.iter().map(|(uid, _)| *uid)));
        }
    }

    /// What matches, in ascending order, of the messages that the client knows.
    async fn scan<T>(
        &mut self,
        account_id: u64,
        tag: &str,
        key: &Key,
        also: Also,
        take: impl Fn(&Message) -> T,
    ) -> Result<Vec<T>, Failure> {
        let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
        let all = selected.view.all();
        let candidates = key.within().map_or_else(|| all.clone(), |within| within.intersection(&all));
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let total = selected.view.uids().iter().filter(|uid| candidates.contains(**uid)).count();
        // What looks into messages is decided where they are, and they need not travel.
        let (filters, rest) = key.split();
        let needs = key.needs();
        let rest_needs = rest.needs();
        let content_for_filters = !also.header && !rest_needs.header && !rest_needs.body;
        let request = FetchRequest {
            account_id,
            mailbox_id: selected.mailbox_id,
            uids: to_proto(&candidates),
            structure: needs.structure,
            structure_fields: if needs.structure { field::THREAD_ID } else { 0 },
            header: needs.header || also.header,
            body: needs.body,
            body_limit: STREAM_ABOVE,
            object_ids: needs.object_ids,
            as_rows: true,
            content_for_filters: content_for_filters && !filters.is_empty(),
            filters: filters.into_iter().map(filter).collect(),
            ..FetchRequest::default()
        };
        let timeout = self.gateway.config.call_timeout();
        let mut answers = self.mailboxes().fetch(self.asking(request)).await?.into_inner();
        let mut hits = Vec::new();
        let (mut done, mut told) = (0usize, Instant::now());
        while let Some(answer) = tokio::time::timeout(timeout, answers.message()).await.map_err(slow)?? {
            done += answer.passed_over as usize;
            let is_filtered = answer.filtered;
            for mut message in answer.messages.into_iter().chain(messages_of(answer.rows.unwrap_or_default())) {
                done += 1;
                if self.selected.as_ref().is_none_or(|s| s.view.seq_of(message.uid).is_none()) {
                    continue;
                }
                // A large message is held whole while it is searched: few at a time.
                let _large = if message.body_omitted {
                    let large = self.gateway.large.clone().acquire_owned().await;
                    message.body =
                        self.content(account_id, message.uid, message.header.len() as u64, u64::MAX).await?.into();
                    large.ok()
                } else {
                    None
                };
                let key = if is_filtered && !message.body_omitted { &rest } else { key };
                if self.selected.as_ref().is_some_and(|s| matches(key, &message, &s.flags_of(&message))) {
                    hits.push(take(&message));
                }
                if needs.body && !is_filtered {
                    // Decoding takes its time: others have their turn.
                    tokio::task::yield_now().await;
                }
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let text = format!("OK [INPROGRESS (\"{tag}\" {done} {total})] Still searching.");
                imap::respond::line(&mut self.wire.out, "*", text);
                self.wire.flush().await?;
            }
        }
        Ok(hits)
    }
}

fn filter(key: ContentKey<'_>) -> Filter {
    let (place, field, needle) = match key {
        ContentKey::Header(name, needle) => (Where::Header, name, needle),
        ContentKey::Body(needle) => (Where::Body, "", needle),
        ContentKey::Text(needle) => (Where::Text, "", needle),
    };
    Filter { r#where: place.into(), field: field.to_owned(), text: needle.as_str().to_owned() }
}

fn matches(key: &Key, message: &Message, flags: &imap::Flags) -> bool {
    let mut facts = Facts::new(message.uid, flags, message.internal_date_ms, message.size.into(), message.modseq);
    facts.header = &message.header;
    facts.body = &message.body;
    // The client sees ids with a letter before them.
    let (email_id, thread_id);
    if !message.email_id.is_empty() {
        email_id = format!("M{}", message.email_id);
        facts.email_id = &email_id;
    }
    if let Some(structure) = message.structure.as_ref().filter(|s| !s.thread_id.is_empty()) {
        thread_id = format!("T{}", structure.thread_id);
        facts.thread_id = &thread_id;
    }
    facts.save_date_ms = message.save_date_ms;
    key.matches(&facts)
}
