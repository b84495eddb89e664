//! What `mda` remembers of mailboxes is what the tables say; what it has forgotten is told honestly;
//! rights hold in the statement that acts (RFC 4314, RFC 7162).

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, time::Duration};

use proto::mailboxes::{
    AppendRequest, AppendTarget, ChangesRequest, CopyRequest, ExpungeRequest, FetchRequest, FetchResponse, Filter,
    Flags, ListMaildropRequest, SelectRequest, SetAclRequest, StatusRequest, StoreRequest, UidRange, WatchRequest,
    filter::Where, store_request::Mode,
};
use tests::{eventually, storage::Mda};
use tonic::{Code, Request, Status};

const SOON: Duration = Duration::from_secs(60);
const ALL: UidRange = UidRange { first: 1, last: u32::MAX };

fn asking<T>(actor: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(proto::ACTOR, actor.into());
    request
}

async fn append(mda: &Mda, actor: u64, account_id: u64, text: &str) -> Result<u32, Status> {
    let target = AppendTarget { account_id, mailbox: "INBOX".into(), ..Default::default() };
    let content = format!("Subject: {text}\r\n\r\nbody of {text}\r\n").into();
    let request = AppendRequest { target: Some(target), content };
    let answer = mda.mailboxes().append(asking(actor, tokio_stream::iter([request]))).await;
    answer.map(|a| a.into_inner().uid)
}

async fn inbox(mda: &Mda, account_id: u64) -> u64 {
    let request = StatusRequest { account_id, names: vec!["INBOX".into()], ..Default::default() };
    mda.mailboxes().status(request).await.unwrap().into_inner().states.remove(0).state.unwrap().mailbox_id
}

async fn store(mda: &Mda, actor: u64, account_id: u64, mailbox_id: u64, uid: u32, flags: u32) -> Result<u64, Status> {
    let request = StoreRequest {
        account_id,
        mailbox_id,
        uids: vec![UidRange { first: uid, last: uid }],
        mode: Mode::Add.into(),
        flags: Some(Flags { system: flags, keywords: vec!["Work".into()] }),
        unchanged_since: None,
    };
    mda.mailboxes().store(asking(actor, request)).await.map(|a| a.into_inner().highest_modseq)
}

async fn expunge(mda: &Mda, account_id: u64, mailbox_id: u64, uids: &[u32]) -> u64 {
    let uids = uids.iter().map(|u| UidRange { first: *u, last: *u }).collect();
    let request = ExpungeRequest { account_id, mailbox_id, uids, regardless: true };
    mda.mailboxes().expunge(request).await.unwrap().into_inner().highest_modseq
}

async fn fetch(mda: &Mda, request: FetchRequest) -> Vec<FetchResponse> {
    let mut answers = mda.mailboxes().fetch(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        all.push(answer);
    }
    all
}

/// UID, flags, mod-sequence and keywords, as rows and as messages.
async fn seen(mda: &Mda, account_id: u64, mailbox_id: u64) -> Vec<(u32, u32, u64, Vec<String>)> {
    let request = FetchRequest { account_id, mailbox_id, uids: vec![ALL], ..Default::default() };
    let rows = fetch(mda, FetchRequest { as_rows: true, ..request.clone() }).await;
    let mut by_rows = Vec::new();
    for rows in rows.into_iter().map(|answer| answer.rows.unwrap()) {
        let words: BTreeMap<u32, Vec<String>> = rows.keywords.into_iter().map(|k| (k.row, k.keywords)).collect();
        for at in 0..rows.uids.len() {
            let words = words.get(&(at as u32)).cloned().unwrap_or_default();
            by_rows.push((rows.uids[at], rows.flags[at], rows.modseqs[at], words));
        }
    }
    let messages = fetch(mda, request).await.into_iter().flat_map(|answer| answer.messages);
    let by_messages: Vec<_> =
        messages.map(|m| (m.uid, m.flags.clone().unwrap().system, m.modseq, m.flags.unwrap().keywords)).collect();
    assert_eq!(by_rows, by_messages);
    by_rows
}

async fn table(mda: &Mda, mailbox_id: u64) -> Vec<(u32, u32, u64, Vec<String>)> {
    let rows: Vec<(i64, i16, i64, Vec<String>)> =
        sqlx::query_as("select uid, flags, modseq, keywords from messages where mailbox_id = $1 order by uid")
            .bind(mailbox_id as i64)
            .fetch_all(&mut mda.sql().await)
            .await
            .unwrap();
    rows.into_iter().map(|(uid, flags, modseq, words)| (uid as u32, flags as u32, modseq as u64, words)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_follows_every_change() {
    let mda = Mda::start().await;
    let alice = mda.account("alice@example.com").await;
    let mailbox_id = inbox(&mda, alice).await;
    for n in 0..20 {
        append(&mda, alice, alice, &n.to_string()).await.unwrap();
    }
    let select = SelectRequest { account_id: alice, name: "INBOX".into(), ..Default::default() };
    for round in 0..20u32 {
        // Somebody looks in between, so that each state follows from the one before.
        assert_eq!(seen(&mda, alice, mailbox_id).await, table(&mda, mailbox_id).await, "round {round}");
        match round % 4 {
            0 => drop(store(&mda, alice, alice, mailbox_id, round + 1, 1 << (round % 5)).await.unwrap()),
            1 => drop(append(&mda, alice, alice, "new").await.unwrap()),
            2 => drop(expunge(&mda, alice, mailbox_id, &[round, round + 1]).await),
            _ => {
                let uids = vec![UidRange { first: 1, last: 9 }];
                let target = if round % 8 == 3 { "INBOX" } else { "Trash" };
                let (target, r#move) = (target.to_owned(), round % 3 == 0);
                let request = CopyRequest { account_id: alice, mailbox_id, uids, target, r#move, ..Default::default() };
                mda.mailboxes().copy(request).await.unwrap();
            }
        }
        let mut answers = mda.mailboxes().select(select.clone()).await.unwrap().into_inner();
        let first = answers.message().await.unwrap().unwrap();
        let rows = table(&mda, mailbox_id).await;
        let first_unseen = rows.iter().find(|row| row.1 & 1 == 0).map_or(0, |row| row.0);
        let uids: Vec<u32> = rows.into_iter().map(|row| row.0).collect();
        assert_eq!((&first.uids, first.first_unseen), (&uids, first_unseen));
        assert_eq!(first.state.unwrap().messages as usize, uids.len());
        let list = ListMaildropRequest { account_id: alice };
        let listed = mda.mailboxes().list_maildrop(list).await.unwrap().into_inner().message().await.unwrap().unwrap();
        assert_eq!((listed.uids, listed.sizes), (uids, first.sizes));
    }
    // What a change behind our back leaves is noticed by the count.
    let sql =
        "delete from messages where mailbox_id = $1 and uid = (select max(uid) from messages where mailbox_id = $1)";
    sqlx::query(sql).bind(mailbox_id as i64).execute(&mut mda.sql().await).await.unwrap();
    let sql = "update mailboxes set messages = messages - 1 where id = $1";
    sqlx::query(sql).bind(mailbox_id as i64).execute(&mut mda.sql().await).await.unwrap();
    assert_eq!(seen(&mda, alice, mailbox_id).await, table(&mda, mailbox_id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_and_filters_are_the_same_from_memory() {
    let mda = Mda::start().await;
    let alice = mda.account("alice@example.com").await;
    let mailbox_id = inbox(&mda, alice).await;
    for text in ["one", "two", "three"] {
        append(&mda, alice, alice, text).await.unwrap();
    }
    let request = FetchRequest { account_id: alice, mailbox_id, uids: vec![ALL], ..Default::default() };
    let whole = FetchRequest { header: true, body: true, structure: true, ..request.clone() };
    let first = fetch(&mda, whole.clone()).await;
    assert_eq!(first, fetch(&mda, whole.clone()).await);
    assert_eq!(first[0].messages[1].body, "body of two\r\n");
    assert!(!first[0].messages[1].structure.as_ref().unwrap().parts.is_empty());
    let envelope = fetch(&mda, FetchRequest { structure: true, structure_fields: 1, ..request.clone() }).await;
    let structure = envelope[0].messages[1].structure.clone().unwrap();
    assert_eq!(structure.envelope, first[0].messages[1].structure.as_ref().unwrap().envelope);
    assert!(structure.parts.is_empty() && structure.bodystructure.is_empty());
    let filter =
        |place: Where, text: &str| Filter { r#where: place.into(), field: "Subject".into(), text: text.into() };
    let search = FetchRequest { content_for_filters: true, ..whole };
    for (filters, found) in [
        (vec![filter(Where::Header, "t")], vec![2, 3]),
        (vec![filter(Where::Body, "of t"), filter(Where::Text, "three")], vec![3]),
        (vec![filter(Where::Text, "nowhere")], vec![]),
    ] {
        let answers = fetch(&mda, FetchRequest { filters, ..search.clone() }).await;
        assert!(answers.iter().all(|a| a.filtered));
        let passed_over: u32 = answers.iter().map(|a| a.passed_over).sum();
        let messages: Vec<_> = answers.into_iter().flat_map(|a| a.messages).collect();
        assert_eq!(messages.iter().map(|m| m.uid).collect::<Vec<_>>(), found);
        assert!(messages.iter().all(|m| m.header.is_empty() && m.body.is_empty()), "they need not travel");
        assert_eq!(passed_over as usize + found.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_for_too_long_hears_of_every_uid_that_is_not_there() {
    let mda = Mda::start_with(|config| config.expunged_days = 5).await;
    let alice = mda.account("alice@example.com").await;
    let mailbox_id = inbox(&mda, alice).await;
    for n in 0..10 {
        append(&mda, alice, alice, &n.to_string()).await.unwrap();
    }
    let before = store(&mda, alice, alice, mailbox_id, 1, 1).await.unwrap();
    expunge(&mda, alice, mailbox_id, &[2, 3]).await;
    let between = expunge(&mda, alice, mailbox_id, &[7]).await;
    let sql = "update expunged set at = now() - interval '6 days'";
    sqlx::query(sql).execute(&mut mda.sql().await).await.unwrap();
    expunge(&mda, alice, mailbox_id, &[10]).await;
    eventually("what is old is forgotten", SOON, || async {
        let left: i64 =
            sqlx::query_scalar("select count(*) from expunged").fetch_one(&mut mda.sql().await).await.unwrap();
        (left == 1).then_some(())
    })
    .await;
    let vanished = |since_modseq: u64| {
        let request = ChangesRequest { account_id: alice, mailbox_id, since_modseq, claim_recent: false };
        let mut mailboxes = mda.mailboxes();
        async move {
            let answer = mailboxes.changes(request).await.unwrap().into_inner();
            (answer.vanished.iter().map(|r| (r.first, r.last)).collect::<Vec<_>>(), answer.messages.len())
        }
    };
    assert_eq!(vanished(before).await, (vec![(2, 3), (7, 7), (10, 10)], 0), "all that is not there");
    assert_eq!(vanished(0).await, (vec![(2, 3), (7, 7), (10, 10)], 6));
    // Whoever knows of everything that was forgotten hears of the rest only.
    assert_eq!(vanished(between).await, (vec![(10, 10)], 0));
    append(&mda, alice, alice, "new").await.unwrap();
    assert_eq!(vanished(between).await, (vec![(10, 10)], 1));
    assert_eq!(seen(&mda, alice, mailbox_id).await, table(&mda, mailbox_id).await);
}

async fn give(mda: &Mda, owner: u64, rights: &str) {
    let (name, identifier) = ("INBOX".to_owned(), "bob@example.com".to_owned());
    let request = SetAclRequest { account_id: owner, name, identifier, rights: rights.into(), ..Default::default() };
    mda.mailboxes().set_acl(asking(owner, request)).await.unwrap();
}

/// Bob's change waits for the lock of the mailbox, and before it gets it his rights are taken away.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_went_while_a_change_waited_do_not_count() {
    let mda = Mda::start().await;
    let (alice, bob) = (mda.account("alice@example.com").await, mda.account("bob@example.com").await);
    let mailbox_id = inbox(&mda, alice).await;
    append(&mda, alice, alice, "one").await.unwrap();
    for what in ["store", "append", "expunge", "copy"] {
        let before = table(&mda, mailbox_id).await;
        give(&mda, alice, "lrswite").await;
        let mut sql = mda.sql().await;
        sqlx::query("begin").execute(&mut sql).await.unwrap();
        let lock = "select from mailboxes where id = $1 for update";
        sqlx::query(lock).bind(mailbox_id as i64).execute(&mut sql).await.unwrap();
        let change = async {
            let copy = CopyRequest {
                account_id: alice,
                mailbox_id,
                uids: vec![ALL],
                target: "INBOX".into(),
                r#move: true,
                target_account_id: bob,
            };
            let uids = vec![ALL];
            let expunge = ExpungeRequest { account_id: alice, mailbox_id, uids, regardless: true };
            match what {
                "store" => store(&mda, bob, alice, mailbox_id, 1, 4).await.map(drop),
                "append" => append(&mda, bob, alice, "smuggled").await.map(drop),
                "expunge" => mda.mailboxes().expunge(asking(bob, expunge)).await.map(drop),
                _ => mda.mailboxes().copy(asking(bob, copy)).await.map(drop),
            }
        };
        let revoke = async {
            let waits = "select count(*) from pg_locks where not granted";
            eventually("the change waits", SOON, || async {
                let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut mda.sql().await).await.unwrap();
                (waiting > 0).then_some(())
            })
            .await;
            sqlx::query("update mailbox_rights set rights = 'l'").execute(&mut sql).await.unwrap();
            sqlx::query("commit").execute(&mut sql).await.unwrap();
        };
        let (changed, ()) = tokio::join!(change, revoke);
        assert_eq!(changed.unwrap_err().code(), Code::PermissionDenied, "{what}");
        assert_eq!(table(&mda, mailbox_id).await, before, "{what}");
        // And rights that were changed, but not those that matter, do no harm.
        give(&mda, alice, "lrswi").await;
        store(&mda, bob, alice, mailbox_id, 1, 0).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_watched_by_who_may_read_something_of_it() {
    let mda = Mda::start().await;
    let (alice, bob) = (mda.account("alice@example.com").await, mda.account("bob@example.com").await);
    let watch = || mda_watch(&mda, bob, alice);
    assert_eq!(watch().await.unwrap_err().code(), Code::PermissionDenied);
    give(&mda, alice, "l").await;
    assert_eq!(watch().await.unwrap_err().code(), Code::PermissionDenied, "l is not r");
    give(&mda, alice, "lr").await;
    let mut watched = watch().await.unwrap();
    append(&mda, alice, alice, "one").await.unwrap();
    assert!(tokio::time::timeout(SOON, watched.message()).await.unwrap().unwrap().is_some());
    give(&mda, alice, "l").await;
    let ended = tokio::time::timeout(SOON, async {
        loop {
            match watched.message().await {
                Ok(Some(_)) => continue,
                ended => return ended,
            }
        }
    });
    assert_eq!(ended.await.unwrap().unwrap_err().code(), Code::PermissionDenied);
    assert!(mda_watch(&mda, alice, alice).await.is_ok());
}

async fn mda_watch(
    mda: &Mda,
    actor: u64,
    account_id: u64,
) -> Result<tonic::Streaming<proto::mailboxes::WatchResponse>, Status> {
    mda.mailboxes().watch(asking(actor, WatchRequest { account_id })).await.map(|answer| answer.into_inner())
}
