//! What relays share through `mda`, on real Postgres and Redis: claims with their contents, rests
//! and pauses, MTA-STS policies, TLS results.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use address::QueueId;
use proto::{
    admin::{PauseDestinationRequest, ResumeDestinationRequest},
    relay::{
        AddTlsResultsRequest, ClaimTlsReportRequest, DeletePoolRequest, EgressPool, EgressSource,
        FinishTlsReportRequest, GetStsPolicyRequest, ListPoolsRequest, RestRequest, StsPolicy, TlsReport, TlsResult,
    },
    spool::{
        AcceptRequest, ClaimRequest, ClaimResponse, DeliveryId, Envelope, GiveBackRequest, Lease, Outcome, Recipient,
        Relayed, SettleRequest, Target, outcome, target::To,
    },
};
use tests::{eventually, storage::Mda};
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);
const MESSAGE: &[u8] = b"From: a@else.org\r\nSubject: hi\r\n\r\nbody \xff\r\n.\r\n";

/// One message to some recipients elsewhere.
async fn accept(mda: &Mda, to: &[&str], content: &[u8]) -> String {
    let queue_id = QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let recipient = |path: &&str| Recipient {
        forward_path: (*path).to_owned(),
        targets: vec![Target { to: Some(To::Remote((*path).to_owned())) }],
        ..Default::default()
    };
    let recipients = to.iter().map(recipient).collect();
    let envelope =
        Envelope { queue_id: queue_id.clone(), reverse_path: "a@else.org".into(), recipients, ..Default::default() };
    let request = AcceptRequest { envelope: Some(envelope), content: content.to_vec().into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    queue_id
}

async fn claim(mda: &Mda, ids: &[(&str, u32)], content_limit: u32) -> ClaimResponse {
    let id = |(queue_id, number): &(&str, u32)| DeliveryId { queue_id: (*queue_id).to_owned(), number: *number };
    let request = ClaimRequest { deliveries: ids.iter().map(id).collect(), lease_ms: 60_000, content_limit };
    mda.spool().claim(request).await.unwrap().into_inner()
}

async fn seconds_until_due(mda: &Mda) -> Vec<f64> {
    let select = "select extract(epoch from due_at - now())::float8 from deliveries order by queue_id, number";
    sqlx::query_scalar(select).fetch_all(&mut mda.sql().await).await.unwrap()
}

async fn make_due(mda: &Mda) {
    sqlx::query("update deliveries set due_at = now()").execute(&mut mda.sql().await).await.unwrap();
}

#[tokio::test]
async fn contents_come_with_the_claim_once_a_message_and_byte_for_byte() {
    let mda = Mda::start().await;
    let large = [b"Subject: large\r\n\r\n".as_slice(), &vec![b'x'; 5_000], b"\r\n"].concat();
    let first = accept(&mda, &["x@else.org", "y@else.org"], MESSAGE).await;
    let second = accept(&mda, &["x@else.org"], &large).await;
    let third = accept(&mda, &["x@else.org"], MESSAGE).await;
    let answer = claim(&mda, &[(&first, 0), (&first, 1), (&second, 0)], 1_000).await;
    assert_eq!(answer.claimed.len(), 3);
    assert_eq!(answer.contents.len(), 1, "the large one is fetched");
    assert_eq!((answer.contents[0].queue_id.as_str(), &answer.contents[0].content[..]), (first.as_str(), MESSAGE));
    assert!(claim(&mda, &[(&third, 0)], 0).await.contents.is_empty(), "not asked for");

    // From Postgres too: given back and claimed again by another.
    let leases = answer.claimed.iter().map(|c| Lease { id: c.id.clone(), token: c.token.clone() }).collect();
    mda.spool().give_back(GiveBackRequest { leases, after_ms: 500, text: String::new() }).await.unwrap();
    let again = eventually("they are due again", SOON, || async {
        let answer = claim(&mda, &[(&first, 0), (&second, 0)], 100_000).await;
        (answer.claimed.len() == 2).then_some(answer)
    })
    .await;
    assert_eq!(again.claimed[0].attempt, 1, "no attempt was made before");
    let content = |id: &str| again.contents.iter().find(|c| c.queue_id == id).unwrap().content.to_vec();
    assert_eq!((content(&first), content(&second)), (MESSAGE.to_vec(), large));
}

#[tokio::test]
async fn many_claims_at_once_give_each_delivery_to_one() {
    let mda = Mda::start().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(accept(&mda, &["x@else.org", "y@d.org"], MESSAGE).await);
    }
    let wanted: Vec<(&str, u32)> = ids.iter().flat_map(|id| [(id.as_str(), 0), (id.as_str(), 1)]).collect();
    let answers = futures::future::join_all((0..8).map(|_| claim(&mda, &wanted, 10_000))).await;
    let claimed: Vec<_> = answers.into_iter().flat_map(|a| a.claimed).collect();
    assert_eq!(claimed.len(), 40, "each of them once");
    // One batch of outcomes, two of them with a token that is not theirs.
    let mut outcomes: Vec<Outcome> = claimed
        .iter()
        .map(|c| Outcome {
            lease: Some(Lease { id: c.id.clone(), token: c.token.clone() }),
            result: Some(outcome::Result::Relayed(Relayed {})),
            event: None,
        })
        .collect();
    for wrong in &mut outcomes[..2] {
        wrong.lease.as_mut().unwrap().token = uuid::Uuid::new_v4().to_string();
    }
    let settled = mda.spool().settle(SettleRequest { outcomes }).await.unwrap().into_inner().settled;
    assert_eq!(settled.len(), 38);
    let left: i64 =
        sqlx::query_scalar("select count(*) from deliveries").fetch_one(&mut mda.sql().await).await.unwrap();
    assert_eq!(left, 2);
}

#[tokio::test]
async fn a_resting_destination_is_put_off_and_others_are_not() {
    let mda = Mda::start().await;
    let rest = |domain: &str, for_ms| {
        let request = RestRequest { domain: domain.into(), for_ms };
        async { mda.relay().rest(request).await.unwrap() }
    };
    rest("silent.org", 120_000).await;
    rest("silent.org", 1_000).await;
    accept(&mda, &["x@Silent.org", "y@else.org"], MESSAGE).await;
    make_due(&mda).await;
    let due = eventually("both have been looked at", SOON, || async {
        let due = seconds_until_due(&mda).await;
        due.iter().all(|s| *s > 0.0).then_some(due)
    })
    .await;
    // The shorter rest changed nothing.
    assert!(due[0] > 60.0 && due[1] < 60.0, "{due:?}");
}

#[tokio::test]
async fn mail_for_a_paused_destination_is_not_claimed_until_it_is_resumed() {
    let mda = Mda::start().await;
    let domain = || "paused.org".to_owned();
    let pause = PauseDestinationRequest { domain: domain(), reason: "test".into() };
    mda.admin().pause_destination(pause).await.unwrap();
    let id = accept(&mda, &["x@paused.org", "y@else.org"], MESSAGE).await;
    let answer = claim(&mda, &[(&id, 0), (&id, 1)], 0).await;
    assert_eq!(answer.claimed.iter().map(|c| c.forward_path.as_str()).collect::<Vec<_>>(), ["y@else.org"]);
    assert!(seconds_until_due(&mda).await[0] > 300.0, "it is not handed out again and again");
    let resumed = mda.admin().resume_destination(ResumeDestinationRequest { domain: domain() }).await.unwrap();
    assert_eq!(resumed.into_inner().released, 1);
    assert_eq!(claim(&mda, &[(&id, 0), (&id, 1)], 0).await.claimed[0].forward_path, "x@paused.org");
}

#[tokio::test]
async fn policies_are_kept_and_the_newest_counts() {
    let mda = Mda::start().await;
    let get = || async {
        let request = GetStsPolicyRequest { domain: "example.com".into() };
        mda.relay().get_sts_policy(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(get().await.unwrap_err().code(), Code::NotFound);
    let policy = |id: &str, fetched_at_ms| StsPolicy {
        domain: "example.com".into(),
        id: id.into(),
        text: "version: STSv1".into(),
        fetched_at_ms,
        expires_at_ms: fetched_at_ms + 1_000,
    };
    for (id, at) in [("1", 1_700_000_000_000), ("3", 1_700_000_300_000), ("2", 1_700_000_200_000)] {
        mda.relay().put_sts_policy(policy(id, at)).await.unwrap();
    }
    assert_eq!(get().await.unwrap(), policy("3", 1_700_000_300_000));
    let endless = StsPolicy { expires_at_ms: i64::MAX, ..policy("4", 1) };
    assert_eq!(mda.relay().put_sts_policy(endless).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn tls_results_are_added_up_and_each_report_is_one_relays() {
    let mda = Mda::start().await;
    let result = |failure: &str, good, bad| TlsResult {
        domain: "example.com".into(),
        policy: "{}".into(),
        failure: failure.into(),
        successful_sessions: good,
        failed_sessions: bad,
    };
    for _ in 0..3 {
        let results = vec![result("", 5, 0), result("{\"result-type\":\"x\"}", 0, 1), result("", 1, 0)];
        mda.relay().add_tls_results(AddTlsResultsRequest { results }).await.unwrap();
    }
    let claim = || async { mda.relay().claim_tls_report(ClaimTlsReportRequest {}).await.unwrap().into_inner() };
    assert_eq!(claim().await, TlsReport::default(), "today is not over");
    sqlx::query("update tls_results set day = day - 1").execute(&mut mda.sql().await).await.unwrap();
    let reports = futures::future::join_all((0..4).map(|_| claim())).await;
    let mut reports: Vec<TlsReport> = reports.into_iter().filter(|r| !r.domain.is_empty()).collect();
    assert_eq!(reports.len(), 1, "one relay has it");
    let report = reports.remove(0);
    let mut counts: Vec<_> = report.results.iter().map(|r| (r.successful_sessions, r.failed_sessions)).collect();
    counts.sort_unstable();
    assert_eq!((report.domain.as_str(), counts), ("example.com", vec![(0, 3), (18, 0)]));
    // Its relay died: after its time another has it; then it is done for good.
    let expire = "update tls_reports set claimed_until = now() - interval '1 second'";
    sqlx::query(expire).execute(&mut mda.sql().await).await.unwrap();
    assert_eq!(claim().await.domain, "example.com");
    let done = FinishTlsReportRequest { domain: report.domain, day: report.day };
    mda.relay().finish_tls_report(done).await.unwrap();
    sqlx::query(expire).execute(&mut mda.sql().await).await.unwrap();
    assert_eq!(claim().await, TlsReport::default());
}

#[tokio::test]
async fn a_tenant_leaves_from_one_pool() {
    let mda = Mda::start().await;
    sqlx::query("insert into tenants (name) values ('shop'), ('news')").execute(&mut mda.sql().await).await.unwrap();
    let set = |name: &str, address: &str, tenants: &[&str]| {
        let sources = vec![EgressSource { address: address.into(), hostname: String::new() }];
        let tenants = tenants.iter().map(|t| (*t).to_owned()).collect();
        let pool = EgressPool { name: name.into(), sources, tenants };
        async { mda.egress().set_pool(pool).await.map(drop).map_err(|e| e.code()) }
    };
    let list = || async {
        let pools = mda.egress().list_pools(ListPoolsRequest {}).await.unwrap().into_inner().pools;
        pools.iter().map(|p| format!("{} {} {}", p.name, p.sources[0].address, p.tenants.join(","))).collect::<Vec<_>>()
    };
    set("bulk", "192.0.2.7", &["shop", "news"]).await.unwrap();
    assert_eq!(set("own", "192.0.2.8", &["shop"]).await, Err(Code::FailedPrecondition));
    assert_eq!(set("own", "192.0.2.8", &["nobody"]).await, Err(Code::NotFound));
    assert_eq!(set("own", "somewhere", &[]).await, Err(Code::InvalidArgument));
    assert_eq!(list().await, ["bulk 192.0.2.7 news,shop"], "what is refused changes nothing");
    set("bulk", "192.0.2.9", &["news"]).await.unwrap();
    set("own", "192.0.2.8", &["shop"]).await.unwrap();
    assert_eq!(list().await, ["bulk 192.0.2.9 news", "own 192.0.2.8 shop"]);
    let delete = || DeletePoolRequest { name: "own".into() };
    mda.egress().delete_pool(delete()).await.unwrap();
    assert_eq!(mda.egress().delete_pool(delete()).await.unwrap_err().code(), Code::NotFound);
    set("bulk", "192.0.2.9", &["news", "shop"]).await.unwrap();
    assert_eq!(list().await, ["bulk 192.0.2.9 news,shop"]);
}
