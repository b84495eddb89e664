//! The queue in an operator's hand: filters, holds, redirects, bounces and pauses in bulk.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use address::QueueId;
use proto::{
    admin::{
        ChangeQueueRequest, ListPausedDestinationsRequest, ListQueueRequest, PauseDestinationRequest,
        ResumeDestinationRequest, change_queue_request::Action,
    },
    spool::{
        AcceptRequest, ClaimRequest, Claimed, Deferred, DeliveryId, Envelope, Event, GiveBackRequest, Lease, Outcome,
        Recipient, SettleRequest, Target, outcome, target::To,
    },
};
use sqlx::PgConnection;
use tests::storage::Mda;

const MESSAGE: &[u8] = b"From: a@else.org\r\nSubject: hi\r\n\r\nbody\r\n";

async fn accept(mda: &Mda, from: &str, to: &str) -> String {
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let target = Target { to: Some(To::Remote(to.into())) };
    let recipient = Recipient { forward_path: to.into(), targets: vec![target], ..Default::default() };
    let envelope = Envelope {
        queue_id: queue_id.clone(),
        reverse_path: from.into(),
        recipients: vec![recipient],
        ..Default::default()
    };
    let request = AcceptRequest { envelope: Some(envelope), content: MESSAGE.into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    queue_id
}

async fn claim(mda: &Mda, queue_id: &str) -> Option<Claimed> {
    let deliveries = vec![DeliveryId { queue_id: queue_id.into(), number: 0 }];
    mda.spool()
        .claim(ClaimRequest { deliveries, lease_ms: 5_000, ..Default::default() })
        .await
        .unwrap()
        .into_inner()
        .claimed
        .pop()
}

fn lease(claimed: &Claimed) -> Lease {
    Lease { id: claimed.id.clone(), token: claimed.token.clone() }
}

async fn found(mda: &Mda, filter: ListQueueRequest) -> Vec<String> {
    let answer = mda.admin().list_queue(filter).await.unwrap().into_inner();
    answer.entries.into_iter().map(|e| e.queue_id).collect()
}

async fn change(mda: &Mda, action: Action, filter: ListQueueRequest, redirect_to: &str) -> Result<u32, tonic::Status> {
    let request = ChangeQueueRequest {
        action: action.into(),
        filter: Some(filter),
        redirect_to: redirect_to.into(),
        ..Default::default()
    };
    Ok(mda.admin().change_queue(request).await?.into_inner().changed)
}

#[tokio::test]
async fn every_filter_finds_its_own() {
    let mda = Mda::start().await;
    let one = accept(&mda, "ann@else.org", "x@One.example").await;
    let two = accept(&mda, "bob@else.org", "y@two.example").await;
    let claimed = claim(&mda, &two).await.unwrap();
    let far = i64::MAX / 1_000_000;
    let event = Event { service: "test".into(), text: "mx: 450 4.2.2 Mailbox full".into(), ..Default::default() };
    let result = Some(outcome::Result::Deferred(Deferred { next_attempt_ms: far, delay_reported: true }));
    let outcomes = vec![Outcome { lease: Some(lease(&claimed)), result, event: Some(event) }];
    mda.spool().settle(SettleRequest { outcomes }).await.unwrap();
    let mut sql = mda.sql().await;
    sqlx::query("update spool set accepted_at = now() - interval '2 hours' where reverse_path = 'ann@else.org'")
        .execute(&mut sql)
        .await
        .unwrap();

    let filter = ListQueueRequest::default;
    for (wanted, filter) in [
        (vec![&one, &two], filter()),
        (vec![&one], ListQueueRequest { sender: "ANN@else.org".into(), ..filter() }),
        (vec![&two], ListQueueRequest { recipient: "y@TWO.example".into(), ..filter() }),
        (vec![&one], ListQueueRequest { domain: "one.example".into(), ..filter() }),
        (vec![&one], ListQueueRequest { older_than_seconds: 3_600, ..filter() }),
        (vec![&two], ListQueueRequest { last_reply: "mailbox FULL".into(), ..filter() }),
        (vec![], ListQueueRequest { tenant: "default".into(), ..filter() }),
        (vec![], ListQueueRequest { held: true, ..filter() }),
    ] {
        assert_eq!(found(&mda, filter.clone()).await.iter().collect::<Vec<_>>(), wanted, "{filter:?}");
    }
    // A delivery that was deferred with a delay report is known as reported.
    let by_reply = ListQueueRequest { last_reply: "full".into(), ..filter() };
    assert_eq!(change(&mda, Action::Retry, by_reply, "").await.unwrap(), 1);
    let again = claim(&mda, &two).await.unwrap();
    assert!(again.delay_reported && again.attempt == 2);
}

#[tokio::test]
async fn what_is_given_back_was_not_tried() {
    let mda = Mda::start().await;
    let id = accept(&mda, "ann@else.org", "x@one.example").await;
    let claimed = claim(&mda, &id).await.unwrap();
    assert_eq!(claimed.attempt, 1);
    let request = GiveBackRequest { leases: vec![lease(&claimed)], after_ms: 10_000, text: "host is down".into() };
    let answer = mda.spool().give_back(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.given_back.len(), 1);
    assert!(claim(&mda, &id).await.is_none(), "not before its time");
    assert_eq!(
        found(&mda, ListQueueRequest { last_reply: "host is down".into(), ..Default::default() }).await,
        std::slice::from_ref(&id)
    );
    let again = tests::eventually("its time has come", Duration::from_secs(60), || claim(&mda, &id)).await;
    assert_eq!(again.attempt, 1, "the attempt does not count");
    // The first holder's word counts no more.
    assert!(mda.spool().give_back(request).await.unwrap().into_inner().given_back.is_empty());
}

#[tokio::test]
async fn a_paused_destination_gets_nothing_until_it_is_resumed() {
    let mda = Mda::start().await;
    let pause = PauseDestinationRequest { domain: "One.Example".into(), reason: "their request".into() };
    mda.admin().pause_destination(pause).await.unwrap();
    let (one, two) =
        (accept(&mda, "a@else.org", "x@ONE.example").await, accept(&mda, "a@else.org", "x@two.example").await);
    assert!(claim(&mda, &one).await.is_none());
    assert!(claim(&mda, &two).await.is_some());
    let paused = mda.admin().list_paused_destinations(ListPausedDestinationsRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (paused.destinations[0].domain.as_str(), paused.destinations[0].reason.as_str()),
        ("one.example", "their request")
    );
    let resume = || ResumeDestinationRequest { domain: "one.example".into() };
    assert_eq!(mda.admin().resume_destination(resume()).await.unwrap().into_inner().released, 1);
    assert!(claim(&mda, &one).await.is_some());
    assert_eq!(mda.admin().resume_destination(resume()).await.unwrap_err().code(), tonic::Code::NotFound);
}

/// Puts `count` deliveries into the queue, a tenth of them to slow.example.
async fn fill(sql: &mut PgConnection, count: i32) {
    for statement in [
        "insert into spool (queue_id, reverse_path, account_id, message_id, envid, ret, traceparent, size, eight_bit, smtputf8, junk)
         select ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'ann@else.org', 0, '', '', '', '', 10, false, false, false
         from generate_series(1, $1) n",
        "insert into deliveries (queue_id, number, recipient, remote, notify, orcpt, not_before, due_at)
         select ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 0, a, a, '', '', now() + interval '10 days', now() + interval '10 days'
         from generate_series(1, $1) n, lateral (select 'u' || n || case when n % 10 = 0 then '@slow.example' else '@fast.example' end as a) r",
    ] {
        sqlx::query(statement).bind(count).execute(&mut *sql).await.unwrap();
    }
    sqlx::query("analyze deliveries, spool").execute(&mut *sql).await.unwrap();
}

#[tokio::test]
async fn in_bulk_on_a_hundred_thousand() {
    let mda = Mda::start().await;
    let mut sql = mda.sql().await;
    fill(&mut sql, 100_000).await;
    let slow = || ListQueueRequest { domain: "slow.example".into(), ..Default::default() };
    let timed = |what: &'static str, start: Instant| eprintln!("{what}: {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(found(&mda, ListQueueRequest { limit: 50, ..slow() }).await.len(), 50);
    timed("list by domain", start);
    let start = Instant::now();
    assert_eq!(change(&mda, Action::Hold, ListQueueRequest::default(), "").await.unwrap(), 100_000);
    timed("hold all", start);
    let start = Instant::now();
    assert_eq!(change(&mda, Action::Redirect, slow(), "all@elsewhere.example").await.unwrap(), 10_000);
    timed("redirect a tenth", start);
    assert_eq!(found(&mda, slow()).await, [""; 0]);
    let start = Instant::now();
    assert_eq!(
        change(&mda, Action::Release, ListQueueRequest { held: true, ..Default::default() }, "").await.unwrap(),
        90_000
    );
    timed("release the others", start);
    let told: i64 = sqlx::query_scalar("select count(*) from journey where name in ('held', 'redirected', 'released')")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(told, 200_000, "each change is in its journey");
}

#[tokio::test]
async fn bounces_come_in_portions_and_tell_the_sender() {
    let mda = Mda::start().await;
    let ann = mda.account("ann@example.com").await;
    for _ in 0..30 {
        accept(&mda, "ann@example.com", "x@slow.example").await;
    }
    accept(&mda, "ann@example.com", "x@fast.example").await;
    let slow = ListQueueRequest { domain: "slow.example".into(), limit: 20, ..Default::default() };
    let mut portions = Vec::new();
    loop {
        match change(&mda, Action::Bounce, slow.clone(), "").await.unwrap() {
            0 => break,
            n => portions.push(n),
        }
    }
    assert_eq!(portions, [20, 10]);
    tests::eventually("thirty reports", Duration::from_secs(15), || async {
        let mut sql = mda.sql().await;
        let count: i64 = sqlx::query_scalar("select count(*) from messages where account_id = $1")
            .bind(i64::try_from(ann).unwrap())
            .fetch_one(&mut sql)
            .await
            .unwrap();
        (count == 30).then_some(())
    })
    .await;
    assert_eq!(found(&mda, ListQueueRequest::default()).await.len(), 1);
}

#[tokio::test]
async fn changes_that_say_nothing_sensible_are_refused() {
    let mda = Mda::start().await;
    mda.account("ann@example.com").await;
    let nothing = ChangeQueueRequest { action: Action::Hold.into(), ..Default::default() };
    assert_eq!(mda.admin().change_queue(nothing).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    for to in ["", "nobody", "ann@example.com"] {
        let refused = change(&mda, Action::Redirect, ListQueueRequest::default(), to).await.unwrap_err();
        assert!(refused.message().contains("redirect_to"), "{refused}");
    }
}
