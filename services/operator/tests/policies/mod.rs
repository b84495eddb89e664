//! What a `Domain` and a `Tenant` say besides their names, against an `mda` that remembers it.

use proto::admin::{DkimKey, dkim_key::State};
use serde_json::{Value, json};

use crate::support::World;

fn condition(world: &World, kind: &str) -> Option<(String, String, String)> {
    let object = world.api.object("example").unwrap();
    let conditions = object["status"]["conditions"].as_array().unwrap().clone();
    let one = conditions.into_iter().find(|c| c["type"] == kind)?;
    let text = |key: &str| one[key].as_str().unwrap().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

async fn apply(world: &World, mut spec: Value) {
    spec["name"] = json!("example.com");
    world.api.put("example", spec);
    world.reconcile("example").await.unwrap();
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn key(selector: &str, state: State, days_old: i64) -> DkimKey {
    let created_at_ms = now_ms() - days_old * 86_400_000;
    DkimKey { selector: selector.into(), state: state.into(), created_at_ms, ..DkimKey::default() }
}

#[tokio::test]
async fn a_domain_has_a_mind_of_its_own_about_dmarc() {
    let world = World::new().await;
    apply(&world, json!({})).await;
    assert_eq!(world.mda.overrides(), [], "nothing is said, nothing is set");
    for (word, quarantine, inherit) in [("Quarantine", true, false), ("Reject", false, false), ("Inherit", false, true)]
    {
        apply(&world, json!({ "dmarcOverride": word })).await;
        let told = world.mda.overrides().pop().unwrap();
        assert_eq!((told.domain.as_str(), told.tenant.as_str()), ("example.com", ""));
        assert_eq!((told.quarantine, told.inherit), (quarantine, inherit), "{word}");
    }
    assert_eq!(condition(&world, "Ready").unwrap().0, "True");
}

#[tokio::test]
async fn a_catch_all_is_set_changed_removed_and_does_not_keep_a_domain() {
    let world = World::new().await;
    apply(&world, json!({ "catchAll": ["bob@example.com"] })).await;
    assert_eq!(world.mda.alias("@example.com").unwrap(), ["bob@example.com"]);
    apply(&world, json!({ "catchAll": ["ann@example.com", "x@else.org"] })).await;
    assert_eq!(world.mda.alias("@example.com").unwrap(), ["ann@example.com", "x@else.org"]);
    apply(&world, json!({})).await;
    assert!(world.mda.alias("@example.com").is_some(), "what is not said stays");
    for _ in 0..2 {
        apply(&world, json!({ "catchAll": [] })).await;
        assert_eq!(world.mda.alias("@example.com"), None);
    }

    // What mda refuses is said, and the rest of the status stays.
    world.mda.refuse(Some((tonic::Code::InvalidArgument, "alias @example.com: expected 1 to 10000 targets")));
    world.api.put("example", json!({ "name": "example.com", "catchAll": ["nonsense"] }));
    world.reconcile("example").await.unwrap_err();
    assert_eq!(condition(&world, "Ready").unwrap().1, "Refused");
    assert!(condition(&world, "DNSPublished").is_some());
    world.mda.refuse(None);

    let spec = json!({ "name": "example.com", "catchAll": ["bob@example.com"], "deletionPolicy": "Delete" });
    world.api.put("example", spec);
    world.settle("example").await;
    world.api.delete("example");
    world.reconcile("example").await.unwrap();
    assert!(world.api.object("example").is_none());
    assert_eq!((world.mda.alias("@example.com"), world.mda.domains()), (None, Vec::new()));
}

#[tokio::test]
async fn keys_are_replaced_when_asked_for_once() {
    let world = World::new().await;
    world.mda.set_keys(vec![key("s1", State::Signing, 3)]);
    apply(&world, json!({})).await;
    assert_eq!(condition(&world, "DKIM"), None);
    apply(&world, json!({ "dkim": { "rotation": 1, "publishDays": 2, "overlapDays": 3 } })).await;
    let told = world.mda.rotations();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].publish_seconds, told[0].overlap_seconds), (Some(2 * 86_400), Some(3 * 86_400)));
    let (status, reason, message) = condition(&world, "DKIM").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Rotating"));
    assert!(message.starts_with("s2 sign from"), "{message}");
    let status = world.api.object("example").unwrap()["status"]["dkim"].clone();
    assert_eq!((&status["rotation"], &status["keys"][1]["state"]), (&json!(1), &json!("Pending")), "{status}");
    assert!(world.api.events().contains(&"DKIMRotating".to_owned()));

    // The same number again, whoever looks: nothing.
    let writes = world.api.writes();
    world.reconcile("example").await.unwrap();
    assert_eq!((world.mda.rotations().len(), world.api.writes()), (1, writes));
    world.mda.set_keys(vec![key("s1", State::Retired, 9), key("s2", State::Signing, 2)]);
    world.reconcile("example").await.unwrap();
    assert_eq!(condition(&world, "DKIM").unwrap(), ("True".into(), "Signing".into(), "s2 sign".into()));
    assert_eq!(world.mda.rotations().len(), 1);

    // Raised again; the status could not be written: the keys that wait are the ones that were wanted.
    let dkim = json!({ "name": "example.com", "dkim": { "rotation": 2 } });
    world.api.put("example", dkim);
    world.api.fail(Some(500));
    world.reconcile("example").await.unwrap_err();
    world.api.fail(None);
    world.reconcile("example").await.unwrap();
    assert_eq!(world.mda.rotations().len(), 2);
    assert_eq!(world.api.object("example").unwrap()["status"]["dkim"]["rotation"], 2);
}

#[tokio::test]
async fn keys_are_replaced_when_they_are_old() {
    let world = World::new().await;
    let spec = || json!({ "dkim": { "rotateEveryDays": 90 } });
    world.mda.set_keys(vec![key("s1", State::Signing, 89)]);
    apply(&world, spec()).await;
    assert_eq!(world.mda.rotations().len(), 0);
    world.mda.set_keys(vec![key("s1", State::Signing, 90)]);
    apply(&world, spec()).await;
    assert_eq!(world.mda.rotations().len(), 1);
    assert_eq!(world.mda.rotations()[0].publish_seconds, Some(7 * 86_400), "a week by default");
    // Old as they are, a pending pair is enough.
    world.mda.set_keys(vec![key("s1", State::Signing, 400), key("s2", State::Pending, 300)]);
    apply(&world, spec()).await;
    assert_eq!(world.mda.rotations().len(), 1);
    world.mda.set_keys(vec![key("s1", State::Retired, 400)]);
    apply(&world, json!({ "dkim": {} })).await;
    assert_eq!(condition(&world, "DKIM").unwrap().1, "NoKey");
}

#[tokio::test]
async fn a_resource_from_a_copy_rotates_nothing_by_itself() {
    let world = World::new().await;
    world.mda.set_keys(vec![key("s1", State::Signing, 1)]);
    apply(&world, json!({ "dkim": { "rotation": 7 } })).await;
    assert_eq!(world.mda.rotations().len(), 0);
    apply(&world, json!({ "dkim": { "rotation": 8 } })).await;
    assert_eq!(world.mda.rotations().len(), 1);
}

#[tokio::test]
async fn a_tenant_limits_accounts_and_sending() {
    let world = World::new().await;
    let ready = || world.api.object("shop").unwrap()["status"]["conditions"][0]["message"].as_str().unwrap().to_owned();
    let spec = json!({ "name": "shop", "limits": { "maxAccounts": 50, "dailyRecipients": 200 } });
    world.api.put_kind("Tenant", "shop", spec);
    world.reconcile("shop").await.unwrap();
    let tenant = world.mda.tenant("shop").unwrap();
    assert_eq!((tenant.max_accounts, tenant.daily_recipients), (50, 200));
    assert_eq!(ready(), "limits: 50 accounts, 200 recipients a day (0 is none)");
    assert_eq!(world.mda.overrides(), []);

    let spec = json!({ "name": "shop", "quota": { "bytes": 9 }, "limits": { "maxAccounts": 0 }, "dmarcOverride": "Quarantine" });
    world.api.put_kind("Tenant", "shop", spec);
    world.reconcile("shop").await.unwrap();
    let tenant = world.mda.tenant("shop").unwrap();
    assert_eq!((tenant.max_accounts, tenant.daily_recipients), (0, 200), "what is absent stays");
    assert_eq!(ready(), "limits: 9 bytes, 0 messages, 0 accounts, 200 recipients a day (0 is none)");
    let told = world.mda.overrides().pop().unwrap();
    assert_eq!((told.tenant.as_str(), told.domain.as_str(), told.quarantine), ("shop", "", true));
    let writes = world.api.writes();
    world.reconcile("shop").await.unwrap();
    assert_eq!(world.api.writes(), writes, "nothing changed, nothing is written");
}
