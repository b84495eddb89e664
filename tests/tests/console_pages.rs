//! The console's pages in a real browser, on two sites: the Email Journey from the Send button to the
//! receiver, a spoofed message that is stopped, search, the queue in hand, each role.

#![allow(clippy::unwrap_used)]

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use sqlx::Connection as _;
use tempfile::TempDir;
use tests::{
    browser::Browser,
    client::python,
    eventually,
    http::{Api, request},
    site::{Site, free_port_offset},
    sites::Sites,
};

/// Two sites whose consoles are open; sender.com's may ask example.com's how a journey went on.
struct Stage {
    sites: Sites,
    _tokens: TempDir,
}

fn place(site: &Site) -> String {
    format!("{}:{}", site.host(), site.port(8080))
}

fn token(site: &Site, role: &str, more: &[&str]) -> String {
    let add = ["token", "add", "--role", role, role];
    site.admin(&[&add[..], more].concat(), "").trim().to_owned()
}

impl Stage {
    async fn up() -> Self {
        let (offset, tokens) = (free_port_offset(&Sites::HOSTS), tempfile::tempdir().unwrap());
        let file = tokens.path().join("example.com");
        std::fs::write(&file, "not yet").unwrap();
        let url = format!("http://127.0.0.3:{}", 8080 + offset);
        let site = format!("{{ domain: example.com, url: {url:?}, token_file: {file:?} }}");
        let sites = Sites::up(offset, |mut options| {
            let onward = if options.domains == ["sender.com"] { format!("\n  sites: [{site}]") } else { String::new() };
            options.config = Some(format!(
                "console:\n  trace_url: \"https://grafana.example/trace/{{trace_id}}\"{onward}\n\
                 outbound-relay: {{ retry_first: 1, retry_max: 2, back_off_first: 1, back_off_max: 2 }}\n"
            ));
            options
        })
        .await;
        std::fs::write(&file, token(&sites.example, "support", &[])).unwrap();
        // It reads the token when it starts.
        let before = sites.sender.pids("console");
        sites.sender.signal("console", "TERM");
        eventually("the console is back", Duration::from_secs(60), || async {
            let is_new = sites.sender.pids("console") != before;
            (is_new && tokio::net::TcpStream::connect(place(&sites.sender)).await.is_ok()).then_some(())
        })
        .await;
        Self { sites, _tokens: tokens }
    }
}

async fn log_in(browser: &Browser, site: &Site, token: &str) {
    browser.open(&format!("http://{}/", place(site))).await;
    browser.fill("#login input[name=token]", token).await;
    browser.click("#login button").await;
    browser.until("somebody is logged in", "document.querySelector('#whoami')?.textContent").await;
}

async fn go(browser: &Browser, page: &str) {
    browser.run(&format!("location.hash = '#/{page}'")).await;
    let heading = if page == "journey" { "Email Journey".to_owned() } else { page[..1].to_uppercase() + &page[1..] };
    browser.until(page, &format!("document.querySelector('main h1')?.textContent == {heading:?}")).await;
}

async fn is_lit(browser: &Browser, hops: &[&str]) {
    for hop in hops {
        browser
            .until(&format!("{hop} is lit"), &format!("document.querySelector('#hop-{hop}')?.dataset.state == 'lit'"))
            .await;
    }
}

/// Nothing inline, nothing from elsewhere, no error.
async fn is_clean(browser: &Browser) {
    let log = browser.log().await;
    let wrong: Vec<_> = log.iter().filter(|l| l.contains("Security Policy") || l.contains("Error")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Pictures for the documentation are taken when this says where to.
async fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        browser.screenshot(&PathBuf::from(folder).join(format!("{name}.png"))).await;
    }
}

async fn send(browser: &Browser, from: &str, to: &str, password: Option<&str>) {
    browser.until("the form is there", "document.querySelector('#send-form')").await;
    let way = if password.is_some() { "submission" } else { "stranger" };
    browser.click(&format!("input[name=way][value={way}]")).await;
    browser.fill("input[name=from]", from).await;
    browser.fill("input[name=to]", to).await;
    if let Some(password) = password {
        browser.fill("input[name=password]", password).await;
    }
    browser.click("#send").await;
}

const READ: &str = r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS)
imap.login("bob@example.com", "secret")
for _ in range(1200):
    if int(imap.select("INBOX")[1][0]): break
    time.sleep(0.1)
assert b"shows its own way" in imap.fetch("1", "(BODY[])")[1][0][1]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_lights_up_every_hop_from_sender_to_receiver() {
    let stage = Stage::up().await;
    let (sender, example) = (&stage.sites.sender, &stage.sites.example);
    let browser = Browser::start().await;
    log_in(&browser, sender, &token(sender, "operator", &[])).await;
    browser.until("it is ready", "document.querySelector('#status')?.textContent == 'Ready to send.'").await;
    picture(&browser, "ready").await;
    send(&browser, "alice@sender.com", "bob@example.com", Some("secret")).await;
    is_lit(&browser, &["mua-out", "smtp", "mta", "mx", "imap"]).await;
    python(example, READ);
    is_lit(&browser, &["mua-in"]).await;
    let lags = browser
        .run("return [...document.querySelectorAll('.hops li')].map(h => [h.id, Number(h.dataset.lagMs)])")
        .await;
    eprintln!("milliseconds from an event to its light: {lags}");

    // The dialogue at our door, without the password.
    browser.click("#hop-smtp button").await;
    let detail = browser.text("#hop-detail").await;
    for line in ["C: MAIL FROM:<alice@sender.com>", "C: RCPT TO:<bob@example.com>", "TLSv1.3"] {
        assert!(detail.contains(line), "{line} in {detail}");
    }
    assert!(!detail.contains("secret") && !detail.contains("AGFsaWNl"), "a credential in {detail}");
    let trace = browser.run("return document.querySelector('#hop-detail a[href*=\"grafana.example\"]')?.href").await;
    let trace = trace.as_str().unwrap_or_default().strip_prefix("https://grafana.example/trace/").unwrap_or_default();
    assert!(trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()), "{trace}");
    // The verdicts of the other site.
    browser.click("#hop-mx button").await;
    let verdicts = browser.text("#hop-detail .verdicts").await;
    for verdict in ["SPF pass", "DKIM pass", "DMARC pass"] {
        assert!(verdicts.contains(verdict), "{verdict} in {verdicts}");
    }
    browser.run("scrollTo(0, 0)").await;
    picture(&browser, "journey").await;

    // The same message, found again later at the other site, with the records that decided.
    is_clean(&browser).await;
    log_in(&browser, example, &token(example, "support", &[])).await;
    go(&browser, "search").await;
    browser.fill("input[name=recipient]", "bob@example.com").await;
    browser.click("#search-form button").await;
    browser.until("it is found", "document.querySelector('main table a')").await;
    picture(&browser, "search").await;
    browser.click("main table a").await;
    is_lit(&browser, &["smtp", "imap", "mua-in"]).await;
    browser.click("#hop-smtp button").await;
    browser.until("the records are shown", "document.querySelectorAll('.records tr').length >= 3").await;
    let records = browser.text(".records").await;
    for record in ["v=spf1 ip4:127.0.0.2 -all", "v=DMARC1; p=reject", "v=DKIM1;"] {
        assert!(records.contains(record), "{record} in {records}");
    }
    is_clean(&browser).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_message_shows_where_and_why_it_was_stopped() {
    let stage = Stage::up().await;
    let (sender, example) = (&stage.sites.sender, &stage.sites.example);
    let browser = Browser::start().await;
    // A stranger who claims to be of sender.com, at example.com's door.
    log_in(&browser, example, &token(example, "operator", &[])).await;
    send(&browser, "ceo@sender.com", "bob@example.com", None).await;
    browser.until("it is stopped", "document.querySelector('#hop-smtp')?.dataset.state == 'stop'").await;
    let (status, detail) = (browser.text("#status").await, browser.text("#hop-detail").await);
    assert!(status.contains("550 5.7.1"), "{status}");
    assert!(detail.contains("S: 550 5.7.1") && detail.to_lowercase().contains("dmarc"), "{detail}");
    let later = browser
        .run("return ['mta', 'imap', 'mua-in'].map(h => document.querySelector(`#hop-${h}`).dataset.state)")
        .await;
    assert_eq!(later, json!(["idle", "idle", "idle"]));
    picture(&browser, "spoofed").await;
    // It stays to be found: nothing of it was accepted.
    go(&browser, "search").await;
    browser.fill("input[name=sender]", "ceo@sender.com").await;
    browser.click("#search-form button").await;
    browser
        .until("the refusal is found", "document.querySelector('main table .tag.bad')?.textContent == 'refused'")
        .await;
    browser.click("main table a").await;
    browser.until("it is stopped", "document.querySelector('#hop-smtp')?.dataset.state == 'stop'").await;
    // One of ours who claims to be somebody else.
    log_in(&browser, sender, &token(sender, "operator", &[])).await;
    send(&browser, "alice@sender.com", "bob@example.com", Some("wrong")).await;
    browser.until("a wrong password stops it", "document.querySelector('#status')?.textContent.includes('535')").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_entry_is_held_and_released() {
    let mut stage = Stage::up().await;
    stage.sites.example.stop();
    let sender = &stage.sites.sender;
    let browser = Browser::start().await;
    log_in(&browser, sender, &token(sender, "operator", &[])).await;
    send(&browser, "alice@sender.com", "bob@example.com", Some("secret")).await;
    browser.until("it waits", "document.querySelector('#hop-mta')?.dataset.state == 'wait'").await;
    go(&browser, "queue").await;
    browser.until("it is listed", "document.querySelector('tr[data-queue-id]')").await;
    let button = |name: &str| {
        format!("[...document.querySelectorAll('tr[data-queue-id] button')].find(b => b.textContent == {name:?})")
    };
    // While an attempt runs nothing is changed, so a click may have to be repeated.
    let press = async |name: &str, held: bool| {
        for _ in 0..60 {
            browser.run(&format!("{}?.click()", button(name))).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let shown = browser.run("return document.querySelector('tr[data-queue-id]')?.dataset.held").await;
            if shown == json!(held.to_string()) {
                return;
            }
        }
        panic!("{name} does nothing: {}", browser.text("main").await);
    };
    press("Hold", true).await;
    picture(&browser, "queue").await;
    let queue: Value = serde_json::from_str(&sender.cli("queue", &["--json", "list"], "")).unwrap();
    assert!(queue.to_string().contains("\"held\":true"), "{queue}");
    press("Release", false).await;
    // And away it goes.
    stage.sites.example.start();
    go(&browser, "journey").await;
    let api = Api { place: place(&stage.sites.sender), token: token(&stage.sites.sender, "support", &[]) };
    eventually("it is relayed", Duration::from_secs(90), || async {
        let found = api.ok("GET", "/messages?recipient=bob@example.com", Value::Null).await;
        (found[0]["last_event"] == "relayed").then_some(())
    })
    .await;
    is_clean(&browser).await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_sees_its_pages_and_is_refused_the_rest() {
    let stage = Stage::up().await;
    let sender = &stage.sites.sender;
    let operator = Api { place: place(sender), token: token(sender, "operator", &[]) };
    operator.ok("POST", "/tenants", json!({ "name": "acme" })).await;
    operator.ok("POST", "/domains", json!({ "name": "acme.com", "tenant": "acme" })).await;
    operator
        .ok("POST", "/accounts", json!({ "address": "eve@acme.com", "password": "secret", "quota_bytes": 5_000_000 }))
        .await;
    let admin = token(sender, "tenant-admin", &["--tenant", "acme"]);
    let support = token(sender, "support", &["--tenant", "acme"]);
    let browser = Browser::start().await;

    browser.open(&format!("http://{}/", operator.place)).await;
    browser.fill("#login input[name=token]", "postroad_wrong").await;
    browser.click("#login button").await;
    browser.until("a wrong token is refused", "document.querySelector('#login .error')").await;
    log_in(&browser, sender, &operator.token).await;
    go(&browser, "domains").await;
    browser.click("main a[href='#/domains/sender.com']").await;
    browser.until("states are shown", "document.querySelectorAll('tr[data-state=Published]').length >= 4").await;
    picture(&browser, "domain").await;
    go(&browser, "accounts").await;
    browser.until("all accounts", "document.querySelectorAll('tr[data-address]').length == 2").await;
    picture(&browser, "accounts").await;
    browser.click("#logout").await;
    browser.until("the login is back", "document.querySelector('#login')").await;

    log_in(&browser, sender, &admin).await;
    go(&browser, "accounts").await;
    browser.until("only its own", "document.querySelectorAll('tr[data-address]').length == 1").await;
    assert!(browser.text("main").await.contains("eve@acme.com"));
    browser.fill("form[aria-label='New account'] input[name=address]", "dan@sender.com").await;
    browser.fill("form[aria-label='New account'] input[name=password]", "secret").await;
    browser.click("form[aria-label='New account'] button").await;
    browser
        .until(
            "another tenant's domain is refused",
            "document.querySelector('form .error')?.textContent.includes('not ours')",
        )
        .await;
    browser.click("#logout").await;
    browser.until("the login is back", "document.querySelector('#login')").await;

    log_in(&browser, sender, &support).await;
    let pages = browser.text("#nav").await;
    assert!(pages.contains("Search") && !pages.contains("Access"), "{pages}");
    go(&browser, "accounts").await;
    browser.until("it may look", "document.querySelectorAll('tr[data-address]').length == 1").await;
    let buttons = browser.run("return document.querySelectorAll('main button').length").await;
    assert_eq!(buttons, json!(0), "support changes nothing");
    // Not even by hand, with the page's own session.
    let status = "return (async () => { const { csrf } = await (await fetch('/api/v1/session')).json(); \
        return (await fetch('/api/v1/accounts/eve@acme.com', { method: 'DELETE', headers: { 'x-csrf-token': csrf } })).status })()";
    assert_eq!(browser.run(status).await, json!(403));
    browser.close().await;
    let still = request(
        "GET",
        &operator.place,
        "/api/v1/accounts",
        &[("Authorization", &format!("Bearer {}", operator.token))],
        "",
    )
    .await;
    assert!(still.body.contains("eve@acme.com"), "{}", still.body);
}

/// What stands in the reports of others: two reporters, three days ago and yesterday.
async fn reported(site: &Site) {
    let sockets = site.data().join("postgres-socket");
    let url = format!("postgres://postroad@localhost/postroad?host={}", sockets.display());
    let mut sql = sqlx::PgConnection::connect(&url).await.unwrap();
    let detail = json!({ "records": [
        { "count": 90, "row": { "source": "192.0.2.10", "header_from": "example.com", "dkim": "pass", "spf": "pass", "disposition": "none" } },
        { "count": 7, "row": { "source": "198.51.100.66", "header_from": "example.com", "dkim": "fail", "spf": "fail", "disposition": "reject" } },
    ] });
    sqlx::query(
        "insert into received_reports (kind, organisation, report_id, domain, begin_at, end_at, good, bad, detail)
         select 'dmarc', org, org || '-' || ago, 'example.com', now() - make_interval(days => ago),
                now() - make_interval(days => ago - 1), 90 + 20 * (ago % 3), 7 + 3 * (ago % 4), $1
         from unnest(array['mail.sender.com', 'receiver.example']) org, generate_series(1, 25, 2) ago",
    )
    .bind(detail.to_string())
    .execute(&mut sql)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantined_mail_is_released_and_reports_are_a_picture() {
    let stage = Stage::up().await;
    let example = &stage.sites.example;
    stage.sites.dns.add("_dmarc.bank.com TXT v=DMARC1; p=quarantine").await;
    let operator = Api { place: place(example), token: token(example, "operator", &[]) };
    operator.ok("POST", "/tenants", json!({ "name": "acme" })).await;
    let (admin, support) = (token(example, "tenant-admin", &["--tenant", "acme"]), token(example, "support", &[]));
    let forge = r#"
smtp = smtplib.SMTP(HOST, PORT[25], source_address=("127.0.0.66", 0)); smtp.ehlo("stranger.com")
for n in range(3):
    smtp.sendmail("boss@bank.com", "bob@example.com",
        f"From: The Boss <boss@bank.com>\r\nMessage-ID: <{n}@bank.com>\r\nSubject: =?utf-8?q?Zahlung_f=C3=A4llig?= {n}\r\n\r\npay\r\n".encode())
"#;
    python(example, forge);
    let listed = eventually("they are in quarantine", Duration::from_secs(30), || async {
        let listed = operator.ok("GET", "/quarantine?domain=example.com", Value::Null).await;
        (listed.as_array().unwrap().len() == 3).then_some(listed)
    })
    .await;
    let first = &listed[2];
    assert_eq!(
        (&first["from"], &first["subject"]),
        (&json!("The Boss <boss@bank.com>"), &json!("Zahlung f\u{e4}llig 0"))
    );
    assert!(first["reason"].as_str().unwrap().to_lowercase().contains("dmarc"), "{first}");

    // By the API: a tenant admin of others finds nothing, support may look and no more.
    let id = first["queue_id"].as_str().unwrap().to_owned();
    let (stranger, looker) =
        (Api { place: place(example), token: admin }, Api { place: place(example), token: support.clone() });
    assert_eq!(stranger.ok("GET", "/quarantine", Value::Null).await, json!([]));
    assert_eq!(stranger.call("GET", "/quarantine?domain=example.com", Value::Null).await.status, 404);
    assert_eq!(stranger.call("GET", "/reports/over-time?domain=example.com", Value::Null).await.status, 404);
    let wish = json!({ "action": "release" });
    assert_eq!(stranger.call("POST", &format!("/quarantine/{id}"), wish.clone()).await.status, 404);
    assert_eq!(looker.ok("GET", "/quarantine", Value::Null).await.as_array().unwrap().len(), 3);
    assert_eq!(looker.call("POST", &format!("/quarantine/{id}"), wish.clone()).await.status, 403);
    let done = operator.ok("POST", &format!("/quarantine/{id}"), wish.clone()).await;
    assert_eq!(done["addresses"], json!(["bob@example.com"]));
    assert_eq!(operator.call("POST", &format!("/quarantine/{id}"), wish).await.status, 404, "once");
    // In the terminal.
    let lines = example.cli("quarantine", &["list", "--domain", "example.com"], "");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let second = lines.lines().last().unwrap().split(' ').next().unwrap().to_owned();
    let said = example.cli("quarantine", &["release", &second], "");
    assert_eq!(said.trim(), format!("{second} is in the INBOX of bob@example.com"));

    // On the page: first who may only look.
    let browser = Browser::start().await;
    log_in(&browser, example, &support).await;
    go(&browser, "quarantine").await;
    browser.until("it is listed", "document.querySelectorAll('tr[data-queue-id]').length == 1").await;
    assert_eq!(browser.run("return document.querySelectorAll('tr button').length").await, json!(0));
    browser.click("#logout").await;
    browser.until("the login is back", "document.querySelector('#login')").await;
    log_in(&browser, example, &operator.token).await;
    go(&browser, "quarantine").await;
    browser.until("it is listed", "document.querySelectorAll('tr[data-queue-id]').length == 1").await;
    picture(&browser, "quarantine").await;
    browser.fill("#quarantine-form input[name=address]", "alice@example.com").await;
    browser.click("#quarantine-form button").await;
    browser
        .until("nobody else has any", "document.querySelector('main').innerText.includes('Nothing is in quarantine')")
        .await;
    browser.fill("#quarantine-form input[name=address]", "bob@example.com").await;
    browser.click("#quarantine-form button").await;
    browser.click("tr[data-address='bob@example.com'] button").await;
    browser.until("it is gone from the list", "document.querySelectorAll('tr[data-queue-id]').length == 0").await;
    browser.until("it is said", "document.querySelector('#announce').textContent.includes('bob@example.com')").await;
    let read = r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
assert imap.select("Junk")[1][0] == b"0" and imap.select("INBOX")[1][0] == b"3"
assert all(b"pay" in part[1] for part in imap.fetch("1:3", "(BODY[])")[1] if len(part) == 2)
"#;
    python(example, read);
    // Its journey tells who did it, and that it was read.
    browser.run(&format!("location.hash = '#/journey/{id}'")).await;
    is_lit(&browser, &["imap", "mua-in"]).await;
    browser.click("#hop-imap button").await;
    let detail = browser.text("#hop-detail").await;
    assert!(detail.contains("from Junk into INBOX by operator"), "{detail}");

    // Reports: first none, then a picture.
    go(&browser, "reports").await;
    browser
        .until("none is there", "document.querySelector('#picture').innerText.includes('Nobody has reported')")
        .await;
    reported(example).await;
    browser.click("#reports-form button").await;
    browser.until("bars are drawn", "document.querySelectorAll('#chart rect.good[data-day]').length == 13").await;
    assert_eq!(browser.run("return document.querySelectorAll('#chart rect.failed').length").await, json!(13));
    let name = browser.run("return document.querySelector('#chart-desc').textContent").await;
    assert!(name.as_str().unwrap().contains("messages passed DMARC"), "{name}");
    let hosts = browser.text("section[aria-label=Hosts] tbody").await;
    assert!(hosts.starts_with("198.51.100.66 0 182 0.0 %"), "{hosts}");
    browser.run("scrollTo(0, 0)").await;
    picture(&browser, "reports").await;
    let rows = "document.querySelectorAll('details tbody tr').length == 13";
    browser.click("details summary").await;
    browser.until("each day is in the table", rows).await;
    let told = operator.ok("GET", "/reports/over-time?domain=example.com&days=3", Value::Null).await;
    let sums: Vec<_> =
        told["days"].as_array().unwrap().iter().map(|d| (d["good"].clone(), d["reports"].clone())).collect();
    assert_eq!(sums, [(json!(180), json!(2)), (json!(220), json!(2))]);
    assert_eq!(operator.call("GET", "/reports/over-time?kind=spam", Value::Null).await.status, 400);
    is_clean(&browser).await;
    browser.close().await;
}
