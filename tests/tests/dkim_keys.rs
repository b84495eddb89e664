//! DKIM keys: encrypted in the database, rotated with an overlap, removed.

#![allow(clippy::unwrap_used)]

use serde_json::Value;
use sqlx::Connection as _;
use tests::{
    client::python,
    dns::NameServer,
    site::{Options, Site, free_port_offset},
};

async fn sql(site: &Site) -> sqlx::PgConnection {
    let sockets = site.data().join("postgres-socket");
    let url = format!("postgres://postroad@localhost/postroad?host={}", sockets.display());
    sqlx::PgConnection::connect(&url).await.unwrap()
}

fn keys(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let json = site.admin(&[&["--json", "dkim"], arguments].concat(), "");
    serde_json::from_str::<Value>(&json).unwrap()["keys"].as_array().unwrap().clone()
}

fn states(keys: &[Value]) -> Vec<(String, String)> {
    let text = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
    let mut states: Vec<_> = keys.iter().map(|k| (text(k, "algorithm"), text(k, "state"))).collect();
    states.sort();
    states
}

async fn publish(dns: &NameServer, keys: &[Value]) {
    for key in keys {
        let text = |name: &str| key["record"][name].as_str().unwrap();
        dns.add(&format!("{} TXT {}", text("name"), text("value"))).await;
    }
}

/// Bob writes to himself over submission and MX; the selectors that signed, which all passed.
fn selectors(site: &Site) -> Vec<String> {
    let program = r#"
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("bob@example.com", "secret")
smtp.sendmail("bob@example.com", "bob@example.com", b"From: bob@example.com\r\nSubject: x\r\n\r\nx\r\n"); smtp.quit()
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
for _ in range(1200):
    count = int(imap.select("INBOX")[1][0])
    if count: break
    time.sleep(0.1)
signed = imap.fetch(str(count), "(BODY.PEEK[])")[1][0][1]
imap.store("1:*", "+FLAGS", "\\Deleted"); imap.expunge()
smtp = smtplib.SMTP(HOST, PORT[25]); smtp.ehlo("elsewhere.com"); smtp.mail("x@nowhere.com"); smtp.rcpt("bob@example.com")
code, text = smtp.data(signed); assert code == 250, (code, text)
for _ in range(1200):
    if int(imap.select("INBOX")[1][0]): break
    time.sleep(0.1)
checked = imap.fetch("1", "(BODY.PEEK[])")[1][0][1].decode()
imap.store("1:*", "+FLAGS", "\\Deleted"); imap.expunge()
results = checked.split("Authentication-Results:")[1]
assert "dkim=fail" not in results and "permerror" not in results, results
print("\n".join(sorted(re.findall(r"dkim=pass header\.d=example\.com header\.s=([\w-]+)", results))))
"#;
    python(site, program).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_with_an_overlap() {
    let dns = NameServer::start(&["com."]).await;
    let mut options = Options::new("127.0.0.24", free_port_offset(&["127.0.0.24"]), "example.com");
    options = options.more(&["--dns", &dns.address.to_string()]);
    let mut site = Site::up(options);
    site.account("bob@example.com");
    let old = keys(&site, &["list", "example.com"]);
    let of = |algorithm: &str, state: &str| (algorithm.to_owned(), state.to_owned());
    assert_eq!(states(&old), [of("ed25519", "signing"), of("rsa", "signing")]);
    publish(&dns, &old).await;
    let names = |keys: &[Value]| {
        let mut names: Vec<String> = keys.iter().map(|k| k["selector"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(selectors(&site), names(&old));

    // New keys wait until their records are known; the old ones go on.
    let both = keys(&site, &["rotate", "example.com"]);
    assert_eq!(
        states(&both),
        [of("ed25519", "pending"), of("ed25519", "signing"), of("rsa", "pending"), of("rsa", "signing")]
    );
    let new: Vec<Value> = both.iter().filter(|k| k["state"] == "pending").cloned().collect();
    let day = new[0]["active_from_ms"].as_i64().unwrap() - new[0]["created_at_ms"].as_i64().unwrap();
    assert_eq!(day, 86_400_000);
    let retired = both.iter().find(|k| k["state"] == "signing").unwrap();
    assert_eq!(retired["retired_from_ms"], new[0]["active_from_ms"]);
    assert_eq!(retired["removed_from_ms"].as_i64().unwrap() - retired["retired_from_ms"].as_i64().unwrap(), 7 * day);
    let again = site.try_cli("admin", &["dkim", "rotate", "example.com"], "");
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("wait for their time"));
    publish(&dns, &new).await;

    // A day later, in the database's mind.
    let mut sql = sql(&site).await;
    sqlx::query(
        "update dkim_keys set active_from = active_from - interval '1 day',
            retired_from = retired_from - interval '1 day', removed_from = removed_from - interval '1 day'",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    // No key is remembered over a restart.
    site.stop();
    site.start();
    assert_eq!(selectors(&site), names(&new));
    let records = site.admin(&["domain", "dns", "example.com"], "");
    assert!(names(&old).iter().all(|s| records.contains(s)), "old records are to stay: {records}");

    // And in the end the old ones are gone.
    let mut sql = self::sql(&site).await;
    sqlx::query("update dkim_keys set removed_from = now() where removed_from is not null")
        .execute(&mut sql)
        .await
        .unwrap();
    tests::eventually("old keys are removed", std::time::Duration::from_secs(60), || async {
        (names(&keys(&site, &["list", "example.com"])) == names(&new)).then_some(())
    })
    .await;

    // A stolen key: replaced at once, then removed; the last ones stay.
    let replaced = keys(&site, &["rotate", "example.com", "--publish-seconds", "0", "--overlap-seconds", "3600"]);
    for selector in names(&new) {
        site.admin(&["dkim", "remove", "example.com", &selector], "");
    }
    let last = names(&keys(&site, &["list", "example.com"]));
    assert_eq!((last.len(), replaced.len()), (2, 4));
    site.admin(&["dkim", "remove", "example.com", &last[0]], "");
    let refused = site.try_cli("admin", &["dkim", "remove", "example.com", &last[1]], "");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the last one that signs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn private_keys_are_ciphertext_in_the_database() {
    let dns = NameServer::start(&["com."]).await;
    let mut options = Options::new("127.0.0.25", free_port_offset(&["127.0.0.25"]), "example.com");
    options = options.more(&["--dns", &dns.address.to_string()]);
    let mut site = Site::up(options);
    site.account("bob@example.com");
    publish(&dns, &keys(&site, &["list", "example.com"])).await;
    let stored = async |site: &Site| -> Vec<Vec<u8>> {
        let mut sql = sql(site).await;
        sqlx::query_scalar("select private_key from dkim_keys").fetch_all(&mut sql).await.unwrap()
    };
    // PKCS#8 names its algorithm in the clear (RFC 5208 §5).
    let rsa_oid = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let is_plain = |key: &[u8]| key[0] == 0x30 || key.windows(9).any(|w| w == rsa_oid);
    assert!(stored(&site).await.iter().all(|key| !is_plain(key)));
    assert_eq!(selectors(&site).len(), 2);

    // What was stored before there was a key is encrypted at the next start.
    let mut connection = sql(&site).await;
    sqlx::query("delete from dkim_keys where algorithm = 'rsa'").execute(&mut connection).await.unwrap();
    let plain = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let document = plain.to_pkcs8v1().unwrap();
    sqlx::query("insert into dkim_keys (domain, selector, algorithm, private_key, public_key) values ('example.com', 'old', 'ed25519', $1, $2)")
        .bind(document.as_ref())
        .bind("x")
        .execute(&mut connection)
        .await
        .unwrap();
    assert!(stored(&site).await.iter().any(|key| is_plain(key)));
    drop(connection);
    site.stop();
    site.start();
    assert!(stored(&site).await.iter().all(|key| !is_plain(key)));

    // Without the key nothing is signed, and nothing leaves unsigned: the sender tries again.
    site.stop();
    let key = site.data().join("encryption.key");
    let saved = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    site.start();
    let refused = r#"
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("bob@example.com", "secret")
smtp.mail("bob@example.com"); smtp.rcpt("bob@example.com")
code, text = smtp.data(b"From: bob@example.com\r\nSubject: x\r\n\r\nx\r\n"); assert code == 451, (code, text)
"#;
    python(&site, refused);
    site.stop();
    std::fs::write(&key, saved).unwrap();
    site.start();
    python(&site, &refused.replace("451", "250"));
}
