//! Logins at the front door that need more than a password, and what an account may send.

#![allow(clippy::unwrap_used)]

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use tests::{
    client::python,
    process::program,
    site::{Options, Site, free_port_offset},
};

fn run(command: &mut Command, input: &str) -> (bool, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A client that gives up before it reads is not our failure.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// A CA, and a certificate of it for each name: `NAME.pem`, `NAME.key`.
fn certificates(folder: &Path, ca: &str, names: &[(&str, &str)]) {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new(program("openssl", "openssl"));
        let (fine, said) = run(command.current_dir(folder).args(arguments), "");
        assert!(fine, "{arguments:?}: {said}");
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let (ca_pem, ca_key) = (format!("{ca}.pem"), format!("{ca}.key"));
    openssl(
        &[
            &["req", "-x509", "-days", "30", "-subj", &format!("/CN={ca}"), "-keyout", &ca_key, "-out", &ca_pem],
            &key[..],
        ]
        .concat(),
    );
    for (name, addresses) in names {
        let [pem, private, csr, extensions] = ["pem", "key", "csr", "ext"].map(|e| format!("{name}.{e}"));
        std::fs::write(folder.join(&extensions), format!("subjectAltName={addresses}\nextendedKeyUsage=clientAuth\n"))
            .unwrap();
        openssl(&[&["req", "-subj", "/CN=client", "-keyout", &private, "-out", &csr], &key[..]].concat());
        openssl(&[
            "x509",
            "-req",
            "-days",
            "30",
            "-in",
            &csr,
            "-CA",
            &ca_pem,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            &extensions,
            "-out",
            &pem,
        ]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_a_login() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    certificates(
        folder.path(),
        "ca",
        &[
            ("bob", "email:bob@example.com"),
            ("both", "email:nobody@example.com,email:Carol@Example.com,email:bob@example.com"),
            ("off", "email:off@example.com"),
            ("host", "DNS:bob.example.com"),
        ],
    );
    certificates(folder.path(), "other", &[("thief", "email:bob@example.com")]);
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com");
    options.config = Some(format!(
        "smtp-ingress:\n  client_ca: \"{}/ca.pem\"\n  mechanisms: [EXTERNAL, SCRAM-SHA-256, PLAIN]\n  tarpit_ms: 0\n",
        folder.path().display()
    ));
    let site = Site::up(options);
    for name in ["bob", "carol", "off"] {
        site.account(&format!("{name}@example.com"));
    }
    site.admin(&["account", "disable", "off@example.com"], "");
    let program_text = r#"
import base64
def connect(port, who=None):
    tls = ssl.create_default_context(cafile=CA); tls.check_hostname = False
    if who: tls.load_cert_chain(f"{FOLDER}/{who}.pem", f"{FOLDER}/{who}.key")
    if port == 465: smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=tls)
    else: smtp = smtplib.SMTP(HOST, PORT[port]); smtp.starttls(context=tls)
    smtp.ehlo(); return smtp
def external(smtp, authzid=""):
    return smtp.docmd("AUTH", "EXTERNAL " + (base64.b64encode(authzid.encode()).decode() or "="))[0]
def code(reply): return reply[0]
for port in (465, 587):
    smtp = connect(port, "bob")
    assert smtp.esmtp_features["auth"].split() == ["EXTERNAL", "SCRAM-SHA-256", "PLAIN"], smtp.esmtp_features
    assert external(smtp, "carol@example.com") == 535, "the certificate of another"
    assert external(smtp) == 235
    # As whoever it is, no other.
    assert code(smtp.mail("carol@example.com")) == 550
    smtp.sendmail("bob@example.com", ["bob@example.com"], "From: bob@example.com\r\nSubject: by certificate\r\n\r\nx\r\n")
    # The first of its addresses that is an account, or the one that is asked for; in any case.
    smtp = connect(port, "both"); assert external(smtp) == 235; assert code(smtp.mail("carol@example.com")) == 250
    smtp = connect(port, "both"); assert external(smtp, "BOB@example.com") == 235; assert code(smtp.mail("bob@example.com")) == 250
    # Without initial response.
    smtp = connect(port, "bob"); assert smtp.docmd("AUTH", "EXTERNAL") == (334, b""); assert code(smtp.docmd("")) == 235
    assert external(connect(port, "off")) == 535, "disabled"
    # Certificates that name nobody, and none at all: passwords as ever.
    for who in ("host", None):
        smtp = connect(port, who); assert "EXTERNAL" not in smtp.esmtp_features["auth"]
        assert external(smtp) == 504; smtp.login("bob@example.com", "secret")
    try: external(connect(port, "thief")); sys.exit("a stranger's CA")
    except (ssl.SSLError, OSError, smtplib.SMTPServerDisconnected): pass
# Other mail servers are not asked, so whatever certificate they have does no harm.
assert connect(25, "thief").mail("a@x.example")[0] == 250
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
for _ in range(600):
    if int(imap.select("INBOX")[1][0]) == 2: break
    time.sleep(0.1)
else: sys.exit("no mail")
"#;
    python(&site, &format!("FOLDER = {:?}\n{program_text}", folder.path().display().to_string()));
    for (port, starttls) in [(465, "off"), (587, "on")] {
        let file = |name: &str| folder.path().join(name).display().to_string();
        let mut msmtp = Command::new(program("msmtp", "msmtp"));
        msmtp.args([
            "-C",
            "/dev/null",
            "--host=localhost",
            "--tls=on",
            "--auth=external",
            "--debug",
            "--from=bob@example.com",
        ]);
        msmtp.args([format!("--port={}", site.port(port)), format!("--tls-starttls={starttls}")]);
        msmtp.args([format!("--tls-trust-file={}", site.ca().display()), "--user=bob@example.com".into()]);
        msmtp.args([format!("--tls-cert-file={}", file("bob.pem")), format!("--tls-key-file={}", file("bob.key"))]);
        let (fine, said) = run(msmtp.arg("bob@example.com"), "From: bob@example.com\r\nSubject: msmtp\r\n\r\nx\r\n");
        assert!(fine && said.contains("AUTH EXTERNAL"), "{said}");
    }
}

/// GNU SASL binds to the TLS channel (RFC 9266), `mda` checks it.
#[tokio::test(flavor = "multi_thread")]
async fn scram_with_channel_binding_from_end_to_end() {
    let site = Site::up(Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com"));
    site.account("bob@example.com");
    let login = |password: &str| {
        let mut gsasl = Command::new(program("gsasl", "gsasl"));
        gsasl.args(["--client", "--smtp", "--mechanism=SCRAM-SHA-256-PLUS", "--verbose", "--no-client-first"]);
        gsasl.arg(format!("--x509-ca-file={}", site.ca().display()));
        gsasl.args(["--authentication-id=bob@example.com", "--authorization-id=", &format!("--password={password}")]);
        gsasl.arg(format!("--connect=localhost:{}", site.port(587)));
        run(&mut gsasl, "")
    };
    let (_, said) = login("secret");
    assert!(said.contains("AUTH SCRAM-SHA-256-PLUS") && said.contains("235 2.7.0"), "{said}");
    let (_, said) = login("wrong");
    assert!(said.contains("535 5.7.8") && !said.contains("235 2.7.0"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_its_own_daily_limit() {
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com");
    options.config = Some("smtp-ingress:\n  limits: { recipients_per_account: 3/1d }\n".into());
    let site = Site::up(options);
    for name in ["bob", "carol"] {
        site.account(&format!("{name}@example.com"));
    }
    let said = site.admin(&["account", "limit", "bob@example.com", "--daily-recipients", "5"], "");
    assert_eq!(said.trim(), "account bob@example.com may send to 5 recipients a day");
    let listed: serde_json::Value = serde_json::from_str(&site.admin(&["--json", "account", "list"], "")).unwrap();
    assert_eq!(listed[0]["daily_recipients"], 5);
    let program_text = r#"
def taken(user):
    smtp = smtplib.SMTP_SSL(HOST, PORT[465], context=TLS); smtp.login(user, "secret"); smtp.mail(user)
    for n in range(20):
        code, said = smtp.rcpt(f"r{n}@else.example")
        if code != 250: assert (code, said) == (450, b"4.7.1 Too many recipients, try again later"), said; return n
"#;
    let taken = |user: &str| {
        let program = format!("{program_text}print(taken({user:?}))");
        python(&site, &program).trim().parse::<u32>().unwrap()
    };
    assert_eq!((taken("bob@example.com"), taken("carol@example.com")), (5, 3));
    // The day goes on; the limit is another.
    site.admin(&["account", "limit", "bob@example.com", "--daily-recipients", "7"], "");
    assert_eq!(taken("bob@example.com"), 2);
    site.admin(&["account", "limit", "bob@example.com", "--daily-recipients", "0"], "");
    assert_eq!(taken("bob@example.com"), 0);
    let unknown = site.try_cli("admin", &["account", "limit", "nobody@example.com", "--daily-recipients", "1"], "");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("does not exist"));
}
