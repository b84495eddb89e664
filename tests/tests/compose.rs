//! deploy/compose.yaml, as far as it can be looked at without containers: every service takes its
//! configuration, every file is there, Grafana finds its sources and may read no mail.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tests::{
    eventually,
    process::{ours, program},
    storage::{Mda, database},
};

fn deploy(file: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")).join(file)
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(deploy(file)).unwrap()).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[test]
fn every_service_takes_its_configuration() {
    let compose = yaml("compose.yaml");
    let mut checked = BTreeSet::new();
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let is_there = source.strip_prefix("./").is_none_or(|file| deploy(file).exists());
            let is_named = source.starts_with("./") || compose["volumes"].get(source).is_some();
            assert!(is_there && is_named, "{name}: {source}");
        }
        let image = service["image"].as_str().unwrap();
        let Some(binary) = image.strip_prefix("localhost/postroad/").and_then(|i| i.split(':').next()) else {
            continue;
        };
        if binary == "postroad" {
            continue;
        }
        let environment = service["environment"].as_object().unwrap();
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let environment = environment
            .iter()
            .map(|(key, value)| (key, text(value).replace("${MAIL_HOSTNAME:-mail.example.com}", "mail.example.com")));
        let checks = Command::new(ours(binary)).arg("--check").envs(environment).output().unwrap();
        assert!(checks.status.success(), "{name}: {}", String::from_utf8_lossy(&checks.stderr));
        checked.insert(binary.to_owned());
    }
    assert_eq!(checked.len(), 7, "{checked:?}");
}

#[test]
fn what_watches_is_provisioned() {
    let promtool = |arguments: &[&str], file: &str| {
        let output =
            Command::new(program("promtool", "prometheus")).args(arguments).arg(deploy(file)).output().unwrap();
        assert!(output.status.success(), "{file}: {output:?}");
    };
    promtool(&["check", "config", "--syntax-only"], "compose/prometheus.yml");
    promtool(&["check", "rules"], "alerts.yaml");
    let scraped = yaml("compose/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"].to_string();
    for service in ["mda", "auth-checker", "smtp-ingress", "outbound-relay", "imap-gateway", "pop3-gateway", "console"]
    {
        assert!(scraped.contains(&format!("\"{service}:9100\"")), "{service} in {scraped}");
    }
    let sources = yaml("compose/grafana-datasources.yaml");
    let uids: BTreeSet<&str> =
        sources["datasources"].as_array().unwrap().iter().map(|s| s["uid"].as_str().unwrap()).collect();
    for file in std::fs::read_dir(deploy("dashboards")).unwrap() {
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file.unwrap().path()).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let uid = panel["datasource"]["uid"].as_str().unwrap();
            assert!(uids.contains(uid), "{uid} of {}", panel["title"]);
        }
    }
}

#[tokio::test]
async fn grafana_reads_journeys_and_no_mail() {
    let url = database().await;
    let mut sql = PgConnection::connect(&url).await.unwrap();
    let role = std::fs::read_to_string(deploy("compose/grafana-role.sql")).unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(role)).execute(&mut sql).await.unwrap();
    let mda = Mda::start_with(|config| config.database_url = url.clone()).await;
    let grafana = url.replacen("postroad@", "grafana@", 1);
    let mut grafana = eventually("grafana may come in", std::time::Duration::from_secs(10), || async {
        PgConnection::connect(&grafana).await.ok()
    })
    .await;
    for allowed in ["select count(*) from journey_messages('x')", "select count(*) from journey_events('x')"] {
        let found: i64 = sqlx::query_scalar(allowed).fetch_one(&mut grafana).await.unwrap();
        assert_eq!(found, 0);
    }
    for table in ["contents", "accounts", "messages", "secrets", "dkim_keys"] {
        let text = format!("select count(*) from {table}");
        let denied = sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut grafana).await.unwrap_err();
        assert!(denied.to_string().contains("permission denied"), "{table}: {denied}");
    }
    mda.stop().await;
}
