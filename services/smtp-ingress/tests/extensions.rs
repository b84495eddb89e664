//! Extensions and guards, as far as the ingress is concerned by them.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use sasl::scram;
use smtp_ingress::Role;
use support::{Client, Site};

const LOGIN: &str = "
    S: 220…
    C: EHLO laptop.example
    S* 250
    C: AUTH PLAIN AGFsaWNlQG14LmV4YW1wbGUAc2VjcmV0
    S: 235 2.7.0…
";

async fn scram(site: &Site, role: Role, password: &str, tamper: bool) -> String {
    let script = if role == Role::Submissions {
        "S: 220…"
    } else {
        "S: 220…\nC: EHLO x\nS* 250\nC: STARTTLS\nS: 220…\nT:"
    };
    let client = site.play(role, script).await;
    let mut client = client.play("C: EHLO laptop.example\nS* 250").await;
    let mut binding = client.binding.unwrap();
    if tamper {
        binding[0] ^= 1;
    }
    let (mut exchange, initial) = scram::Client::new("alice@mx.example", password, "client", Some(&binding));
    client.send(format!("AUTH SCRAM-SHA-256-PLUS {}\r\n", BASE64.encode(initial)).as_bytes()).await;
    let challenge = answer(&mut client).await.unwrap();
    client.send(format!("{}\r\n", BASE64.encode(exchange.respond(&challenge).unwrap())).as_bytes()).await;
    match answer(&mut client).await {
        Ok(last) => {
            assert!(exchange.is_server(&last));
            client.send(b"\r\n").await;
            client.line().await.unwrap()
        }
        Err(refusal) => refusal,
    }
}

/// The challenge of a 334, or else the line.
async fn answer(client: &mut Client) -> Result<Vec<u8>, String> {
    let line = client.line().await.unwrap();
    line.strip_prefix("334 ").map(|text| BASE64.decode(text).unwrap()).ok_or(line)
}

#[tokio::test]
async fn scram_plus_is_bound_to_the_tls_channel() {
    let site = Site::start().await;
    for role in [Role::Submission, Role::Submissions] {
        assert!(scram(&site, role, "secret", false).await.starts_with("235 2.7.0"));
        assert!(scram(&site, role, "wrong", false).await.starts_with("535 5.7.8"));
        assert!(scram(&site, role, "secret", true).await.starts_with("535 5.7.8"), "somebody in the middle");
    }
}

#[tokio::test]
async fn who_failed_too_often_hears_later() {
    let site = Site::start().await;
    site.world.logins_throttled.store(true, Ordering::SeqCst);
    site.play(
        Role::Submissions,
        "
        S: 220…
        C: EHLO laptop.example
        S* 250
        C: AUTH PLAIN AGFsaWNlQG14LmV4YW1wbGUAc2VjcmV0
        S: 454 4.7.0 Too many failed logins, try again later
    ",
    )
    .await;
}

#[tokio::test]
async fn what_a_client_asked_for_is_in_the_envelope() {
    let site = Site::start().await;
    let client = site.play(Role::Submissions, LOGIN).await;
    let before = jiff::Timestamp::now().as_millisecond();
    client
        .play(
            "
        C: MAIL FROM:<alice@mx.example> REQUIRETLS HOLDFOR=60 MT-PRIORITY=-5 RET=HDRS ENVID=abc BODY=8BITMIME SMTPUTF8
        S: 250 2.1.0…
        C: RCPT TO:<bob@elsewhere.example> NOTIFY=SUCCESS ORCPT=rfc822;bob@elsewhere.example
        S: 250 2.1.5…
        C: BDAT 29 LAST
        C+ From: alice@mx.example
        C+
        C+ x
        S: 250 2.0.0 Ok: queued as…
    ",
        )
        .await;
    let (envelope, content) = site.world.messages().remove(0);
    assert!(envelope.require_tls && envelope.eight_bit && envelope.smtputf8);
    assert_eq!((envelope.priority, envelope.ret.as_str(), envelope.envid.as_str()), (-5, "HDRS", "abc"));
    // A minute from MAIL, in whole seconds.
    let after = jiff::Timestamp::now().as_millisecond();
    let moment = before + 59_000..=after + 60_000;
    assert!(moment.contains(&envelope.not_before_ms), "{} in {moment:?}", envelope.not_before_ms);
    let recipient = &envelope.recipients[0];
    assert_eq!((recipient.notify.as_str(), recipient.orcpt.as_str()), ("SUCCESS", "rfc822;bob@elsewhere.example"));
    assert!(content.ends_with("\r\n\r\nx\r\n"), "{content}");
}

#[tokio::test]
async fn binary_content_does_not_leave_us() {
    let site = Site::start().await;
    for (to, reply) in [("bob@elsewhere.example", "554 5.6.3…"), ("bob@mx.example", "250 2.0.0…")] {
        let client = site.play(Role::Submissions, LOGIN).await;
        let script = format!(
            "C: MAIL FROM:<alice@mx.example> BODY=BINARYMIME\nS: 250…\nC: RCPT TO:<{to}>\nS: 250…\n\
             C: BDAT 26\nC+ From: alice@mx.example\nC+\nS: 250 2.0.0 26 octets received"
        );
        let mut client = client.play(&script).await;
        client.send(b"BDAT 3 LAST\r\na\nb").await;
        client.play(&format!("S: {reply}")).await;
    }
}

#[tokio::test]
async fn a_full_mailbox_is_for_now_or_for_good() {
    for (policy, reply) in
        [(smtp_ingress::OverQuota::Defer, "452 4.2.2…"), (smtp_ingress::OverQuota::Refuse, "552 5.2.2…")]
    {
        let site = Site::with(|config| config.over_quota = policy).await;
        let script = format!(
            "S: 220…\nC: EHLO x\nS* 250\nC: MAIL FROM:<a@b.example>\nS: 250…\nC: RCPT TO:<full@mx.example>\nS: {reply}\n\
             C: RCPT TO:<disabled@mx.example>\nS: 550 5.2.1…"
        );
        site.play(Role::Mx, &script).await;
    }
}

#[tokio::test]
async fn the_door_is_open_while_redis_is_away() {
    let dead = "redis+unix:///nowhere/redis.sock".to_owned();
    let site = Site::with(|config| {
        config.redis_url = Some(dead.try_into().unwrap());
        config.limits.connections_per_address = Some(queue::Rate { limit: 1, seconds: 60 });
        config.limits.messages_per_address = Some(queue::Rate { limit: 0, seconds: 60 });
        config.greylist = Some(Default::default());
    })
    .await;
    for _ in 0..3 {
        site.play(
            Role::Mx,
            "
            S: 220…
            C: EHLO x
            S* 250
            C: MAIL FROM:<a@b.example>
            S: 250…
            C: RCPT TO:<bob@mx.example>
            S: 250…
        ",
        )
        .await;
    }
}

#[tokio::test]
async fn a_message_that_cannot_fit_is_refused_before_it_is_sent() {
    let site = Site::with(|config| {
        config.max_message_size = 10_000_000;
        config.max_bytes_in_flight = 20_000_000;
    })
    .await;
    let transaction = "S: 220…\nC: EHLO x\nS* 250\nC: MAIL FROM:<a@b.example>\nS: 250…\nC: RCPT TO:<bob@mx.example>\nS: 250…\nC: DATA\nS: 354…";
    let mut large = site.play(Role::Mx, transaction).await;
    // 13 MB without an end in lines of 1000 octets: the room that is left is smaller than 10 MB.
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    large.send(b"\r\n").await;
    large.send(&line.repeat(9_000)).await;
    let mut other = site.play(Role::Mx, transaction).await;
    other.send(&line.repeat(4_000)).await;
    // As soon as it is read.
    let size = "S: 220…\nC: EHLO x\nS* 250\nC: MAIL FROM:<a@b.example> SIZE=10000000";
    for n in 0.. {
        let mut client = site.play(Role::Mx, size).await;
        let reply = client.line().await.unwrap();
        if reply.starts_with("452 4.3.1") {
            client.play("C: MAIL FROM:<a@b.example> SIZE=1000\nS: 250…").await;
            break;
        }
        assert!(n < 100, "{reply}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    large.send(b".\r\n").await;
    let reply = large.line().await.unwrap();
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
}
