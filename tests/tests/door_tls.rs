//! TLS at the front door over time: certificates change under open sessions, sessions are resumed.

#![allow(clippy::unwrap_used)]

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use tests::{
    client::python,
    metrics,
    process::program,
    site::{Options, Site, free_port_offset},
};

/// A certificate of its own for `localhost`, in the two files.
fn certificate(folder: &Path, name: &str) {
    let mut openssl = Command::new(program("openssl", "openssl"));
    openssl.current_dir(folder).stderr(Stdio::null()).args(["req", "-x509", "-days", "30", "-nodes", "-newkey", "ec"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-subj", &format!("/CN={name}"), "-keyout", "next.key", "-out", "next.pem"]);
    assert!(openssl.status().unwrap().success());
    // The services may run as another user.
    std::fs::set_permissions(folder.join("next.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    for file in ["key", "pem"] {
        std::fs::rename(folder.join(format!("next.{file}")), folder.join(format!("now.{file}"))).unwrap();
    }
}

/// Connections by hand, whatever certificate there is.
const CLIENT: &str = r#"
TLS = ssl._create_unverified_context(); TLS.check_hostname = False
class Session:
    def __init__(self, port, tls=TLS, session=None):
        self.sock = socket.create_connection((HOST, PORT[port])); self.sock.settimeout(30)
        if port == 587:
            plain = self.sock.makefile("rb"); plain.readline(); self.sock.sendall(b"STARTTLS\r\n")
            assert plain.readline().startswith(b"220")
        self.sock = tls.wrap_socket(self.sock, server_hostname="localhost", session=session)
        self.file = self.sock.makefile("rb")
        if port == 465: assert self.file.readline().startswith(b"220")
        self("EHLO client.example")
    def __call__(self, line):
        self.sock.sendall(line.encode() + b"\r\n")
        while True:
            reply = self.file.readline()
            if reply[3:4] != b"-": return reply.decode()
    def certificate(self): return self.sock.getpeercert(binary_form=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_used_and_no_session_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    certificate(folder.path(), "first");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let mut options = Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com").more(&[
        "--tls-cert",
        &file("now.pem"),
        "--tls-key",
        &file("now.key"),
    ]);
    // Two sessions wait in the middle of their messages.
    options.config = Some("smtp-ingress: { min_bytes_per_second: 0 }\n".into());
    let site = Site::up(options);
    site.account("bob@example.com");
    // Python wants a CA to begin with, although this one is not asked.
    std::fs::create_dir_all(site.ca().parent().unwrap()).unwrap();
    std::fs::copy(folder.path().join("now.pem"), site.ca()).unwrap();
    // What the program asks for, step by step, on its standard error: it cannot write certificates.
    let program_text = r#"
import base64, os
LOGIN = "AUTH PLAIN " + base64.b64encode(b"\0bob@example.com\0secret").decode()
old = [Session(465), Session(587)]
for session in old:
    assert session(LOGIN).startswith("235")
    assert session("MAIL FROM:<bob@example.com>").startswith("250") and session("RCPT TO:<bob@example.com>").startswith("250")
    assert session("DATA").startswith("354"); session.sock.sendall(b"From: bob@example.com\r\nSubject: over two certificates\r\n\r\n")
first = old[0].certificate(); assert old[1].certificate() == first
def changed(before):
    for _ in range(1200):
        now = [Session(465).certificate(), Session(587).certificate()]
        if now[0] != before and now[1] == now[0]: return now[0]
        time.sleep(0.2)
    sys.exit("the certificate is not used")
ask("new"); second = changed(first)
# Half a file is no certificate: the one in use stays.
ask("broken"); time.sleep(12)
assert Session(465).certificate() == second == Session(587).certificate()
ask("new"); third = changed(second); assert third != first
for session in old:
    session.sock.sendall(b"x\r\n"); reply = session("."); assert reply.startswith("250 2.0.0"), reply
    assert session("NOOP").startswith("250") and session.certificate() == first
for _ in range(600):
    imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login("bob@example.com", "secret")
    if int(imap.select("INBOX")[1][0]) == 2: break
    time.sleep(0.1)
else: sys.exit("a message is missing")
"#;
    let steps = folder.path().join("steps");
    std::fs::create_dir(&steps).unwrap();
    let asking = format!(
        "def ask(what):\n    import os\n    open({steps:?} + '/' + what, 'w').close()\n    \
         while os.path.exists({steps:?} + '/' + what): time.sleep(0.05)\n",
        steps = steps.display().to_string()
    );
    let own = folder.path().to_owned();
    let writer = std::thread::spawn(move || {
        while steps.exists() {
            for (step, write) in [("new", true), ("broken", false)] {
                if steps.join(step).exists() {
                    match write {
                        true => certificate(&own, "next"),
                        false => std::fs::write(own.join("now.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap(),
                    }
                    std::fs::remove_file(steps.join(step)).unwrap();
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    python(&site, &format!("{CLIENT}{asking}{program_text}"));
    std::fs::remove_dir(folder.path().join("steps")).unwrap();
    writer.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_with_and_without_starttls() {
    let site = Site::up(Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com"));
    python(
        &site,
        &format!(
            "{CLIENT}{}",
            r#"
for version, name in ((ssl.TLSVersion.TLSv1_3, "TLSv1.3"), (ssl.TLSVersion.TLSv1_2, "TLSv1.2")):
    tls = ssl._create_unverified_context(); tls.minimum_version = tls.maximum_version = version
    for port in (465, 587):
        first = Session(port, tls); assert not first.sock.session_reused and first.sock.version() == name
        # What the first one was given holds for many.
        session = first.sock.session; first("QUIT")
        for _ in range(3):
            again = Session(port, tls, session); assert again.sock.session_reused, (name, port)
            assert again("NOOP").startswith("250")
            session = again.sock.session or session; again("QUIT")
        # And is a session like another: nobody is logged in by it.
        again = Session(port, tls, session); assert again("MAIL FROM:<bob@example.com>").startswith("530")
"#
        ),
    );
    for version in ["TLSv1.2", "TLSv1.3"] {
        let counted = metrics::sum(&site, "smtp-ingress", "smtp_tls_sessions_total", &format!("version=\"{version}\""));
        assert_eq!(counted, 10.0, "{version}");
    }
}
