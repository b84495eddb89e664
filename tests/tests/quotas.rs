//! Quotas that hold whoever writes at the same time, and what clients hear of them.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use address::QueueId;
use proto::{
    admin::{SetQuotaRequest, SetTenantQuotaRequest},
    mailboxes::{
        AppendRequest, AppendTarget, CopyRequest, DeleteRequest, ExpungeRequest, QuotaRequest, StatusRequest, UidRange,
    },
    spool::{AcceptRequest, Envelope, Recipient, Target, target::To},
};
use sqlx::Row as _;
use tests::{
    client::python,
    eventually,
    site::{Options, Site, free_port_offset},
    storage::Mda,
};
use tonic::Code;

const SOON: Duration = Duration::from_secs(30);

fn message(size: usize) -> Vec<u8> {
    let mut message = b"From: a@else.org\r\nSubject: x\r\n\r\n".to_vec();
    message.resize(size, b'x');
    message
}

async fn accept(mda: &Mda, accounts: &[u64], size: usize) -> Result<String, tonic::Status> {
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let recipient = |id: &u64| Recipient {
        forward_path: format!("{id}@example.com"),
        targets: vec![Target { to: Some(To::AccountId(*id)) }],
        ..Default::default()
    };
    let envelope = Envelope {
        queue_id: queue_id.clone(),
        reverse_path: "ann@example.com".into(),
        recipients: accounts.iter().map(recipient).collect(),
        refuse_over_quota: true,
        ..Default::default()
    };
    let request = AcceptRequest { envelope: Some(envelope), content: message(size).into() };
    mda.spool().accept(tokio_stream::iter([request])).await.map(|_| queue_id)
}

async fn append(mda: &Mda, account_id: u64, mailbox: &str, size: usize) -> Result<u32, tonic::Status> {
    let target = AppendTarget { account_id, mailbox: mailbox.into(), ..Default::default() };
    let request = AppendRequest { target: Some(target), content: message(size).into() };
    mda.mailboxes().append(tokio_stream::iter([request])).await.map(|a| a.into_inner().uid)
}

async fn mailbox_id(mda: &Mda, account_id: u64, name: &str) -> u64 {
    let request = StatusRequest { account_id, names: vec![name.into()], ..Default::default() };
    mda.mailboxes().status(request).await.unwrap().into_inner().states.remove(0).state.unwrap().mailbox_id
}

async fn limit(mda: &Mda, address: &str, quota_bytes: u64, quota_messages: u64) {
    let request = SetQuotaRequest { address: address.into(), quota_bytes, quota_messages };
    mda.admin().set_quota(request).await.unwrap();
}

/// What the counters say and what a recount says; panics when they differ.
async fn recount(mda: &Mda) -> Vec<(i64, i64, i64)> {
    let mut sql = mda.sql().await;
    let rows = sqlx::query(
        "select q.account_id, q.bytes, q.messages, q.bytes - c.bytes as b, q.messages - c.messages as m
         from quotas q cross join lateral (
             select coalesce(sum(x.size), 0)::bigint as bytes, count(x.size) as messages from (
                 select m.size from messages m
                 where (q.account_id <> 0 and m.account_id = q.account_id) or (q.account_id = 0 and m.account_id in (
                     select id from accounts a where a.tenant_id = q.tenant_id))
                 union all
                 select d.reserved from deliveries d
                 where d.reserved > 0 and ((q.account_id <> 0 and d.account_id = q.account_id)
                    or (q.account_id = 0 and d.account_id in (select id from accounts a where a.tenant_id = q.tenant_id)))
             ) x) c
         order by q.tenant_id, q.account_id",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    let counted = rows.iter().map(|row| {
        assert_eq!((row.get::<i64, _>("b"), row.get::<i64, _>("m")), (0, 0), "account {}", row.get::<i64, _>(0));
        (row.get(0), row.get(1), row.get(2))
    });
    counted.collect()
}

async fn nothing_open(mda: &Mda) {
    let mut sql = mda.sql().await;
    let start = std::time::Instant::now();
    while sqlx::query_scalar::<_, i64>("select count(*) from deliveries").fetch_one(&mut sql).await.unwrap() > 0 {
        assert!(start.elapsed() < SOON, "deliveries are still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// So many that they meet, not so many that one waits for a connection until its time is over.
async fn at_once<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    use futures::StreamExt as _;
    futures::stream::iter(all).buffer_unordered(10).collect().await
}

#[tokio::test]
async fn no_writer_gets_past_the_limit_whoever_writes_beside_it() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    limit(&mda, "bob@example.com", 50_000, 0).await;
    // 100 × 1,000 bytes want in where 50 have room: by SMTP, by APPEND to two mailboxes, by COPY.
    append(&mda, bob, "Sent", 1_000).await.unwrap();
    let sent = mailbox_id(&mda, bob, "Sent").await;
    let copies = (0..20).map(|_| async {
        let request = CopyRequest {
            account_id: bob,
            mailbox_id: sent,
            uids: vec![UidRange { first: 1, last: 1 }],
            target: "Archive".into(),
            r#move: false,
            ..CopyRequest::default()
        };
        mda.mailboxes().copy(request).await.map(drop)
    });
    let accepts = (0..40).map(|_| async { accept(&mda, &[bob], 1_000).await.map(drop) });
    let appends = (0..40).map(|n| {
        let (mda, name) = (&mda, if n % 2 == 0 { "Sent" } else { "Drafts" });
        async move { append(mda, bob, name, 1_000).await.map(drop) }
    });
    let (one, two, three) = futures::join!(at_once(copies), at_once(accepts), at_once(appends));
    let outcomes: Vec<_> = one.into_iter().chain(two).chain(three).collect();
    let taken = outcomes.iter().filter(|o| o.is_ok()).count();
    assert_eq!(taken, 49, "the room that was left, to the byte");
    assert!(outcomes.iter().filter_map(|o| o.as_ref().err()).all(|s| s.code() == Code::PermissionDenied));
    nothing_open(&mda).await;
    assert_eq!(recount(&mda).await, [(bob as i64, 50_000, 50)]);
    let quota = mda.mailboxes().quota(QuotaRequest { account_id: bob }).await.unwrap().into_inner();
    assert_eq!((quota.used_bytes, quota.used_messages, quota.limit_bytes), (50_000, 50, 50_000));

    // What goes makes room, exactly.
    let gone = ExpungeRequest {
        account_id: bob,
        mailbox_id: sent,
        uids: vec![UidRange { first: 1, last: 1 }],
        regardless: true,
    };
    mda.mailboxes().expunge(gone).await.unwrap();
    assert_eq!(append(&mda, bob, "Sent", 1_001).await.unwrap_err().code(), Code::PermissionDenied);
    append(&mda, bob, "Sent", 1_000).await.unwrap();
    mda.mailboxes().delete(DeleteRequest { account_id: bob, name: "Drafts".into() }).await.unwrap();
    recount(&mda).await;
    let gone = proto::admin::DeleteAccountRequest { address: "bob@example.com".into() };
    mda.admin().delete_account(gone).await.unwrap();
    eventually("the counter goes with the account", SOON, || async {
        Some(recount(&mda).await).filter(|counted| counted.is_empty())
    })
    .await;
}

#[tokio::test]
async fn counters_agree_with_a_recount_after_everything_at_once() {
    let mda = Mda::start().await;
    let (ann, bob) = (mda.account("ann@example.com").await, mda.account("bob@example.com").await);
    // The limits come while writers write.
    let writers = (0..60usize).map(|n| {
        let mda = &mda;
        async move {
            let account = if n % 3 == 0 { ann } else { bob };
            drop(accept(mda, &[ann, bob], 500 + n * 37).await);
            let Ok(uid) = append(mda, account, "Drafts", 300 + n * 11).await else { return };
            let drafts = mailbox_id(mda, account, "Drafts").await;
            let one = vec![UidRange { first: uid, last: uid }];
            let (target, r#move) = (["Archive", "Sent"][n % 2].into(), n % 4 == 0);
            let uids = one.clone();
            let copy =
                CopyRequest { account_id: account, mailbox_id: drafts, uids, target, r#move, ..Default::default() };
            drop(mda.mailboxes().copy(copy).await);
            let expunge = ExpungeRequest { account_id: account, mailbox_id: drafts, uids: one, regardless: true };
            mda.mailboxes().expunge(expunge).await.unwrap();
        }
    });
    let limits = async {
        limit(&mda, "ann@example.com", 40_000, 30).await;
        let tenant = SetTenantQuotaRequest { name: "default".into(), quota_bytes: 90_000, quota_messages: 0 };
        mda.admin().set_tenant_quota(tenant).await.unwrap();
        mda.account("new@example.com").await;
        limit(&mda, "bob@example.com", 0, 70).await;
    };
    futures::join!(at_once(writers), limits);
    nothing_open(&mda).await;
    let counted = recount(&mda).await;
    assert_eq!(counted.len(), 4, "the tenant and its accounts: {counted:?}");
    let (tenant, accounts) = counted.split_first().unwrap();
    assert_eq!(tenant.1, accounts.iter().map(|c| c.1).sum::<i64>());
    assert!(accounts[0].2 <= 30 + 60, "{counted:?}");
}

#[tokio::test]
async fn a_tenants_limit_holds_for_its_accounts_together_and_for_no_other() {
    let mda = Mda::start().await;
    let create = |name: &str| proto::admin::CreateTenantRequest { name: name.into() };
    mda.admin().create_tenant(create("shop")).await.unwrap();
    let domain = proto::admin::CreateDomainRequest { name: "shop.com".into(), tenant: "shop".into() };
    mda.admin().create_domain(domain).await.unwrap();
    let tenant = SetTenantQuotaRequest { name: "shop".into(), quota_bytes: 10_000, quota_messages: 0 };
    mda.admin().set_tenant_quota(tenant).await.unwrap();
    let (one, two) = (mda.account("one@shop.com").await, mda.account("two@shop.com").await);
    let other = mda.account("bob@example.com").await;
    let writes = (0..30u64).map(|n| {
        let mda = &mda;
        async move { accept(mda, &[if n % 2 == 0 { one } else { two }], 1_000).await.is_ok() }
    });
    let taken = futures::future::join_all(writes).await.into_iter().filter(|ok| *ok).count();
    assert_eq!(taken, 10);
    accept(&mda, &[other], 100_000).await.unwrap();
    nothing_open(&mda).await;
    let counted = recount(&mda).await;
    assert_eq!(counted[0], (0, 10_000, 10));
    let tenants = mda.admin().list_tenants(proto::admin::ListTenantsRequest {}).await.unwrap().into_inner().tenants;
    let shop = tenants.iter().find(|t| t.name == "shop").unwrap();
    assert_eq!((shop.used_bytes, shop.used_messages, shop.accounts), (10_000, 10, 2));
}

#[tokio::test]
async fn of_several_recipients_the_full_one_bounces_and_a_retried_accept_counts_once() {
    let mda = Mda::start().await;
    let (ann, bob) = (mda.account("ann@example.com").await, mda.account("bob@example.com").await);
    limit(&mda, "bob@example.com", 1_500, 0).await;
    accept(&mda, &[bob], 1_000).await.unwrap();
    let both = accept(&mda, &[ann, bob], 1_000).await.unwrap();
    nothing_open(&mda).await;
    let mut sql = mda.sql().await;
    let ends: Vec<(String, String)> =
        sqlx::query_as("select name, text from journey where name in ('delivered', 'bounced') order by id")
            .fetch_all(&mut sql)
            .await
            .unwrap();
    assert!(ends.contains(&("bounced".into(), "552 5.2.2 mailbox full".into())), "{ends:?}");
    // The message itself, and the bounce to its sender.
    let inbox: i64 = sqlx::query_scalar("select messages from mailboxes where account_id = $1 and name = 'INBOX'")
        .bind(ann as i64)
        .fetch_one(&mut sql)
        .await
        .map(|n: i32| i64::from(n))
        .unwrap();
    assert_eq!(inbox, 2, "queue id {both}");
    recount(&mda).await;

    // Nobody is there to be refused: a report that has no room is told in the journey, and ends.
    let report = Envelope {
        queue_id: QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string(),
        recipients: vec![Recipient {
            forward_path: "bob@example.com".into(),
            targets: vec![Target { to: Some(To::AccountId(bob)) }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = AcceptRequest { envelope: Some(report), content: message(5_000).into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    nothing_open(&mda).await;

    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let envelope = Envelope {
        queue_id,
        recipients: vec![Recipient {
            forward_path: "bob@example.com".into(),
            targets: vec![Target { to: Some(To::AccountId(bob)) }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let tries = (0..5).map(|_| {
        let request = AcceptRequest { envelope: Some(envelope.clone()), content: message(300).into() };
        let mda = &mda;
        async move { mda.spool().accept(tokio_stream::iter([request])).await.unwrap() }
    });
    futures::future::join_all(tries).await;
    nothing_open(&mda).await;
    assert_eq!(recount(&mda).await, [(bob as i64, 1_300, 2)]);
}

#[tokio::test]
async fn clients_hear_452_or_552_and_overquota() {
    let host = "127.0.0.31";
    let mut options = Options::new(host, free_port_offset(&[host]), "example.com");
    options.config = Some("smtp-ingress:\n  over_quota: refuse\n".into());
    let site = Site::up(options);
    site.account("bob@example.com");
    site.admin(&["account", "quota", "bob@example.com", "--bytes", "20480", "--messages", "3"], "");
    let program = r##"
s = smtplib.SMTP(HOST, PORT[25])
s.ehlo("client.example")
s.mail("<>", ["SIZE=30000"])
code, text = s.rcpt("bob@example.com")
assert (code, text[:5]) == (552, b"5.2.2"), (code, text)
s.rset()
# Not declared: only after DATA the size is known.
big = "From: x@else.org\r\nSubject: big\r\n\r\n" + ("x" * 70 + "\r\n") * 400
s.docmd("MAIL FROM:<>"); s.docmd("RCPT TO:<bob@example.com>"); s.docmd("DATA")
s.send(big + ".\r\n")
code, text = s.getreply()
assert (code, text[:5]) == (552, b"5.2.2"), (code, text)
s.docmd("MAIL FROM:<>"); s.docmd("RCPT TO:<bob@example.com>"); s.docmd("DATA")
s.send("From: x@else.org\r\nSubject: small\r\n\r\nhi\r\n.\r\n")
code, text = s.getreply()
assert code == 250, (code, text)

i = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
i.login("bob@example.com", "secret")
for _ in range(600):
    if int(i.select("INBOX")[1][0]) == 1: break
    time.sleep(0.1)
typ, data = i.append("INBOX", None, None, ("A: b\r\n\r\n" + "x" * 30000).encode())
assert typ == "NO" and b"[OVERQUOTA]" in data[0], (typ, data)
typ, data = i.append("INBOX", None, None, b"A: b\r\n\r\nc\r\n")
assert typ == "OK", data
typ, data = i.copy("1:2", "Archive")
assert typ == "NO" and b"[OVERQUOTA]" in data[0], (typ, data)
typ, data = i.copy("1", "Archive")
assert typ == "OK", data
typ, data = i.getquota('""')
used = re.search(rb"STORAGE (\d+) 20 MESSAGE (\d+) 3", data[0])
assert used and int(used.group(2)) == 3, data
# All three places are taken: the directory knows it at RCPT.
time.sleep(4)
s.docmd("MAIL FROM:<>")
code, text = s.rcpt("bob@example.com")
assert (code, text[:5]) == (552, b"5.2.2"), (code, text)
"##;
    python(&site, program);
}
