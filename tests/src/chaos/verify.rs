//! The count at the end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use proto::mailboxes::{FetchRequest, SelectRequest, UidRange, mailboxes_client::MailboxesClient};
use runtime::grpc::{Channel, channel};

use super::{
    Report, Row,
    faults::sql,
    traffic::{ACCOUNTS, Sent},
};
use crate::site::Site;

const PATIENCE: Duration = Duration::from_secs(120);

/// Statements that count what must not be.
const RECOUNTS: [(&str, &str); 7] = [
    ("open deliveries", "select count(*) from deliveries"),
    (
        "mailboxes whose counters differ from a recount",
        "select count(*) from mailboxes b left join lateral (
             select count(*) n, count(*) filter (where flags & 1 = 0) unseen, coalesce(sum(size), 0) size,
                    coalesce(max(uid), 0) uid, coalesce(max(modseq), 0) modseq
             from messages m where m.account_id = b.account_id and m.mailbox_id = b.id) c on true
         where (b.messages, b.unseen, b.size) <> (c.n, c.unseen, c.size)
            or b.uid_next <= c.uid or b.highest_modseq < c.modseq",
    ),
    (
        "quotas that differ from a recount",
        "select count(*) from quotas q cross join lateral (
             select coalesce(sum(m.size), 0) bytes, count(*) messages from messages m join accounts a on a.id = m.account_id
             where (q.account_id = 0 and a.tenant_id = q.tenant_id) or a.id = q.account_id) c
         where (q.bytes, q.messages) <> (c.bytes, c.messages)",
    ),
    (
        "contents that nothing refers to",
        "select count(*) from contents c where not exists (select from messages m where m.content_id = c.id)",
    ),
    (
        "mailbox rows without content",
        "select count(*) from messages m where not exists (select from contents c where c.id = m.content_id)",
    ),
    (
        "messages whose journey does not end",
        "select count(*) from spool s where not exists (
             select from journey j where j.queue_id = s.queue_id and j.name in ('delivered', 'relayed', 'bounced', 'refused'))",
    ),
    (
        "messages delivered more often than once",
        "select count(*) from (select queue_id from journey where name = 'delivered' group by 1 having count(*) > 1) d",
    ),
];

pub async fn verify(site: &Site, sent: Sent, rows: Vec<Row>) -> Report {
    let mut wrong = Vec::new();
    for (what, statement) in RECOUNTS {
        match settled(site, statement).await {
            Some(0) => (),
            Some(n) => wrong.push(format!("{n} {what}")),
            None => wrong.push(format!("cannot count {what}")),
        }
    }
    let mut found: HashMap<usize, usize> = HashMap::new();
    for account in ACCOUNTS {
        for (uid, content) in inbox(site, account).await {
            match number(&content) {
                Some(n) if n < sent.tried && content.ends_with(&sent.message(n)) => *found.entry(n).or_default() += 1,
                Some(n) => wrong.push(format!("{account} UID {uid}: message {n} is not what was sent")),
                None => wrong.push(format!("{account} UID {uid}: not one of ours")),
            }
        }
    }
    Report {
        rows,
        messages: sent.accepted.len(),
        lost: sent.accepted.iter().filter(|n| !found.contains_key(n)).count(),
        doubled: found.values().filter(|n| **n > 1).count(),
        wrong,
    }
}

/// What must become zero gets some time for it.
async fn settled(site: &Site, statement: &str) -> Option<u64> {
    let start = Instant::now();
    loop {
        let count = sql(site, statement).and_then(|n| n.parse().ok());
        if count == Some(0) || start.elapsed() > PATIENCE {
            return count;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn number(content: &[u8]) -> Option<usize> {
    let at = content.windows(16).position(|w| w == b"Subject: Number ")?;
    let digits = content[at + 16..].split(|b| !b.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Every message of INBOX with its UID; panics when UIDs do not ascend.
async fn inbox(site: &Site, account: &str) -> Vec<(u32, Vec<u8>)> {
    let account_id: u64 =
        sql(site, &format!("select id from accounts where address = '{account}'")).unwrap().parse().unwrap();
    let address = std::fs::read_to_string(site.data().join("run/mda-1.addr")).unwrap();
    let peers = address.trim().to_owned().try_into().unwrap();
    let mut client: MailboxesClient<Channel> = MailboxesClient::new(channel(&peers, Duration::from_secs(30)))
        .max_decoding_message_size(proto::MAX_GRPC_MESSAGE);
    let select = SelectRequest { account_id, name: "INBOX".into(), ..SelectRequest::default() };
    let state = client.select(select).await.unwrap().into_inner().message().await.unwrap().unwrap().state.unwrap();
    let all = UidRange { first: 1, last: u32::MAX };
    let request = FetchRequest {
        account_id,
        mailbox_id: state.mailbox_id,
        uids: vec![all],
        header: true,
        body: true,
        ..FetchRequest::default()
    };
    let mut stream = client.fetch(request).await.unwrap().into_inner();
    let mut messages: Vec<(u32, Vec<u8>)> = Vec::new();
    while let Some(batch) = stream.message().await.unwrap() {
        for m in batch.messages {
            assert!(messages.last().is_none_or(|(uid, _)| *uid < m.uid), "UIDs ascend");
            messages.push((m.uid, [&m.header[..], &m.body[..]].concat()));
        }
    }
    messages
}
