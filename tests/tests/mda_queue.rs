//! Accept, local delivery, claims: the promises of DESIGN's invariants 1 to 4 and 6, on real
//! Postgres and Redis.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use address::QueueId;
use proto::{
    journey::{FindRequest, TraceRequest},
    mailboxes::{FetchRequest, SelectRequest, UidRange},
    spool::{
        AcceptRequest, Bounced, ClaimRequest, Claimed, ContentRequest, Deferred, DeliveryId, Envelope, Event, Lease,
        Outcome, Recipient, Relayed, RenewRequest, SettleRequest, Target, outcome, target::To,
    },
};
use tests::{eventually, storage::Mda};
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);
const MESSAGE: &[u8] = b"From: a@else.org\r\nMessage-ID: <1@else.org>\r\nSubject: hi\r\n\r\nbody \xff\r\n.\r\n";

fn queue_id() -> String {
    QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string()
}

fn to(target: To) -> Recipient {
    let forward_path = match &target {
        To::AccountId(id) => format!("account-{id}@example.com"),
        To::Remote(path) => path.clone(),
    };
    Recipient { forward_path, targets: vec![Target { to: Some(target) }], ..Default::default() }
}

fn envelope(recipients: Vec<Recipient>) -> Envelope {
    Envelope { queue_id: queue_id(), reverse_path: "a@else.org".into(), recipients, ..Default::default() }
}

async fn accept(mda: &Mda, envelope: Envelope) -> Result<(), tonic::Status> {
    let (head, tail) = MESSAGE.split_at(10);
    let requests = [
        AcceptRequest { envelope: Some(envelope), content: head.into() },
        AcceptRequest { envelope: None, content: tail.into() },
    ];
    mda.spool().accept(tokio_stream::iter(requests)).await.map(drop)
}

async fn inbox(mda: &Mda, account_id: u64, name: &str) -> (u64, Vec<u32>) {
    let request = SelectRequest { account_id, name: name.into(), ..Default::default() };
    let mut stream = mda.mailboxes().select(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    (first.state.unwrap().mailbox_id, first.uids)
}

async fn wait_for_uids(mda: &Mda, account_id: u64, name: &str, count: usize) -> (u64, Vec<u32>) {
    eventually("messages are in the mailbox", SOON, || async {
        Some(inbox(mda, account_id, name).await).filter(|(_, uids)| uids.len() >= count)
    })
    .await
}

async fn events(mda: &Mda, queue_id: &str) -> Vec<String> {
    let request = TraceRequest { queue_id: queue_id.into(), follow: false };
    let mut stream = mda.journey().trace(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        names.extend(answer.events.into_iter().map(|e| e.name));
    }
    names
}

async fn claim(mda: &Mda, queue_id: &str) -> Vec<Claimed> {
    let deliveries = vec![DeliveryId { queue_id: queue_id.into(), number: 0 }];
    mda.spool()
        .claim(ClaimRequest { deliveries, lease_ms: 60_000, ..Default::default() })
        .await
        .unwrap()
        .into_inner()
        .claimed
}

async fn settle(mda: &Mda, claimed: &Claimed, result: outcome::Result) -> usize {
    let lease = Some(Lease { id: claimed.id.clone(), token: claimed.token.clone() });
    let event = Some(Event { service: "test".into(), text: "words".into(), ..Default::default() });
    let request = SettleRequest { outcomes: vec![Outcome { lease, result: Some(result), event }] };
    mda.spool().settle(request).await.unwrap().into_inner().settled.len()
}

#[tokio::test]
async fn an_accepted_message_is_in_the_mailbox_byte_for_byte_and_its_journey_ends() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let envelope = envelope(vec![to(To::AccountId(bob))]);
    let id = envelope.queue_id.clone();
    accept(&mda, envelope).await.unwrap();
    let (mailbox_id, uids) = wait_for_uids(&mda, bob, "INBOX", 1).await;
    assert_eq!(uids, [1]);
    let request = FetchRequest {
        account_id: bob,
        mailbox_id,
        uids: vec![UidRange { first: 1, last: u32::MAX }],
        structure: true,
        header: true,
        body: true,
        ..Default::default()
    };
    let mut stream = mda.mailboxes().fetch(request).await.unwrap().into_inner();
    let message = stream.message().await.unwrap().unwrap().messages.remove(0);
    assert_eq!([&message.header[..], &message.body[..]].concat(), MESSAGE);
    assert_eq!(message.size as usize, MESSAGE.len());
    let envelope = message.structure.unwrap().envelope;
    assert!(envelope.windows(4).any(|w| w == b"\"hi\""), "{envelope:?}");
    assert_eq!(events(&mda, &id).await, ["queued", "delivered"]);
    for search in [id.clone(), "<1@else.org>".into()] {
        let found = mda.journey().find(FindRequest { id: search, ..Default::default() }).await.unwrap().into_inner();
        assert_eq!((found.messages[0].queue_id.as_str(), found.messages[0].open), (id.as_str(), 0));
    }
    mda.stop().await;
}

#[tokio::test]
async fn an_accept_that_is_tried_again_is_one_message() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let envelope = envelope(vec![to(To::AccountId(bob))]);
    accept(&mda, envelope.clone()).await.unwrap();
    wait_for_uids(&mda, bob, "INBOX", 1).await;
    // After the delivery, too.
    accept(&mda, envelope).await.unwrap();
    accept(&mda, self::envelope(vec![to(To::AccountId(bob))])).await.unwrap();
    let (_, uids) = wait_for_uids(&mda, bob, "INBOX", 2).await;
    assert_eq!(uids, [1, 2]);
}

#[tokio::test]
async fn quarantined_mail_goes_to_junk() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    accept(&mda, Envelope { junk: true, ..envelope(vec![to(To::AccountId(bob))]) }).await.unwrap();
    wait_for_uids(&mda, bob, "Junk", 1).await;
    assert!(inbox(&mda, bob, "INBOX").await.1.is_empty());
}

#[tokio::test]
async fn many_at_once_have_ascending_uids_and_right_counts() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let ann = mda.account("ann@example.com").await;
    let sends = (0..300).map(|_| accept(&mda, envelope(vec![to(To::AccountId(bob)), to(To::AccountId(ann))])));
    for outcome in futures::future::join_all(sends).await {
        outcome.unwrap();
    }
    for account in [bob, ann] {
        let (_, uids) = wait_for_uids(&mda, account, "INBOX", 300).await;
        assert_eq!(uids, (1..=300).collect::<Vec<_>>());
        let request =
            proto::mailboxes::StatusRequest { account_id: account, names: vec!["INBOX".into()], ..Default::default() };
        let state = mda.mailboxes().status(request).await.unwrap().into_inner().states.remove(0).state.unwrap();
        assert_eq!((state.messages, state.unseen, state.uid_next), (300, 300, 301));
        assert_eq!(state.size as usize, 300 * MESSAGE.len());
    }
}

#[tokio::test]
async fn what_redis_forgets_is_delivered_all_the_same() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    for round in 0..5u32 {
        for _ in 0..20 {
            accept(&mda, envelope(vec![to(To::AccountId(bob))])).await.unwrap();
        }
        assert_eq!(mda.redis.command(&["FLUSHALL"]).unwrap(), "OK", "round {round}");
    }
    let (_, uids) = wait_for_uids(&mda, bob, "INBOX", 100).await;
    assert_eq!(uids, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_account_that_is_gone_bounces_to_the_sender() {
    let mda = Mda::start().await;
    let bob = mda.account("bob@example.com").await;
    let ann = mda.account("ann@example.com").await;
    let address = "bob@example.com".to_owned();
    mda.admin().delete_account(proto::admin::DeleteAccountRequest { address }).await.unwrap();
    let envelope = Envelope { reverse_path: "ann@example.com".into(), ..envelope(vec![to(To::AccountId(bob))]) };
    let id = envelope.queue_id.clone();
    accept(&mda, envelope).await.unwrap();
    wait_for_uids(&mda, ann, "INBOX", 1).await;
    eventually("the journey ends", SOON, || async {
        Some(events(&mda, &id).await).filter(|e| *e == ["queued", "bounced"])
    })
    .await;
}

#[tokio::test]
async fn a_claim_is_exclusive_until_its_lease_ends() {
    let mda = Mda::start().await;
    let envelope = envelope(vec![to(To::Remote("x@else.org".into()))]);
    let id = envelope.queue_id.clone();
    accept(&mda, envelope).await.unwrap();
    let first = claim(&mda, &id).await.remove(0);
    assert_eq!((first.attempt, first.forward_path.as_str(), first.size as usize), (1, "x@else.org", MESSAGE.len()));
    assert!(claim(&mda, &id).await.is_empty(), "leased");
    let lease = Lease { id: first.id.clone(), token: first.token.clone() };
    let renewed = mda.spool().renew(RenewRequest { leases: vec![lease], lease_ms: 1_500 }).await.unwrap().into_inner();
    assert_eq!(renewed.renewed.len(), 1);
    let second = eventually("the lease ends", SOON, || async { claim(&mda, &id).await.pop() }).await;
    assert_eq!(second.attempt, 2);
    // The first holder came too late.
    assert_eq!(settle(&mda, &first, outcome::Result::Relayed(Relayed {})).await, 0);
    assert_eq!(settle(&mda, &second, outcome::Result::Relayed(Relayed {})).await, 1);
    assert!(claim(&mda, &id).await.is_empty(), "settled");
    assert_eq!(events(&mda, &id).await, ["queued", "relayed"]);
}

#[tokio::test]
async fn a_deferred_delivery_waits_for_its_time_and_a_bounced_one_is_over() {
    let mda = Mda::start().await;
    let envelope = envelope(vec![to(To::Remote("x@else.org".into()))]);
    let id = envelope.queue_id.clone();
    accept(&mda, envelope).await.unwrap();
    let claimed = claim(&mda, &id).await.remove(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let next_attempt_ms = i64::try_from(now.as_millis()).unwrap() + 10_000;
    assert_eq!(
        settle(&mda, &claimed, outcome::Result::Deferred(Deferred { next_attempt_ms, ..Default::default() })).await,
        1
    );
    assert!(claim(&mda, &id).await.is_empty(), "not yet due");
    let again = eventually("it is due", SOON, || async { claim(&mda, &id).await.pop() }).await;
    assert_eq!(again.attempt, 2);
    let mut content = Vec::new();
    let request = ContentRequest { queue_id: id.clone(), header_only: false };
    let mut stream = mda.spool().content(request).await.unwrap().into_inner();
    while let Some(chunk) = stream.message().await.unwrap() {
        content.extend_from_slice(&chunk.content);
    }
    assert_eq!(content, MESSAGE);
    assert_eq!(settle(&mda, &again, outcome::Result::Bounced(Bounced {})).await, 1);
    assert_eq!(events(&mda, &id).await, ["queued", "deferred", "bounced"]);
    // Nothing refers to the content any more.
    let mut sql = mda.sql().await;
    let start = std::time::Instant::now();
    loop {
        let left: i64 = sqlx::query_scalar("select count(*) from contents").fetch_one(&mut sql).await.unwrap();
        if left == 0 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "content is not reclaimed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn an_envelope_that_says_nothing_sensible_is_refused() {
    let mda = Mda::start().await;
    let refused = |e: Envelope| async { accept(&mda, e).await.unwrap_err().code() };
    assert_eq!(refused(envelope(vec![])).await, Code::InvalidArgument);
    let wrong_id = Envelope { queue_id: "x".into(), ..envelope(vec![to(To::AccountId(1))]) };
    assert_eq!(refused(wrong_id).await, Code::InvalidArgument);
    // Text that Postgres does not take must not fail a batch for others.
    let nul = Envelope { reverse_path: "a\0@b".into(), ..envelope(vec![to(To::Remote("x@else.org".into()))]) };
    accept(&mda, nul).await.unwrap();
}
