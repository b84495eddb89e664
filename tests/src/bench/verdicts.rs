//! Verdicts a second and CPU for each: one auth-checker with a warm cache, asked as the door asks.

use std::{
    fmt::Write as _,
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt as _;
use proto::auth::{VerifyParameters, VerifyRequest, VerifyResponse, auth_client::AuthClient};
use runtime::grpc::{Channel, Peers, channel};

use super::{cpu::Usage, mail::Text};
use crate::{
    dns::NameServer,
    eventually,
    ports::free_address,
    process::{Process, ours},
};

/// Messages that arrive together.
const TOGETHER: usize = 32;

/// RFC 8463 Appendix A: Ed25519 and RSA.
const SIGNED: &str = "\
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
";
const ZONE: [&str; 6] = [
    "football.example.com TXT v=spf1 include:spf.example.com -all",
    "spf.example.com TXT v=spf1 ip4:192.0.2.0/24 -all",
    "_dmarc.example.com TXT v=DMARC1; p=reject",
    "brisbane._domainkey.football.example.com TXT v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "test._domainkey.football.example.com TXT v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB",
    "sender.com TXT v=spf1 ip4:192.0.2.0/24 -all",
];

/// A line for each kind of message; `part` divides their numbers.
pub async fn report(text: &Text, part: usize) -> String {
    let dns = NameServer::start(&["com.", "192.in-addr.arpa."]).await;
    for record in ZONE {
        dns.add(record).await;
    }
    let (address, health) = (free_address(), free_address());
    let process = Process::start(
        Command::new(ours("auth-checker"))
            .env("POSTROAD_LISTEN", address.to_string())
            .env("POSTROAD_DNS__SERVER", dns.address.to_string())
            .env("POSTROAD_RUNTIME__HTTP_LISTEN", health.to_string())
            .env("POSTROAD_RUNTIME__LOG", "warn"),
    );
    let client = AuthClient::new(channel(&Peers::from(address), Duration::from_secs(30)));
    let signed = Bytes::from(SIGNED.replace('\n', "\r\n"));
    let plain = |size| Bytes::from(text.message("verdicts", 1, "bob@example.com", size));
    eventually("auth-checker answers", Duration::from_secs(60), || async {
        ask(&client, &signed).await.ok().filter(|v| v.dmarc == "pass")
    })
    .await;
    let mut lines = String::from("Verdicts, warm cache, 32 messages at a time\n\n");
    for (name, content, count) in [
        ("1 kB, SPF, two DKIM signatures, DMARC", signed, 20_000),
        ("10 kB, SPF and DMARC only", plain(10_000), 20_000),
        ("100 kB, SPF and DMARC only", plain(100_000), 4_000),
    ] {
        let count = count / part;
        let before = Usage::of_trees(&[process.id()]);
        let start = Instant::now();
        let calls = futures::stream::iter(0..count).map(|_| ask(&client, &content)).buffer_unordered(TOGETHER);
        calls.for_each(|verdict| async move { assert_eq!(verdict.expect("a verdict").spf, "pass") }).await;
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), Usage::of_trees(&[process.id()]).since(&before));
        let (rate, each) = (count as f64 / seconds, cpu.total_ms() / count as f64);
        let _ = writeln!(lines, "{name}: {rate:.0} verdicts/s, {each:.3} ms CPU each");
    }
    lines
}

async fn ask(client: &AuthClient<Channel>, content: &Bytes) -> Result<VerifyResponse, tonic::Status> {
    let from_sender = !content.starts_with(b"DKIM");
    let parameters = VerifyParameters {
        peer: "192.0.2.7".into(),
        helo: "mail.sender.com".into(),
        reverse_path: if from_sender { "news@sender.com" } else { "joe@football.example.com" }.into(),
        authserv_id: "mx.example.com".into(),
        ..VerifyParameters::default()
    };
    let request = VerifyRequest { parameters: Some(parameters), content: content.clone() };
    Ok(client.clone().verify(tokio_stream::iter([request])).await?.into_inner())
}
