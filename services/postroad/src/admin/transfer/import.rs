use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use proto::{
    CHUNK, admin,
    mailboxes::{
        AppendRequest, AppendTarget, FetchRequest, StatusRequest, UidRange, mailboxes_client::MailboxesClient,
    },
};
use runtime::grpc::Channel;
use serde_json::json;

use super::{
    super::Answer,
    Entry, Folder, Format, Uidl, Whose,
    journal::{Journal, Open},
    maildir, mbox,
    progress::Progress,
    with_crlf,
};
use crate::client::{Admin, refused};

/// Messages and octets of one append: each is one commit.
const GROUP: usize = 100;
const GROUP_BYTES: u64 = 8 << 20;

#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    whose: Whose,
    /// mbox: the mailbox that it goes into
    #[arg(long, default_value = "INBOX")]
    mailbox: String,
    /// The unique-ids that POP3 clients see
    #[arg(long, value_enum, default_value_t = Uidl::Listed)]
    uidl: Uidl,
    /// Give messages new UIDs, and mailboxes a new UIDVALIDITY: IMAP clients then fetch everything
    /// again. Old ones are kept only in mailboxes that never had a message here
    #[arg(long)]
    new_uids: bool,
    /// What was done so far; beside the source when not given
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

#[derive(Default)]
struct Sum {
    imported: u64,
    skipped: u64,
    /// Messages whose UID here is another one.
    other_uids: u64,
}

impl Import {
    pub async fn run(self, admin: &mut Admin, mailboxes: MailboxesClient<Channel>) -> anyhow::Result<Answer> {
        let folders = match self.whose.format {
            Format::Maildir => maildir::read(&self.whose.path, self.uidl)?,
            Format::Mbox => vec![mbox::read(&self.whose.path, &self.mailbox)?],
        };
        let account_id = account(admin, &self.whose.address).await?;
        let journal = self.journal.clone().unwrap_or_else(|| beside(&self.whose.path));
        let all = folders.iter().flat_map(|f| &f.messages);
        let progress = Progress::new(all.clone().count() as u64, all.map(|m| m.size).sum());
        let journal = Journal::open(&journal, &self.whose.address)?;
        let mut work = Work { import: &self, admin, mailboxes, account_id, journal, progress, sum: Sum::default() };
        work.settle_open_group(&folders).await?;
        for folder in &folders {
            work.folder(folder).await.with_context(|| folder.name.clone())?;
        }
        work.progress.finish();
        let Sum { imported, skipped, other_uids } = work.sum;
        let mut lines = vec![format!("{imported} messages imported, {skipped} were there from an earlier run")];
        if other_uids > 0 {
            lines.push(format!("{other_uids} have other UIDs than before: IMAP clients fetch them again"));
        }
        Ok(Answer { lines, document: json!({ "imported": imported, "skipped": skipped, "other_uids": other_uids }) })
    }
}

fn beside(path: &std::path::Path) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(".postroad-import");
    PathBuf::from(name)
}

pub async fn account(admin: &mut Admin, address: &str) -> anyhow::Result<u64> {
    let request = admin::ListAccountsRequest { address: address.to_owned(), ..Default::default() };
    let accounts = admin.list_accounts(request).await.map_err(refused)?.into_inner().accounts;
    accounts.first().map(|a| a.account_id).with_context(|| format!("account {address} does not exist"))
}

struct Work<'a> {
    import: &'a Import,
    admin: &'a mut Admin,
    mailboxes: MailboxesClient<Channel>,
    account_id: u64,
    journal: Journal,
    progress: Progress,
    sum: Sum,
}

impl Work<'_> {
    /// The last run may have ended while a group was on its way: all of it is there or nothing.
    async fn settle_open_group(&mut self, folders: &[Folder]) -> anyhow::Result<()> {
        let Some(open) = self.journal.open.clone() else { return Ok(()) };
        let of_key = |key: &String| {
            folders.iter().filter(|f| f.name == open.mailbox).flat_map(|f| &f.messages).find(|m| m.key == *key)
        };
        let is_there = match open.keys.first().and_then(of_key) {
            Some(first) => self.has_since(&open, &read(first)?).await?,
            None => false,
        };
        self.journal.end(is_there)
    }

    async fn has_since(&mut self, open: &Open, content: &[u8]) -> anyhow::Result<bool> {
        let Some(state) = self.state(&open.mailbox).await? else { return Ok(false) };
        let request = FetchRequest {
            account_id: self.account_id,
            mailbox_id: state.mailbox_id,
            uids: vec![UidRange { first: open.uid_next, last: u32::MAX }],
            header: true,
            body: true,
            ..Default::default()
        };
        let mut stream = self.mailboxes.fetch(request).await.map_err(refused)?.into_inner();
        while let Some(answer) = stream.message().await.map_err(refused)? {
            if answer.messages.iter().any(|m| m.header.iter().chain(&m.body).eq(content)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn state(&mut self, mailbox: &str) -> anyhow::Result<Option<proto::mailboxes::MailboxState>> {
        let request =
            StatusRequest { account_id: self.account_id, names: vec![mailbox.to_owned()], ..Default::default() };
        let states = self.mailboxes.status(request).await.map_err(refused)?.into_inner().states;
        Ok(states.into_iter().find_map(|s| s.state))
    }

    async fn folder(&mut self, folder: &Folder) -> anyhow::Result<()> {
        let prepared = self.prepare(folder, folder.uid_validity, 0).await?;
        // UIDs mean something under their own UIDVALIDITY only.
        let keeps_uids = !self.import.new_uids && folder.uid_validity == Some(prepared.uid_validity);
        let (done, todo): (Vec<&Entry>, Vec<&Entry>) =
            folder.messages.iter().partition(|m| self.journal.has(&folder.name, &m.key));
        self.sum.skipped += done.len() as u64;
        self.progress.advance(&folder.name, done.len() as u64, done.iter().map(|m| m.size).sum());
        for group in groups(&todo, keeps_uids) {
            self.group(folder, group, keeps_uids).await?;
        }
        Ok(())
    }

    async fn prepare(
        &mut self,
        folder: &Folder,
        uid_validity: Option<u32>,
        uid_next: u32,
    ) -> anyhow::Result<admin::PrepareMailboxResponse> {
        let request = admin::PrepareMailboxRequest {
            address: self.import.whose.address.clone(),
            mailbox: folder.name.clone(),
            uid_validity: uid_validity.filter(|_| !self.import.new_uids).unwrap_or_default(),
            uid_next,
        };
        Ok(self.admin.prepare_mailbox(request).await.map_err(refused)?.into_inner())
    }

    async fn group(&mut self, folder: &Folder, group: &[&Entry], keeps_uids: bool) -> anyhow::Result<()> {
        let first_uid = group.first().and_then(|m| m.uid).filter(|_| keeps_uids);
        let uid_next = self.prepare(folder, None, first_uid.unwrap_or_default()).await?.uid_next;
        let keys = group.iter().map(|m| m.key.clone()).collect();
        self.journal.begin(Open { mailbox: folder.name.clone(), uid_next, keys })?;
        let (sender, requests) = tokio::sync::mpsc::channel(4);
        let mut client = self.mailboxes.clone();
        let append = client.append(tokio_stream::wrappers::ReceiverStream::new(requests));
        let (answer, sent) = tokio::join!(append, send(sender, group, self.account_id, &folder.name));
        sent?;
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                self.journal.end(false)?;
                if status.code() == tonic::Code::PermissionDenied {
                    bail!("the account is over its quota: raise it (postroad admin account quota) and run this again");
                }
                return Err(refused(status));
            }
        };
        self.journal.end(true)?;
        self.sum.imported += group.len() as u64;
        let kept = |(entry, uid): (&&Entry, &u32)| entry.uid == Some(*uid);
        let others = group.len() - group.iter().zip(&answer.uids).filter(|pair| kept(*pair)).count();
        self.sum.other_uids += if folder.uid_validity.is_some() { others as u64 } else { 0 };
        self.progress.advance(&folder.name, group.len() as u64, group.iter().map(|m| m.size).sum());
        Ok(())
    }
}

/// So many at once; with UIDs kept, only those that follow on each other.
fn groups<'a, 'b>(messages: &'a [&'b Entry], keeps_uids: bool) -> Vec<&'a [&'b Entry]> {
    let mut groups = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, message) in messages.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|b| messages.get(b)).filter(|_| at > begin);
        let follows = |b: &&Entry| match (b.uid, message.uid) {
            (Some(one), Some(next)) => one.checked_add(1) == Some(next),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        let is_full = at - begin >= GROUP || bytes + message.size > GROUP_BYTES;
        if before.is_some_and(|b| is_full || (keeps_uids && !follows(b))) {
            groups.extend(messages.get(begin..at));
            (begin, bytes) = (at, 0);
        }
        bytes += message.size;
    }
    groups.extend(messages.get(begin..).filter(|rest| !rest.is_empty()));
    groups
}

fn read(entry: &Entry) -> anyhow::Result<Vec<u8>> {
    let content = match entry.range {
        None => std::fs::read(&entry.file).map_err(Into::into),
        Some(range) => mbox::content(&entry.file, range),
    };
    content.map(with_crlf).with_context(|| entry.file.display().to_string())
}

async fn send(
    sender: tokio::sync::mpsc::Sender<AppendRequest>,
    group: &[&Entry],
    account_id: u64,
    mailbox: &str,
) -> anyhow::Result<()> {
    for entry in group {
        let mut content = Bytes::from(read(entry)?);
        let target = AppendTarget {
            account_id,
            mailbox: mailbox.to_owned(),
            flags: Some(entry.flags.clone()),
            internal_date_ms: entry.date_ms,
            replaces: None,
            uidl: entry.uidl.clone(),
        };
        let mut target = Some(target);
        while target.is_some() || !content.is_empty() {
            let chunk = content.split_to(content.len().min(CHUNK));
            let request = AppendRequest { target: target.take(), content: chunk };
            // mda has ended the call: its answer says why.
            if sender.send(request).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_bounded_and_keep_uids_in_a_row() {
        let entry = |uid: Option<u32>, size: u64| Entry {
            key: String::new(),
            file: PathBuf::new(),
            range: None,
            size,
            flags: Default::default(),
            date_ms: 0,
            uid,
            uidl: String::new(),
        };
        let lengths = |all: &[Entry], keeps| -> Vec<usize> {
            let all: Vec<&Entry> = all.iter().collect();
            groups(&all, keeps).iter().map(|g| g.len()).collect()
        };
        let gaps: Vec<Entry> = [Some(1), Some(2), Some(5), Some(6), None, None].map(|uid| entry(uid, 1)).into();
        assert_eq!(lengths(&gaps, true), [2, 4]);
        assert_eq!(lengths(&gaps, false), [6]);
        let many: Vec<Entry> = (0..250).map(|_| entry(None, 1)).collect();
        assert_eq!(lengths(&many, true), [100, 100, 50]);
        let large: Vec<Entry> = (0..3).map(|_| entry(None, GROUP_BYTES)).collect();
        assert_eq!(lengths(&large, true), [1, 1, 1]);
        assert!(lengths(&[], true).is_empty());
    }
}
