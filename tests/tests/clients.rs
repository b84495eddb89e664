//! The clients people use: swaks, curl, mbsync, mutt, Python's libraries.

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tests::{
    client::python,
    process::program,
    site::{Options, Site, free_port_offset},
};

/// On the address that certificates name: localhost.
fn site() -> Site {
    let site = Site::up(Options::new("127.0.0.1", free_port_offset(&["127.0.0.1"]), "example.com"));
    site.account("bob@example.com");
    site
}

/// Runs a client; panics with what it said when it fails.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn curl(site: &Site, url: &str, more: &[&str]) -> String {
    let mut command = Command::new(program("curl", "curl"));
    command.args(["-sS", "--cacert"]).arg(site.ca()).args(["-u", "bob@example.com:secret"]);
    run(command.args(more).arg(url))
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
async fn swaks_and_curl_submit_and_curl_reads() {
    let site = site();
    for (port, tls) in [(587, "--tls"), (465, "--tls-on-connect")] {
        for mechanism in ["PLAIN", "LOGIN"] {
            let server = format!("localhost:{}", site.port(port));
            let mut swaks = Command::new(program("swaks", "swaks"));
            swaks.args(["--server", &server, tls, "--tls-verify", "--tls-ca-path"]).arg(site.ca());
            swaks.args(["--auth", mechanism, "--auth-user", "bob@example.com", "--auth-password", "secret"]);
            let said =
                run(swaks.args(["--from", "bob@example.com", "--to", "bob@example.com", "--helo", "laptop.example"]));
            assert!(said.contains("250 2.0.0 Ok: queued as"), "{said}");
        }
    }
    let mail = site.data().join("mail.eml");
    std::fs::write(&mail, "From: bob@example.com\r\nSubject: by curl\r\n\r\nhello\r\n").unwrap();
    let smtps = format!("smtps://localhost:{}/laptop.example", site.port(465));
    let from_to = ["--mail-from", "bob@example.com", "--mail-rcpt", "bob@example.com", "-T"];
    curl(&site, &smtps, &[&from_to[..], &[mail.to_str().unwrap()]].concat());
    wait_for(&site, 5);
    let imaps = format!("imaps://localhost:{}", site.port(993));
    assert!(curl(&site, &format!("{imaps}/INBOX;MAILINDEX=5;SECTION=TEXT"), &[]).starts_with("hello\r\n"));
    assert!(curl(&site, &imaps, &["-X", "LIST \"\" *"]).contains("\"INBOX\""));
    let starttls = format!("imap://localhost:{}/INBOX", site.port(143));
    assert!(curl(&site, &starttls, &["--ssl-reqd", "-X", "SEARCH SUBJECT curl"]).contains("* SEARCH 5"));
    let pop3s = format!("pop3s://localhost:{}", site.port(995));
    assert!(curl(&site, &format!("{pop3s}/5"), &[]).ends_with("\r\n\r\nhello\r\n"));
    let pop3 = format!("pop3://localhost:{}", site.port(110));
    assert!(curl(&site, &pop3, &["--ssl-reqd", "-X", "UIDL"]).lines().count() >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn mbsync_keeps_two_devices_and_the_server_the_same() {
    let site = site();
    let append = r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')
for n in range(40):
    folder = ["INBOX", "Work", "Work/Sub", "Entw&APw-rfe"][n % 4]
    imap.create(folder)
    imap.append(folder, "(\\Seen)" if n % 3 else None, None, b"Subject: %d\r\nMessage-ID: <%d@x>\r\n\r\nb\r\n" % (n, n))
"#;
    python(&site, append);
    let device = |name: &str| {
        let home = site.data().join(name);
        std::fs::create_dir_all(home.join("mail")).unwrap();
        let config = format!(
            "IMAPAccount a\nHost localhost\nPort {}\nUser bob@example.com\nPass secret\nSSLType IMAPS\n\
             CertificateFile {}\nAuthMechs PLAIN\n\nIMAPStore far\nAccount a\n\nMaildirStore near\nPath {home}/mail/\n\
             Inbox {home}/mail/INBOX\nSubFolders Verbatim\n\nChannel all\nFar :far:\nNear :near:\nPatterns *\n\
             Create Both\nExpunge Both\nSyncState *\n",
            site.port(993),
            site.ca().display(),
            home = home.display()
        );
        std::fs::write(home.join("rc"), config).unwrap();
        home
    };
    let sync = |home: &Path| {
        run(Command::new(program("mbsync", "isync")).arg("-c").arg(home.join("rc")).arg("all"));
    };
    let (phone, laptop) = (device("phone"), device("laptop"));
    sync(&phone);
    sync(&laptop);
    assert_eq!(messages(&phone), messages(&laptop));
    assert_eq!(messages(&phone).len(), 40);
    // One device deletes and flags, the other files something new.
    let work = phone.join("mail/Work/cur");
    let one = std::fs::read_dir(&work).unwrap().flatten().next().unwrap().path();
    std::fs::remove_file(one).unwrap();
    let inbox = phone.join("mail/INBOX/cur");
    let flagged = std::fs::read_dir(&inbox).unwrap().flatten().next().unwrap().path();
    std::fs::rename(&flagged, format!("{}F", flagged.display()).replace(":2,SF", ":2,FS")).unwrap();
    let new = laptop.join("mail/Work/cur/1.new:2,S");
    std::fs::write(new, "Subject: new\nMessage-ID: <new@x>\n\nnew\n").unwrap();
    for device in [&phone, &laptop, &phone] {
        sync(device);
    }
    let (on_phone, on_laptop) = (messages(&phone), messages(&laptop));
    assert_eq!(on_phone, on_laptop);
    assert_eq!(on_phone.len(), 40, "one deleted, one new");
    assert!(on_phone.iter().any(|m| m.contains("F")), "{on_phone:?}");
}

/// Folder, subject and flags of every message of a device.
fn messages(home: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![home.join("mail")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let place = folder.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if place == "cur" || place == "new" {
                let text = std::fs::read_to_string(&path).unwrap();
                let subject = text.lines().find(|l| l.starts_with("Subject:")).unwrap().to_owned();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let flags = name.rsplit_once(":2,").map_or(String::new(), |(_, f)| f.to_owned());
                let parent = folder.parent().unwrap().strip_prefix(home).unwrap();
                found.push(format!("{} {subject} {flags}", parent.display()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn mutt_reads_flags_and_keeps_its_header_cache_honest() {
    let site = site();
    let append = r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')
imap.append("INBOX", None, None, b"From: a@x\r\nSubject: for mutt\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\n\r\nread me\r\n")
"#;
    python(&site, append);
    let home = site.data();
    let config = format!(
        "set certificate_file={ca}\nset ssl_verify_host=no\nset imap_user=bob@example.com\nset imap_pass=secret\n\
         set folder=imaps://localhost:{port}/\nset spoolfile=+INBOX\nset header_cache={home}/cache\n",
        ca = site.ca().display(),
        port = site.port(993),
        home = home.display()
    );
    std::fs::write(home.join("muttrc"), config).unwrap();
    let out = home.join("piped");
    let keys = format!("<pipe-message>cat > {}<enter><flag-message><sync-mailbox><exit>", out.display());
    let mutt = format!("{} -F {}/muttrc -e 'push \"{keys}\"'", program("mutt", "mutt").display(), home.display());
    // mutt wants a terminal.
    run(Command::new("timeout").args(["60", "script", "-qec", &mutt, "/dev/null"]).env("TERM", "vt100"));
    assert!(std::fs::read_to_string(out).unwrap().contains("read me"));
    let check = r#"
imap = imaplib.IMAP4_SSL(HOST, PORT[993], ssl_context=TLS); imap.login('bob@example.com', 'secret')
imap.select("INBOX"); flags = imap.fetch("1", "(FLAGS)")[1][0]
assert b"\\Flagged" in flags, flags
"#;
    python(&site, check);
}

#[tokio::test(flavor = "multi_thread")]
async fn imaplib_walks_through_the_protocol() {
    let site = site();
    let program = r#"
imap = imaplib.IMAP4(HOST, PORT[143])
assert "STARTTLS" in imap.capabilities and "LOGINDISABLED" in imap.capabilities, imap.capabilities
imap.starttls(ssl_context=TLS)
imap.authenticate("PLAIN", lambda _: b"\0bob@example.com\0secret")
ok = lambda answer: answer[1] if answer[0] == "OK" else sys.exit(f"{answer}")
raw = (b"From: =?utf-8?q?J=C3=B6rg?= <j@x.com>\r\nTo: Bob <bob@example.com>, \"A, B\" <ab@x.com>\r\n"
       b"Subject: parts\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <p@x>\r\nMIME-Version: 1.0\r\n"
       b"Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\nContent-Type: text/plain\r\n\r\none\r\n"
       b"--b\r\nContent-Type: text/html\r\n\r\n<p>two\r\n--b--\r\n")
ok(imap.create("A/B")); ok(imap.subscribe("A/B"))
appended = ok(imap.append("A/B", r"(\Seen $Label)", '"01-Nov-2026 10:00:00 +0100"', raw))
assert b"APPENDUID" in appended[0], appended
assert ok(imap.select("A/B")) == [b"1"]
row = ok(imap.fetch("1", "(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)"))[0]
for part in [b"UID 1", b"$Label", b'"01-Nov-2026 09:00:00 +0000"', b"RFC822.SIZE %d" % len(raw), b'"parts"',
             b'("A, B" NIL "ab" "x.com")', b'"MIXED"', b'"HTML"']:
    assert part.lower() in row.lower(), (part, row)
assert ok(imap.fetch("1", "(BODY.PEEK[1])"))[0][1] == b"one"
assert ok(imap.fetch("1", "(BODY.PEEK[2.MIME])"))[0][1] == b"Content-Type: text/html\r\n\r\n"
assert ok(imap.fetch("1", "(BODY.PEEK[]<5.10>)"))[0][1] == raw[5:15]
assert ok(imap.fetch("1", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])"))[0][1] == b"Subject: parts\r\n\r\n"
assert ok(imap.search(None, 'SUBJECT "parts" FROM "j@x" SINCE 31-Oct-2026 LARGER 10')) == [b"1"]
assert ok(imap.search(None, 'BODY "nowhere"')) == [b""]
ok(imap.copy("1", "INBOX")); ok(imap.uid("MOVE", "1", "Trash"))
assert ok(imap.select("A/B")) == [b"0"]
assert ok(imap.select("Trash")) == [b"1"]
ok(imap.store("1", "+FLAGS", r"(\Deleted)")); assert ok(imap.expunge()) == [b"1"]
ok(imap.rename("A/B", "C/D"))
assert any(b'"C/D"' in line for line in ok(imap.list())), imap.list()
assert b"MESSAGES 1" in ok(imap.status("INBOX", "(MESSAGES UIDNEXT UIDVALIDITY UNSEEN)"))[0]
ok(imap.close()); ok(imap.delete("C/D"))
assert imap.select("C/D")[0] == "NO"
imap.logout()
"#;
    python(&site, program);
}
