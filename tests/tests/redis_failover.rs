//! The queue on a Redis Cluster and behind Sentinels: the master is killed under load. Nothing is lost,
//! nothing is there twice, and mail flows again by itself (Invariant 2).

#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use address::QueueId;
use proto::{
    mailboxes::{FetchRequest, StatusRequest, UidRange, WatchRequest},
    spool::{AcceptRequest, Envelope, Recipient, Target, target::To},
};
use tests::{
    eventually,
    redis_servers::{Cluster, Watched},
    storage::Mda,
};

const SOON: Duration = Duration::from_secs(60);

async fn accept(mda: &Mda, account: u64, number: usize) {
    let recipient = Recipient {
        forward_path: "bob@example.com".into(),
        targets: vec![Target { to: Some(To::AccountId(account)) }],
        ..Default::default()
    };
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let envelope = Envelope { queue_id, recipients: vec![recipient], ..Default::default() };
    let content = format!("Subject: {number}\r\n\r\n");
    let request = AcceptRequest { envelope: Some(envelope), content: content.into() };
    // Whatever Redis does, a message is accepted: Postgres is the truth of the queue.
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
}

async fn messages(mda: &Mda, account_id: u64) -> Option<usize> {
    let request = StatusRequest { account_id, names: vec!["INBOX".into()], ..Default::default() };
    let state = mda.mailboxes().status(request).await.ok()?.into_inner().states.remove(0).state?;
    usize::try_from(state.messages).ok()
}

/// The numbers in the mailbox.
async fn numbers(mda: &Mda, account_id: u64) -> Vec<usize> {
    let mailbox_id = {
        let request = StatusRequest { account_id, names: vec!["INBOX".into()], ..Default::default() };
        mda.mailboxes().status(request).await.unwrap().into_inner().states.remove(0).state.unwrap().mailbox_id
    };
    let uids = vec![UidRange { first: 1, last: u32::MAX }];
    let request = FetchRequest { account_id, mailbox_id, uids, header: true, ..Default::default() };
    let mut stream = mda.mailboxes().fetch(request).await.unwrap().into_inner();
    let mut numbers = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        for message in answer.messages {
            let header = String::from_utf8_lossy(&message.header).into_owned();
            numbers.push(header.trim().strip_prefix("Subject: ").unwrap().parse().unwrap());
        }
    }
    numbers.sort_unstable();
    numbers
}

async fn mail_flows_through(url: String, fail_over: impl AsyncFnOnce()) {
    let mda = Arc::new(Mda::start_with(|config| config.redis_url = Some(url.try_into().unwrap())).await);
    let bob = mda.account("bob@example.com").await;
    let mut wakes = mda.mailboxes().watch(WatchRequest { account_id: bob }).await.unwrap().into_inner();
    let (running, sent) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let sender = tokio::spawn({
        let (mda, running, sent) = (mda.clone(), running.clone(), sent.clone());
        async move {
            while running.load(Ordering::Relaxed) {
                accept(&mda, bob, sent.load(Ordering::Relaxed)).await;
                sent.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    eventually("mail flows", SOON, || async { messages(&mda, bob).await.filter(|n| *n >= 20) }).await;
    tokio::time::timeout(SOON, wakes.message()).await.expect("a wake").unwrap().unwrap();
    drop(wakes);

    let killed = Instant::now();
    fail_over().await;
    let taken_over = killed.elapsed();
    let before = sent.load(Ordering::Relaxed);
    eventually("mail flows again", SOON, || async { messages(&mda, bob).await.filter(|n| *n >= before + 20) }).await;
    let flowing = killed.elapsed();
    running.store(false, Ordering::Relaxed);
    sender.await.unwrap();

    let sent = sent.load(Ordering::Relaxed);
    eventually("all mail is there", SOON, || async { messages(&mda, bob).await.filter(|n| *n >= sent) }).await;
    // Of the streams nothing is left that could double it.
    eventually("nothing is left to do", SOON, || async {
        let mut sql = mda.sql().await;
        let open: i64 = sqlx::query_scalar("select count(*) from deliveries").fetch_one(&mut sql).await.ok()?;
        (open == 0).then_some(())
    })
    .await;
    assert_eq!(numbers(&mda, bob).await, (0..sent).collect::<Vec<_>>(), "each once");

    // Sessions are woken through the new master.
    let mut wakes = mda.mailboxes().watch(WatchRequest { account_id: bob }).await.unwrap().into_inner();
    accept(&mda, bob, sent).await;
    tokio::time::timeout(SOON, wakes.message()).await.expect("a wake").unwrap().unwrap();
    // A server that stops ends what is watched: nobody waits for the session.
    eprintln!("{sent} messages; a new master after {taken_over:.1?}, mail flowed after {flowing:.1?}");
    let stop = Arc::into_inner(mda).unwrap().stop();
    tokio::time::timeout(SOON, stop).await.expect("it stops");
    drop(wakes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sentinels_name_another_master() {
    let mut redis = Watched::start().await;
    mail_flows_through(redis.url(), async || redis.fail_over().await).await;
    assert!(redis.replica.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_loses_the_master_of_the_stream() {
    let mut redis = Cluster::start().await;
    // Whoever has the stream of local deliveries dies.
    mail_flows_through(redis.url(), async || redis.fail_over("postroad:{local}").await).await;
    assert_eq!(redis.nodes.iter_mut().map(|node| node.is_running()).filter(|up| *up).count(), 5);
}
