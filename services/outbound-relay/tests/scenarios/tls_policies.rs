//! TLS broken, expired, for the wrong name, or absent, under each policy: opportunistic,
//! MTA-STS and DANE.

use std::sync::Arc;

use crate::support::{
    Peer, Script, Site, Tls, delivery, detail, site_with,
    tls::{Authority, Certificate},
    told, zone,
};
use hickory_server::{Server, zone_handler::Catalog};
use proto::{relay::StsPolicy, spool::Claimed};

const MX: [&str; 2] = ["example.com. MX 10 mx.example.com.", "mx.example.com. A 127.0.0.1"];

/// The ways in which a peer's TLS can be.
fn peers(authority: &Authority) -> Vec<(&'static str, Tls)> {
    let with = |c: Certificate| Tls::With(c.config);
    vec![
        ("good", with(authority.issue("mx.example.com", false))),
        ("broken", Tls::Broken),
        ("expired", with(authority.issue("mx.example.com", true))),
        ("wrong name", with(authority.issue("mx.example.org", false))),
        ("untrusted", Tls::Works),
        ("none", Tls::No),
    ]
}

fn sts(mode: &str) -> StsPolicy {
    StsPolicy {
        domain: "example.com".into(),
        id: "1".into(),
        text: format!("version: STSv1\nmode: {mode}\nmx: mx.example.com\nmax_age: 86400\n"),
        fetched_at_ms: chrono::Utc::now().timestamp_millis(),
        expires_at_ms: chrono::Utc::now().timestamp_millis() + 86_400_000,
    }
}

/// How one message fares: the outcome, whether over TLS, and the results that were counted.
async fn fares(
    zone: (std::net::SocketAddr, Server<Catalog>),
    peer: &Peer,
    policy: Option<StsPolicy>,
    wanted: usize,
    adjust: impl FnOnce(&mut outbound_relay::Config),
) -> (&'static str, String, bool, Vec<String>) {
    let site: Site = site_with(zone, peer.address.port(), |c| {
        c.tls_results_every = 1;
        adjust(c);
    })
    .await;
    let mda = site.mda.clone();
    if let Some(policy) = policy {
        mda.0.lock().unwrap().policies.insert(policy.domain.clone(), policy);
    }
    site.submit(vec![delivery("bob@example.com")]).await;
    let outcome = site.outcomes(1).await.remove(0);
    // Without any to come, long enough to see one that should not be.
    for n in 0..600 {
        let counted = mda.0.lock().unwrap().tls_results.len();
        if counted >= wanted && (wanted > 0 || n >= 30) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    site.stop().await;
    let (name, text) = told(&outcome);
    let counted = mda.0.lock().unwrap().tls_results.clone();
    let results = counted.iter().map(|r| match r.failure.is_empty() {
        true => "success".to_owned(),
        false => {
            serde_json::from_str::<serde_json::Value>(&r.failure).unwrap()["result-type"].as_str().unwrap().to_owned()
        }
    });
    let results = results.collect();
    (name, text, !detail(&outcome)["tls"].is_null(), results)
}

#[tokio::test(flavor = "multi_thread")]
async fn opportunistic_takes_what_it_gets() {
    let authority = Authority::new();
    for (name, tls) in peers(&authority) {
        let is_tls = !matches!(name, "broken" | "none");
        let peer = Peer::start("127.0.0.1:0", Script { tls, ..Script::default() }).await;
        let (outcome, text, over_tls, results) = fares(zone::serve(&MX, false).await, &peer, None, 0, |_| ()).await;
        assert_eq!((outcome, over_tls), ("relayed", is_tls), "{name}: {text}");
        assert_eq!(results, [""; 0], "without a policy nothing is reported");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mta_sts_enforced_and_tested() {
    let authority = Authority::new();
    for (name, tls) in peers(&authority) {
        let expected = match name {
            "good" => "success",
            "broken" => "validation-failure",
            "expired" => "certificate-expired",
            "wrong name" => "certificate-host-mismatch",
            "untrusted" => "certificate-not-trusted",
            _ => "starttls-not-supported",
        };
        for mode in ["enforce", "testing"] {
            let peer = Peer::start("127.0.0.1:0", Script { tls: tls.clone(), ..Script::default() }).await;
            let ca = authority.file.clone();
            let zone = zone::serve(&MX, false).await;
            let (outcome, text, _, results) = fares(zone, &peer, Some(sts(mode)), 1, |c| c.tls_ca = Some(ca)).await;
            let wanted = if name == "good" || mode == "testing" { "relayed" } else { "deferred" };
            assert_eq!(outcome, wanted, "{mode}, {name}: {text}");
            assert_eq!(results, [expected], "{mode}, {name}");
            assert_eq!(peer.taken(), usize::from(wanted == "relayed"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mx_that_the_policy_does_not_name_gets_nothing() {
    let authority = Authority::new();
    let tls = Tls::With(authority.issue("mx.example.com", false).config);
    let peer = Peer::start("127.0.0.1:0", Script { tls, ..Script::default() }).await;
    let mut policy = sts("enforce");
    policy.text = policy.text.replace("mx.example.com", "*.mail.example.com");
    let zone = zone::serve(&MX, false).await;
    let (outcome, text, _, results) =
        fares(zone, &peer, Some(policy), 1, |c| c.tls_ca = Some(authority.file.clone())).await;
    assert_eq!((outcome, results), ("deferred", vec!["validation-failure".to_owned()]));
    assert!(text.contains("not in the MTA-STS policy"), "{text}");
    assert_eq!(peer.lines(), [""; 0]);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

#[tokio::test(flavor = "multi_thread")]
async fn dane_under_a_signed_zone() {
    let authority = Authority::new();
    let good = authority.issue("mx.example.com", false);
    let expired = authority.issue("mx.example.com", true);
    let wrong_name = authority.issue("mx.example.org", false);
    let (good_ee, expired_ee) = (format!("3 0 1 {}", sha256(&good.der)), format!("3 0 1 {}", sha256(&expired.der)));
    let ta = format!("2 0 1 {}", sha256(&authority.der()));
    let other = format!("3 1 1 {}", "00".repeat(32));
    let with = |c: &Certificate| Tls::With(Arc::clone(&c.config));
    let cases = [
        ("its own certificate", &good_ee, with(&good), "relayed", "success"),
        // RFC 7672 §3.1.1: dates and names do not count for DANE-EE.
        ("its own, expired", &expired_ee, with(&expired), "relayed", "success"),
        ("its CA", &ta, with(&good), "relayed", "success"),
        ("its CA, another name", &ta, with(&wrong_name), "deferred", "certificate-host-mismatch"),
        ("its CA, expired", &ta, with(&expired), "deferred", "certificate-expired"),
        ("another certificate", &other, with(&good), "deferred", "validation-failure"),
        // An attacker who strips STARTTLS, or breaks the handshake.
        ("no STARTTLS", &good_ee, Tls::No, "deferred", "starttls-not-supported"),
        ("broken TLS", &good_ee, Tls::Broken, "deferred", "validation-failure"),
    ];
    for (name, tlsa, tls, expected, result) in cases {
        let peer = Peer::start("127.0.0.1:0", Script { tls, ..Script::default() }).await;
        let record = format!("_{}._tcp.mx.example.com. TLSA {tlsa}", peer.address.port());
        let records: Vec<&str> = MX.iter().copied().chain([record.as_str()]).collect();
        let (address, server, anchor) = zone::signed(&records).await;
        let (outcome, text, _, results) =
            fares((address, server), &peer, None, 1, |c| c.dns.trust_anchor = Some(anchor.clone())).await;
        assert_eq!((outcome, results), (expected, vec![result.to_owned()]), "{name}: {text}");
        assert_eq!(peer.taken(), usize::from(expected == "relayed"), "{name}");
        std::fs::remove_file(anchor).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_zone_without_tlsa_and_one_signed_by_somebody_else() {
    let peer = Peer::start("127.0.0.1:0", Script::default()).await;
    let (address, server, anchor) = zone::signed(&MX).await;
    let (outcome, text, ..) =
        fares((address, server), &peer, None, 0, |c| c.dns.trust_anchor = Some(anchor.clone())).await;
    assert_eq!(outcome, "relayed", "{text}");

    // Signatures that lead nowhere: no DNSSEC as far as we can know, hence no DANE.
    let (address, server, _) = zone::signed(&MX).await;
    let (outcome, text, ..) =
        fares((address, server), &peer, None, 0, |c| c.dns.trust_anchor = Some(anchor.clone())).await;
    assert_eq!(outcome, "relayed", "{text}");
    std::fs::remove_file(anchor).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requiretls_is_honoured_or_bounced() {
    let authority = Authority::new();
    let demanding = || Claimed { require_tls: true, ..delivery("bob@example.com") };
    // Policy in force, extension offered: relayed so. No extension, or no policy: returned.
    for (offers, policy, expected, words) in [
        (vec!["PIPELINING", "REQUIRETLS"], true, "relayed", "250"),
        (vec!["PIPELINING"], true, "bounced", "does not support REQUIRETLS"),
        (vec!["PIPELINING", "REQUIRETLS"], false, "bounced", "neither DANE nor MTA-STS"),
    ] {
        let tls = Tls::With(authority.issue("mx.example.com", false).config);
        let peer = Peer::start("127.0.0.1:0", Script { tls, offers, ..Script::default() }).await;
        let zone = zone::serve(&MX, false).await;
        let site = site_with(zone, peer.address.port(), |c| c.tls_ca = Some(authority.file.clone())).await;
        if policy {
            site.mda.0.lock().unwrap().policies.insert("example.com".into(), sts("enforce"));
        }
        site.submit(vec![demanding()]).await;
        let (name, text) = told(&site.outcomes(1).await[0]);
        assert_eq!(name, expected, "{text}");
        assert!(text.contains(words), "{text}");
        assert_eq!(peer.count("MAIL FROM:<alice@sender.com> REQUIRETLS"), usize::from(expected == "relayed"));
        if expected == "bounced" {
            let (envelope, content) = site.mda.0.lock().unwrap().accepted.pop().unwrap();
            assert!(envelope.require_tls && String::from_utf8(content).unwrap().contains("\r\nStatus: 5.7.30\r\n"));
        }
        site.stop().await;
    }
}
