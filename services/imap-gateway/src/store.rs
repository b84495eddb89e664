//! STORE, COPY, MOVE, EXPUNGE (RFC 9051 §6.4).

use imap::{Flags, SequenceSet, StoreMode, UidRanges, respond};
use proto::mailboxes::{CopyRequest, ExpungeRequest, StoreRequest, store_request::Mode};

use crate::{
    failure::{Failure, Outcome},
    selected::{begin_fetch, to_proto},
    session::Session,
};

/// What STORE wants of each message.
pub(crate) struct Change {
    pub unchanged_since: Option<u64>,
    pub mode: StoreMode,
    pub silent: bool,
    pub flags: Flags,
}

impl Session {
    /// The mailbox and the UIDs of a set, for commands that change something.
    fn to_change(&self, set: &SequenceSet, uid: bool) -> Result<(u64, UidRanges), Failure> {
        let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
        if selected.read_only {
            return Err(Failure::no("CANNOT", "Mailbox is opened read-only."));
        }
        let uids = selected.view.resolve(set, uid).ok_or(Failure::Bad("No such message."))?;
        Ok((selected.mailbox_id, uids))
    }

    pub(crate) async fn store(&mut self, account_id: u64, uid: bool, set: &SequenceSet, change: Change) -> Outcome {
        self.condstore |= change.unchanged_since.is_some();
        let (mailbox_id, uids) = self.to_change(set, uid)?;
        if uids.is_empty() {
            return Ok("OK Store completed.".into());
        }
        let request = StoreRequest {
            account_id,
            mailbox_id,
            uids: to_proto(&uids),
            mode: match change.mode {
                StoreMode::Replace => Mode::Replace,
                StoreMode::Add => Mode::Add,
                StoreMode::Remove => Mode::Remove,
            }
            .into(),
            flags: Some(proto::mailboxes::Flags { system: change.flags.system, keywords: change.flags.keywords }),
            unchanged_since: change.unchanged_since,
        };
        let answer = self.mailboxes().store(self.asking(request)).await?.into_inner();
        let uid_only = self.uid_only;
        let Some(selected) = &mut self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        let out = &mut self.wire.out;
        for message in &answer.messages {
            let Some(seq) = selected.view.seq_of(message.uid) else { continue };
            selected.know(message.uid, message.modseq);
            let flags = selected.flags_of(message);
            selected.learn_keywords(&flags, out);
            // Silence is about flags; who follows mod-sequences wants them (RFC 7162 §3.1.3).
            if change.silent && !self.condstore {
                continue;
            }
            let mut fetch = begin_fetch(out, uid_only, seq, message.uid, uid || self.condstore);
            if !change.silent {
                fetch.flags(&flags);
            }
            if self.condstore {
                fetch.modseq(message.modseq);
            }
            fetch.end();
        }
        if answer.modified.is_empty() {
            return Ok("OK Store completed.".into());
        }
        let failed = UidRanges::new(answer.modified.iter().map(|r| (r.first, r.last)).collect());
        let failed = if uid {
            failed
        } else {
            let known = selected.view.uids().iter().filter(|u| failed.contains(**u));
            UidRanges::from_numbers(known.filter_map(|u| selected.view.seq_of(*u)))
        };
        Ok(format!("OK [MODIFIED {failed}] Some messages had changed."))
    }

    pub(crate) async fn copy(
        &mut self,
        account_id: u64,
        uid: bool,
        set: &SequenceSet,
        target: String,
        remove: bool,
    ) -> Outcome {
        let (mailbox_id, uids) = if remove {
            self.to_change(set, uid)?
        } else {
            let selected = self.selected.as_ref().ok_or(Failure::Bad("Select a mailbox first."))?;
            (selected.mailbox_id, selected.view.resolve(set, uid).ok_or(Failure::Bad("No such message."))?)
        };
        let done = if remove { "Move completed." } else { "Copy completed." };
        if uids.is_empty() {
            return Ok(format!("OK {done}"));
        }
        let place = self.place(self.account.unwrap_or(account_id), &target).await?;
        let request = CopyRequest {
            account_id,
            mailbox_id,
            uids: to_proto(&uids),
            target: place.name,
            r#move: remove,
            target_account_id: place.owner,
        };
        let answer =
            self.mailboxes().copy(self.asking(request)).await.map_err(|s| Failure::of_target(&s))?.into_inner();
        if answer.source_uids.is_empty() {
            return Ok(format!("OK {done}"));
        }
        let from = UidRanges::from_numbers(answer.source_uids.iter().copied());
        let to = UidRanges::from_numbers(answer.target_uids.iter().copied());
        let code = format!("[COPYUID {} {from} {to}]", answer.uid_validity);
        if !remove {
            return Ok(format!("OK {code} {done}"));
        }
        // RFC 6851 §4.3: COPYUID comes before the EXPUNGEs, so not in the tagged response.
        respond::line(&mut self.wire.out, "*", format_args!("OK {code} Moved."));
        let by_uid = self.by_uid();
        if let Some(selected) = &mut self.selected {
            for (first, last) in from.as_slice() {
                selected.view.vanish(*first, *last);
            }
            selected.view.expunge(&mut self.wire.out, by_uid);
        }
        if self.condstore {
            // RFC 7162 §3.2.10: the client must not have to guess it.
            return Ok(format!("OK [HIGHESTMODSEQ {}] {done}", answer.highest_modseq));
        }
        Ok(format!("OK {done}"))
    }

    /// EXPUNGE, or UID EXPUNGE with a set.
    pub(crate) async fn expunge(&mut self, account_id: u64, set: Option<SequenceSet>) -> Outcome {
        let all = SequenceSet::Ranges(Vec::new());
        let (mailbox_id, uids) = self.to_change(set.as_ref().unwrap_or(&all), true)?;
        if set.is_some() && uids.is_empty() {
            // No UIDs in the request would mean all of them.
            return Ok("OK Expunge completed.".into());
        }
        let request = ExpungeRequest { account_id, mailbox_id, uids: to_proto(&uids), regardless: false };
        let answer = self.mailboxes().expunge(self.asking(request)).await?.into_inner();
        let by_uid = self.by_uid();
        let Some(selected) = &mut self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        for range in &answer.expunged {
            selected.view.vanish(range.first, range.last);
        }
        selected.view.expunge(&mut self.wire.out, by_uid);
        if self.condstore && !answer.expunged.is_empty() {
            return Ok(format!("OK [HIGHESTMODSEQ {}] Expunge completed.", answer.highest_modseq));
        }
        Ok("OK Expunge completed.".into())
    }
}
