//! The selected mailbox: SELECT, what changes in it, CLOSE (RFC 9051 §6.3.2, §7.5).

use std::{
    collections::{BTreeSet, HashMap},
    io,
    time::{Duration, Instant},
};

use imap::{Flags, UidRanges, View, respond};
use proto::mailboxes::{ChangesRequest, ExpungeRequest, Message, SelectRequest, UidRange};

use crate::{
    failure::{Failure, Outcome},
    session::Session,
};

/// Changes that others make are looked for at most so often, beside the commands that ask.
const STALE: Duration = Duration::from_secs(1);

pub(crate) struct Selected {
    pub mailbox_id: u64,
    pub name: String,
    pub read_only: bool,
    pub view: View,
    /// Changes up to this mod-sequence are known.
    since: u64,
    /// Our own changes since then, UID to mod-sequence: the client knows them already.
    own: HashMap<u32, u64>,
    /// Keywords that FLAGS has told.
    keywords: BTreeSet<String>,
    looked: Instant,
}

impl Selected {
    /// Remembers that the client was told of a change which Changes will report too.
    pub fn know(&mut self, uid: u32, modseq: u64) {
        self.own.insert(uid, modseq);
    }

    /// Tells FLAGS again when a keyword is new (RFC 9051 §7.3.5).
    pub fn learn_keywords(&mut self, flags: &Flags, out: &mut Vec<u8>) {
        let before = self.keywords.len();
        self.keywords.extend(flags.keywords.iter().cloned());
        if self.keywords.len() > before {
            let all: Vec<String> = self.keywords.iter().cloned().collect();
            respond::flag_lists(out, &all, self.read_only);
        }
    }
}

impl Session {
    pub(crate) async fn select(&mut self, account_id: u64, name: String, read_only: bool) -> Outcome {
        if self.selected.take().is_some() {
            // RFC 7162 §3.2.11.
            respond::line(&mut self.wire.out, "*", "OK [CLOSED] Previous mailbox is closed.");
        }
        let timeout = self.gateway.config.call_timeout();
        let request = SelectRequest { account_id, name: name.clone() };
        let mut answers = self.mailboxes().select(request).await?.into_inner();
        let mut state = None;
        let (mut uids, mut keywords) = (Vec::new(), Vec::new());
        while let Some(answer) = tokio::time::timeout(timeout, answers.message()).await.map_err(slow)?? {
            state = state.or(answer.state);
            keywords.extend(answer.keywords);
            uids.extend(answer.uids);
        }
        let state = state.ok_or(Failure::no("UNAVAILABLE", "Temporary failure, try again later."))?;
        let selected = Selected {
            mailbox_id: state.mailbox_id,
            name,
            read_only,
            view: View::new(uids),
            since: state.highest_modseq,
            own: HashMap::new(),
            keywords: keywords.into_iter().collect(),
            looked: Instant::now(),
        };
        let out = &mut self.wire.out;
        let keywords: Vec<String> = selected.keywords.iter().cloned().collect();
        respond::flag_lists(out, &keywords, read_only);
        respond::numbered(out, selected.view.exists(), "EXISTS");
        if self.rev2 {
            respond::list(out, "LIST", &[], &selected.name, true, false);
        } else {
            respond::numbered(out, 0, "RECENT");
        }
        respond::line(out, "*", format_args!("OK [UIDVALIDITY {}] UIDs are valid.", state.uid_validity));
        respond::line(out, "*", format_args!("OK [UIDNEXT {}] Predicted next UID.", state.uid_next));
        respond::line(out, "*", format_args!("OK [HIGHESTMODSEQ {}] Highest.", state.highest_modseq.max(1)));
        self.selected = Some(selected);
        Ok(if read_only { "OK [READ-ONLY] Examine completed." } else { "OK [READ-WRITE] Select completed." }.into())
    }

    /// CLOSE expunges without telling (RFC 9051 §6.4.2).
    pub(crate) async fn close(&mut self, account_id: u64) -> Outcome {
        let Some(selected) = &self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        if !selected.read_only {
            let request = ExpungeRequest { account_id, mailbox_id: selected.mailbox_id, ..ExpungeRequest::default() };
            self.mailboxes().expunge(request).await?;
        }
        self.selected = None;
        Ok("OK Close completed.".into())
    }

    /// Looks for changes when the last look is some time ago; what vanished is told when allowed.
    /// Fails only when the session cannot go on.
    pub(crate) async fn refresh_when_stale(&mut self, may_expunge: bool) -> Result<(), Failure> {
        let Some(selected) = &mut self.selected else { return Ok(()) };
        if selected.looked.elapsed() >= STALE {
            return only_gone(self.refresh(may_expunge).await);
        }
        if may_expunge {
            selected.view.expunge(&mut self.wire.out);
        }
        Ok(())
    }

    /// Asks what has changed and tells the client. Without `may_expunge` what vanished stays for
    /// later.
    pub(crate) async fn refresh(&mut self, may_expunge: bool) -> Result<(), Failure> {
        let Some(account_id) = self.account else { return Ok(()) };
        let Some((mailbox_id, since_modseq)) = self.selected.as_ref().map(|s| (s.mailbox_id, s.since)) else {
            return Ok(());
        };
        let answer = self.mailboxes().changes(ChangesRequest { account_id, mailbox_id, since_modseq }).await;
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == tonic::Code::NotFound => {
                // Deleted by another session: nothing that this one holds is true any more.
                respond::line(&mut self.wire.out, "*", "BYE Selected mailbox was deleted.");
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "selected mailbox was deleted").into());
            }
            Err(status) => return Err(status.into()),
        };
        let Some(selected) = &mut self.selected else { return Ok(()) };
        let out = &mut self.wire.out;
        selected.looked = Instant::now();
        if let Some(state) = answer.state {
            selected.since = selected.since.max(state.highest_modseq);
        }
        for range in answer.vanished {
            selected.view.vanish(range.first, range.last);
        }
        if may_expunge {
            selected.view.expunge(out);
        }
        let own = std::mem::take(&mut selected.own);
        let mut grown = false;
        let mut changed = Vec::new();
        for message in answer.messages {
            if selected.view.learn(message.uid) {
                grown = true;
            } else if own.get(&message.uid) != Some(&message.modseq) {
                changed.push(message);
            }
        }
        if grown {
            respond::numbered(out, selected.view.exists(), "EXISTS");
            if !self.rev2 {
                respond::numbered(out, 0, "RECENT");
            }
        }
        for message in changed {
            let Some(seq) = selected.view.seq_of(message.uid) else { continue };
            let flags = flags_of(&message);
            selected.learn_keywords(&flags, out);
            let mut fetch = respond::Fetch::begin(out, seq);
            fetch.uid(message.uid);
            fetch.flags(&flags);
            if self.condstore {
                fetch.modseq(message.modseq);
            }
            fetch.end();
        }
        self.wire.flush_some().await?;
        Ok(())
    }
}

/// An mda that is away is no matter of a command that succeeded without it.
pub(crate) fn only_gone(refreshed: Result<(), Failure>) -> Result<(), Failure> {
    match refreshed {
        Err(Failure::Gone(e)) => Err(Failure::Gone(e)),
        _ => Ok(()),
    }
}

pub(crate) fn flags_of(message: &Message) -> Flags {
    let flags = message.flags.clone().unwrap_or_default();
    Flags { system: flags.system, keywords: flags.keywords }
}

pub(crate) fn to_proto(ranges: &UidRanges) -> Vec<UidRange> {
    ranges.as_slice().iter().map(|(first, last)| UidRange { first: *first, last: *last }).collect()
}

/// A stream that stopped.
pub(crate) fn slow(_: tokio::time::error::Elapsed) -> tonic::Status {
    tonic::Status::unavailable("no answer in time")
}
