//! The way out and back, on stores of object_store's own.

use object_store::{
    memory::InMemory,
    throttle::{ThrottleConfig, ThrottledStore},
};
use runtime::prometheus_client::registry::Registry;
use tonic::Code;

use super::*;

/// A place that is ours; no database is asked.
fn objects(store: impl ObjectStore) -> Objects {
    let pool = PgPool::connect_lazy("postgres://nobody@localhost:1/none").expect("a URL");
    let place = config::Place { store: Arc::new(store), prefix: Path::from("mail/one"), is_sorted: true };
    let config = Config { min_bytes: 100, timeout_seconds: 1, ..Config::default() };
    Objects(Some(Arc::new(Inner {
        pool,
        place,
        config,
        metrics: Metrics::register(&mut Registry::default()),
        puts: Semaphore::new(AT_ONCE),
        gets: Semaphore::new(AT_ONCE),
        ours: OnceCell::new_with(Some(())),
    })))
}

/// Its body cannot be compressed.
async fn message(octets: usize) -> Prepared {
    let mut body = vec![0; octets];
    aws_lc_rs::rand::fill(&mut body).expect("chance");
    crate::content::prepare([b"Subject: x\r\n\r\n", &body[..]].concat().into()).await.expect("small")
}

#[tokio::test]
async fn large_bodies_go_out_and_come_back_whole_and_in_ranges() {
    let objects = objects(InMemory::new());
    let id = Uuid::now_v7();
    let mut large = message(5_000).await;
    let whole = large.body.clone();
    objects.take_out(id, &mut large).await.expect("put");
    let name = large.object.clone().expect("it is large");
    assert_eq!((large.body.len(), names::content(&name)), (0, Some(id)));
    assert_eq!(objects.body(Vec::new(), Some(&name)).await.expect("there"), whole);
    for (start, most) in [(0, 10), (1_000, 1_000), (whole.len() as u64 - 5, 100)] {
        let (range, size) = objects.range(&name, start, Some(most)).await.expect("a range");
        let end = whole.len().min((start + most) as usize);
        assert_eq!((&range[..], size), (&whole[start as usize..end], whole.len() as u64));
    }
    // A second time changes nothing; another attempt has a name of its own.
    objects.take_out(id, &mut large).await.expect("nothing to do");
    assert_eq!(large.object.as_ref(), Some(&name));
    let mut again = message(5_000).await;
    objects.take_out(id, &mut again).await.expect("put");
    assert_ne!(again.object, Some(name));

    let mut small = message(50).await;
    let body = small.body.clone();
    objects.take_out(id, &mut small).await.expect("nothing to do");
    assert_eq!((&small.body, &small.object), (&body, &None));
    assert_eq!(objects.body(small.body, None).await.expect("from its row"), body);
}

#[tokio::test]
async fn a_store_that_is_away_is_transient_and_a_body_that_is_missing_is_not() {
    let there = objects(InMemory::new());
    let missing = there.body(Vec::new(), Some(&names::new(Uuid::now_v7()))).await.expect_err("nothing there");
    assert_eq!(missing.code(), Code::DataLoss);

    let slow = ThrottleConfig {
        wait_put_per_call: Duration::from_secs(5),
        wait_get_per_call: Duration::from_secs(5),
        ..ThrottleConfig::default()
    };
    let away = objects(ThrottledStore::new(InMemory::new(), slow));
    let name = names::new(Uuid::now_v7());
    let mut large = message(5_000).await;
    let (put, got) = tokio::join!(away.take_out(Uuid::now_v7(), &mut large), away.body(Vec::new(), Some(&name)));
    assert_eq!(put.map_err(|s| s.code()), Err(Code::Unavailable));
    assert_eq!(got.map_err(|s| s.code()), Err(Code::Unavailable));
    assert_eq!(large.object, None, "what is not there is not named");

    // Taken out of the configuration while rows still name objects.
    let none = Objects(None).body(Vec::new(), Some(&name)).await;
    assert_eq!(none.map_err(|s| s.code()), Err(Code::Unavailable));
}
