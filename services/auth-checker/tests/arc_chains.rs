//! ARC (RFC 8617): chains over several hands, what breaks them, and whom we believe.
#![allow(clippy::unwrap_used, dead_code)]

mod support;

use auth_checker::Config;
use proto::auth::verify_response::Action;
use support::{Checker, Key, action, checker_of, ed25519, rsa};

const MESSAGE: &str = "From: Alice <alice@sender.com>\r\nTo: list@list.org\r\nSubject: hi\r\n\
    Date: Tue, 1 Jul 2025 10:00:00 +0000\r\nMessage-ID: <1@sender.com>\r\n\r\nbody\r\n";
const ALICE: &str = "alice@sender.com";
/// Addresses of sender.com and of nobody.
const SENDER: &str = "192.0.2.1";
const STRANGER: &str = "203.0.113.9";

async fn world(trusted: &[&str]) -> Checker {
    let keys: Vec<(&str, Key)> =
        ["list.org", "forward.net", "final.com"].into_iter().map(|domain| (domain, rsa("arc"))).collect();
    let extra = ed25519("ed");
    let names: Vec<String> = keys.iter().map(|(domain, _)| format!("arc._domainkey.{domain}")).collect();
    let mut zone = vec![("sender.com", "v=spf1 ip4:192.0.2.1 -all"), ("_dmarc.sender.com", "v=DMARC1; p=reject")];
    zone.extend(names.iter().zip(&keys).map(|(name, (_, key))| (name.as_str(), key.record.as_str())));
    let pairs: Vec<[&Key; 2]> = keys.iter().map(|(_, key)| [&extra, key]).collect();
    let domains: Vec<(&str, &[&Key])> = keys.iter().zip(&pairs).map(|((d, _), pair)| (*d, &pair[..])).collect();
    let trusted_arc_sealers = trusted.iter().map(|d| (*d).to_owned()).collect();
    checker_of(&zone, &domains, Config { trusted_arc_sealers, ..Config::default() }).await
}

#[tokio::test]
async fn three_hands_seal_one_message() {
    let world = world(&[]).await;
    let (first, verdict) = world.forward("list.org", SENDER, ALICE, MESSAGE).await;
    assert_eq!((verdict.arc.as_str(), verdict.dmarc.as_str()), ("none", "pass"), "{verdict:?}");
    for field in ["ARC-Seal: i=1; a=rsa-sha256; s=arc; d=list.org; cv=none;", "ARC-Message-Signature: i=1;"] {
        assert!(verdict.arc_set.contains(field), "{field} in {}", verdict.arc_set);
    }
    assert!(verdict.arc_set.contains("ARC-Authentication-Results: i=1; mx.list.org;"), "{}", verdict.arc_set);
    assert!(verdict.arc_set.lines().all(|line| line.len() < 998) && first.ends_with(MESSAGE));

    let (second, verdict) = world.forward("forward.net", STRANGER, "list@list.org", &first).await;
    assert_eq!((verdict.arc.as_str(), verdict.dmarc.as_str()), ("pass", "fail"), "{verdict:?}");
    assert!(verdict.arc_set.contains("ARC-Seal: i=2;") && verdict.arc_set.contains("cv=pass;"));

    let (third, verdict) = world.forward("final.com", STRANGER, "x@forward.net", &second).await;
    assert_eq!(verdict.arc, "pass", "{verdict:?}");
    let verdict = world.verify(STRANGER, "x", "x@final.com", &third).await;
    assert_eq!((verdict.arc.as_str(), action(&verdict)), ("pass", Action::Reject), "information only: {verdict:?}");
    assert!(verdict.authentication_results.contains(";\r\n\tarc=pass;"));
}

#[tokio::test]
async fn what_was_touched_or_left_out_fails_and_is_not_sealed_again() {
    let world = world(&[]).await;
    let (first, _) = world.forward("list.org", SENDER, ALICE, MESSAGE).await;
    let (second, _) = world.forward("forward.net", STRANGER, "list@list.org", &first).await;
    let without_a_set = second.replacen(&first[..first.len() - MESSAGE.len()], "", 1);
    for broken in [
        second.replace("body\r\n", "other\r\n"),
        second.replace("Subject: hi", "Subject: ho"),
        second.replace("spf=pass", "spf=fail"),
        without_a_set,
        second.replacen("i=2", "i=3", 1),
        format!("ARC-Seal: i=3; cv=pass; garbage\r\n{second}"),
    ] {
        let (_, verdict) = world.forward("final.com", STRANGER, ALICE, &broken).await;
        assert_ne!(verdict.arc, "pass", "{broken}");
        assert_eq!(verdict.arc_set, "", "{broken}");
    }
}

#[tokio::test]
async fn a_trusted_sealer_that_saw_it_pass_overrides() {
    let world = world(&["list.org", "Forward.net"]).await;
    let (first, _) = world.forward("list.org", SENDER, ALICE, MESSAGE).await;
    let (second, _) = world.forward("forward.net", STRANGER, "list@list.org", &first).await;
    for message in [&first, &second] {
        let verdict = world.verify(STRANGER, "x", "list@list.org", message).await;
        assert_eq!((verdict.dmarc.as_str(), action(&verdict)), ("fail", Action::Accept), "{verdict:?}");
        assert_eq!(verdict.r#override, "arc");
        assert!(verdict.authentication_results.contains("dmarc=fail (overridden: list.org saw it pass)"));
    }
    // The list itself never saw it pass.
    let (forged, _) = world.forward("list.org", STRANGER, ALICE, MESSAGE).await;
    let verdict = world.verify(STRANGER, "x", "list@list.org", &forged).await;
    assert_eq!((action(&verdict), verdict.r#override.as_str()), (Action::Reject, ""), "{verdict:?}");
    // Somebody else handled it since.
    let (third, _) = world.forward("final.com", STRANGER, "list@list.org", &first).await;
    let verdict = world.verify(STRANGER, "x", "list@list.org", &third).await;
    assert_eq!((verdict.arc.as_str(), action(&verdict)), ("pass", Action::Reject), "{verdict:?}");
}

#[tokio::test]
async fn lines_of_white_space_at_the_end_do_not_break_seals() {
    let world = world(&[]).await;
    let message = format!("{MESSAGE} \r\n\t\r\n");
    let (sealed, _) = world.forward("list.org", SENDER, ALICE, &message).await;
    let verdict = world.verify(STRANGER, "x", "list@list.org", &sealed).await;
    assert_eq!(verdict.arc, "pass", "{verdict:?}");
}

#[tokio::test]
async fn without_a_key_there_is_no_seal() {
    let world = world(&[]).await;
    let (_, verdict) = world.forward("nokey.org", SENDER, ALICE, MESSAGE).await;
    assert_eq!((verdict.arc_set.as_str(), action(&verdict)), ("", Action::Accept));
}
