//! The operator against a Kubernetes API and an `mda` that remember what they are told.

#![allow(clippy::unwrap_used)]

mod policies;
mod support;

use std::{sync::Arc, time::Duration};

use kube::runtime::controller::Action;
use operator::FINALIZER;
use serde_json::json;
use support::World;
use tokio_util::sync::CancellationToken;

fn status_of(condition: &str, world: &World) -> (String, String) {
    let object = world.api.object("example").unwrap();
    let conditions = object["status"]["conditions"].as_array().unwrap().clone();
    let one = conditions.iter().find(|c| c["type"] == condition).unwrap();
    (one["status"].as_str().unwrap().to_owned(), one["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_new_domain_is_created_and_told_what_to_publish() {
    let world = World::new().await;
    world.api.put("example", json!({ "name": "example.com", "deletionPolicy": "Delete" }));
    // First the finalizer, so that nothing is made that would not be cleaned up.
    world.reconcile("example").await.unwrap();
    assert_eq!(world.api.object("example").unwrap()["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(world.mda.domains(), [""; 0]);
    let action = world.reconcile("example").await.unwrap();
    assert_eq!(world.mda.domains(), ["example.com"]);
    assert_eq!(action, Action::requeue(Duration::from_secs(60)));
    assert_eq!(status_of("Ready", &world).0, "True");
    let (dns, message) = status_of("DNSPublished", &world);
    assert_eq!(dns, "False");
    for missing in ["MX example.com", "TXT s1._domainkey.example.com", "TXT _dmarc.example.com"] {
        assert!(message.contains(missing), "{message}");
    }
    assert_eq!(world.api.events(), ["ReadyApplied", "DNSPublishedMissing"]);
}

#[tokio::test]
async fn dns_wrong_then_right() {
    let world = World::new().await;
    world.api.put("example", json!({ "name": "example.com" }));
    world.zone.set("example.com", "MX", &["mx.elsewhere.net"]);
    world.zone.set("example.com", "TXT", &["v=spf1 mx -all"]);
    world.zone.set("_dmarc.example.com", "TXT", &["v=DMARC1; p=none"]);
    world.zone.set("s1._domainkey.example.com", "TXT", &["v=DKIM1; k=rsa; p=WRONG"]);
    world.settle("example").await;
    let (dns, message) = status_of("DNSPublished", &world);
    assert_eq!((dns.as_str(), message.as_str()), ("False", "different: MX example.com, TXT s1._domainkey.example.com"));
    let records = world.api.object("example").unwrap()["status"]["records"].clone();
    assert_eq!(records[0]["found"], "mx.elsewhere.net", "{records}");

    world.zone.set("example.com", "MX", &["mail.example.org"]);
    world.zone.set("s1._domainkey.example.com", "TXT", &["v=DKIM1; k=rsa; p=KEY"]);
    let action = world.reconcile("example").await.unwrap();
    assert_eq!(status_of("DNSPublished", &world), ("True".into(), "all records are published".into()));
    assert_eq!(action, Action::requeue(Duration::from_secs(3600)));

    world.zone.fail(true);
    world.reconcile("example").await.unwrap();
    assert_eq!(status_of("DNSPublished", &world).0, "Unknown", "silence is not absence");
    let writes = world.api.writes();
    world.reconcile("example").await.unwrap();
    assert_eq!(world.api.writes(), writes, "nothing changed, nothing is written");
    assert_eq!(
        world.api.events(),
        ["ReadyApplied", "DNSPublishedDifferent", "DNSPublishedPublished", "DNSPublishedNoAnswer"]
    );
}

#[tokio::test]
async fn an_update_is_seen_and_another_mx_host_is_right() {
    let world = World::new().await;
    world.api.put("example", json!({ "name": "example.com" }));
    world.zone.set("example.com", "MX", &["mx1.example.net"]);
    world.settle("example").await;
    assert!(status_of("DNSPublished", &world).1.contains("different: MX"));
    world.api.put("example", json!({ "name": "example.com", "mx": ["mx1.example.net"] }));
    world.reconcile("example").await.unwrap();
    assert!(!status_of("DNSPublished", &world).1.contains("MX"));
    let generation = world.api.object("example").unwrap()["metadata"]["generation"].clone();
    assert_eq!(world.api.object("example").unwrap()["status"]["observedGeneration"], generation);
}

#[tokio::test]
async fn deletion_retains_unless_told_otherwise() {
    let world = World::new().await;
    world.api.put("example", json!({ "name": "example.com" }));
    world.settle("example").await;
    let finalizers = || world.api.object("example").unwrap()["metadata"]["finalizers"].clone();
    assert!(finalizers().is_null(), "it waits for nobody");
    world.api.delete("example");
    assert!(world.api.object("example").is_none());
    assert_eq!(world.mda.domains(), ["example.com"]);

    // Whoever thinks better of it is let go.
    world.api.put("example", json!({ "name": "example.com", "deletionPolicy": "Delete" }));
    world.settle("example").await;
    assert_eq!(finalizers(), json!([FINALIZER]));
    world.api.put("example", json!({ "name": "example.com" }));
    world.reconcile("example").await.unwrap();
    assert!(finalizers().is_null());
    world.api.put("example", json!({ "name": "example.com", "deletionPolicy": "Delete" }));
    world.settle("example").await;
    world.mda.refuse(Some((tonic::Code::FailedPrecondition, "still has accounts")));
    world.api.delete("example");
    let error = world.reconcile("example").await.unwrap_err();
    assert!(error.to_string().contains("still has accounts"), "{error}");
    assert_eq!(world.retry_after(&error), Action::requeue(Duration::from_secs(300)), "a refusal may last");
    assert!(world.api.object("example").is_some(), "the resource stays until the domain is gone");
    world.mda.refuse(None);
    world.reconcile("example").await.unwrap();
    assert!(world.api.object("example").is_none());
    assert_eq!(world.mda.domains(), [""; 0]);
}

#[tokio::test]
async fn an_mda_that_is_away_is_not_ready_and_tried_again_soon() {
    let world = World::new().await;
    world.api.put("example", json!({ "name": "example.com" }));
    world.reconcile("example").await.unwrap();
    world.mda.refuse(Some((tonic::Code::Unavailable, "storage is unavailable")));
    let error = world.reconcile("example").await.unwrap_err();
    assert_eq!(world.retry_after(&error), Action::requeue(Duration::from_secs(10)));
    assert_eq!(status_of("Ready", &world), ("False".into(), "storage is unavailable".into()));
    world.mda.refuse(None);
    world.reconcile("example").await.unwrap();
    assert_eq!(status_of("Ready", &world).0, "True");
}

#[tokio::test]
async fn a_conflict_or_an_api_that_is_down_is_tried_again() {
    let world = World::new().await;
    world.api.put("example", json!({ "name": "example.com", "deletionPolicy": "Delete" }));
    for code in [409, 500, 503] {
        world.api.fail(Some(code));
        let error = world.reconcile("example").await.unwrap_err();
        assert_eq!(world.retry_after(&error), Action::requeue(Duration::from_secs(10)), "{code}");
        assert_eq!(world.mda.domains(), [""; 0], "without its finalizer nothing is made");
    }
    world.api.fail(None);
    world.settle("example").await;
    assert_eq!(world.mda.domains(), ["example.com"]);
}

#[tokio::test]
async fn an_egress_pool_is_handed_over_changed_and_retained_or_deleted() {
    let world = World::new().await;
    let status = || {
        let object = world.api.object("bulk").unwrap();
        let ready = object["status"]["conditions"][0].clone();
        (ready["status"].as_str().unwrap().to_owned(), ready["message"].as_str().unwrap().to_owned())
    };
    let spec = |tenants: &[&str]| {
        let source = json!({ "address": "192.0.2.7", "hostname": "bulk.example.net" });
        json!({ "sources": [source], "tenants": tenants, "deletionPolicy": "Delete" })
    };
    world.api.put_kind("EgressPool", "bulk", spec(&["shop"]));
    world.reconcile("bulk").await.unwrap();
    assert_eq!(world.api.object("bulk").unwrap()["metadata"]["finalizers"], json!([operator::EGRESS_FINALIZER]));
    assert_eq!(world.mda.pool("bulk"), None, "first the finalizer");
    world.reconcile("bulk").await.unwrap();
    let pool = world.mda.pool("bulk").unwrap();
    assert_eq!((pool.sources[0].address.as_str(), pool.tenants.join(",")), ("192.0.2.7", "shop".to_owned()));
    assert_eq!(status(), ("True".into(), "relays use it for 1 tenants".into()));

    world.api.put_kind("EgressPool", "bulk", spec(&["shop", "news"]));
    world.reconcile("bulk").await.unwrap();
    assert_eq!(world.mda.pool("bulk").unwrap().tenants, ["shop", "news"]);
    let writes = world.api.writes();
    world.reconcile("bulk").await.unwrap();
    assert_eq!(world.api.writes(), writes, "nothing changed, nothing is written");

    // A tenant that another pool has: said, and tried again after a while; the rest stays.
    world.mda.refuse(Some((tonic::Code::FailedPrecondition, "tenant \"news\" leaves from the egress pool \"own\"")));
    let error = world.reconcile("bulk").await.unwrap_err();
    assert_eq!(world.retry_after(&error), Action::requeue(Duration::from_secs(300)));
    assert_eq!(status(), ("False".into(), "tenant \"news\" leaves from the egress pool \"own\"".into()));
    world.mda.refuse(Some((tonic::Code::Unavailable, "storage is unavailable")));
    let error = world.reconcile("bulk").await.unwrap_err();
    assert_eq!(world.retry_after(&error), Action::requeue(Duration::from_secs(10)));
    world.mda.refuse(None);
    for code in [409, 500] {
        world.api.fail(Some(code));
        assert!(world.reconcile("bulk").await.is_err(), "{code}");
    }
    world.api.fail(None);
    world.reconcile("bulk").await.unwrap();
    assert_eq!(status().0, "True");

    // Retained unless told otherwise.
    let mut retain = spec(&["shop"]);
    retain["deletionPolicy"] = json!("Retain");
    world.api.put_kind("EgressPool", "bulk", retain);
    world.reconcile("bulk").await.unwrap();
    world.api.delete("bulk");
    assert!(world.api.object("bulk").is_none() && world.mda.pool("bulk").is_some());
    world.api.put_kind("EgressPool", "bulk", spec(&[]));
    world.settle("bulk").await;
    world.api.delete("bulk");
    world.reconcile("bulk").await.unwrap();
    assert!(world.api.object("bulk").is_none() && world.mda.pool("bulk").is_none());
}

#[tokio::test]
async fn a_tenant_is_made_limited_and_retained_or_deleted() {
    let world = World::new().await;
    let ready = || {
        let condition = world.api.object("shop").unwrap()["status"]["conditions"][0].clone();
        (condition["status"].as_str().unwrap().to_owned(), condition["message"].as_str().unwrap().to_owned())
    };
    let quota = || world.mda.tenant("Shop").map(|t| (t.quota_bytes, t.quota_messages));
    world.api.put_kind("Tenant", "shop", json!({ "name": "Shop" }));
    world.reconcile("shop").await.unwrap();
    assert_eq!((quota(), ready().0.as_str()), (Some((0, 0)), "True"));
    world.api.put_kind("Tenant", "shop", json!({ "name": "Shop", "quota": { "bytes": 5_000_000_000_u64 } }));
    world.reconcile("shop").await.unwrap();
    assert_eq!(quota(), Some((5_000_000_000, 0)));
    let writes = world.api.writes();
    world.reconcile("shop").await.unwrap();
    assert_eq!(world.api.writes(), writes, "nothing changed, nothing is written");

    for (code, words, pause) in [
        (tonic::Code::Unavailable, "storage is unavailable", 10),
        (tonic::Code::InvalidArgument, "tenant \"Shop\": expected letters", 300),
    ] {
        world.mda.refuse(Some((code, words)));
        let error = world.reconcile("shop").await.unwrap_err();
        assert_eq!(world.retry_after(&error), Action::requeue(Duration::from_secs(pause)));
        assert_eq!(ready(), ("False".into(), words.into()));
    }
    world.mda.refuse(None);
    world.api.fail(Some(409));
    assert!(world.reconcile("shop").await.is_err());
    world.api.fail(None);
    world.reconcile("shop").await.unwrap();
    assert_eq!(ready().0, "True");

    world.api.delete("shop");
    assert!(world.api.object("shop").is_none() && quota().is_some(), "retained");
    world.api.put_kind("Tenant", "shop", json!({ "name": "Shop", "deletionPolicy": "Delete" }));
    world.settle("shop").await;
    assert_eq!(world.api.object("shop").unwrap()["metadata"]["finalizers"], json!([operator::TENANT_FINALIZER]));
    world.mda.refuse(Some((tonic::Code::FailedPrecondition, "still has 2 domains")));
    world.api.delete("shop");
    world.reconcile("shop").await.unwrap_err();
    assert!(world.api.object("shop").is_some(), "it stays until its domains are gone");
    world.mda.refuse(None);
    world.reconcile("shop").await.unwrap();
    assert!(world.api.object("shop").is_none() && quota().is_none());
}

#[tokio::test]
async fn one_leads_and_stops_when_another_took_over_or_the_api_is_gone() {
    let world = World::new().await;
    let lease = |me: &str| operator::Lease::new(world.api.client(), "mail", me, Duration::from_secs(10));
    let leading = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let now = || leading.lock().unwrap().clone();
    let start = |me: &'static str| {
        let (lease, leading, stop) = (lease(me), leading.clone(), CancellationToken::new());
        let shutdown = stop.clone();
        let task = tokio::spawn(async move {
            operator::lead(&lease, &shutdown, |lost| {
                let leading = leading.clone();
                async move {
                    leading.lock().unwrap().push(me.to_owned());
                    lost.cancelled().await;
                    leading.lock().unwrap().retain(|l| l != me);
                }
            })
            .await;
        });
        (stop, task)
    };
    let until = async |wanted: &[&str]| {
        let start = tokio::time::Instant::now();
        while now() != wanted {
            assert!(start.elapsed() < Duration::from_secs(60), "{wanted:?} lead, not {:?}", now());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (stop_a, a) = start("a");
    until(&["a"]).await;
    let (stop_b, b) = start("b");
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(now(), ["a"], "a renews, b waits");

    // Gone with goodbye: b takes over at once.
    stop_a.cancel();
    a.await.unwrap();
    until(&["b"]).await;
    assert_eq!(world.api.lease()["spec"]["leaseTransitions"], 1);

    // The lease is somebody else's all of a sudden.
    world.api.steal_lease("c");
    until(&[]).await;
    // c never renews: after its time b leads again.
    until(&["b"]).await;

    // Who cannot renew must stop before another can start.
    world.api.fail(Some(500));
    until(&[]).await;
    world.api.fail(None);
    until(&["b"]).await;
    stop_b.cancel();
    b.await.unwrap();
}

#[test]
fn the_charts_crds_are_those_of_the_types() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../helm/postroad/crds/domains.yaml");
    let ours: String = operator::crds()
        .iter()
        .map(|crd| format!("---\n{}\n", serde_saphyr::to_string(&serde_json::to_value(crd).unwrap()).unwrap()))
        .collect();
    let theirs = std::fs::read_to_string(file).unwrap();
    assert!(ours == theirs, "cargo run -p operator --example crds > helm/postroad/crds/domains.yaml");
    assert!(ours.contains("a domain cannot be renamed"));
}
