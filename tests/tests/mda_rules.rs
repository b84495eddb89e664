//! Rules at local delivery: exactly once, whatever happens in between, and nothing for those
//! without rules.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use address::QueueId;
use proto::{
    journey::TraceRequest,
    mailboxes::{SelectRequest, StatusRequest},
    rules::{Owner, PutScriptRequest, SetForwardRequest, owner::By},
    spool::{AcceptRequest, Envelope, Recipient, Target, target::To},
};
use tests::{eventually, storage::Mda};

const SOON: Duration = Duration::from_secs(20);

fn queue_id() -> String {
    QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string()
}

async fn send(mda: &Mda, accounts: &[u64], content: &str, junk: bool) -> String {
    let recipients = accounts.iter().map(|id| Recipient {
        forward_path: format!("account-{id}@example.com"),
        targets: vec![Target { to: Some(To::AccountId(*id)) }],
        ..Default::default()
    });
    let envelope = Envelope {
        queue_id: queue_id(),
        reverse_path: "a@else.org".into(),
        recipients: recipients.collect(),
        junk,
        ..Default::default()
    };
    let id = envelope.queue_id.clone();
    let request = AcceptRequest { envelope: Some(envelope), content: content.as_bytes().to_vec().into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    id
}

async fn count(mda: &Mda, account_id: u64, name: &str) -> usize {
    let request = SelectRequest { account_id, name: name.into(), ..Default::default() };
    let Ok(stream) = mda.mailboxes().select(request).await else { return 0 };
    let mut stream = stream.into_inner();
    let mut uids = 0;
    while let Ok(Some(part)) = stream.message().await {
        uids += part.uids.len();
    }
    uids
}

async fn events(mda: &Mda, queue_id: &str) -> Vec<(String, String)> {
    let request = TraceRequest { queue_id: queue_id.into(), follow: false };
    let mut stream = mda.journey().trace(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        all.extend(answer.events.into_iter().map(|e| (e.name, e.text)));
    }
    all
}

async fn ends(mda: &Mda, queue_id: &str, name: &str) -> Vec<(String, String)> {
    eventually(&format!("the journey has {name}"), SOON, || async {
        Some(events(mda, queue_id).await).filter(|all| all.iter().any(|(n, _)| n == name))
    })
    .await
}

const MESSAGE: &str =
    "From: a@else.org\r\nTo: account@example.com\r\nMessage-ID: <1@else.org>\r\nSubject: hi\r\n\r\nbody\r\n";

#[tokio::test]
async fn one_message_to_accounts_with_and_without_rules() {
    let mda = Mda::start().await;
    let (bob, ann) = (mda.account("bob@example.com").await, mda.account("ann@example.com").await);
    mda.script(
        bob,
        "require [\"fileinto\", \"mailbox\", \"copy\"]; fileinto :create :copy \"A/B\"; fileinto \"inbox\"; keep;",
    )
    .await;
    let id = send(&mda, &[bob, ann], MESSAGE, false).await;
    eventually("all have it", SOON, || async {
        (count(&mda, ann, "INBOX").await == 1
            && count(&mda, bob, "INBOX").await == 1
            && count(&mda, bob, "A/B").await == 1)
            .then_some(())
    })
    .await;
    // fileinto "inbox" and keep are one mailbox.
    let delivered = events(&mda, &id).await.into_iter().filter(|(name, _)| name == "delivered").count();
    assert_eq!(delivered, 3);
    let request = StatusRequest { account_id: bob, names: vec!["INBOX".into()], ..Default::default() };
    let state = mda.mailboxes().status(request).await.unwrap().into_inner().states.remove(0).state.unwrap();
    assert_eq!((state.messages, state.unseen, state.uid_next, state.size as usize), (1, 1, 2, MESSAGE.len()));
}

#[tokio::test]
async fn many_at_once_are_filed_exactly_once_while_redis_forgets() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    mda.script(bob, "require \"fileinto\"; fileinto \"Archive\";").await;
    for _ in 0..5 {
        let to = [bob];
        let sends = (0..20).map(|_| send(&mda, &to, MESSAGE, false));
        futures::future::join_all(sends).await;
        mda.redis.command(&["FLUSHALL"]).unwrap();
    }
    eventually("all are there", SOON, || async { (count(&mda, bob, "Archive").await == 100).then_some(()) }).await;
    let open: i64 =
        sqlx::query_scalar("select count(*) from deliveries").fetch_one(&mut mda.sql().await).await.unwrap();
    assert_eq!((open, count(&mda, bob, "INBOX").await), (0, 0));
}

#[tokio::test]
async fn duplicates_are_found_even_at_once() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    mda.script(bob, "require [\"duplicate\"]; if duplicate { discard; }").await;
    let to = [bob];
    futures::future::join_all((0..10).map(|_| send(&mda, &to, MESSAGE, false))).await;
    eventually("all are dealt with", SOON, || async {
        let open: i64 =
            sqlx::query_scalar("select count(*) from deliveries").fetch_one(&mut mda.sql().await).await.ok()?;
        (open == 0).then_some(())
    })
    .await;
    assert_eq!(count(&mda, bob, "INBOX").await, 1);
    let left: i64 = sqlx::query_scalar("select count(*) from journey where name = 'discarded'")
        .fetch_one(&mut mda.sql().await)
        .await
        .unwrap();
    assert_eq!(left, 9);
}

#[tokio::test]
async fn quarantined_mail_is_sorted_but_never_leaves() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    mda.script(bob, "redirect \"x@else.org\";").await;
    let id = send(&mda, &[bob], MESSAGE, true).await;
    let all = ends(&mda, &id, "delivered").await;
    assert!(all.iter().any(|(_, text)| text == "into Junk"), "{all:?}");
    assert!(all.iter().any(|(_, text)| text.contains("not redirected: the message is quarantined")), "{all:?}");
}

#[tokio::test]
async fn a_forward_sends_on_with_the_senders_own_reverse_path() {
    let mda = Mda::start().await;
    let (bob, ann) = (mda.account("bob@example.com").await, mda.account("ann@example.com").await);
    let owner = Some(Owner { by: Some(By::AccountId(bob)) });
    let forward = proto::rules::Forward {
        to: vec!["ann@example.com".into(), "x@else.org".into(), "none@example.com".into()],
        keep: false,
    };
    mda.rules().set_forward(SetForwardRequest { owner, forward: Some(forward) }).await.unwrap();
    let id = send(&mda, &[bob], MESSAGE, false).await;
    let all = ends(&mda, &id, "redirected").await;
    assert!(all.iter().any(|(_, t)| t.contains("to ann@example.com, x@else.org as ")), "{all:?}");
    assert!(all.iter().any(|(_, t)| t.contains("not redirected to none@example.com: it does not exist")), "{all:?}");
    eventually("ann has it", SOON, || async { (count(&mda, ann, "INBOX").await == 1).then_some(()) }).await;
    assert_eq!(count(&mda, bob, "INBOX").await, 0);
    let paths: Vec<(String, i64)> = sqlx::query_as("select reverse_path, account_id from spool order by queue_id")
        .fetch_all(&mut mda.sql().await)
        .await
        .unwrap();
    assert_eq!(paths, [("a@else.org".to_owned(), 0), ("a@else.org".to_owned(), i64::try_from(bob).unwrap())]);
}

#[tokio::test]
async fn what_is_sent_too_large_or_too_often_is_refused() {
    let mda = Mda::start_with(|config| config.sieve.max_scripts = 2).await;
    let bob = mda.account("bob@example.com").await;
    let put = |name: &str, script: String| {
        let owner = Some(Owner { by: Some(By::AccountId(bob)) });
        let request = PutScriptRequest { owner, name: name.into(), script, ..Default::default() };
        let mut client = mda.rules();
        async move { client.put_script(request).await.map(drop).map_err(|s| s.code()) }
    };
    assert_eq!(put("a", "#".repeat(100_000)).await, Err(tonic::Code::ResourceExhausted));
    assert_eq!(put("a", "nonsense;".into()).await, Err(tonic::Code::InvalidArgument));
    assert_eq!(put("a\r\nb", "keep;".into()).await, Err(tonic::Code::InvalidArgument));
    for name in ["a", "b", "a"] {
        assert_eq!(put(name, "keep;".into()).await, Ok(()));
    }
    assert_eq!(put("c", "keep;".into()).await, Err(tonic::Code::ResourceExhausted));
    // With the account goes everything.
    let address = "bob@example.com".to_owned();
    mda.admin().delete_account(proto::admin::DeleteAccountRequest { address }).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("select count(*) from sieve_scripts").fetch_one(&mut mda.sql().await).await.unwrap();
    assert_eq!(left, 0);
}

async fn limited(mda: &Mda, address: &str, quota_bytes: usize) -> u64 {
    let request = proto::admin::CreateAccountRequest {
        address: address.into(),
        password: "secret".into(),
        quota_bytes: quota_bytes as u64,
        ..Default::default()
    };
    mda.admin().create_account(request).await.unwrap().into_inner().account_id
}

#[tokio::test]
async fn copies_keep_to_quotas() {
    let mda = Mda::start().await;
    mda.account("ann@example.com").await;
    let bob = limited(&mda, "bob@example.com", 2 * MESSAGE.len() + 10).await;
    mda.script(bob, "require [\"fileinto\", \"copy\"]; fileinto :copy \"Archive\"; fileinto :copy \"Trash\";").await;
    let id = send(&mda, &[bob], MESSAGE, false).await;
    let all = ends(&mda, &id, "delivered").await;
    assert!(all.iter().any(|(_, text)| text.starts_with("no room for a copy in ")), "{all:?}");
    assert_eq!(all.iter().filter(|(name, _)| name == "delivered").count(), 2);
}
