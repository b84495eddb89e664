//! The shape of traces, from what an OTLP collector gets: local delivery, deferrals, bounce, a
//! process killed in between; whom a context is believed; what no span may say.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tests::{
    client::python,
    collector::{Collector, Span},
    dns::NameServer,
    eventually,
    fickle::{Fickle, Mood},
    site::{Options, Site, free_port_offset},
};

const SOON: Duration = Duration::from_secs(30);
/// The lease of a relay that was killed runs out first.
const LATER: Duration = Duration::from_secs(90);
const CONFIG: &str = "outbound-relay: { retry_first: 1, retry_max: 1 }\n";

struct World {
    collector: Collector,
    site: Site,
    peer: Fickle,
    _dns: NameServer,
}

/// The site example.com with bob; fickle.com is the peer.
async fn world(host: &str, peer_host: &str, moods: &[Mood], config: &str) -> World {
    let (collector, endpoint) = Collector::start().await;
    let dns = NameServer::start(&["com."]).await;
    dns.add("fickle.com MX 10 mx.fickle.com").await;
    dns.add(&format!("mx.fickle.com A {peer_host}")).await;
    let offset = free_port_offset(&[host, peer_host]);
    let peer = Fickle::start(format!("{peer_host}:{}", 25 + offset).parse().unwrap(), moods).await;
    let (server, port) = (dns.address.to_string(), (25 + offset).to_string());
    let mut options = Options::new(host, offset, "example.com").more(&["--dns", &server, "--relay-port", &port]);
    options.config = Some(config.to_owned());
    options.environment =
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT".into(), endpoint), ("OTEL_BSP_SCHEDULE_DELAY".into(), "200".into())];
    let site = Site::up(options);
    site.account("bob@example.com");
    World { collector, site, peer, _dns: dns }
}

impl World {
    /// Bob submits; returns the queue id.
    fn submit(&self, recipient: &str) -> String {
        let program = format!(
            r#"
smtp = smtplib.SMTP(HOST, PORT[587]); smtp.starttls(context=TLS); smtp.login("bob@example.com", "secret")
smtp.mail("bob@example.com"); smtp.rcpt("{recipient}")
code, text = smtp.data(b"From: bob@example.com\r\nTo: {recipient}\r\nSubject: confidential\r\n\r\nclassified\r\n")
assert code == 250, (code, text)
print(text.split()[-1].decode()); smtp.quit()
"#
        );
        python(&self.site, &program).trim().to_owned()
    }

    /// The message's trace, and the events of its journey.
    fn journey(&self, queue_id: &str) -> (String, Vec<serde_json::Value>) {
        let text = self.site.cli("trace", &["--json", queue_id], "");
        let mut documents = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        let head = documents.next().unwrap();
        (head["trace_id"].as_str().unwrap().to_owned(), documents.collect())
    }

    fn names(&self, queue_id: &str) -> Vec<String> {
        self.journey(queue_id).1.iter().map(|e| e["event"].as_str().unwrap().to_owned()).collect()
    }

    async fn until_event(&self, queue_id: &str, name: &str, limit: Duration) {
        eventually(name, limit, || async { self.names(queue_id).contains(&name.to_owned()).then_some(()) }).await;
    }

    async fn span(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        eventually(what, SOON, || async { self.collector.spans().into_iter().find(&wanted) }).await
    }

    /// Neither addresses nor subjects nor bodies, in any span of any service (docs/metrics.md).
    fn nothing_is_told(&self) {
        let spans = self.collector.spans();
        assert!(!spans.is_empty());
        for span in spans {
            for secret in ["@", "confidential", "classified", "bob", "fickle.com", "secret", "127.0.0."] {
                assert!(!span.text.contains(secret), "{secret:?} in {}", span.text);
            }
        }
    }
}

/// Every parent is there, and there is one root.
fn assert_is_tree(spans: &[Span]) {
    let roots: Vec<&Span> = spans.iter().filter(|s| s.parent.is_empty()).collect();
    assert_eq!(roots.len(), 1, "{roots:#?}");
    for span in spans.iter().filter(|s| !s.parent.is_empty()) {
        assert!(spans.iter().any(|s| s.span_id == span.parent), "{} {} has no parent", span.service, span.name);
    }
}

/// Name of the parent's span.
fn parent_of<'s>(spans: &'s [Span], name: &str) -> &'s str {
    let span = spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name} in {spans:#?}"));
    spans.iter().find(|s| s.span_id == span.parent).map_or("", |s| s.name.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn local_delivery_is_one_tree() {
    let world = world("127.0.0.31", "127.0.0.131", &[], CONFIG).await;
    let id = world.submit("bob@example.com");
    world.until_event(&id, "delivered", SOON).await;
    let (trace_id, _) = world.journey(&id);
    let wanted = ["SMTP transaction", "Spool.Accept", "postgres commit", "redis hand out", "deliver", "signature"];
    let spans = eventually("the whole way", SOON, || async {
        let spans = world.collector.trace(&trace_id);
        let linked = |s: &Span| s.parent.is_empty() || spans.iter().any(|p| p.span_id == s.parent);
        let whole = wanted.iter().all(|name| spans.iter().any(|s| s.name == *name)) && spans.iter().all(linked);
        whole.then_some(spans)
    })
    .await;
    assert_is_tree(&spans);
    assert_eq!(parent_of(&spans, "Spool.Accept"), "SMTP transaction");
    assert_eq!(parent_of(&spans, "postgres commit"), "Spool.Accept");
    assert_eq!(parent_of(&spans, "signature"), "Auth.Sign");
    assert_eq!(parent_of(&spans, "deliver"), "SMTP transaction");
    let of = |name: &str| spans.iter().find(|s| s.name == name).unwrap();
    let root = of("SMTP transaction");
    assert_eq!((root.attribute("mail.queue_id"), root.attribute("smtp.reply_code")), (id.as_str(), "250"));
    assert_eq!((of("deliver").attribute("outcome"), of("deliver").attribute("mail.tenant")), ("delivered", "default"));
    assert!(spans.iter().all(|s| !s.is_error), "{spans:#?}");
    world.nothing_is_told();
}

#[tokio::test(flavor = "multi_thread")]
async fn later_attempts_are_linked_to_the_message() {
    let moods = [Mood::Says("451 4.2.0 later"), Mood::Says("450 4.2.0 later still")];
    let world = world("127.0.0.32", "127.0.0.132", &moods, CONFIG).await;
    let id = world.submit("x@fickle.com");
    world.until_event(&id, "relayed", SOON).await;
    let (trace_id, events) = world.journey(&id);
    let attempts = eventually("three attempts", SOON, || async {
        let mut spans = world.collector.spans();
        spans.retain(|s| s.name == "relay.attempt");
        spans.sort_by_key(|s| s.attribute("attempt").to_owned());
        (spans.len() == 3).then_some(spans)
    })
    .await;
    let seen: Vec<_> = attempts
        .iter()
        .map(|s| (s.attribute("attempt"), s.attribute("outcome"), s.attribute("smtp.reply_code"), s.is_error))
        .collect();
    assert_eq!(seen, [("1", "deferred", "451", true), ("2", "deferred", "450", true), ("3", "relayed", "250", false)]);
    // The first is a part of the message's trace; the others are roots that point at it.
    assert_eq!(attempts[0].trace_id, trace_id);
    assert!(!attempts[0].parent.is_empty() && attempts[0].links.is_empty());
    for later in &attempts[1..] {
        assert!(later.trace_id != trace_id && later.parent.is_empty());
        assert_eq!(later.links, std::slice::from_ref(&trace_id));
    }
    // The journey knows each.
    let told: Vec<_> = events
        .iter()
        .filter(|e| e["service"] == "outbound-relay")
        .map(|e| e["trace_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, attempts.iter().map(|s| s.trace_id.clone()).collect::<Vec<_>>());
    assert!(attempts.iter().all(|s| s.attribute("mail.queue_id") == id && s.attribute("mail.tenant") == "default"));
    world.nothing_is_told();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounce_is_in_the_trace_of_what_it_is_about() {
    let world = world("127.0.0.33", "127.0.0.133", &[Mood::Says("550 5.1.1 nobody")], CONFIG).await;
    let id = world.submit("x@fickle.com");
    world.until_event(&id, "bounced", SOON).await;
    let (trace_id, _) = world.journey(&id);
    let is_its = |s: &Span| s.trace_id == trace_id;
    let attempt = world.span("the attempt", |s| is_its(s) && s.name == "relay.attempt").await;
    assert_eq!((attempt.attribute("outcome"), attempt.attribute("mail.status")), ("bounced", "5.1.1"));
    assert!(attempt.is_error);
    let accepted = world.span("the report is accepted", |s| {
        is_its(s) && s.name == "Spool.Accept" && s.attribute("mail.queue_id") != id
    });
    let report = accepted.await.attribute("mail.queue_id").to_owned();
    world.span("and delivered", |s| is_its(s) && s.name == "deliver" && s.attribute("mail.queue_id") == report).await;
    world.nothing_is_told();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_its_messages_last_hop() {
    let config = "outbound-relay: { retry_first: 1, retry_max: 1, lease_seconds: 10 }\n";
    let world = world("127.0.0.34", "127.0.0.134", &[Mood::Hangs], config).await;
    let id = world.submit("x@fickle.com");
    eventually("the attempt is at its dot", SOON, || async { (world.peer.hanging() == 1).then_some(()) }).await;
    world.site.signal("outbound-relay", "KILL");
    let (trace_id, _) = world.journey(&id);
    assert_eq!(world.names(&id).last().unwrap(), "queued", "as far as it came");
    world.span("what was before is exported", |s| s.trace_id == trace_id && s.name == "Spool.Accept").await;

    world.until_event(&id, "relayed", LATER).await;
    let attempt = world.span("the other process's attempt", |s| s.name == "relay.attempt").await;
    assert_eq!((attempt.attribute("attempt"), attempt.attribute("outcome")), ("2", "relayed"));
    assert_eq!(attempt.links, [trace_id]);
    assert_eq!(world.peer.taken().len(), 1);
    world.nothing_is_told();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_sites_are_linked() {
    let config = "smtp-ingress: { trace_from: [127.0.0.77/32] }\n";
    let world = world("127.0.0.35", "127.0.0.135", &[], config).await;
    let told = |digit: &str| digit.repeat(32);
    for (from, digit) in [("127.0.0.66", "6"), ("127.0.0.77", "7")] {
        let program = format!(
            r#"
smtp = smtplib.SMTP(HOST, PORT[25], source_address=("{from}", 0)); smtp.ehlo("stranger.com")
smtp.mail("a@stranger.com"); smtp.rcpt("bob@example.com")
code, text = smtp.data(b"Postroad-Trace: 00-{}-{}-01\r\nFrom: a@stranger.com\r\n\r\nx\r\n"); assert code == 250, (code, text)
smtp.quit()
"#,
            told(digit),
            digit.repeat(16)
        );
        python(&world.site, &program);
    }
    let doors = eventually("both came in", SOON, || async {
        let mut spans = world.collector.spans();
        spans.retain(|s| s.name == "SMTP transaction");
        (spans.len() == 2).then_some(spans)
    })
    .await;
    let links: Vec<&String> = doors.iter().flat_map(|s| &s.links).collect();
    assert_eq!(links, [&told("7")]);
    // Nobody from outside decides our trace ids.
    assert!(doors.iter().all(|s| s.parent.is_empty() && s.trace_id != told("6") && s.trace_id != told("7")));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_kept_when_nothing_is_sampled() {
    let moods = [Mood::Says("451 4.2.0 later")];
    let none = "runtime: { trace_ratio: 0 }";
    let mut config = format!("outbound-relay: {{ retry_first: 1, retry_max: 1, {none} }}\n");
    for service in ["smtp-ingress", "auth-checker", "mda", "imap-gateway", "pop3-gateway"] {
        config.push_str(&format!("{service}: {{ {none} }}\n"));
    }
    let world = world("127.0.0.36", "127.0.0.136", &moods, &config).await;
    let good = world.submit("bob@example.com");
    world.until_event(&good, "delivered", SOON).await;
    let bad = world.submit("x@fickle.com");
    world.until_event(&bad, "relayed", SOON).await;
    let (trace_id, _) = world.journey(&bad);
    let attempt = world.span("the deferred attempt", |s| s.name == "relay.attempt").await;
    assert_eq!((attempt.trace_id.as_str(), attempt.attribute("outcome")), (trace_id.as_str(), "deferred"));
    let (good_trace, _) = world.journey(&good);
    assert!(!good_trace.is_empty(), "the journey has an id all the same");
    assert!(world.collector.trace(&good_trace).is_empty(), "{:#?}", world.collector.trace(&good_trace));
}
