//! The console's API: who may call what, tenants kept apart, sessions, login by an issuer, and what
//! a fuzzer makes of its OpenAPI document.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, HashMap},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tests::{
    client::{python, venv},
    eventually,
    http::{Answer, Api, request},
    site::{Options, Site, free_port_offset},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

fn site(host: &str, change: impl FnOnce(Options) -> Options) -> Site {
    Site::up(change(Options::new(host, free_port_offset(&[host]), "example.com")))
}

fn api(site: &Site, role: &str, more: &[&str]) -> Api {
    let add = ["token", "add", "--role", role, role];
    let token = site.admin(&[&add[..], more].concat(), "").trim().to_owned();
    Api { place: format!("{}:{}", site.host(), site.port(8080)), token }
}

/// What each operation is for, as a reader of docs/console.md expects it.
const LOOK: [&str; 14] = [
    "whoAmI",
    "logOut",
    "findMessages",
    "sendMessage",
    "showJourney",
    "followJourney",
    "showRecords",
    "listQueue",
    "listDomains",
    "showDomain",
    "listAccounts",
    "listQuarantine",
    "listReports",
    "showReportsOverTime",
];
const MANAGE: [&str; 10] = [
    "changeQueue",
    "changeQuarantined",
    "createAccount",
    "changeAccount",
    "deleteAccount",
    "setAlias",
    "deleteAlias",
    "listTokens",
    "createToken",
    "revokeToken",
];
const OPERATE: [&str; 7] =
    ["listPaused", "pause", "resume", "listTenants", "createTenant", "createDomain", "deleteDomain"];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_the_roles_it_is_for_and_nobody_else() {
    let site = site("127.0.0.5", |o| o);
    let operator = api(&site, "operator", &[]);
    operator.ok("POST", "/tenants", json!({ "name": "acme" })).await;
    let admin = api(&site, "tenant-admin", &["--tenant", "acme"]);
    let support = api(&site, "support", &[]);
    let stranger = Api { place: operator.place.clone(), token: String::new() };
    let forger =
        Api { place: operator.place.clone(), token: "postroad_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into() };
    let document = request("GET", &operator.place, "/api/v1/openapi.json", &[], "").await.json();
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            // Nothing that is there: only whether the door opens is asked.
            let path = path.strip_prefix("/api/v1").unwrap().replace("{queue_id}", "00000000000000000000000000");
            let path = path.replace("{domain}", "nobody.example").replace("{address}", "a@nobody.example");
            let path = path.replace("{id}", "00000000-0000-0000-0000-000000000000");
            let ask = async |api: &Api| api.call(&method.to_uppercase(), &path, json!([])).await.status;
            let is_public = ["about", "logIn"].contains(&id);
            for nobody in [&stranger, &forger] {
                let status = ask(nobody).await;
                assert_eq!(status == 401, !is_public, "{id} for a stranger: {status}");
            }
            for (api, is_allowed) in [
                (&support, LOOK.contains(&id) || id == "listAliases"),
                (&admin, LOOK.contains(&id) || id == "listAliases" || MANAGE.contains(&id)),
                (&operator, LOOK.contains(&id) || id == "listAliases" || MANAGE.contains(&id) || OPERATE.contains(&id)),
            ] {
                let status = ask(api).await;
                assert_eq!(status != 403, is_allowed || is_public, "{method} {path} ({id}): {status}");
                assert!(status < 500, "{method} {path} ({id}): {status}");
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 2 + LOOK.len() + 1 + MANAGE.len() + OPERATE.len(), "an operation that no role is known for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_and_changes_nothing_of_another() {
    let site = site("127.0.0.6", |o| o);
    site.account("bob@example.com");
    let operator = api(&site, "operator", &[]);
    for name in ["acme", "zeta"] {
        operator.ok("POST", "/tenants", json!({ "name": name })).await;
        operator.ok("POST", "/domains", json!({ "name": format!("{name}.com"), "tenant": name })).await;
        let account = json!({ "address": format!("eve@{name}.com"), "password": "secret" });
        operator.ok("POST", "/accounts", account).await;
    }
    // From zeta to bob, who is of neither.
    python(
        &site,
        r#"
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("eve@zeta.com", "secret")
smtp.sendmail("eve@zeta.com", "bob@example.com", b"From: eve@zeta.com\r\nMessage-ID: <z@zeta.com>\r\n\r\nx\r\n")
"#,
    );
    let zeta = api(&site, "tenant-admin", &["--tenant", "zeta"]);
    let acme = api(&site, "tenant-admin", &["--tenant", "acme"]);
    let found = eventually("zeta finds it", Duration::from_secs(20), || async {
        let found = zeta.ok("GET", "/messages?id=z@zeta.com", Value::Null).await;
        found.as_array().unwrap().first().cloned()
    })
    .await;
    let queue_id = found["queue_id"].as_str().unwrap();
    assert_eq!(found["recipients"], json!(["bob@example.com"]));
    assert_eq!(acme.ok("GET", "/messages", Value::Null).await, json!([]));
    for path in ["", "/events", "/records"] {
        assert_eq!(acme.call("GET", &format!("/messages/{queue_id}{path}"), Value::Null).await.status, 404, "{path}");
    }
    let events = zeta.ok("GET", &format!("/messages/{queue_id}"), Value::Null).await;
    assert!(events["events"].as_array().unwrap().iter().any(|e| e["name"] == "received"), "{events}");

    let names = |list: Value, key: &str| -> Vec<String> {
        list.as_array().unwrap().iter().map(|e| e[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(acme.ok("GET", "/domains", Value::Null).await, "name"), ["acme.com"]);
    assert_eq!(names(acme.ok("GET", "/accounts", Value::Null).await, "address"), ["eve@acme.com"]);
    assert_eq!(names(operator.ok("GET", "/accounts", Value::Null).await, "address").len(), 3);
    let changed =
        acme.ok("PUT", "/accounts/eve@acme.com", json!({ "quota_bytes": 5_000_000, "disabled": false })).await;
    assert_eq!((&changed["quota_bytes"], &changed["disabled"]), (&json!(5_000_000), &json!(false)));
    let refused = [
        ("PUT", "/accounts/eve@zeta.com", json!({ "quota_bytes": 1 })),
        ("GET", "/domains/zeta.com", Value::Null),
        ("GET", "/accounts?domain=zeta.com", Value::Null),
        ("GET", "/aliases?domain=zeta.com", Value::Null),
        ("POST", "/accounts", json!({ "address": "mallory@zeta.com", "password": "x" })),
        ("PUT", "/accounts/eve@zeta.com", json!({ "password": "x" })),
        ("DELETE", "/accounts/eve@zeta.com", Value::Null),
        ("PUT", "/aliases/all@zeta.com", json!({ "targets": ["eve@acme.com"] })),
        ("DELETE", "/aliases/all@zeta.com", Value::Null),
        (
            "POST",
            "/messages",
            json!({ "way": "submission", "from": "eve@zeta.com", "to": "b@x.com", "password": "secret" }),
        ),
        ("POST", "/messages", json!({ "way": "stranger", "from": "a@x.com", "to": "eve@zeta.com" })),
    ];
    for (method, path, body) in refused {
        assert_eq!(acme.call(method, path, body).await.status, 404, "{method} {path}");
    }
    // A message of zeta's that waits: acme's change changes nothing.
    python(
        &site,
        r#"
smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login("eve@zeta.com", "secret")
smtp.sendmail("eve@zeta.com", "x@[127.0.0.99]", b"From: eve@zeta.com\r\n\r\nx\r\n")
"#,
    );
    let waiting = zeta.ok("GET", "/queue", Value::Null).await[0]["queue_id"].as_str().unwrap().to_owned();
    assert_eq!(acme.ok("GET", "/queue", Value::Null).await, json!([]));
    for action in ["hold", "bounce", "retry", "release"] {
        let answer = acme.ok("POST", &format!("/queue/{waiting}"), json!({ "action": action })).await;
        assert_eq!(answer["changed"], 0, "{action}");
    }
    // Tokens: for itself alone, never more than itself.
    let made = acme.ok("POST", "/tokens", json!({ "name": "n", "role": "support" })).await;
    assert_eq!(made["token"]["tenant"], "acme");
    for (role, tenant) in [("operator", ""), ("support", "zeta")] {
        let wish = json!({ "name": "n", "role": role, "tenant": tenant });
        assert_eq!(acme.call("POST", "/tokens", wish).await.status, 403, "{role} of {tenant:?}");
    }
    let id = made["token"]["id"].as_str().unwrap();
    assert_eq!(zeta.call("DELETE", &format!("/tokens/{id}"), Value::Null).await.status, 404);
    let child = Api { place: acme.place.clone(), token: made["secret"].as_str().unwrap().to_owned() };
    assert_eq!(child.ok("GET", "/session", Value::Null).await["tenant"], "acme");
    acme.ok("DELETE", &format!("/tokens/{id}"), Value::Null).await;
    assert_eq!(child.call("GET", "/session", Value::Null).await.status, 401, "revoked at once");
}

fn cookie_of(answer: &Answer) -> String {
    let cookie = answer.cookies.iter().find(|c| c.starts_with("postroad_session=")).expect("a session cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_changes_things_only_from_our_own_page() {
    let site = site("127.0.0.7", |o| o);
    let operator = api(&site, "operator", &[]);
    let log_in = json!({ "token": operator.token }).to_string();
    let begin =
        |headers: &'static [(&str, &str)]| request("POST", &operator.place, "/api/v1/session", headers, &log_in);
    assert_eq!(begin(&[("Sec-Fetch-Site", "cross-site")]).await.status, 403, "login by another site's page");
    let answer = begin(&[("Sec-Fetch-Site", "same-origin")]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (cookie, csrf) = (cookie_of(&answer), answer.json()["csrf"].as_str().unwrap().to_owned());
    let call = async |method: &str, path: &str, csrf: Option<&str>| {
        let mut headers = vec![("Cookie", cookie.as_str())];
        headers.extend(csrf.map(|c| ("X-CSRF-Token", c)));
        request(method, &operator.place, path, &headers, r#"{"name":"acme"}"#).await.status
    };
    assert_eq!(call("GET", "/api/v1/session", None).await, 200);
    assert_eq!(call("POST", "/api/v1/tenants", None).await, 403);
    assert_eq!(call("POST", "/api/v1/tenants", Some("AAAA")).await, 403);
    assert_eq!(call("POST", "/api/v1/tenants", Some(&csrf)).await, 201);
    assert_eq!(call("DELETE", "/api/v1/session", Some(&csrf)).await, 200);
    assert_eq!(call("GET", "/api/v1/session", None).await, 401, "ended");
    // Every answer keeps scripts of others out.
    for path in ["/", "/assets/app.js", "/api/v1/about", "/nowhere"] {
        let answer = request("GET", &operator.place, path, &[], "").await;
        assert!(answer.headers["content-security-policy"].starts_with("default-src 'none'; script-src 'self'"));
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
    }
    let answer = request("GET", &operator.place, "/api/v1/nowhere", &[], "").await;
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (404, "application/problem+json"));
    let large = "x".repeat(300 * 1024);
    let answer = request("POST", &operator.place, "/api/v1/session", &[], &large).await;
    assert_eq!(answer.status, 413, "{}", answer.body);
}

/// An issuer that lets everybody in as whom it is told to, and checks PKCE (RFC 7636).
struct Issuer {
    url: String,
    groups: Arc<Mutex<Vec<&'static str>>>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let groups = Arc::new(Mutex::new(vec!["staff"]));
        let (own, told) = (url.clone(), groups.clone());
        tokio::spawn(async move {
            // What each code stands for: nonce and challenge.
            let mut codes: HashMap<String, (String, String)> = HashMap::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 16 * 1024];
                let mut n = 0;
                let text = loop {
                    n += stream.read(&mut head[n..]).await.unwrap();
                    let text = String::from_utf8_lossy(&head[..n]).into_owned();
                    let length = text
                        .to_lowercase()
                        .split_once("content-length: ")
                        .and_then(|(_, t)| t.split("\r\n").next()?.parse::<usize>().ok());
                    if text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length.unwrap_or(0)) {
                        break text;
                    }
                };
                let path = text.split(' ').nth(1).unwrap();
                let (status, extra, body) = if path.starts_with("/.well-known/openid-configuration") {
                    let body = json!({ "issuer": own, "authorization_endpoint": format!("{own}/authorize"), "token_endpoint": format!("{own}/token") });
                    ("200 OK", String::new(), body.to_string())
                } else if let Some(query) = path.strip_prefix("/authorize?") {
                    let query = form(query);
                    assert_eq!(
                        (query["response_type"].as_str(), query["code_challenge_method"].as_str()),
                        ("code", "S256")
                    );
                    let code = format!("code-{}", codes.len());
                    codes.insert(code.clone(), (query["nonce"].clone(), query["code_challenge"].clone()));
                    let location =
                        format!("Location: {}?code={code}&state={}\r\n", query["redirect_uri"], query["state"]);
                    ("302 Found", location, String::new())
                } else {
                    let form = form(text.split_once("\r\n\r\n").unwrap().1);
                    let digest =
                        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form["code_verifier"].as_bytes());
                    match codes.remove(&form["code"]) {
                        Some((nonce, challenge)) if challenge == URL_SAFE_NO_PAD.encode(digest.as_ref()) => {
                            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                            let claims = json!({ "iss": own, "aud": "console", "sub": "1", "email": "eve@id.example",
                                                 "exp": now + 60, "nonce": nonce, "groups": *told.lock().unwrap() });
                            let token = format!(
                                "{}.{}.x",
                                URL_SAFE_NO_PAD.encode("{}"),
                                URL_SAFE_NO_PAD.encode(claims.to_string())
                            );
                            ("200 OK", String::new(), json!({ "id_token": token, "access_token": "x" }).to_string())
                        }
                        _ => ("400 Bad Request", String::new(), json!({ "error": "invalid_grant" }).to_string()),
                    }
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, groups }
    }
}

fn form(text: &str) -> BTreeMap<String, String> {
    let decode = |text: &str| {
        let (mut bytes, mut rest) = (Vec::new(), text.bytes());
        while let Some(b) = rest.next() {
            bytes.push(match b {
                b'%' => {
                    let hex = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
                }
                b'+' => b' ',
                other => other,
            });
        }
        String::from_utf8(bytes).unwrap()
    };
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (decode(k), decode(v))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_logs_people_in_with_the_roles_of_their_groups() {
    let issuer = Issuer::start().await;
    let config = format!(
        "console:\n  oidc: {{ issuer: {:?}, client_id: console, roles: {{ staff: {{ role: support }} }} }}\n",
        issuer.url
    );
    let site = site("127.0.0.8", |mut o| {
        o.config = Some(config);
        o
    });
    let place = format!("{}:{}", site.host(), site.port(8080));
    let about = request("GET", &place, "/api/v1/about", &[], "").await.json();
    assert_eq!(about["oidc"], true);
    let leave = async || {
        let away = request("GET", &place, "/login/oidc", &[], "").await;
        assert_eq!(away.status, 303, "{}", away.body);
        let cookie = away.cookies[0].split(';').next().unwrap().to_owned();
        let (host, path) = away.headers["location"].strip_prefix("http://").unwrap().split_once('/').unwrap();
        let back = request("GET", host, &format!("/{path}"), &[], "").await;
        let back =
            back.headers["location"].strip_prefix(&format!("http://{place}")).expect("our own address").to_owned();
        (cookie, back)
    };
    let (cookie, back) = leave().await;
    // Without the browser that began it, with another's state, and a second time: no.
    assert_eq!(request("GET", &place, &back, &[], "").await.status, 400);
    let (other, _) = leave().await;
    assert_eq!(request("GET", &place, &back, &[("Cookie", &other)], "").await.status, 400);
    let entered = request("GET", &place, &back, &[("Cookie", &cookie)], "").await;
    assert_eq!(entered.status, 200, "{}", entered.body);
    let session = cookie_of(&entered);
    let who = request("GET", &place, "/api/v1/session", &[("Cookie", &session)], "").await.json();
    assert_eq!((who["name"].as_str(), who["role"].as_str()), (Some("eve@id.example"), Some("support")));
    assert_eq!(request("GET", &place, &back, &[("Cookie", &cookie)], "").await.status, 403, "a code is used once");
    // Whoever has no role here stays outside.
    issuer.groups.lock().unwrap().clear();
    let (cookie, back) = leave().await;
    assert_eq!(request("GET", &place, &back, &[("Cookie", &cookie)], "").await.status, 403);
}

/// Sends what the document allows and what it does not, with each role.
#[tokio::test(flavor = "multi_thread")]
async fn a_fuzzer_finds_no_server_error_and_no_undocumented_answer() {
    let site = site("127.0.0.9", |o| o);
    site.account("bob@example.com");
    let operator = api(&site, "operator", &[]);
    operator.ok("PUT", "/aliases/all@example.com", json!({ "targets": ["bob@example.com"] })).await;
    let python = venv(&["schemathesis==4.32.5"]);
    let tool = python.with_file_name("schemathesis");
    let url = format!("http://{}/api/v1/openapi.json", operator.place);
    for token in [&operator.token, &api(&site, "support", &[]).token] {
        let output = Command::new(&tool)
            .args(["run", &url, "--header", &format!("Authorization: Bearer {token}")])
            .args([
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            ])
            .args(["--exclude-operation-id", "followJourney", "--phases", "examples,coverage,fuzzing"])
            .args([
                "--max-examples",
                "20",
                "--seed",
                "1",
                "--no-color",
                "--suppress-health-check",
                "all",
                "--request-timeout",
                "120",
            ])
            .current_dir(site.data())
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        let summary: Vec<&str> = out.lines().rev().take(12).collect();
        eprintln!("{}", summary.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
}
