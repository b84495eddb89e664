//! The mailboxes of an account: LIST, LSUB, STATUS, CREATE and their kin (RFC 9051 §6.3).

use imap::{ListCommand, StatusItem, list::Entry, respond};
use proto::mailboxes::{
    CreateRequest, DeleteRequest, ListRequest, MailboxState, RenameRequest, StatusRequest, SubscribeRequest,
};

use crate::{
    access::{OTHERS, Place},
    failure::{Failure, Outcome},
    session::Session,
};

impl Session {
    pub(crate) async fn create(&mut self, account_id: u64, name: String, special_use: Option<String>) -> Outcome {
        let special_use = special_use.unwrap_or_default();
        let place = self.place(account_id, &trimmed(name)).await?;
        let request = CreateRequest { account_id: place.owner, name: place.name, special_use };
        let made = self.mailboxes().create(self.asking(request)).await?.into_inner();
        // RFC 8474 §4.1.
        Ok(format!("OK [MAILBOXID (F{})] Create completed.", made.mailbox_id))
    }

    pub(crate) async fn delete(&mut self, account_id: u64, name: String) -> Outcome {
        let is_selected = self.selected.as_ref().is_some_and(|s| s.name == name);
        let place = self.place(account_id, &name).await?;
        let request = DeleteRequest { account_id: place.owner, name: place.name };
        self.mailboxes().delete(self.asking(request)).await?;
        if is_selected {
            self.selected = None;
        }
        Ok("OK Delete completed.".into())
    }

    pub(crate) async fn rename(&mut self, account_id: u64, from: String, to: String) -> Outcome {
        let from = self.place(account_id, &from).await?;
        let to = self.place(account_id, &trimmed(to)).await?;
        if from.owner != to.owner {
            return Err(Failure::no("CANNOT", "A mailbox stays with its owner."));
        }
        let request = RenameRequest { account_id: from.owner, from: from.name, to: to.name };
        self.mailboxes().rename(self.asking(request)).await?;
        Ok("OK Rename completed.".into())
    }

    pub(crate) async fn subscribe(&mut self, account_id: u64, name: String, subscribed: bool) -> Outcome {
        let place = self.place(account_id, &trimmed(name)).await?;
        let request = SubscribeRequest { account_id: place.owner, name: place.name, subscribed };
        self.mailboxes().subscribe(self.asking(request)).await?;
        Ok(if subscribed { "OK Subscribe completed." } else { "OK Unsubscribe completed." }.into())
    }

    pub(crate) async fn list(&mut self, account_id: u64, command: ListCommand) -> Outcome {
        let entries = self.entries(account_id).await?;
        let listed = imap::list::list(&command, &entries, self.utf8_names(), &mut self.wire.out);
        if let Some(items) = &command.returns.status {
            let (others, own): (Vec<String>, Vec<String>) = listed.into_iter().partition(|n| n.starts_with(OTHERS));
            if !own.is_empty() {
                let request = StatusRequest { account_id, names: own, details: has_details(items) };
                let answer = self.mailboxes().status(self.asking(request)).await?.into_inner();
                for named in answer.states {
                    self.write_status(&named.name, &named.state.unwrap_or_default(), items);
                }
            }
            for name in others {
                // One that may be seen but not read has no status (RFC 5819 §2).
                match self.status(account_id, name, items).await {
                    Err(Failure::Gone(e)) => return Err(Failure::Gone(e)),
                    _ => continue,
                }
            }
        }
        Ok("OK List completed.".into())
    }

    pub(crate) async fn lsub(&mut self, account_id: u64, reference: &str, pattern: &str) -> Outcome {
        let entries = self.entries(account_id).await?;
        imap::list::lsub(reference, pattern, &entries, self.utf8_names(), &mut self.wire.out);
        Ok("OK Lsub completed.".into())
    }

    pub(crate) async fn status(&mut self, account_id: u64, name: String, items: &[StatusItem]) -> Outcome {
        if items.contains(&StatusItem::HighestModSeq) {
            self.condstore = true;
        }
        let place = self.place(account_id, &name).await?;
        let request = StatusRequest { account_id: place.owner, names: vec![place.name], details: has_details(items) };
        let state =
            self.mailboxes().status(self.asking(request)).await?.into_inner().states.into_iter().find_map(|n| n.state);
        let state = state.ok_or(Failure::no("NONEXISTENT", "No such mailbox."))?;
        self.write_status(&name, &state, items);
        Ok("OK Status completed.".into())
    }

    /// `None` when there is no such mailbox.
    pub(crate) async fn state_of(&self, account_id: u64, name: String) -> Result<Option<MailboxState>, Failure> {
        let place = self.place(account_id, &name).await?;
        self.state_at(&place).await
    }

    pub(crate) async fn state_at(&self, place: &Place) -> Result<Option<MailboxState>, Failure> {
        let request = StatusRequest { account_id: place.owner, names: vec![place.name.clone()], details: false };
        let answer = self.mailboxes().status(self.asking(request)).await?.into_inner();
        Ok(answer.states.into_iter().next().and_then(|named| named.state))
    }

    pub(crate) fn write_status(&mut self, name: &str, state: &MailboxState, items: &[StatusItem]) {
        let limit = self.gateway.config.max_message_size;
        let value = |item: &StatusItem| match item {
            StatusItem::Messages => state.messages.to_string(),
            StatusItem::Recent => state.recent.to_string(),
            StatusItem::UidNext => state.uid_next.to_string(),
            StatusItem::UidValidity => state.uid_validity.to_string(),
            StatusItem::Unseen => state.unseen.to_string(),
            StatusItem::Deleted => state.deleted.to_string(),
            StatusItem::DeletedStorage => state.deleted_size.to_string(),
            StatusItem::Size => state.size.to_string(),
            StatusItem::HighestModSeq => state.highest_modseq.max(1).to_string(),
            StatusItem::MailboxId => format!("(F{})", state.mailbox_id),
            StatusItem::AppendLimit => limit.to_string(),
        };
        let items: Vec<_> = items.iter().map(|item| (*item, value(item))).collect();
        let utf8 = self.utf8_names();
        respond::status(&mut self.wire.out, name, utf8, &items);
    }

    async fn entries(&self, account_id: u64) -> Result<Vec<Entry>, Failure> {
        let answer = self.mailboxes().list(self.asking(ListRequest { account_id })).await?.into_inner();
        let entry = |m: proto::mailboxes::Mailbox| Entry {
            name: m.name,
            special_use: m.special_use,
            subscribed: m.subscribed,
            exists: true,
        };
        let mut entries: Vec<Entry> = answer.mailboxes.into_iter().map(entry).collect();
        entries.extend(self.shared_entries(account_id).await?);
        Ok(entries)
    }
}

/// Whether an item costs more than a look at the counters.
fn has_details(items: &[StatusItem]) -> bool {
    items.iter().any(|i| matches!(i, StatusItem::Recent | StatusItem::DeletedStorage))
}

/// A client may say that it means to create children (RFC 9051 §6.3.4).
fn trimmed(name: String) -> String {
    match name.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => shorter.to_owned(),
        _ => name,
    }
}
