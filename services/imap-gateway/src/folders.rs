//! The mailboxes of an account: LIST, LSUB, STATUS, CREATE and their kin (RFC 9051 §6.3).

use imap::{ListCommand, StatusItem, list::Entry, respond};
use proto::mailboxes::{
    CreateRequest, DeleteRequest, ListRequest, MailboxState, RenameRequest, StatusRequest, SubscribeRequest,
};

use crate::{
    failure::{Failure, Outcome},
    session::Session,
};

impl Session {
    pub(crate) async fn create(&mut self, account_id: u64, name: String, special_use: Option<String>) -> Outcome {
        let special_use = special_use.unwrap_or_default();
        let request = CreateRequest { account_id, name: trimmed(name), special_use };
        let made = self.mailboxes().create(request).await?.into_inner();
        // RFC 8474 §4.1.
        Ok(format!("OK [MAILBOXID (F{})] Create completed.", made.mailbox_id))
    }

    pub(crate) async fn delete(&mut self, account_id: u64, name: String) -> Outcome {
        let is_selected = self.selected.as_ref().is_some_and(|s| s.name == name);
        self.mailboxes().delete(DeleteRequest { account_id, name }).await?;
        if is_selected {
            self.selected = None;
        }
        Ok("OK Delete completed.".into())
    }

    pub(crate) async fn rename(&mut self, account_id: u64, from: String, to: String) -> Outcome {
        self.mailboxes().rename(RenameRequest { account_id, from, to: trimmed(to) }).await?;
        Ok("OK Rename completed.".into())
    }

    pub(crate) async fn subscribe(&mut self, account_id: u64, name: String, subscribed: bool) -> Outcome {
        self.mailboxes().subscribe(SubscribeRequest { account_id, name: trimmed(name), subscribed }).await?;
        Ok(if subscribed { "OK Subscribe completed." } else { "OK Unsubscribe completed." }.into())
    }

    pub(crate) async fn list(&mut self, account_id: u64, command: ListCommand) -> Outcome {
        let entries = self.entries(account_id).await?;
        let listed = imap::list::list(&command, &entries, self.utf8_names(), &mut self.wire.out);
        if let Some(items) = &command.returns.status
            && !listed.is_empty()
        {
            let answer = self
                .mailboxes()
                .status(StatusRequest { account_id, names: listed, details: has_details(items) })
                .await?
                .into_inner();
            for named in answer.states {
                self.write_status(&named.name, &named.state.unwrap_or_default(), items);
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
        let request = StatusRequest { account_id, names: vec![name.clone()], details: has_details(items) };
        let state = self.mailboxes().status(request).await?.into_inner().states.into_iter().find_map(|n| n.state);
        let state = state.ok_or(Failure::no("NONEXISTENT", "No such mailbox."))?;
        self.write_status(&name, &state, items);
        Ok("OK Status completed.".into())
    }

    /// `None` when there is no such mailbox.
    pub(crate) async fn state_of(&self, account_id: u64, name: String) -> Result<Option<MailboxState>, Failure> {
        let answer = self
            .mailboxes()
            .status(StatusRequest { account_id, names: vec![name], details: false })
            .await?
            .into_inner();
        Ok(answer.states.into_iter().next().and_then(|named| named.state))
    }

    fn write_status(&mut self, name: &str, state: &MailboxState, items: &[StatusItem]) {
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
        let answer = self.mailboxes().list(ListRequest { account_id }).await?.into_inner();
        let entry = |m: proto::mailboxes::Mailbox| Entry {
            name: m.name,
            special_use: m.special_use,
            subscribed: m.subscribed,
            exists: true,
        };
        Ok(answer.mailboxes.into_iter().map(entry).collect())
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
