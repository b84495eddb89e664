//! Every client sends through 587 and 465 with each SASL mechanism it knows.

#![allow(clippy::unwrap_used)]

use std::{
    io::Write as _,
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

/// On the address that certificates name, with an issuer of tokens.
fn world() -> World {
    offering("SCRAM-SHA-256-PLUS, SCRAM-SHA-256, PLAIN, LOGIN, OAUTHBEARER, XOAUTH2")
}

fn offering(mechanisms: &str) -> World {
    let issuer = Issuer::new();
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("keys.json");
    std::fs::write(&file, issuer.keys()).unwrap();
    // Readable to whatever user the services run as.
    std::fs::set_permissions(keys.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com");
    options.config = Some(format!(
        "mda:\n  oidc: {{ issuer: \"{}\", audience: {}, jwks_file: \"{}\" }}\n\
         smtp-ingress:\n  mechanisms: [{mechanisms}]\n",
        Issuer::NAME,
        Issuer::AUDIENCE,
        file.display()
    ));
    let site = Site::up(options);
    site.account("bob@example.com");
    World { site, issuer, _keys: keys }
}

const MESSAGE: &str = "From: bob@example.com\r\nTo: bob@example.com\r\nSubject: hello\r\n\r\nhello\r\n";

/// Runs a client with the message on its standard input; what it said, and whether it was content.
fn run(command: &mut Command) -> (bool, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A client that gives up before it reads is not our failure.
    let _ = child.stdin.take().unwrap().write_all(MESSAGE.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

fn must(command: &mut Command) -> String {
    let (fine, said) = run(command);
    assert!(fine, "{command:?}: {said}");
    said
}

/// Until INBOX has this many messages.
fn wait_for(site: &Site, messages: usize) {
    let program = format!(
        "imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')\n\
         for _ in range(600):\n    \
             if int(imap.select('INBOX')[1][0]) >= {messages}: sys.exit(0)\n    \
             time.sleep(0.1)\n\
         sys.exit('no mail')"
    );
    python(site, &program);
}

#[tokio::test(flavor = "multi_thread")]
async fn swaks() {
    let World { site, issuer: _, _keys } = world();
    for (port, tls) in [(587, "--tls"), (465, "--tls-on-connect")] {
        for mechanism in ["PLAIN", "LOGIN"] {
            let server = format!("localhost:{}", site.port(port));
            let mut swaks = Command::new(program("swaks", "swaks"));
            swaks.args(["--server", &server, tls, "--tls-verify", "--tls-ca-path"]).arg(site.ca());
            swaks.args(["--auth", mechanism, "--auth-user", "bob@example.com", "--auth-password", "secret"]);
            swaks.args(["--from", "bob@example.com", "--to", "bob@example.com", "--helo", "laptop.example"]);
            let said = must(&mut swaks);
            assert!(said.contains(&format!("AUTH {mechanism}")) && said.contains("250 2.0.0 Ok: queued as"), "{said}");
        }
    }
    wait_for(&site, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn msmtp() {
    let World { site, issuer, _keys } = world();
    let token = issuer.token("bob@example.com");
    let msmtp = |port: u16, mechanism: &str, password: &str| {
        let mut msmtp = Command::new(program("msmtp", "msmtp"));
        msmtp
            .args(["-C", "/dev/null", "--host=localhost", "--tls=on", "--debug"])
            .arg(format!("--port={}", site.port(port)));
        msmtp.arg(if port == 465 { "--tls-starttls=off" } else { "--tls-starttls=on" });
        msmtp.arg(format!("--tls-trust-file={}", site.ca().display())).arg(format!("--auth={mechanism}"));
        msmtp.args(["--user=bob@example.com", "--from=bob@example.com"]).arg(format!("--passwordeval=echo {password}"));
        msmtp.args(["--domain=laptop.example", "bob@example.com"]);
        msmtp
    };
    let mut sent = 0;
    for port in [587, 465] {
        for (mechanism, password) in [
            ("plain", "secret"),
            ("login", "secret"),
            ("scram-sha-256", "secret"),
            ("oauthbearer", &token),
            ("xoauth2", &token),
        ] {
            let said = must(&mut msmtp(port, mechanism, password));
            let named = format!("auth {mechanism}");
            assert!(said.to_lowercase().contains(&named), "{said}");
            sent += 1;
            let (fine, said) = run(&mut msmtp(port, mechanism, "wrong"));
            assert!(!fine && said.contains("535 5.7.8"), "{said}");
        }
    }
    wait_for(&site, sent);
}

fn curl(site: &Site, port: u16, mechanism: &str, credentials: &[&str]) -> Command {
    let scheme = if port == 465 { "smtps" } else { "smtp" };
    let mut curl = Command::new(program("curl", "curl"));
    curl.args(["-sS", "-v", "--ssl-reqd", "--cacert"]).arg(site.ca()).args(credentials);
    curl.args(["--login-options", &format!("AUTH={mechanism}")]);
    curl.args(["--mail-from", "bob@example.com", "--mail-rcpt", "bob@example.com", "-T", "-"]);
    curl.arg(format!("{scheme}://localhost:{}/laptop.example", site.port(port)));
    curl
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_with_passwords() {
    let World { site, issuer: _, _keys } = world();
    for port in [587, 465] {
        for mechanism in ["PLAIN", "LOGIN"] {
            let said = must(&mut curl(&site, port, mechanism, &["-u", "bob@example.com:secret"]));
            assert!(said.contains(&format!("AUTH {mechanism}")), "{said}");
        }
    }
    wait_for(&site, 4);
}

/// curl takes the best mechanism for a token that is offered.
#[tokio::test(flavor = "multi_thread")]
async fn curl_with_tokens() {
    for (offered, mechanism) in [("PLAIN, OAUTHBEARER, XOAUTH2", "OAUTHBEARER"), ("PLAIN, XOAUTH2", "XOAUTH2")] {
        let World { site, issuer, _keys } = offering(offered);
        let (token, stolen) = (issuer.token("bob@example.com"), issuer.token("ceo@example.com"));
        for port in [587, 465] {
            let said = must(&mut curl(&site, port, mechanism, &["-u", "bob@example.com:", "--oauth2-bearer", &token]));
            assert!(said.contains(&format!("AUTH {mechanism}")), "{said}");
            let mut thief = curl(&site, port, mechanism, &["-u", "bob@example.com:", "--oauth2-bearer", &stolen]);
            let (fine, said) = run(&mut thief);
            assert!(!fine && said.contains("< 334 eyJz"), "the token of another, the reason in JSON: {said}");
        }
        wait_for(&site, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn smtplib() {
    let World { site, issuer, _keys } = world();
    let program = r#"
import base64, hashlib, hmac, secrets
MESSAGE = "From: bob@example.com\r\nSubject: hello\r\n\r\nhello\r\n"
USER = "bob@example.com"

class Scram:
    """RFC 7677, as Python's library has none."""
    def __init__(self, password):
        self.password, self.nonce, self.step = password.encode(), secrets.token_hex(12), 0
    def __call__(self, challenge=None):
        if challenge is None:
            self.bare = f"n={USER},r={self.nonce}"
            return "n,," + self.bare
        challenge = challenge.decode() if isinstance(challenge, bytes) else challenge
        if challenge.startswith("v="):
            assert base64.b64decode(challenge[2:]) == self.expected, "the server knows no password"
            return ""
        parts = dict(p.split("=", 1) for p in challenge.split(","))
        assert parts["r"].startswith(self.nonce) and int(parts["i"]) >= 4096, parts
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(parts["s"]), int(parts["i"]))
        sign = lambda key, text: hmac.new(key, text, "sha256").digest()
        key = sign(salted, b"Client Key")
        final = f"c=biws,r={parts['r']}"
        message = f"{self.bare},{challenge},{final}".encode()
        proof = bytes(a ^ b for a, b in zip(key, sign(hashlib.sha256(key).digest(), message)))
        self.expected = sign(sign(salted, b"Server Key"), message)
        return final + ",p=" + base64.b64encode(proof).decode()

def connect(port):
    if port == 465:
        smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS)
    else:
        smtp = smtplib.SMTP(HOST, PORT[587]); smtp.starttls(context=TLS)
    smtp.ehlo()
    return smtp

def login(smtp, mechanism, secret):
    smtp.user, smtp.password = USER, secret
    if mechanism == "PLAIN": smtp.auth("PLAIN", smtp.auth_plain)
    elif mechanism == "LOGIN": smtp.auth("LOGIN", smtp.auth_login)
    elif mechanism == "SCRAM-SHA-256": smtp.auth(mechanism, Scram(secret))
    elif mechanism == "XOAUTH2": smtp.auth(mechanism, lambda c=None: f"user={USER}\x01auth=Bearer {secret}\x01\x01" if c is None else "")
    else: smtp.auth(mechanism, lambda c=None: f"n,a={USER},\x01auth=Bearer {secret}\x01\x01" if c is None else "\x01")

for port in 587, 465:
    offered = connect(port).esmtp_features["auth"].split()
    assert offered == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"], offered
    for mechanism in offered[1:]:
        secret = TOKEN if "OAUTH" in mechanism else "secret"
        smtp = connect(port); login(smtp, mechanism, secret)
        smtp.sendmail(USER, [USER], MESSAGE); smtp.quit()
        smtp = connect(port)
        try: login(smtp, mechanism, "wrong"); sys.exit("logged in with a wrong " + mechanism)
        except smtplib.SMTPAuthenticationError as e: assert e.smtp_code == 535, e
    # And the library's own choice.
    smtp = connect(port); smtp.login(USER, "secret"); smtp.sendmail(USER, [USER], MESSAGE); smtp.quit()
"#;
    python(&site, &format!("TOKEN = {:?}\n{program}", issuer.token("bob@example.com")));
    wait_for(&site, 12);
}
