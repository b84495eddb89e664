//! Two sites under mail, scraped by a real Prometheus: the list of metrics, every panel of every
//! dashboard, every alert.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tests::{
    client::python,
    eventually,
    ports::free_address,
    process::{Process, program},
    site::{Site, free_port_offset},
    sites::Sites,
    storage::Mda,
};

const SOON: Duration = Duration::from_secs(60);
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// HTTP/1.0, which needs no library here.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Something of everything that a site does.
fn mail(sites: &Sites) {
    let out = r#"
smtp = smtplib.SMTP(HOST, PORT[587]); smtp.starttls(context=TLS); smtp.login("alice@sender.com", "secret")
for rcpt in ["bob@example.com", "alice@sender.com", "nobody@example.com"]:
    smtp.mail("alice@sender.com"); smtp.rcpt(rcpt)
    code, text = smtp.data(b"From: alice@sender.com\r\nSubject: x\r\n\r\nx\r\n"); assert code == 250, (code, text)
smtp.quit()
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS)
try: smtp.login("alice@sender.com", "wrong"); raise SystemExit("logged in")
except smtplib.SMTPAuthenticationError: pass
smtp.close()
"#;
    python(&sites.sender, out);
    let read = r#"
smtp = smtplib.SMTP(HOST, PORT[25]); smtp.ehlo("x.com"); smtp.mail("a@x.com"); smtp.rcpt("nobody@example.com"); smtp.quit()
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
for _ in range(1800):
    if int(imap.select("INBOX")[1][0]): break
    time.sleep(0.1)
imap.fetch("1:*", "(BODY.PEEK[])"); imap.append("INBOX", None, None, b"Subject: y\r\n\r\ny\r\n"); imap.logout()
pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS); pop.user("bob@example.com"); pop.pass_("secret")
pop.retr(1); pop.dele(1); pop.quit()
"#;
    python(&sites.example, read);
}

/// Job and address of each process.
fn targets(site: &Site) -> Vec<(String, SocketAddr)> {
    let text = std::fs::read_to_string(site.data().join("run/prometheus.json")).unwrap();
    let all = json(&text);
    let one = |t: &Value| {
        (t["labels"]["job"].as_str().unwrap().to_owned(), t["targets"][0].as_str().unwrap().parse().unwrap())
    };
    all.as_array().unwrap().iter().map(one).collect()
}

/// What `/metrics` names: `# TYPE name kind`, counters with the ending that Prometheus shows.
fn shown(text: &str) -> BTreeMap<String, String> {
    let kinds = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '));
    kinds
        .map(|(name, kind)| match kind {
            "counter" => (format!("{name}_total"), kind.to_owned()),
            _ => (name.to_owned(), kind.to_owned()),
        })
        .collect()
}

/// The rows of docs/metrics.md; a star at the kind says that it appears with its first event.
fn listed() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.filter_map(|(name, rest)| {
        let kind = rest.split(" | ").next()?;
        let is_kind = matches!(kind.trim_end_matches('*'), "counter" | "gauge" | "histogram");
        is_kind.then(|| (name.to_owned(), kind.to_owned()))
    })
    .collect()
}

struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(sites: &Sites) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<String> = [&sites.sender, &sites.example]
            .iter()
            .map(|site| format!("'{}'", site.data().join("run/prometheus.json").display()))
            .collect();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nrule_files: ['{ROOT}/deploy/alerts.yaml']\n\
             scrape_configs:\n  - job_name: postroad\n    file_sd_configs: [{{files: [{}]}}]\n",
            files.join(", ")
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let address = free_address();
        let mut command = Command::new(program("prometheus", "prometheus"));
        command
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { address, _process: Process::start(&mut command), _folder: folder }
    }

    /// The samples, or Prometheus's words.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|b| format!("%{b:02X}")).collect();
        let Some(body) = get(self.address, &format!("/api/v1/query?query={encoded}")) else {
            return Err("no answer".into());
        };
        let answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default()),
            _ => Err(body),
        }
    }
}

/// Title and expression of every panel of every dashboard.
fn panels() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(Path::new(ROOT).join("deploy/dashboards")).unwrap() {
        let file = file.unwrap().path();
        let dashboard = json(&std::fs::read_to_string(&file).unwrap());
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                if let Some(expression) = target["expr"].as_str() {
                    let title =
                        format!("{} / {}", dashboard["title"].as_str().unwrap(), panel["title"].as_str().unwrap());
                    all.push((title, expression.replace("$__rate_interval", "1m").replace("$site", ".*")));
                }
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_those_listed_and_no_panel_or_alert_is_empty() {
    let sites = Sites::up(free_port_offset(&Sites::HOSTS), |options| options).await;
    let prometheus = Prometheus::start(&sites);
    eventually("prometheus has its first samples", SOON, || async {
        prometheus.query("up == 1").ok().filter(|up| up.len() >= 12)
    })
    .await;
    // Rates need samples before and after.
    for _ in 0..3 {
        mail(&sites);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    let mut found = BTreeMap::new();
    for (job, address) in [&sites.sender, &sites.example].into_iter().flat_map(targets) {
        let text = get(address, "/metrics").unwrap_or_else(|| panic!("{job} at {address} does not answer"));
        assert!(text.ends_with("# EOF\n"), "{job}");
        found.extend(shown(&text));
        for secret in ["@", "sender.com", "example.com"] {
            assert!(!text.contains(secret), "{secret} in the metrics of {job}:\n{text}");
        }
    }
    let listed = listed();
    assert!(listed.len() > 40, "{listed:?}");
    let unlisted: Vec<_> = found
        .iter()
        .filter(|(name, kind)| listed.get(*name).is_none_or(|listed| listed.trim_end_matches('*') != *kind))
        .collect();
    assert!(unlisted.is_empty(), "to be listed in docs/metrics.md: {unlisted:?}");
    let missing: Vec<_> =
        listed.iter().filter(|(name, kind)| !kind.ends_with('*') && !found.contains_key(*name)).collect();
    assert!(missing.is_empty(), "in docs/metrics.md, but no service shows it: {missing:?}");

    let panels = panels();
    assert!(panels.len() > 50);
    // All at once; a scrape that came too late takes a process out of the answers until the next.
    let start = std::time::Instant::now();
    loop {
        let mut wrong = BTreeSet::new();
        for (title, expression) in &panels {
            match prometheus.query(expression) {
                Ok(samples) if samples.is_empty() => wrong.insert(format!("{title}: empty: {expression}")),
                Ok(_) => false,
                Err(words) => wrong.insert(format!("{title}: {words}")),
            };
        }
        if wrong.is_empty() {
            break;
        }
        assert!(start.elapsed() < SOON, "{wrong:#?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    alerts(&prometheus).await;
}

/// An alert is empty as long as it does not fire: the figure before its comparison must be there.
async fn alerts(prometheus: &Prometheus) {
    let rules = eventually("prometheus has evaluated the rules", SOON, || async {
        let answer = json(&get(prometheus.address, "/api/v1/rules")?);
        let rules = answer["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|r| r["health"] == "ok").then_some(rules)
    })
    .await;
    assert!(rules.len() >= 10);
    let runbook = std::fs::read_to_string(Path::new(ROOT).join("docs/OPERATIONS.md")).unwrap();
    for rule in rules {
        let (name, expression) = (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap());
        let (figure, limit) = expression.rsplit_once(['<', '>']).unwrap_or_else(|| panic!("{name}: {expression}"));
        limit.trim().parse::<f64>().unwrap_or_else(|e| panic!("{name}: {e}"));
        let is_seen = || async { prometheus.query(figure).is_ok_and(|samples| !samples.is_empty()).then_some(()) };
        eventually(&format!("{name} looks at something: {figure}"), SOON, is_seen).await;
        assert!(runbook.contains(&format!("**{name}**")), "no paragraph about {name} in docs/OPERATIONS.md");
    }
}

/// The tables of the dashboard of one message, as Grafana asks them.
#[tokio::test]
async fn the_dashboard_of_one_message_answers_by_both_ids() {
    use proto::spool::{AcceptRequest, Envelope, Event, Recipient, Target, target::To};
    let mda = Mda::start().await;
    let id = address::QueueId::from_bytes(*uuid::Uuid::now_v7().as_bytes()).to_string();
    let recipient = Recipient {
        forward_path: "x@far.net".into(),
        targets: vec![Target { to: Some(To::Remote("x@far.net".into())) }],
        ..Default::default()
    };
    let envelope = Envelope {
        queue_id: id.clone(),
        recipients: vec![recipient],
        events: vec![Event { name: "received".into(), dialogue: vec!["C: QUIT".into()], ..Default::default() }],
        ..Default::default()
    };
    let request = AcceptRequest { envelope: Some(envelope), content: "Message-ID: <m@x>\r\n\r\n".into() };
    mda.spool().accept(tokio_stream::iter([request])).await.unwrap();
    let dashboard = json(&std::fs::read_to_string(Path::new(ROOT).join("deploy/dashboards/one-message.json")).unwrap());
    let questions: Vec<&str> =
        dashboard["panels"].as_array().unwrap().iter().filter_map(|p| p["targets"][0]["rawSql"].as_str()).collect();
    let [messages, events] = questions.try_into().unwrap();
    let mut sql = mda.sql().await;
    for wanted in [id.as_str(), &id.to_ascii_lowercase(), "<m@x>", "m@x"] {
        let text = messages.replace("$message", wanted);
        let text = format!("select queue_id from ({text}) m");
        let found: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_all(&mut sql).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&id), "{wanted}");
        let text =
            format!("select event || coalesce(' ' || dialogue, '') from ({}) e", events.replace("$message", wanted));
        let told: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_all(&mut sql).await.unwrap();
        assert_eq!(told, ["received C: QUIT", "queued"]);
    }
    for nobody in ["", "x", "8".repeat(26).as_str(), "'"] {
        let found: i64 = sqlx::query_scalar("select count(*) from journey_messages($1)")
            .bind(nobody)
            .fetch_one(&mut sql)
            .await
            .unwrap();
        assert_eq!(found, 0, "{nobody:?}");
    }
    mda.stop().await;
}
