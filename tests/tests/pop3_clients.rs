//! POP3 clients people still use, each compared with what is stored, byte for byte.

#![allow(clippy::unwrap_used)]

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tests::{
    client::python,
    process::program,
    site::{Options, Site, free_port_offset},
};

/// What goes wrong where byte-stuffing, line ends or sizes are not exact.
fn corpus() -> Vec<Vec<u8>> {
    let head = |n: usize| {
        format!(
            "From: Ann <ann@x.com>\r\nTo: bob@example.com\r\nSubject: number {n}\r\n\
             Date: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{n}@x.com>\r\n\r\n"
        )
    };
    let bodies: [&[u8]; 6] = [
        b"hello\r\n",
        b".\r\n..\r\n...x\r\n.x\r\n\r\n.\r\n",
        b"\r\n\r\n\r\nend after empty lines\r\n\r\n",
        b"\xc3\xa4 and \xff\xfe\x80 are octets\r\n",
        &[[b'x'; 990].as_slice(), b"\r\n"].concat(),
        &b".a line with a dot before it, many times\r\n".repeat(8_000),
    ];
    bodies.iter().enumerate().map(|(n, body)| [head(n).as_bytes(), body].concat()).collect()
}

/// Bob's INBOX has the corpus, in its order; the same is in files `raw/N`.
fn site() -> Site {
    let site = Site::up(Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com"));
    site.account("bob@example.com");
    let raw = site.data().join("raw");
    std::fs::create_dir(&raw).unwrap();
    for (n, message) in corpus().iter().enumerate() {
        std::fs::write(raw.join(n.to_string()), message).unwrap();
    }
    let append = format!(
        "imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')\n\
         for n in range({}): assert imap.append('INBOX', None, None, open(f'{}/{{n}}', 'rb').read())[0] == 'OK'",
        corpus().len(),
        raw.display()
    );
    python(&site, &append);
    site
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}\n{err}");
    output.stdout
}

/// A configuration that holds a password.
fn secret_file(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn maildir(path: PathBuf) -> PathBuf {
    for folder in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(path.join(folder)).unwrap();
    }
    path
}

/// All files of a folder are the corpus, with the line ends of Unix.
/// `added` is what the client puts before each.
fn assert_is_corpus(folder: &Path, who: &str, added: &str) {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    let mut got: Vec<Vec<u8>> = files.map(|f| std::fs::read(f.path()).unwrap()).collect();
    let mut expected: Vec<Vec<u8>> = corpus().iter().map(|m| [added.as_bytes(), &unix(m)].concat()).collect();
    got.sort();
    expected.sort();
    assert_eq!(got.len(), expected.len(), "{who}");
    for (got, expected) in got.iter().zip(&expected) {
        let beginning = String::from_utf8_lossy(&got[..got.len().min(600)]);
        assert!(got == expected, "{who}: {} octets for {}\n{beginning}", got.len(), expected.len());
    }
}

fn unix(message: &[u8]) -> Vec<u8> {
    let without = |(i, b): (usize, &u8)| (*b != b'\r' || message.get(i + 1) != Some(&b'\n')).then_some(*b);
    message.iter().enumerate().filter_map(without).collect()
}

fn messages_left(site: &Site) -> usize {
    let stat = "pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS); pop.user('bob@example.com'); pop.pass_('secret')\n\
                print(pop.stat()[0]); pop.quit()";
    python(site, stat).trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn poplib_and_curl_and_mutt_read_every_octet() {
    let site = site();
    let program_text = format!(
        r#"
import base64, hashlib, hmac, os
raw = [open(f"{raw}/{{n}}", "rb").read() for n in range({n})]
pop = poplib.POP3(HOST, PORT[110])
capa = pop.capa()
assert "STLS" in capa and "SASL" not in capa and capa["EXPIRE"] == ["NEVER"] and capa["LOGIN-DELAY"] == ["0"], capa
pop.stls(context=TLS)
capa = pop.capa()
for word in ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "USER", "UTF8", "LANG"]:
    assert word in capa, capa
assert "SCRAM-SHA-256" in capa["SASL"] and "PLAIN" in capa["SASL"], capa
try: pop.user("bob@example.com"); pop.pass_("wrong"); sys.exit("logged in")
except poplib.error_proto as e: assert b"[AUTH]" in e.args[0], e
pop.utf8()

# SCRAM-SHA-256 (RFC 5802 §5), with the proof of the server checked.
def auth(message): return base64.b64encode(message).decode()
def challenge(line): assert line.startswith(b"+ "), line; return base64.b64decode(line[2:])
nonce = base64.b64encode(os.urandom(18)).decode()
bare = f"n=bob@example.com,r={{nonce}}"
pop._putcmd(f"AUTH SCRAM-SHA-256 {{auth(('n,,' + bare).encode())}}")
first = challenge(pop._getline()[0]).decode()
fields = dict(f.split("=", 1) for f in first.split(","))
assert fields["r"].startswith(nonce)
salted = hashlib.pbkdf2_hmac("sha256", b"secret", base64.b64decode(fields["s"]), int(fields["i"]))
mac = lambda key, text: hmac.new(key, text, "sha256").digest()
client_key = mac(salted, b"Client Key")
without = f"c=biws,r={{fields['r']}}"
signed = f"{{bare}},{{first}},{{without}}".encode()
proof = bytes(a ^ b for a, b in zip(client_key, mac(hashlib.sha256(client_key).digest(), signed)))
pop._putcmd(auth(f"{{without}},p={{base64.b64encode(proof).decode()}}".encode()))
final = challenge(pop._getline()[0])
assert final == b"v=" + base64.b64encode(mac(mac(salted, b"Server Key"), signed)), final
pop._putcmd("")
assert pop._getline()[0].startswith(b"+OK"), "SCRAM"

assert pop.stat() == (len(raw), sum(map(len, raw))), pop.stat()
assert pop.list()[1] == [b"%d %d" % (n + 1, len(m)) for n, m in enumerate(raw)]
uids = pop.uidl()[1]
assert len(set(u.split()[1] for u in uids)) == len(raw)
for n, message in enumerate(raw):
    lines = pop.retr(n + 1)[1]
    assert b"".join(l + b"\r\n" for l in lines) == message, n
    head, body = message.split(b"\r\n\r\n", 1)
    top = b"".join(l + b"\r\n" for l in pop.top(n + 1, 2)[1])
    assert top == head + b"\r\n\r\n" + b"".join(re.findall(rb"[^\n]*\n", body)[:2]), (n, top)
pop.dele(1); pop.rset(); pop.dele(2)
pop.close()

# Gone without QUIT: everything is there, with the ids it had.
for attempt in range(600):
    pop = poplib.POP3_SSL(HOST, PORT[995], context=TLS); pop.user("bob@example.com")
    try: pop.pass_("secret"); break
    except poplib.error_proto as e: assert b"[IN-USE]" in e.args[0], e; time.sleep(0.1)
assert pop.uidl()[1] == uids
pop.quit()
"#,
        raw = site.data().join("raw").display(),
        n = corpus().len()
    );
    python(&site, &program_text);
    for (n, message) in corpus().iter().enumerate() {
        for url in [
            format!("pop3s://localhost:{}/{}", site.port(995), n + 1),
            format!("pop3://localhost:{}/{}", site.port(110), n + 1),
        ] {
            let mut curl = Command::new(program("curl", "curl"));
            curl.args(["-sS", "--ssl-reqd", "--cacert"]).arg(site.ca()).args(["-u", "bob@example.com:secret", &url]);
            assert!(run(&mut curl) == *message, "curl: message {n} differs");
        }
    }
    let home = site.data();
    let config = format!(
        "set certificate_file={}\nset ssl_verify_host=no\nset pop_user=bob@example.com\nset pop_pass=secret\n\
         set pop_delete=no\nset sort=mailbox-order\nset spoolfile=pops://localhost:{}/\nset folder={}\n",
        site.ca().display(),
        site.port(995),
        // Where it is not there, mutt asks whether to make it, and takes the keys for the answer.
        home.display()
    );
    let config = secret_file(home.join("muttrc"), &config);
    let out = home.join("piped");
    let keys = format!("2<enter><pipe-message>cat > {}<enter><exit><exit>", out.display());
    let mutt = format!("{} -F {} -e 'push \"{keys}\"'", program("mutt", "mutt").display(), config.display());
    // mutt wants a terminal.
    run(Command::new("timeout").args(["60", "script", "-qec", &mutt, "/dev/null"]).env("TERM", "vt100"));
    assert_eq!(String::from_utf8_lossy(&std::fs::read(out).unwrap()), String::from_utf8_lossy(&unix(&corpus()[1])));
    assert_eq!(messages_left(&site), corpus().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn mpop_getmail_and_fetchmail_fetch_once_and_delete() {
    let site = site();
    let home = site.data();
    let (port, ca) = (site.port(995), site.ca());

    let mail = maildir(home.join("mpop"));
    let config = format!(
        "account default\nhost localhost\nport {port}\nuser bob@example.com\npassword secret\nauth scram-sha-256\ntls on\n\
         tls_starttls off\ntls_trust_file {}\ndelivery maildir {}\nkeep on\nonly_new on\nreceived_header off\n\
         uidls_file {}/uidls\n",
        ca.display(),
        mail.display(),
        home.display()
    );
    let config = secret_file(home.join("mpoprc"), &config);
    for _ in 0..2 {
        // The second time it must know them all.
        run(Command::new(program("mpop", "mpop")).arg("-q").arg("-C").arg(&config));
    }
    assert_is_corpus(&mail.join("new"), "mpop", "");

    let mail = home.join("getmail");
    std::fs::create_dir(&mail).unwrap();
    let config = format!(
        "[retriever]\ntype = SimplePOP3SSLRetriever\nserver = localhost\nport = {port}\nusername = bob@example.com\n\
         password = secret\nca_certs = {}\n[destination]\ntype = MDA_external\npath = /bin/sh\n\
         arguments = (\"-c\", \"cat > {}/$$\")\nallow_root_commands = true\n[options]\ndelete = false\n\
         read_all = false\nreceived = false\ndelivered_to = false\nverbose = 1\n",
        ca.display(),
        mail.display()
    );
    let config = secret_file(home.join("getmailrc"), &config);
    for _ in 0..2 {
        run(Command::new(program("getmail", "getmail6")).arg("--getmaildir").arg(&home).arg("--rcfile").arg(&config));
    }
    assert_is_corpus(&mail, "getmail", "Return-Path: <unknown>\n");
    assert_eq!(messages_left(&site), corpus().len());

    let mail = home.join("fetchmail");
    std::fs::create_dir(&mail).unwrap();
    let config = format!(
        "set invisible\npoll localhost protocol pop3 service {} auth password username 'bob@example.com'\n\
         password 'secret' sslproto 'TLS1.2+' sslcertck sslcertfile {} no rewrite fetchall nokeep\n\
         mda \"/bin/sh -c 'cat > {}/$$'\"\n",
        site.port(110),
        ca.display(),
        mail.display()
    );
    let config = secret_file(home.join("fetchmailrc"), &config);
    let mut fetchmail = Command::new(program("fetchmail", "fetchmail"));
    run(fetchmail.arg("-f").arg(&config).env("FETCHMAILHOME", &home).env("HOME", &home));
    assert_is_corpus(&mail, "fetchmail", "");
    assert_eq!(messages_left(&site), 0, "fetchmail deletes what it has");
}
