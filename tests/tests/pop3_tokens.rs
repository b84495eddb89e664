//! POP3 clients that log in with a token (OAUTHBEARER, RFC 7628, and XOAUTH2 before it).

#![allow(clippy::unwrap_used)]

use std::{
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use tests::{
    client::python,
    process::program,
    site::{Options, Site, free_port_offset},
    tokens::Issuer,
};

struct World {
    site: Site,
    issuer: Issuer,
    _keys: tempfile::TempDir,
}

fn world(mechanisms: &str) -> World {
    let issuer = Issuer::new();
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("keys.json");
    std::fs::write(&file, issuer.keys()).unwrap();
    std::fs::set_permissions(keys.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com");
    options.config = Some(format!(
        "mda:\n  login_backoff: {{ account_failures: 1000, network_failures: 1000 }}\n  oidc: {{ issuer: \"{}\", audience: {}, jwks_file: \"{}\" }}\n\
         pop3-gateway:\n  mechanisms: [{mechanisms}]\n",
        Issuer::NAME,
        Issuer::AUDIENCE,
        file.display()
    ));
    let site = Site::up(options);
    site.account("bob@example.com");
    let append = "imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')\n\
                  assert imap.append('INBOX', None, None, b'Subject: token\\r\\n\\r\\nx\\r\\n')[0] == 'OK'";
    python(&site, append);
    World { site, issuer, _keys: keys }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_maildrop_and_no_other_does() {
    let World { site, issuer, _keys } = world("SCRAM-SHA-256, PLAIN, OAUTHBEARER, XOAUTH2");
    let program_text = r#"
import base64
def connect(port):
    if port == 995: return poplib.POP3_SSL(HOST, PORT[995], context=TLS)
    pop = poplib.POP3(HOST, PORT[110]); pop.stls(context=TLS); return pop
def message(mechanism, user, token):
    text = f"n,a={user},\x01auth=Bearer {token}\x01\x01" if mechanism == "OAUTHBEARER" else f"user={user}\x01auth=Bearer {token}\x01\x01"
    return base64.b64encode(text.encode())
def auth(pop, mechanism, user, token, initial=True):
    first = message(mechanism, user, token)
    # RFC 2449 §4: a command has at most 255 octets; RFC 5034 §4 allows more for AUTH.
    pop._putcmd(f"AUTH {mechanism} " + first.decode() if initial else f"AUTH {mechanism}")
    line = pop._getline()[0]
    if not initial:
        assert line.strip() == b"+", line
        pop._putline(first); line = pop._getline()[0]
    return line
for port in (995, 110):
    for mechanism in ("OAUTHBEARER", "XOAUTH2"):
        pop = connect(port); assert mechanism in pop.capa()["SASL"], pop.capa()
        for initial in (True, False):
            pop = connect(port)
            assert auth(pop, mechanism, "bob@example.com", TOKEN, initial).startswith(b"+OK 1 messages"), mechanism
            assert pop.retr(1)[1][0] == b"Subject: token"; pop.quit()
        for user, token in (("bob@example.com", STOLEN), ("bob@example.com", TOKEN[:-4] + "AAAA"), ("ceo@example.com", TOKEN), ("bob@example.com", OLD)):
            pop = connect(port)
            line = auth(pop, mechanism, user, token)
            # Why, in JSON (RFC 7628 §3.2.2); the client's answer ends it.
            assert line.startswith(b"+ ") and b"status" in base64.b64decode(line[2:]), line
            pop._putline(b"AQ=="); line = pop._getline()[0]
            assert line.startswith(b"-ERR [AUTH]"), line
            # The same connection may do it right.
            pop.user("bob@example.com"); pop.pass_("secret"); pop.quit()
"#;
    let old = issuer.sign(&serde_json::json!({
        "iss": Issuer::NAME, "aud": Issuer::AUDIENCE, "exp": 1_700_000_000, "email": "bob@example.com"
    }));
    let (token, stolen) = (issuer.token("bob@example.com"), issuer.token("ceo@example.com"));
    python(&site, &format!("TOKEN, STOLEN, OLD = {token:?}, {stolen:?}, {old:?}\n{program_text}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_mpop_bring_tokens() {
    let World { site, issuer, _keys } = world("OAUTHBEARER, XOAUTH2, PLAIN");
    let token = issuer.token("bob@example.com");
    for (scheme, port) in [("pop3s", 995), ("pop3", 110)] {
        let mut curl = Command::new(program("curl", "curl"));
        curl.args(["-sS", "-v", "--ssl-reqd", "--cacert"]).arg(site.ca());
        curl.args(["-u", "bob@example.com:", "--oauth2-bearer", &token]);
        let output = curl.arg(format!("{scheme}://localhost:{}/1", site.port(port))).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("AUTH OAUTHBEARER"), "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Subject: token\r\n\r\nx\r\n");
    }
    for (mechanism, token, succeeds) in [
        ("oauthbearer", &token, true),
        ("xoauth2", &token, true),
        ("oauthbearer", &issuer.token("ceo@example.com"), false),
    ] {
        let mail = site.data().join(format!("mail-{mechanism}-{succeeds}"));
        for folder in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(mail.join(folder)).unwrap();
        }
        let mut mpop = Command::new(program("mpop", "mpop"));
        mpop.args(["-C", "/dev/null", "--host=localhost", "--tls=on", "--tls-starttls=off", "--user=bob@example.com"]);
        mpop.args([format!("--port={}", site.port(995)), format!("--auth={mechanism}"), "--debug".into()]);
        mpop.args([format!("--tls-trust-file={}", site.ca().display()), format!("--passwordeval=echo {token}")]);
        mpop.args([
            format!("--delivery=maildir,{}", mail.display()),
            format!("--uidls-file={}", mail.join("uidls").display()),
            "--keep=on".into(),
        ]);
        let output = mpop.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.success(), succeeds, "{mechanism}: {said}");
        assert_eq!(std::fs::read_dir(mail.join("new")).unwrap().count(), usize::from(succeeds), "{said}");
    }
}
