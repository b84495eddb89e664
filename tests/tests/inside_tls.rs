//! Calls between services with the certificates that the chart makes, `postroad check` as
//! `helm test` runs it, and the migrations' Job.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::Connection as _;
use tests::{
    process::ours,
    site::{Options, Site, free_port_offset},
    storage::database,
};

const SERVICES: [&str; 6] = ["mda", "auth-checker", "smtp-ingress", "outbound-relay", "imap-gateway", "pop3-gateway"];

/// Where `deploy/packages.sh chart` puts Helm.
fn tool(name: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or("/tmp".into())).join(".cache/postroad/tools");
    let place = std::env::var_os("CARGO_INSTALL_ROOT").map_or_else(home, PathBuf::from).join(name);
    assert!(place.exists(), "{} is missing: deploy/packages.sh chart", place.display());
    place
}

/// Renders the chart's Secrets and lays them out as Kubernetes mounts them: COMPONENT/ca.crt ….
fn chart_certificates(folder: &Path) {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/postroad");
    let program = r#"
import base64, pathlib, subprocess, sys, yaml
helm, chart, folder = sys.argv[1:]
text = subprocess.run([helm, "template", "postroad", chart, "-s", "templates/grpc-tls.yaml"], check=True, capture_output=True).stdout
for secret in yaml.safe_load_all(text):
    place = pathlib.Path(folder, secret["metadata"]["labels"]["app.kubernetes.io/component"])
    place.mkdir()
    for name, value in secret["data"].items():
        (place / name).write_bytes(base64.b64decode(value))
"#;
    let done = Command::new(tool("chart/bin/python"))
        .args(["-c", program])
        .args([tool("bin/helm"), chart, folder.to_owned()])
        .status()
        .unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_travels_under_the_charts_certificates() {
    let folder = tempfile::tempdir().unwrap();
    chart_certificates(folder.path());
    let section = |service: &str| {
        let file = |name: &str| folder.path().join(service).join(name).display().to_string();
        let (ca, cert, key) = (file("ca.crt"), file("tls.crt"), file("tls.key"));
        format!("{service}: {{ runtime: {{ grpc_tls: {{ ca: {ca}, cert: {cert}, key: {key} }} }} }}\n")
    };
    let mut options = Options::new("127.0.0.7", free_port_offset(&["127.0.0.7"]), "example.com")
        .more(&["--hostname", "mail.example.com"]);
    // `up` itself calls in plain text.
    options.domains.clear();
    options.config = Some(SERVICES.map(section).concat());
    let site = Site::up(options);
    let mda = std::fs::read_to_string(site.data().join("run/mda-1.addr")).unwrap();
    let check = |more: &[&str]| {
        let at = |port| format!("{}:{}", site.host(), site.port(port));
        let output = Command::new(ours("postroad"))
            .args(["check", "--mda", mda.trim(), "--submissions", &at(465), "--imaps", &at(993), "--timeout", "120"])
            .args(["--server-name", "mail.example.com", "--ca"])
            .arg(site.ca())
            .args(more)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let cli = folder.path().join("cli").display().to_string();
    let (done, words) = check(&["--grpc-tls", &cli]);
    assert!(done && words.contains("read by IMAP"), "{words}");
    let list = Command::new(ours("postroad"))
        .args(["admin", "--mda", mda.trim(), "--grpc-tls", &cli, "--json", "domain", "list"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&list.stdout).trim(), "[]", "nothing of the check stays");

    let (done, words) = check(&[]);
    assert!(!done && !words.contains("created"), "in plain text: {words}");
}

/// Twice, and three at once, as Jobs of an upgrade that was tried again.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_may_run_twice_and_at_once() {
    let url = database().await;
    let migrate = || {
        Command::new(ours("mda"))
            .env("POSTROAD_MIGRATE_ONLY", "true")
            .env("POSTROAD_RUNTIME__HTTP_LISTEN", "127.0.0.1:0")
            .env("POSTROAD_DATABASE_URL", &url)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    for mut one in [migrate(), migrate(), migrate()] {
        assert!(one.wait().unwrap().success());
    }
    assert!(migrate().wait().unwrap().success());
    // The next release was here: after a rollback its schema is no reason to refuse.
    let mut sql = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'the next release', true, '\\x00', 1)",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    assert!(migrate().wait().unwrap().success());
}
