//! The worked examples of the standards, with their zones on a real name server.
#![allow(clippy::unwrap_used, dead_code)]

mod support;

use auth_checker::Config;
use proto::auth::verify_response::Action;
use support::{action, checker, checker_of, rsa, sign_as};

/// RFC 7208 Appendix A.
const SPF_ZONE: [(&str, &str); 20] = [
    ("example.com", "MX 10 mail-a.example.com"),
    ("example.com", "MX 20 mail-b.example.com"),
    ("example.com", "192.0.2.10"),
    ("example.com", "192.0.2.11"),
    ("amy.example.com", "192.0.2.65"),
    ("bob.example.com", "192.0.2.66"),
    ("mail-a.example.com", "192.0.2.129"),
    ("mail-b.example.com", "192.0.2.130"),
    ("example.org", "MX 10 mail-c.example.org"),
    ("mail-c.example.org", "192.0.2.140"),
    ("10.2.0.192.in-addr.arpa", "PTR example.com"),
    ("11.2.0.192.in-addr.arpa", "PTR example.com"),
    ("65.2.0.192.in-addr.arpa", "PTR amy.example.com"),
    ("66.2.0.192.in-addr.arpa", "PTR bob.example.com"),
    ("129.2.0.192.in-addr.arpa", "PTR mail-a.example.com"),
    ("130.2.0.192.in-addr.arpa", "PTR mail-b.example.com"),
    ("140.2.0.192.in-addr.arpa", "PTR mail-c.example.org"),
    ("4.0.0.10.in-addr.arpa", "PTR bob.example.com"),
    ("example.net", "192.0.2.200"),
    ("elsewhere.net", "192.0.2.201"),
];

async fn spf(records: &[(&str, &str)], sender: &str, expected: &[(&str, &str)]) {
    let zone = [&SPF_ZONE[..], records].concat();
    let checker = checker(&zone, "", &[]).await;
    for (peer, result) in expected {
        let verdict = checker.verify(peer, "host.invalid", sender, "Subject: x\r\n\r\n").await;
        assert_eq!(verdict.spf, *result, "{peer} for {records:?}");
    }
}

#[tokio::test]
async fn rfc_7208_a_1_simple_examples() {
    let of = async |record: &'static str, expected: &[(&str, &str)]| {
        spf(&[("example.com", record)], "x@example.com", expected).await;
    };
    of("v=spf1 +all", &[("192.0.2.129", "pass"), ("10.0.0.4", "pass")]).await;
    of("v=spf1 a -all", &[("192.0.2.10", "pass"), ("192.0.2.11", "pass"), ("192.0.2.65", "fail")]).await;
    of("v=spf1 a:example.org -all", &[("192.0.2.10", "fail"), ("192.0.2.140", "fail")]).await;
    of("v=spf1 mx -all", &[("192.0.2.129", "pass"), ("192.0.2.130", "pass"), ("192.0.2.10", "fail")]).await;
    of("v=spf1 mx:example.org -all", &[("192.0.2.140", "pass"), ("192.0.2.129", "fail")]).await;
    let both = [("192.0.2.129", "pass"), ("192.0.2.130", "pass"), ("192.0.2.140", "pass"), ("192.0.2.65", "fail")];
    of("v=spf1 mx mx:example.org -all", &both).await;
    let nearby = [("192.0.2.131", "pass"), ("192.0.2.143", "pass"), ("192.0.2.132", "fail"), ("192.0.2.144", "fail")];
    of("v=spf1 mx/30 mx:example.org/30 -all", &nearby).await;
    of("v=spf1 ptr -all", &[("192.0.2.65", "pass"), ("192.0.2.140", "fail"), ("10.0.0.4", "fail")]).await;
    of("v=spf1 ip4:192.0.2.128/28 -all", &[("192.0.2.65", "fail"), ("192.0.2.129", "pass")]).await;
}

#[tokio::test]
async fn rfc_7208_a_2_multiple_domains() {
    let records = [
        ("example.org", "v=spf1 include:example.com include:example.net -all"),
        ("la.example.org", "v=spf1 redirect=example.org"),
        ("example.com", "v=spf1 ip4:192.0.2.10 -all"),
        ("example.net", "v=spf1 ip4:192.0.2.200 -all"),
    ];
    let expected = [("192.0.2.10", "pass"), ("192.0.2.200", "pass"), ("192.0.2.65", "fail")];
    spf(&records, "x@example.org", &expected).await;
    spf(&records, "x@la.example.org", &expected).await;
}

#[tokio::test]
async fn rfc_7208_a_3_dnsbl_style() {
    let records = [
        ("example.com", "v=spf1 mx include:mobile-users._spf.%{d} include:remote-users._spf.%{d} -all"),
        ("mobile-users._spf.example.com", "v=spf1 exists:%{l1r+}.%{d}"),
        ("remote-users._spf.example.com", "v=spf1 exists:%{ir}.%{l1r+}.%{d}"),
        ("mary.mobile-users._spf.example.com", "127.0.0.2"),
        ("fred.mobile-users._spf.example.com", "127.0.0.2"),
        ("15.15.168.192.joel.remote-users._spf.example.com", "127.0.0.2"),
        ("16.15.168.192.joel.remote-users._spf.example.com", "127.0.0.2"),
    ];
    spf(&records, "mary@example.com", &[("10.0.0.4", "pass")]).await;
    spf(&records, "joel@example.com", &[("192.168.15.15", "pass"), ("192.168.15.17", "fail")]).await;
    spf(&records, "strange@example.com", &[("192.0.2.129", "pass"), ("192.168.15.15", "fail")]).await;
}

/// As it is printed, `ptr` is about the included name, below which no host is, so that nobody
/// passes (§5.5: the target is the current domain). With the domain that is meant it does as it says.
#[tokio::test]
async fn rfc_7208_a_4_multiple_requirements() {
    let both = |ptr| {
        [
            ("example.com", "v=spf1 -include:ip4._spf.%{d} -include:ptr._spf.%{d} +all"),
            ("ip4._spf.example.com", "v=spf1 -ip4:192.0.2.0/24 +all"),
            ("ptr._spf.example.com", ptr),
        ]
    };
    spf(&both("v=spf1 -ptr +all"), "x@example.com", &[("192.0.2.65", "fail"), ("10.0.0.4", "fail")]).await;
    let expected = [("192.0.2.65", "pass"), ("192.0.2.140", "fail"), ("10.0.0.4", "fail"), ("192.0.2.1", "fail")];
    spf(&both("v=spf1 -ptr:example.com +all"), "x@example.com", &expected).await;
}

/// RFC 6376 Appendix A.2, byte for byte (simple canonicalisation sees every blank), and A.3's key.
#[tokio::test]
async fn rfc_6376_a_the_signed_message() {
    const KEY: (&str, &str) = (
        "brisbane._domainkey.example.com",
        "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3\
         b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ\
         2QIDAQAB",
    );
    let message = "\
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
        4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
        KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
        4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
"
    .replace('\n', "\r\n");
    let checker = checker(&[KEY], "", &[]).await;
    let verdict = checker.verify("192.0.2.1", "x", "joe@football.example.com", &message).await;
    assert_eq!(verdict.dkim, "pass", "{verdict:?}");
    let changed = message.replace("  [192.0.2.1]", " [192.0.2.1]");
    let verdict = checker.verify("192.0.2.1", "x", "joe@football.example.com", &changed).await;
    assert_eq!(verdict.dkim, "fail", "one blank less: {verdict:?}");
}

/// RFC 8463 Appendix A: the same message signed with Ed25519 and with RSA.
#[tokio::test]
async fn rfc_8463_a_both_signatures() {
    let zone = [
        (
            "brisbane._domainkey.football.example.com",
            "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        ),
        (
            "test._domainkey.football.example.com",
            "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY\
             /J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kr\
             yOTIKT+l/K4w3QIDAQAB",
        ),
        ("_dmarc.football.example.com", "v=DMARC1; p=reject; adkim=s"),
    ];
    let message = "\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"
    .replace('\n', "\r\n");
    let checker = checker(&zone, "", &[]).await;
    let verdict = checker.verify("192.0.2.1", "x", "joe@football.example.com", &message).await;
    let passes = verdict.authentication_results.matches("dkim=pass").count();
    assert_eq!((passes, verdict.dmarc.as_str()), (2, "pass"), "{verdict:?}");
}

/// RFC 9989 §4.10.1 and Appendix B.4: whose record applies, whose organisation it is.
#[tokio::test]
async fn rfc_9989_b_4_tree_walks() {
    let key = rsa("s");
    let record = key.record.as_str();
    let zone = [
        // B.4.1: both names have records, the shorter one is the organisation's.
        ("_dmarc.example.com", "v=DMARC1; p=reject"),
        ("_dmarc.signing.example.com", "v=DMARC1; p=none"),
        ("s._domainkey.signing.example.com", record),
        ("s._domainkey.mail.example.com", record),
        // B.4.3: a public suffix.
        ("_dmarc.bank.example", "v=DMARC1; p=reject; psd=y"),
        ("_dmarc.giant.bank.example", "v=DMARC1; p=quarantine"),
        ("s._domainkey.mail.giant.bank.example", record),
        ("s._domainkey.mail.mega.bank.example", record),
        ("mega.bank.example", "v=spf1 -all"),
        // A domain that stands for itself.
        ("_dmarc.alone.example.org", "v=DMARC1; p=quarantine; psd=n"),
        ("_dmarc.example.org", "v=DMARC1; p=reject"),
        ("s._domainkey.example.org", record),
    ];
    let checker = checker_of(&zone, &[], Config::default()).await;
    let deep = "a.b.c.d.e.f.g.h.i.j.mail.example.com";
    for (author, signer, result, wanted) in [
        ("example.com", "signing.example.com", "pass", Action::Accept),
        ("example.com", "", "fail", Action::Reject),
        // B.4.2: eight queries reach from thirteen labels to the organisation's record.
        (deep, "mail.example.com", "pass", Action::Accept),
        (deep, "", "fail", Action::Reject),
        ("giant.bank.example", "mail.giant.bank.example", "pass", Action::Accept),
        ("giant.bank.example", "mail.mega.bank.example", "fail", Action::Quarantine),
        // No record of its own: the suffix's applies.
        ("mega.bank.example", "mail.mega.bank.example", "pass", Action::Accept),
        ("mega.bank.example", "mail.giant.bank.example", "fail", Action::Reject),
        ("alone.example.org", "example.org", "fail", Action::Quarantine),
    ] {
        let message = format!("From: x@{author}\r\nSubject: x\r\n\r\nbody\r\n");
        let message = if signer.is_empty() { message } else { sign_as(signer, &key, &message) };
        let verdict = checker.verify("203.0.113.9", "x", "", &message).await;
        assert_eq!(
            (verdict.dmarc.as_str(), action(&verdict)),
            (result, wanted),
            "{author} signed by {signer:?}: {verdict:?}"
        );
    }
}
