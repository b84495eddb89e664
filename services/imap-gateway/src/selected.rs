//! The selected mailbox: SELECT, what changes in it, CLOSE (RFC 9051 §6.3.2, §7.5).

use std::{
    collections::{BTreeMap, HashMap},
    io,
    time::{Duration, Instant},
};

use imap::{
    Flags, Qresync, UidRanges, View,
    respond::{self, Permanent},
};
use proto::mailboxes::{
    ChangesRequest, ChangesResponse, ExpungeRequest, Message, SelectRequest, SelectResponse, UidRange,
};
use tonic::Streaming;

use crate::{
    failure::{Failure, Outcome},
    session::Session,
};

/// Changes that others make are looked for at most so often, beside the commands that ask.
const STALE: Duration = Duration::from_secs(1);
/// A look waits so long for its turn.
const TURN: Duration = Duration::from_secs(1);

pub(crate) struct Selected {
    /// Whose it is.
    pub owner: u64,
    /// What may be done in it (RFC 4314).
    pub rights: String,
    pub mailbox_id: u64,
    pub name: String,
    pub read_only: bool,
    pub view: View,
    /// Changes up to this mod-sequence are known.
    since: u64,
    /// Our own changes since then, UID to mod-sequence: the client knows them already.
    own: HashMap<u32, u64>,
    /// Keywords that FLAGS has told: they do not know case, but have a spelling.
    keywords: BTreeMap<String, String>,
    /// Messages that this session is the first to be told of (RFC 3501 §2.3.2), ascending.
    recent: Vec<(u32, u32)>,
    looked: Instant,
    /// The list, when SELECT was answered before it is there ([`Session::arrive`]).
    coming: Option<Box<Coming>>,
}

/// What has been read of a mailbox's list, and the rest of it.
struct Coming {
    answers: Streaming<SelectResponse>,
    timeout: Duration,
    uids: Vec<u32>,
    keywords: Vec<String>,
    first_recent: u32,
}

impl Coming {
    async fn next(&mut self) -> Result<Option<SelectResponse>, tonic::Status> {
        tokio::time::timeout(self.timeout, self.answers.message()).await.map_err(slow)?
    }

    fn take(&mut self, answer: SelectResponse) {
        self.uids.extend(answer.uids);
        self.keywords.extend(answer.keywords);
    }
}

impl Selected {
    pub fn is_coming(&self) -> bool {
        self.coming.is_some()
    }

    /// `false` when no keyword is new.
    fn add_keywords(&mut self, keywords: &[String]) -> bool {
        let before = self.keywords.len();
        for keyword in keywords {
            self.keywords.entry(keyword.to_ascii_lowercase()).or_insert_with(|| keyword.clone());
        }
        self.keywords.len() > before
    }

    /// Remembers that the client was told of a change which Changes will report too.
    pub fn know(&mut self, uid: u32, modseq: u64) {
        self.own.insert(uid, modseq);
    }

    /// Tells FLAGS again when a keyword is new (RFC 9051 §7.3.5).
    pub fn learn_keywords(&mut self, flags: &Flags, out: &mut Vec<u8>) {
        if self.add_keywords(&flags.keywords) {
            respond::flag_lists(out, &self.known_keywords(), self.permanent());
        }
    }

    fn permanent(&self) -> Permanent {
        if self.read_only { Permanent::NONE } else { Permanent::by(&self.rights) }
    }

    /// Whether reading a message may set \\Seen.
    pub fn may_see(&self) -> bool {
        !self.read_only && self.rights.contains('s')
    }

    fn known_keywords(&self) -> Vec<String> {
        self.keywords.values().cloned().collect()
    }

    /// With \Recent, if it is.
    pub fn flags_of(&self, message: &Message) -> Flags {
        let flags = message.flags.clone().unwrap_or_default();
        let recent = if self.is_recent(message.uid) { Flags::RECENT } else { 0 };
        Flags { system: flags.system | recent, keywords: flags.keywords }
    }

    fn is_recent(&self, uid: u32) -> bool {
        let after = self.recent.partition_point(|(first, _)| *first <= uid);
        after.checked_sub(1).and_then(|at| self.recent.get(at)).is_some_and(|(_, last)| uid <= *last)
    }

    /// From `first` to the newest message that is known.
    fn add_recent(&mut self, first: u32) {
        let last = self.view.last_uid();
        if first > 0 && first <= last {
            match self.recent.last_mut() {
                Some(range) if range.1 + 1 >= first => range.1 = last,
                _ => self.recent.push((first, last)),
            }
        }
    }

    fn recent_count(&self) -> u32 {
        let uids = self.view.uids();
        let within =
            |(first, last): &(u32, u32)| uids.partition_point(|u| u <= last) - uids.partition_point(|u| u < first);
        u32::try_from(self.recent.iter().map(within).sum::<usize>()).unwrap_or(u32::MAX)
    }
}

/// The beginning of an untagged FETCH, or UIDFETCH (RFC 9586 §3.2), which needs no UID beside.
pub(crate) fn begin_fetch(out: &mut Vec<u8>, uid_only: bool, seq: u32, uid: u32, with_uid: bool) -> respond::Fetch<'_> {
    if uid_only {
        return respond::Fetch::begin_uid(out, uid);
    }
    let mut fetch = respond::Fetch::begin(out, seq);
    if with_uid {
        fetch.uid(uid);
    }
    fetch
}

impl Session {
    pub(crate) async fn select(
        &mut self,
        account_id: u64,
        name: String,
        read_only: bool,
        qresync: Option<Qresync>,
    ) -> Outcome {
        if self.selected.take().is_some() {
            // RFC 7162 §3.2.11.
            respond::line(&mut self.wire.out, "*", "OK [CLOSED] Previous mailbox is closed.");
        }
        let place = self.place(account_id, &name).await?;
        let rights = self.rights(account_id, &place).await?;
        // RFC 4314 §4: who may change nothing has it read-only.
        let read_only = read_only || !rights.contains(['i', 's', 'w', 't', 'e']);
        let claim_recent = !read_only && !self.rev2 && place.owner == account_id;
        let request = SelectRequest { account_id: place.owner, name: place.name, claim_recent };
        let answers = self.mailboxes().select(self.asking(request)).await?.into_inner();
        let timeout = self.gateway.config.call_timeout();
        let mut coming = Coming { answers, timeout, uids: Vec::new(), keywords: Vec::new(), first_recent: 0 };
        let unavailable = || Failure::no("UNAVAILABLE", "Temporary failure, try again later.");
        let mut first = coming.next().await?.ok_or_else(unavailable)?;
        let state = first.state.take().ok_or_else(unavailable)?;
        coming.first_recent = first.first_recent;
        let first_unseen = first.first_unseen;
        coming.uids.reserve_exact(state.messages as usize);
        let is_large = first.uids.is_empty() && state.messages > 0;
        coming.take(first);
        self.selected = Some(Selected {
            owner: place.owner,
            rights,
            mailbox_id: state.mailbox_id,
            name,
            read_only,
            view: View::new(Vec::new()),
            since: state.highest_modseq,
            own: HashMap::new(),
            keywords: BTreeMap::new(),
            recent: Vec::new(),
            looked: Instant::now(),
            coming: Some(Box::new(coming)),
        });
        let qresync = qresync.filter(|q| q.uid_validity == state.uid_validity);
        // Of a large mailbox the client is told while its list is still read.
        if !is_large || qresync.is_some() {
            self.list_selected().await.inspect_err(|_| self.selected = None)?;
        }
        let utf8 = self.utf8_names();
        let Some(selected) = &self.selected else { return Err(unavailable()) };
        let out = &mut self.wire.out;
        respond::flag_lists(out, &selected.known_keywords(), selected.permanent());
        let (exists, recent) = match selected.coming {
            Some(_) => (state.messages, state.recent),
            None => (selected.view.exists(), selected.recent_count()),
        };
        respond::numbered(out, exists, "EXISTS");
        if self.rev2 {
            respond::list(out, "LIST", &[], &selected.name, utf8, false);
        } else {
            respond::numbered(out, recent, "RECENT");
            // RFC 3501 §6.3.1; of a large mailbox whose list is still to come nobody knows it yet.
            if let Some(seq) = selected.view.seq_of(first_unseen) {
                respond::line(out, "*", format_args!("OK [UNSEEN {seq}] First unseen."));
            }
        }
        respond::line(out, "*", format_args!("OK [UIDVALIDITY {}] UIDs are valid.", state.uid_validity));
        respond::line(out, "*", format_args!("OK [UIDNEXT {}] Predicted next UID.", state.uid_next));
        respond::line(out, "*", format_args!("OK [HIGHESTMODSEQ {}] Highest.", state.highest_modseq.max(1)));
        // RFC 8474 §4.2.
        respond::line(out, "*", format_args!("OK [MAILBOXID (F{})] Unique.", state.mailbox_id));
        if let Some(qresync) = qresync {
            self.resynchronize(place.owner, &qresync).await?;
        }
        Ok(if read_only { "OK [READ-ONLY] Examine completed." } else { "OK [READ-WRITE] Select completed." }.into())
    }

    /// Reads what is still to come of the list.
    async fn list_selected(&mut self) -> Result<bool, tonic::Status> {
        let Some(selected) = &mut self.selected else { return Ok(false) };
        let Some(mut coming) = selected.coming.take() else { return Ok(false) };
        while let Some(answer) = coming.next().await? {
            coming.take(answer);
        }
        selected.view = View::new(coming.uids);
        selected.add_recent(coming.first_recent);
        Ok(selected.add_keywords(&coming.keywords))
    }

    /// After SELECT has been answered, and before anything else: the list of a large mailbox.
    pub(crate) async fn arrive(&mut self) -> Result<(), tonic::Status> {
        if self.list_selected().await?
            && let Some(selected) = &self.selected
        {
            respond::flag_lists(&mut self.wire.out, &selected.known_keywords(), selected.permanent());
        }
        Ok(())
    }

    /// What has changed since the client's last session (RFC 7162 §3.2.5), of what it has.
    async fn resynchronize(&mut self, account_id: u64, client: &Qresync) -> Result<(), Failure> {
        let changes = self.changes(account_id, client.modseq).await?;
        let Some(selected) = &self.selected else { return Ok(()) };
        let gone = selected.view.missing(client.known.as_ref(), &from_proto(&changes.vanished));
        respond::vanished(&mut self.wire.out, &gone, true);
        let known = client.known.as_ref().and_then(|set| selected.view.resolve(set, true));
        for message in &changes.messages {
            let is_known = known.as_ref().is_none_or(|k| k.contains(message.uid));
            let Some(seq) = selected.view.seq_of(message.uid).filter(|_| is_known) else { continue };
            let mut fetch = begin_fetch(&mut self.wire.out, self.uid_only, seq, message.uid, true);
            fetch.flags(&selected.flags_of(message));
            fetch.modseq(message.modseq);
            fetch.end();
        }
        Ok(())
    }

    /// Since any mod-sequence; does not move what the session knows.
    pub(crate) async fn changes(&self, account_id: u64, since_modseq: u64) -> Result<ChangesResponse, Failure> {
        let Some(selected) = &self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        let request = ChangesRequest { account_id, mailbox_id: selected.mailbox_id, since_modseq, claim_recent: false };
        Ok(self.mailboxes().changes(self.asking(request)).await?.into_inner())
    }

    /// CLOSE expunges without telling (RFC 9051 §6.4.2).
    pub(crate) async fn close(&mut self, account_id: u64) -> Outcome {
        let Some(selected) = &self.selected else { return Err(Failure::Bad("Select a mailbox first.")) };
        // Without the right CLOSE closes all the same (RFC 4314 §4).
        if !selected.read_only && selected.rights.contains('e') {
            let request = ExpungeRequest { account_id, mailbox_id: selected.mailbox_id, ..ExpungeRequest::default() };
            self.mailboxes().expunge(self.asking(request)).await?;
        }
        self.selected = None;
        Ok("OK Close completed.".into())
    }

    /// Looks for changes when the last look is some time ago; what vanished is told when allowed.
    /// Fails only when the session cannot go on.
    pub(crate) async fn refresh_when_stale(&mut self, may_expunge: bool) -> Result<(), Failure> {
        let by_uid = self.by_uid();
        let Some(selected) = &mut self.selected else { return Ok(()) };
        if selected.looked.elapsed() >= STALE {
            return only_gone(self.refresh(may_expunge).await);
        }
        if may_expunge {
            selected.view.expunge(&mut self.wire.out, by_uid);
        }
        Ok(())
    }

    /// In turn, or without one when others take too long.
    async fn look(&self, request: ChangesRequest) -> Result<ChangesResponse, tonic::Status> {
        let _turn = tokio::time::timeout(TURN, self.gateway.looks.acquire()).await;
        Ok(self.mailboxes().changes(self.asking(request)).await?.into_inner())
    }

    /// Asks what has changed and tells the client. Without `may_expunge` what vanished stays for
    /// later.
    pub(crate) async fn refresh(&mut self, may_expunge: bool) -> Result<(), Failure> {
        let (rev2, by_uid) = (self.rev2, self.by_uid());
        let Some(selected) = &self.selected else { return Ok(()) };
        let request = ChangesRequest {
            account_id: selected.owner,
            mailbox_id: selected.mailbox_id,
            since_modseq: selected.since,
            claim_recent: !selected.read_only && !rev2 && self.account == Some(selected.owner),
        };
        let answer = match self.look(request).await {
            Ok(answer) => answer,
            Err(status) if status.code() == tonic::Code::NotFound => {
                // Deleted by another session, or not ours to read any more: nothing that this one holds is true.
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
            selected.view.expunge(out, by_uid);
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
            selected.add_recent(answer.first_recent);
            respond::numbered(out, selected.view.exists(), "EXISTS");
            if !rev2 {
                respond::numbered(out, selected.recent_count(), "RECENT");
            }
        }
        for message in changed {
            let Some(seq) = selected.view.seq_of(message.uid) else { continue };
            let flags = selected.flags_of(&message);
            selected.learn_keywords(&flags, out);
            let mut fetch = begin_fetch(out, self.uid_only, seq, message.uid, true);
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

pub(crate) fn to_proto(ranges: &UidRanges) -> Vec<UidRange> {
    ranges.as_slice().iter().map(|(first, last)| UidRange { first: *first, last: *last }).collect()
}

pub(crate) fn from_proto(ranges: &[UidRange]) -> UidRanges {
    UidRanges::new(ranges.iter().map(|r| (r.first, r.last)).collect())
}

/// A stream that stopped.
pub(crate) fn slow(_: tokio::time::error::Elapsed) -> tonic::Status {
    tonic::Status::unavailable("no answer in time")
}
