//! Other users' mailboxes, and the rights in one's own (RFC 4314, RFC 2342).
//!
//! `Other Users/alice@example.com/Work` is Alice's `Work`. `mda` decides what is allowed, by the
//! account that asks; nothing here is more than words.

use imap::{RIGHTS, StoreMode, list::Entry, respond, shown_rights};
use proto::mailboxes::{GetAclRequest, ListSharedRequest, SetAclRequest, SharedMailbox, set_acl_request::Mode};
use tonic::{Code, Request};

use crate::{
    failure::{Failure, Outcome},
    session::Session,
};

pub(crate) const OTHERS: &str = "Other Users/";

/// Whose a mailbox is, and how its owner names it.
pub(crate) struct Place {
    pub owner: u64,
    pub name: String,
}

impl Session {
    /// A call that says who asks.
    pub(crate) fn asking<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(account) = self.account {
            request.metadata_mut().insert(proto::ACTOR, account.into());
        }
        request
    }

    async fn shared(&self, account_id: u64) -> Result<Vec<SharedMailbox>, Failure> {
        match self.mailboxes().list_shared(self.asking(ListSharedRequest { account_id })).await {
            Ok(answer) => Ok(answer.into_inner().mailboxes),
            // An older mda shares nothing.
            Err(status) if status.code() == Code::Unimplemented => Ok(Vec::new()),
            Err(status) => Err(status.into()),
        }
    }

    /// Where a name leads. Names of others that share nothing lead nowhere.
    pub(crate) async fn place(&self, account_id: u64, name: &str) -> Result<Place, Failure> {
        let Some(rest) = name.strip_prefix(OTHERS) else {
            return Ok(Place { owner: account_id, name: name.to_owned() });
        };
        let nowhere = Failure::no("NONEXISTENT", "No such mailbox.");
        let Some((owner, inner)) = rest.split_once('/') else { return Err(nowhere) };
        let inner = if inner.eq_ignore_ascii_case("INBOX") { "INBOX" } else { inner };
        let shared = self.shared(account_id).await?;
        let found = shared.iter().find(|m| m.owner.eq_ignore_ascii_case(owner)).ok_or(nowhere)?;
        Ok(Place { owner: found.owner_id, name: inner.to_owned() })
    }

    /// The letters of what may be done there; all of them for the owner.
    pub(crate) async fn rights(&self, account_id: u64, place: &Place) -> Result<String, Failure> {
        if place.owner == account_id {
            return Ok(RIGHTS.to_owned());
        }
        let shared = self.shared(account_id).await?;
        let is_it = |m: &&SharedMailbox| {
            m.owner_id == place.owner && m.mailbox.as_ref().is_some_and(|mailbox| mailbox.name == place.name)
        };
        let found = shared.iter().find(is_it).map(|m| m.rights.clone());
        found.ok_or(Failure::no("NONEXISTENT", "No such mailbox."))
    }

    /// Others' mailboxes that LIST shows.
    pub(crate) async fn shared_entries(&self, account_id: u64) -> Result<Vec<Entry>, Failure> {
        let entry = |shared: SharedMailbox| {
            let mailbox = shared.mailbox.filter(|_| shared.rights.contains('l'))?;
            Some(Entry {
                name: format!("{OTHERS}{}/{}", shared.owner, mailbox.name),
                special_use: String::new(),
                subscribed: mailbox.subscribed,
                exists: true,
            })
        };
        Ok(self.shared(account_id).await?.into_iter().filter_map(entry).collect())
    }

    pub(crate) async fn my_rights(&mut self, account_id: u64, mailbox: String) -> Outcome {
        let place = self.place(account_id, &mailbox).await?;
        let rights = self.rights(account_id, &place).await?;
        if place.owner == account_id && self.state_of(account_id, mailbox.clone()).await?.is_none() {
            return Err(Failure::no("NONEXISTENT", "No such mailbox."));
        }
        let utf8 = self.utf8_names();
        let out = &mut self.wire.out;
        out.extend_from_slice(b"* MYRIGHTS ");
        respond::mailbox(out, &mailbox, utf8);
        out.extend_from_slice(format!(" {}\r\n", shown_rights(&rights)).as_bytes());
        Ok("OK Myrights completed.".into())
    }

    pub(crate) async fn get_acl(&mut self, account_id: u64, mailbox: String) -> Outcome {
        let place = self.place(account_id, &mailbox).await?;
        let request = GetAclRequest { account_id: place.owner, name: place.name };
        let acl = self.mailboxes().get_acl(self.asking(request)).await?.into_inner();
        let utf8 = self.utf8_names();
        let out = &mut self.wire.out;
        out.extend_from_slice(b"* ACL ");
        respond::mailbox(out, &mailbox, utf8);
        let owner = (acl.owner, RIGHTS.to_owned());
        for (identifier, rights) in [owner].into_iter().chain(acl.entries.into_iter().map(|e| (e.identifier, e.rights)))
        {
            out.push(b' ');
            respond::astring(out, identifier.as_bytes());
            out.extend_from_slice(format!(" {}", shown_rights(&rights)).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        Ok("OK Getacl completed.".into())
    }

    pub(crate) async fn set_acl(
        &mut self,
        account_id: u64,
        mailbox: &str,
        identifier: String,
        mode: StoreMode,
        rights: String,
    ) -> Outcome {
        if identifier.starts_with('-') {
            return Err(Failure::no("CANNOT", "There are no negative rights."));
        }
        let place = self.place(account_id, mailbox).await?;
        let mode = match mode {
            StoreMode::Replace => Mode::Replace,
            StoreMode::Add => Mode::Add,
            StoreMode::Remove => Mode::Remove,
        };
        let request =
            SetAclRequest { account_id: place.owner, name: place.name, identifier, mode: mode.into(), rights };
        match self.mailboxes().set_acl(self.asking(request)).await {
            Ok(_) => Ok("OK Setacl completed.".into()),
            Err(status) if status.code() == Code::NotFound => {
                Err(Failure::no("NONEXISTENT", "No such mailbox or identifier."))
            }
            Err(status) => Err(status.into()),
        }
    }

    /// All rights can be given one by one; `c` goes with `k` (RFC 4314 §3.7).
    pub(crate) async fn list_rights(&mut self, account_id: u64, mailbox: String, identifier: String) -> Outcome {
        let place = self.place(account_id, &mailbox).await?;
        let request = GetAclRequest { account_id: place.owner, name: place.name };
        let owner = self.mailboxes().get_acl(self.asking(request)).await?.into_inner().owner;
        let utf8 = self.utf8_names();
        let out = &mut self.wire.out;
        out.extend_from_slice(b"* LISTRIGHTS ");
        respond::mailbox(out, &mailbox, utf8);
        out.push(b' ');
        respond::astring(out, identifier.as_bytes());
        let rights = if identifier.eq_ignore_ascii_case(&owner) {
            format!(" {}", shown_rights(RIGHTS))
        } else {
            let each = RIGHTS.chars().map(|right| if right == 'k' { "kc".to_owned() } else { right.to_string() });
            format!(" \"\" {}", each.collect::<Vec<_>>().join(" "))
        };
        out.extend_from_slice(rights.as_bytes());
        out.extend_from_slice(b"\r\n");
        Ok("OK Listrights completed.".into())
    }
}
