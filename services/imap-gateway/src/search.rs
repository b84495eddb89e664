//! SEARCH (RFC 9051 §6.4.4): candidates come from `mda`, the `imap` crate decides.

use imap::{
    SearchCommand, SearchReturn, UidRanges,
    respond::Found,
    search::{Facts, Key},
};
use proto::mailboxes::FetchRequest;

use crate::{
    failure::{Failure, Outcome},
    selected::{flags_of, slow, to_proto},
    session::Session,
};

/// UID and mod-sequence.
type Hit = (u32, u64);

impl Session {
    pub(crate) async fn search(&mut self, account_id: u64, tag: &str, command: SearchCommand) -> Outcome {
        let is_known = |charset: &String| matches!(charset.as_str(), "UTF-8" | "US-ASCII");
        if command.charset.as_ref().is_some_and(|c| !is_known(c)) {
            return Err(Failure::no("BADCHARSET (US-ASCII UTF-8)", "Unknown charset."));
        }
        self.refresh_when_stale(false).await?;
        let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
        let asks_modseq = command.key.asks_modseq();
        self.condstore |= asks_modseq;
        let key = command.key.resolve(&selected.view).ok_or(Failure::Bad("No such message."))?;
        let hits = self.hits(account_id, &key).await?;
        let returns = command.returns.or_else(|| {
            // IMAP4rev2 has no other answer (RFC 9051 §6.4.4).
            self.rev2.then_some(SearchReturn { all: true, ..SearchReturn::default() })
        });
        let Some(selected) = &mut self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        let hits = match returns {
            Some(returns) if returns.min != returns.max && !returns.all && !returns.count => {
                // Only the end that was asked for counts, for MODSEQ and SAVE too
                // (RFC 7162 §3.1.10, RFC 5182 §2.4).
                let end = if returns.min { hits.first() } else { hits.last() };
                end.copied().into_iter().collect()
            }
            Some(returns) if returns.min && !returns.all && !returns.count && hits.len() > 2 => {
                [hits.first(), hits.last()].into_iter().flatten().copied().collect()
            }
            _ => hits,
        };
        let numbers: Vec<u32> = if command.uid {
            hits.iter().map(|(uid, _)| *uid).collect()
        } else {
            hits.iter().filter_map(|(uid, _)| selected.view.seq_of(*uid)).collect()
        };
        let modseq = if asks_modseq { hits.iter().map(|(_, modseq)| *modseq).max() } else { None };
        let found = Found { tag, uid: command.uid, numbers: &numbers, modseq };
        match returns {
            None => found.write_search(&mut self.wire.out),
            // SAVE alone says nothing (RFC 5182 §2.1).
            Some(SearchReturn { min: false, max: false, all: false, count: false, .. }) => {}
            Some(returns) => found.write_esearch(&mut self.wire.out, returns),
        }
        if returns.is_some_and(|r| r.save) {
            selected.view.save(UidRanges::from_numbers(hits.iter().map(|(uid, _)| *uid)));
        }
        Ok("OK Search completed.".into())
    }

    /// What matches, in ascending order, of the messages that the client knows.
    async fn hits(&self, account_id: u64, key: &Key) -> Result<Vec<Hit>, Failure> {
        let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
        let all = selected.view.all();
        let candidates = key.within().map_or_else(|| all.clone(), |within| within.intersection(&all));
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        if key.is_only_sets() {
            let none = imap::Flags::default();
            let uids = selected.view.uids().iter().copied();
            return Ok(uids.filter(|uid| key.matches(&Facts::new(*uid, &none, 0, 0, 0))).map(|uid| (uid, 0)).collect());
        }
        let needs = key.needs();
        let request = FetchRequest {
            account_id,
            mailbox_id: selected.mailbox_id,
            uids: to_proto(&candidates),
            structure: false,
            header: needs.header,
            body: needs.body,
            changed_since: 0,
        };
        let timeout = self.gateway.config.call_timeout();
        let mut answers = self.mailboxes().fetch(request).await?.into_inner();
        let mut hits = Vec::new();
        while let Some(answer) = tokio::time::timeout(timeout, answers.message()).await.map_err(slow)?? {
            for message in &answer.messages {
                if selected.view.seq_of(message.uid).is_none() {
                    continue;
                }
                let flags = flags_of(message);
                let mut facts =
                    Facts::new(message.uid, &flags, message.internal_date_ms, message.size.into(), message.modseq);
                facts.header = &message.header;
                facts.body = &message.body;
                if key.matches(&facts) {
                    hits.push((message.uid, message.modseq));
                }
                if needs.body {
                    // Decoding takes its time: others have their turn.
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(hits)
    }
}
