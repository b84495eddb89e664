//! NOTIFY (RFC 5465): tells of many mailboxes, also without IDLE.

use std::collections::BTreeMap;

use imap::{
    Bound, SequenceSet, StatusItem,
    notify::{EVENTS, Events, Filter, Group, Notify},
    respond,
};
use proto::mailboxes::{ListRequest, MailboxState, StatusRequest, WatchResponse};
use tokio::time::Instant;
use tonic::Streaming;

use crate::{
    failure::{Failure, Outcome},
    fetch::Range,
    selected::only_gone,
    session::Session,
};

/// What a client hears of, and what it has heard.
pub(crate) struct Notified {
    groups: Vec<Group>,
    /// By mailbox id, so that a renamed one is known again.
    known: BTreeMap<u64, Known>,
    /// `None` when it is lost: then a look now and then has to do.
    pub watch: Option<Streaming<WatchResponse>>,
    /// Something has happened that was not told yet.
    pub is_due: bool,
    pub told: Instant,
}

#[derive(Clone, PartialEq)]
struct Known {
    name: String,
    subscribed: bool,
    state: MailboxState,
}

impl Notified {
    fn selected(&self) -> Option<(&Events, bool)> {
        self.groups.iter().find_map(|g| match g.filter {
            Filter::Selected { delayed } => Some((&g.events, delayed)),
            _ => None,
        })
    }

    /// The first group that a mailbox belongs to (RFC 5465 §6).
    fn events_of(&self, mailbox: &Known) -> Events {
        let group = self.groups.iter().find(|g| g.filter.has(&mailbox.name, mailbox.subscribed));
        group.map(|g| g.events.clone()).unwrap_or_default()
    }
}

impl Session {
    pub(crate) async fn notify(&mut self, account_id: u64, command: Notify) -> Outcome {
        let (status, groups) = match command {
            Notify::None => {
                self.notified = None;
                return Ok("OK Notify completed.".into());
            }
            Notify::UnknownEvent => {
                return Err(Failure::No { code: format!("BADEVENT ({EVENTS})").into(), text: "Unknown event.".into() });
            }
            Notify::Set { status, groups } => (status, groups),
        };
        // Watched from before the first look, so that nothing lies between.
        let watch = self.watch(account_id).await;
        let known = self.mailboxes_now(account_id).await?;
        let notified = Notified { groups, known, watch, is_due: false, told: Instant::now() };
        if status {
            for mailbox in notified.known.values() {
                if notified.events_of(mailbox).messages && !self.has_selected(&mailbox.name) {
                    self.write_state(&mailbox.name, &mailbox.state);
                }
            }
        }
        self.notified = Some(Box::new(notified));
        Ok("OK Notify completed.".into())
    }

    /// What has happened since the last time, in all mailboxes that the client asked about.
    pub(crate) async fn tell_notified(&mut self, account_id: u64) -> Result<(), Failure> {
        let Some(notified) = &mut self.notified else { return Ok(()) };
        notified.is_due = false;
        notified.told = Instant::now();
        let about_selected = notified.selected().filter(|(events, _)| events.messages);
        if let Some((items, delayed)) = about_selected.map(|(events, delayed)| (events.items.clone(), delayed)) {
            let before = self.selected.as_ref().map_or(0, |s| s.view.last_uid());
            only_gone(self.refresh(!delayed).await)?;
            let newest = self.selected.as_ref().map_or(0, |s| s.view.last_uid());
            if !items.is_empty() && newest > before {
                let set = SequenceSet::Ranges(vec![(Bound::Number(before + 1), Bound::Number(newest))]);
                let range = Range { uid: true, set, changed_since: None, vanished: false, partial: None };
                let owner = self.selected.as_ref().map_or(account_id, |s| s.owner);
                only_gone(self.fetch(owner, &range, &items).await.map(drop))?;
            }
        }
        match self.mailboxes_now(account_id).await {
            Ok(now) => self.tell_mailboxes(now),
            // There is a next time.
            Err(Failure::Gone(e)) => return Err(Failure::Gone(e)),
            Err(_) => {}
        }
        Ok(())
    }

    fn tell_mailboxes(&mut self, now: BTreeMap<u64, Known>) {
        let Some(mut notified) = self.notified.take() else { return };
        let before = std::mem::replace(&mut notified.known, now);
        let utf8 = self.utf8_names();
        for (id, mailbox) in &notified.known {
            let events = notified.events_of(mailbox);
            let out = &mut self.wire.out;
            match before.get(id) {
                None if events.names => {
                    let attributes: &[&str] = if mailbox.subscribed { &["\\Subscribed"] } else { &[] };
                    respond::list(out, "LIST", attributes, &mailbox.name, utf8, false);
                }
                Some(old) if old.name != mailbox.name && events.names => {
                    respond::list_renamed(out, &mailbox.name, &old.name, utf8);
                }
                Some(old) if old.subscribed != mailbox.subscribed && events.subscriptions => {
                    let attributes: &[&str] = if mailbox.subscribed { &["\\Subscribed"] } else { &[] };
                    respond::list(out, "LIST", attributes, &mailbox.name, utf8, false);
                }
                _ => {}
            }
            let has_changed = before.get(id).is_none_or(|old| differs(&old.state, &mailbox.state, &events));
            if events.messages && has_changed && !self.has_selected(&mailbox.name) {
                self.write_state(&mailbox.name, &mailbox.state);
            }
        }
        for (_, old) in before.iter().filter(|(id, _)| !notified.known.contains_key(id)) {
            // Renaming INBOX leaves an INBOX behind.
            if notified.events_of(old).names && !notified.known.values().any(|m| m.name == old.name) {
                respond::list(&mut self.wire.out, "LIST", &["\\NonExistent"], &old.name, utf8, false);
            }
        }
        self.notified = Some(notified);
    }

    fn has_selected(&self, name: &str) -> bool {
        self.selected.as_ref().is_some_and(|s| s.name == name)
    }

    fn write_state(&mut self, name: &str, state: &MailboxState) {
        use StatusItem::{HighestModSeq, Messages, UidNext, UidValidity, Unseen};
        let mut items = vec![Messages, UidNext, UidValidity, Unseen];
        if self.condstore {
            items.push(HighestModSeq);
        }
        self.write_status(name, state, &items);
    }

    async fn mailboxes_now(&self, account_id: u64) -> Result<BTreeMap<u64, Known>, Failure> {
        let listed = self.mailboxes().list(self.asking(ListRequest { account_id })).await?.into_inner().mailboxes;
        let names = listed.iter().map(|m| m.name.clone()).collect();
        let request = StatusRequest { account_id, names, details: false };
        let states = self.mailboxes().status(self.asking(request)).await?.into_inner().states;
        let known = listed.into_iter().filter_map(|mailbox| {
            let state = states.iter().find(|s| s.name == mailbox.name)?.state?;
            Some((mailbox.mailbox_id, Known { name: mailbox.name, subscribed: mailbox.subscribed, state }))
        });
        Ok(known.collect())
    }
}

/// Whether the client wants to hear of it: without FlagChange only of what comes and goes.
fn differs(old: &MailboxState, new: &MailboxState, events: &Events) -> bool {
    old.uid_next != new.uid_next
        || old.messages != new.messages
        || old.uid_validity != new.uid_validity
        || events.flags && old.highest_modseq != new.highest_modseq
}
