//! Verdicts and signatures over gRPC, with real DNS answers on loopback.
#![allow(clippy::unwrap_used, dead_code)]

mod support;

use auth_checker::{Config, DnsFailure};
use proto::auth::{VerifyParameters, verify_response::Action};
use support::{action, checker, checker_of, checker_without_dns, ed25519, rsa};

const ALICE: &str = "alice@sender.com";
const MESSAGE: &str = "From: Alice <alice@sender.com>\r\nTo: bob@example.com\r\nSubject: hi\r\n\
    Date: Tue, 1 Jul 2025 10:00:00 +0000\r\nMessage-ID: <1@sender.com>\r\n\r\nbody\r\n";
const SPF: (&str, &str) = ("sender.com", "v=spf1 ip4:192.0.2.1 -all");
const REJECT: (&str, &str) = ("_dmarc.sender.com", "v=DMARC1; p=reject");

#[tokio::test]
async fn signed_mail_passes_from_anywhere() {
    let (r, e) = (rsa("r1"), ed25519("e1"));
    let records =
        [SPF, REJECT, ("r1._domainkey.sender.com", r.record.as_str()), ("e1._domainkey.sender.com", e.record.as_str())];
    let checker = checker(&records, "sender.com", &[&e, &r]).await;

    let header = checker.sign("Sender.com.", MESSAGE).await;
    let fields: Vec<&str> = header.split_inclusive(";\r\n").filter(|f| f.starts_with("DKIM-Signature: ")).collect();
    assert_eq!(fields.len(), 2, "{header}");
    assert!(fields[0].contains("a=rsa-sha256; s=r1; d=sender.com; c=relaxed/relaxed"), "{header}");
    assert!(fields[1].contains("a=ed25519-sha256; s=e1"), "{header}");
    assert!(header.ends_with("\r\n") && header.lines().all(|l| l.len() < 998));

    let verdict = checker.verify("198.51.100.7", "mx.sender.com", ALICE, &(header.clone() + MESSAGE)).await;
    assert_eq!(action(&verdict), Action::Accept, "{verdict:?}");
    assert_eq!((verdict.spf.as_str(), verdict.dkim.as_str(), verdict.dmarc.as_str()), ("fail", "pass", "pass"));
    assert_eq!((verdict.arc.as_str(), verdict.from_domain.as_str()), ("none", "sender.com"));
    assert_eq!(
        verdict.authentication_results,
        "Authentication-Results: mx.example.com;\r\n\
         \tspf=fail smtp.mailfrom=alice@sender.com;\r\n\
         \tdkim=pass header.d=sender.com header.s=r1;\r\n\
         \tdkim=pass header.d=sender.com header.s=e1;\r\n\
         \tiprev=temperror policy.iprev=198.51.100.7;\r\n\
         \tdmarc=pass header.from=sender.com policy.dmarc=reject\r\n"
    );

    // A second Subject is refused by the oversigned first one; so is a changed body.
    for changed in [format!("Subject: other\r\n{header}{MESSAGE}"), format!("{header}{MESSAGE}more\r\n")] {
        let verdict = checker.verify("198.51.100.7", "mx.sender.com", ALICE, &changed).await;
        assert_eq!((verdict.dkim.as_str(), action(&verdict)), ("fail", Action::Reject), "{verdict:?}");
    }
}

#[tokio::test]
async fn lines_of_white_space_at_the_end_do_not_break_signatures() {
    let key = rsa("r1");
    let checker = checker(&[REJECT, ("r1._domainkey.sender.com", &key.record)], "sender.com", &[&key]).await;
    let message = format!("{MESSAGE} \r\n\t\r\n");
    let header = checker.sign("sender.com", &message).await;
    // Also after a relay that trimmed, or kept, those lines.
    for received in [format!("{header}{message}"), format!("{header}{MESSAGE}")] {
        let verdict = checker.verify("198.51.100.7", "x", ALICE, &received).await;
        assert_eq!((verdict.dkim.as_str(), verdict.dmarc.as_str()), ("pass", "pass"), "{verdict:?}");
    }
}

#[tokio::test]
async fn large_messages_pass_too() {
    let key = rsa("r1");
    let checker = checker(&[REJECT, ("r1._domainkey.sender.com", &key.record)], "sender.com", &[&key]).await;
    let message = format!("{MESSAGE}{}", "0123456789abcdef\r\n".repeat(120_000));
    let header = checker.sign("sender.com", &message).await;
    let verdict = checker.verify("198.51.100.7", "x", ALICE, &format!("{header}{message}")).await;
    assert_eq!(verdict.dmarc, "pass", "{verdict:?}");
}

#[tokio::test]
async fn a_domain_without_keys_is_not_signed() {
    let checker = checker(&[SPF], "sender.com", &[]).await;
    assert_eq!(checker.sign("sender.com", MESSAGE).await, "");
    assert_eq!(checker.sign("elsewhere.com", MESSAGE).await, "");
}

#[tokio::test]
async fn spf_alone_is_enough() {
    let checker = checker(&[SPF, REJECT], "", &[]).await;
    let verdict = checker.verify("192.0.2.1", "mx.sender.com", ALICE, MESSAGE).await;
    assert_eq!((verdict.spf.as_str(), verdict.dkim.as_str(), verdict.dmarc.as_str()), ("pass", "none", "pass"));
    assert_eq!(action(&verdict), Action::Accept);
    // The same client on a dual-stack socket.
    let mapped = checker.verify("::ffff:192.0.2.1", "mx.sender.com", ALICE, MESSAGE).await;
    assert_eq!(mapped.spf, "pass");
}

#[tokio::test]
async fn a_spoof_is_rejected() {
    let checker = checker(&[SPF, REJECT, ("evil.com", "v=spf1 +all")], "", &[]).await;
    for reverse_path in [ALICE, "me@evil.com", ""] {
        let verdict = checker.verify("203.0.113.9", "evil.com", reverse_path, MESSAGE).await;
        assert_eq!(action(&verdict), Action::Reject, "{verdict:?}");
        assert!(verdict.reason.contains("sender.com"), "{}", verdict.reason);
        assert!(verdict.authentication_results.contains("dmarc=fail header.from=sender.com policy.dmarc=reject"));
    }
    // A second author does not switch DMARC off, in one field or in two.
    for from in ["From: x@evil.com, ceo@sender.com\r\n", "From: x@evil.com\r\nFrom: ceo@sender.com\r\n"] {
        let verdict = checker.verify("203.0.113.9", "evil.com", "me@evil.com", &format!("{from}\r\nbody\r\n")).await;
        assert_eq!(action(&verdict), Action::Reject, "{verdict:?}");
    }
}

#[tokio::test]
async fn quarantine_and_none_pass_with_their_mark() {
    let records = [
        ("_dmarc.quarantine.com", "v=DMARC1; p=quarantine; pct=0"),
        ("_dmarc.none.com", "v=DMARC1; p=none; rua=mailto:r@none.com"),
        ("plain.com", "v=spf1 -all"),
    ];
    let checker = checker(&records, "", &[]).await;
    for (domain, wanted, dmarc) in [
        ("quarantine.com", Action::Quarantine, "fail"),
        ("none.com", Action::Accept, "fail"),
        ("plain.com", Action::Accept, "none"),
    ] {
        let message = format!("From: a@{domain}\r\n\r\nbody\r\n");
        let verdict = checker.verify("203.0.113.9", "x", &format!("a@{domain}"), &message).await;
        assert_eq!((action(&verdict), verdict.dmarc.as_str()), (wanted, dmarc), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_subdomain_falls_back_to_the_organizational_domain() {
    let records = [
        ("_dmarc.sender.com", "v=DMARC1; p=none; sp=reject; aspf=r"),
        ("news.sender.com", "v=spf1 ip4:192.0.2.1 -all"),
    ];
    let checker = checker(&records, "", &[]).await;
    let message = "From: a@news.sender.com\r\n\r\nbody\r\n";
    let spoofed = checker.verify("203.0.113.9", "x", "a@news.sender.com", message).await;
    assert_eq!(action(&spoofed), Action::Reject, "{spoofed:?}");
    // Relaxed alignment: the subdomain authenticates its parent.
    let aligned = checker.verify("192.0.2.1", "x", "a@news.sender.com", MESSAGE).await;
    assert_eq!(aligned.dmarc, "pass", "{aligned:?}");
}

#[tokio::test]
async fn the_null_reverse_path_is_checked_by_helo() {
    let checker = checker(&[("mx.sender.com", "v=spf1 ip4:192.0.2.1 -all"), REJECT], "", &[]).await;
    let verdict = checker.verify("192.0.2.1", "mx.sender.com", "", MESSAGE).await;
    assert_eq!((verdict.spf.as_str(), verdict.dmarc.as_str()), ("pass", "pass"), "{verdict:?}");
    assert!(verdict.authentication_results.contains("spf=pass smtp.helo=mx.sender.com;"));
}

#[tokio::test]
async fn silent_dns_defers_or_accepts_as_configured() {
    for (setting, wanted) in [(DnsFailure::Defer, Action::Defer), (DnsFailure::Accept, Action::Accept)] {
        let checker = checker_without_dns(setting).await;
        let verdict = checker.verify("192.0.2.1", "mx.sender.com", ALICE, MESSAGE).await;
        assert_eq!(action(&verdict), wanted, "{verdict:?}");
        assert_eq!((verdict.spf.as_str(), verdict.dmarc.as_str()), ("temperror", "temperror"));
    }
}

#[tokio::test]
async fn nothing_but_a_body_has_a_verdict() {
    let checker = checker(&[SPF], "", &[]).await;
    for message in ["", "\r\n", "no header at all", "\r\n\r\n\r\n", ":\r\n\r\n"] {
        let verdict = checker.verify("192.0.2.1", "mx.sender.com", ALICE, message).await;
        assert_eq!((action(&verdict), verdict.spf.as_str()), (Action::Accept, "pass"), "{message:?}");
    }
}

#[tokio::test]
async fn foreign_authors_are_never_signed() {
    let key = rsa("r1");
    let both = [("sender.com", &[&key][..]), ("second.com", &[&key][..])];
    let checker = checker_of(&[SPF], &both, Config::default()).await;
    let from = |from: &str| format!("From: {from}\r\nSubject: x\r\n\r\nbody\r\n");
    assert!(!checker.sign("sender.com", &from("a@sender.com")).await.is_empty());
    assert!(!checker.sign("sender.com", &from("a@sender.com, b@second.com")).await.is_empty());
    // As our hosts write DSNs.
    assert!(!checker.sign("sender.com", &from("MAILER-DAEMON@mail.sender.com")).await.is_empty());
    for foreign in ["a@elsewhere.com", "a@sender.com, b@elsewhere.com", "a@notsender.com", "a@com", "sender.com", ""] {
        assert_eq!(checker.sign("sender.com", &from(foreign)).await, "", "{foreign}");
    }
    assert_eq!(checker.sign("sender.com", "Subject: no author\r\n\r\n").await, "");
    let two = format!("From: b@elsewhere.com\r\n{}", from("a@sender.com"));
    assert_eq!(checker.sign("sender.com", &two).await, "");
}

#[tokio::test]
async fn a_tenant_may_want_refused_mail_in_junk() {
    let checker = checker(&[SPF, REJECT], "", &[]).await;
    let parameters = VerifyParameters {
        peer: "203.0.113.9".into(),
        helo: "evil.com".into(),
        reverse_path: ALICE.into(),
        authserv_id: "mx.example.com".into(),
        quarantine_rejects: true,
        ..VerifyParameters::default()
    };
    let verdict = checker.verify_as(parameters, MESSAGE).await;
    assert_eq!((action(&verdict), verdict.r#override.as_str()), (Action::Quarantine, "tenant"), "{verdict:?}");
}

#[tokio::test]
async fn a_name_that_leads_back_is_iprev_pass() {
    let zone = [
        ("1.2.0.192.in-addr.arpa", "PTR mx.sender.com"),
        ("mx.sender.com", "192.0.2.1"),
        ("2.2.0.192.in-addr.arpa", "PTR mx.sender.com"),
    ];
    let checker = checker(&zone, "", &[]).await;
    for (peer, wanted) in [("192.0.2.1", "pass"), ("192.0.2.2", "fail"), ("192.0.2.3", "permerror")] {
        let verdict = checker.verify(peer, "x", ALICE, MESSAGE).await;
        assert_eq!(verdict.iprev, wanted, "{peer}");
        assert!(verdict.authentication_results.contains(&format!("iprev={wanted} policy.iprev={peer}")));
    }
}
