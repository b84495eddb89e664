use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::Args;
use proto::mailboxes::{
    FetchRequest, ListMaildropRequest, ListRequest, MailboxState, Message, SelectRequest, StatusRequest, UidRange,
    mailboxes_client::MailboxesClient,
};
use runtime::grpc::Channel;
use serde_json::json;

use super::{super::Answer, Format, Whose, import::account, maildir, mbox, progress::Progress};
use crate::client::{Admin, refused};

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    whose: Whose,
}

impl Export {
    pub fn maildir(address: &str, path: PathBuf) -> Self {
        Self { whose: Whose { address: address.to_owned(), path, format: Format::Maildir } }
    }

    pub async fn run(self, admin: &mut Admin, mailboxes: MailboxesClient<Channel>) -> anyhow::Result<Answer> {
        let messages = self.write(admin, mailboxes).await?;
        let lines = vec![format!("{messages} messages in {}", self.whose.path.display())];
        Ok(Answer { lines, document: json!({ "messages": messages }) })
    }

    /// Returns the number of messages that the account has.
    pub async fn write(&self, admin: &mut Admin, client: MailboxesClient<Channel>) -> anyhow::Result<u64> {
        let account_id = account(admin, &self.whose.address).await?;
        let mut work = Work { account_id, client, progress: Progress::new(0, 0) };
        let list = work.client.list(ListRequest { account_id }).await.map_err(refused)?.into_inner();
        let names: Vec<String> = list.mailboxes.into_iter().map(|m| m.name).collect();
        let request = StatusRequest { account_id, names, ..Default::default() };
        let states = work.client.status(request).await.map_err(refused)?.into_inner().states;
        let states: Vec<(String, MailboxState)> = states.into_iter().filter_map(|s| Some((s.name, s.state?))).collect();
        let count = states.iter().map(|(_, s)| u64::from(s.messages)).sum();
        work.progress = Progress::new(count, states.iter().map(|(_, s)| s.size).sum());
        fs::create_dir_all(&self.whose.path).with_context(|| self.whose.path.display().to_string())?;
        for (name, state) in &states {
            match self.whose.format {
                Format::Maildir => work.maildir(&self.whose.path, name, state).await,
                Format::Mbox => work.mbox(&self.whose.path, name, state).await,
            }
            .with_context(|| name.clone())?;
        }
        work.progress.finish();
        Ok(count)
    }
}

struct Work {
    account_id: u64,
    client: MailboxesClient<Channel>,
    progress: Progress,
}

impl Work {
    fn everything(&self, state: &MailboxState) -> FetchRequest {
        FetchRequest {
            account_id: self.account_id,
            mailbox_id: state.mailbox_id,
            uids: vec![UidRange { first: 1, last: u32::MAX }],
            ..Default::default()
        }
    }

    /// Files that are there are not fetched again; their flags are brought up to date.
    async fn maildir(&mut self, root: &Path, mailbox: &str, state: &MailboxState) -> anyhow::Result<()> {
        let folder = maildir::directory(root, mailbox);
        for part in ["tmp", "new", "cur"] {
            fs::create_dir_all(folder.join(part))?;
        }
        if folder != root {
            File::create(folder.join("maildirfolder"))?;
        }
        let keywords = self.keywords(mailbox).await?;
        let lines: String = keywords.iter().enumerate().map(|(n, k)| format!("{n} {k}\n")).collect();
        replace(&folder.join("dovecot-keywords"), lines.as_bytes())?;
        let mut there = existing(&folder.join("cur"))?;
        let unique_ids = if mailbox == "INBOX" { self.unique_ids().await? } else { HashMap::new() };

        let mut list = format!("3 V{} N{} G{}\n", state.uid_validity, state.uid_next, uuid::Uuid::new_v4().simple());
        let mut missing = Vec::new();
        let mut stream = self.client.fetch(self.everything(state)).await.map_err(refused)?.into_inner();
        while let Some(answer) = stream.message().await.map_err(refused)? {
            for message in answer.messages {
                let base = base_name(&message, state.uid_validity);
                let unique_id = unique_ids.get(&message.uid).map(|id| format!(" P{id}")).unwrap_or_default();
                list.push_str(&format!("{}{unique_id} :{base}\n", message.uid));
                match there.remove(&base) {
                    None => missing.push(UidRange { first: message.uid, last: message.uid }),
                    Some(path) => {
                        let name = file_name(&message, state.uid_validity, &keywords);
                        fs::rename(path, folder.join("cur").join(name))?;
                        self.progress.advance(mailbox, 1, message.size.into());
                    }
                }
            }
        }
        // Messages that are gone since the last run.
        for path in there.into_values() {
            fs::remove_file(path)?;
        }
        let missing = joined(missing);
        if !missing.is_empty() {
            let request = FetchRequest { uids: missing, header: true, body: true, ..self.everything(state) };
            let mut stream = self.client.fetch(request).await.map_err(refused)?.into_inner();
            while let Some(answer) = stream.message().await.map_err(refused)? {
                for message in &answer.messages {
                    let name = file_name(message, state.uid_validity, &keywords);
                    let temporary = folder.join("tmp").join(base_name(message, state.uid_validity));
                    let mut file = File::create(&temporary)?;
                    file.write_all(&message.header)?;
                    file.write_all(&message.body)?;
                    let at = Duration::from_millis(u64::try_from(message.internal_date_ms).unwrap_or_default());
                    file.set_modified(UNIX_EPOCH + at)?;
                    fs::rename(temporary, folder.join("cur").join(name))?;
                    self.progress.advance(mailbox, 1, message.size.into());
                }
            }
        }
        replace(&folder.join("dovecot-uidlist"), list.as_bytes())
    }

    async fn keywords(&mut self, mailbox: &str) -> anyhow::Result<Vec<String>> {
        let request = SelectRequest { account_id: self.account_id, name: mailbox.to_owned(), claim_recent: false };
        let mut stream = self.client.select(request).await.map_err(refused)?.into_inner();
        let first = stream.message().await.map_err(refused)?.unwrap_or_default();
        Ok(first.keywords.into_iter().filter(|k| k != "$Forwarded").take(maildir::MAX_KEYWORDS).collect())
    }

    /// Those that were imported themselves: only they cannot be made again.
    async fn unique_ids(&mut self) -> anyhow::Result<HashMap<u32, String>> {
        let request = ListMaildropRequest { account_id: self.account_id };
        let mut stream = self.client.list_maildrop(request).await.map_err(refused)?.into_inner();
        let mut all = HashMap::new();
        while let Some(answer) = stream.message().await.map_err(refused)? {
            all.extend(answer.uids.into_iter().zip(answer.uidls).filter(|(_, id)| !id.is_empty()));
        }
        Ok(all)
    }

    /// A mailbox whose file is there was finished by an earlier run.
    async fn mbox(&mut self, root: &Path, mailbox: &str, state: &MailboxState) -> anyhow::Result<()> {
        let path = root.join(format!("{}.mbox", imap::encode_utf7(mailbox).replace('/', ".")));
        if path.exists() {
            self.progress.advance(mailbox, state.messages.into(), state.size);
            return Ok(());
        }
        let temporary = path.with_extension("mbox.part");
        let mut file = std::io::BufWriter::new(File::create(&temporary)?);
        let request = FetchRequest { header: true, body: true, ..self.everything(state) };
        let mut stream = self.client.fetch(request).await.map_err(refused)?.into_inner();
        while let Some(answer) = stream.message().await.map_err(refused)? {
            for message in &answer.messages {
                let content = [&message.header[..], &message.body[..]].concat();
                file.write_all(&mbox::write(&content, message.internal_date_ms))?;
                self.progress.advance(mailbox, 1, message.size.into());
            }
        }
        file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        Ok(fs::rename(temporary, path)?)
    }
}

/// Files by their base name.
fn existing(folder: &Path) -> anyhow::Result<HashMap<String, PathBuf>> {
    let mut files = HashMap::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        if let Some((base, _)) =
            file.file_name().to_string_lossy().split_once(":2,").filter(|(b, _)| b.contains(".postroad,"))
        {
            files.insert(base.to_owned(), file.path());
        }
    }
    Ok(files)
}

fn base_name(message: &Message, uid_validity: u32) -> String {
    let seconds = message.internal_date_ms.div_euclid(1_000).max(0);
    format!("{seconds}.V{uid_validity}U{}.postroad,S={}", message.uid, message.size)
}

fn file_name(message: &Message, uid_validity: u32, keywords: &[String]) -> String {
    let letters = maildir::letters(&message.flags.clone().unwrap_or_default(), keywords);
    format!("{}:2,{letters}", base_name(message, uid_validity))
}

fn joined(uids: Vec<UidRange>) -> Vec<UidRange> {
    let mut ranges: Vec<UidRange> = Vec::new();
    for uid in uids {
        match ranges.last_mut() {
            Some(range) if range.last.checked_add(1) == Some(uid.first) => range.last = uid.last,
            _ => ranges.push(uid),
        }
    }
    ranges
}

fn replace(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("part");
    fs::write(&temporary, content)?;
    Ok(fs::rename(temporary, path)?)
}
